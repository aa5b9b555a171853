"""Array types used in signatures: a dtype and named axes, checked at run time in the test suite.

Axis letters: ``atoms`` N, ``edges`` E, ``graphs`` B, ``channels`` C, ``rank`` R, ``dim`` d = (L+1)²,
``groups`` G.
"""

from __future__ import annotations

from jaxtyping import Bool, Float, Float64, Int64
from numpy import ndarray
from torch import Tensor

__all__ = ["Bool", "Float", "Float64", "Int64", "Tensor", "ndarray"]
