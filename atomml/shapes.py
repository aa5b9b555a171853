"""Array types used in signatures: a dtype and named axes, checked at run time in the test suite.

Axis letters: ``atoms`` N, ``edges`` E, ``graphs`` B, ``channels`` C, ``rank`` R, ``dim`` d = (L+1)²,
``groups`` G.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jaxtyping import Bool, Float, Float64, Int64
from numpy import ndarray

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Bool", "Float", "Float64", "Int64", "Tensor", "ndarray"]


def __getattr__(name: str) -> Any:
    if name != "Tensor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from torch import Tensor  # reading files must not wait for torch

    return Tensor
