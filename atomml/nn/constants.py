"""Constants that a change of precision must not wear down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from atomml.shapes import Float64, Tensor, ndarray

__all__ = ["ConstantModule"]


class ConstantModule(nn.Module):
    """A module whose constants are kept in float64 and rounded anew whenever the module changes its dtype.

    Ordinary buffers lose digits for good in ``module.float().double()``: coupling factors would then be
    equivariant to 1e-7 only, reference energies of 1e4 eV wrong by 1e-3 eV. Constants are not part of the
    ``state_dict``; model files store them apart, in float64.
    """

    def __init__(self) -> None:
        super().__init__()
        self._masters: dict[str, tuple[Float64[ndarray, ...], bool]] = {}

    def add_constant(self, name: str, value: Float64[ndarray, ...], *, always_float64: bool = False) -> None:
        """Register ``value`` as buffer ``name``, in the module's dtype or always in float64."""
        self._masters[name] = (value, always_float64)
        dtype = torch.float64 if always_float64 else torch.get_default_dtype()
        self.register_buffer(name, torch.tensor(value, dtype=dtype), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ConstantModule:  # type: ignore[override]
        super()._apply(fn, recurse)
        for name, (master, always_float64) in self._masters.items():
            buffer: Any = self._buffers[name]
            dtype = torch.float64 if always_float64 else buffer.dtype
            self._buffers[name] = torch.tensor(master, dtype=dtype, device=buffer.device)
        return self
