"""`NativeTDN`: a compiled tensor decomposition network evaluated in native code.

Positions to energies, forces and virial without an autograd graph. With the notation of `atomml.potentials.tdn`, a
layer is, for each atom, p = Aᵀ(x W_in), s_i = Σ_e q_e w(r_e) p_j, m = (D s) W_msg, b = Σ_n s_n ∘ m^(n+1),
x' = f(b W_out + x W_res), and forces come from its adjoint, written by hand. The layers are phases between which
the threads meet: forward, backward, forces. `atomml.kernels.cpu.tdn_packing` says what is folded into constants.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch

from atomml.errors import DataError
from atomml.kernels.cpu.library import native, refuse
from atomml.kernels.cpu.tdn_packing import PackedTDN
from atomml.kernels.cpu.tdn_structs import Input, Output
from atomml.shapes import Tensor

__all__ = ["NativeTDN"]


class NativeTDN:
    """The network of a `atomml.potentials.compiled.CompiledPotential`, packed for native evaluation.

    Args:
        compiled: weights and tables are copied, in its precision.

    Raises:
        UnsupportedError: the native kernels were not built; a precision other than float32 and float64.
    """

    def __init__(self, compiled: Any) -> None:
        self.dtype = compiled.dtype
        self._evaluate = native("tdn_evaluate", self.dtype)
        self._destroy = native("tdn_destroy", self.dtype)
        self._packed = PackedTDN(compiled, int(native("tdn_lanes", self.dtype)()))
        create = native("tdn_create", self.dtype)
        create.restype = ctypes.c_void_p
        self._handle = create(ctypes.byref(self._packed.model))
        if not self._handle:
            refuse(1, "native evaluation")
        self.phases: dict[str, float] = {}

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._destroy(ctypes.c_void_p(self._handle))

    def evaluate(
        self,
        species: Tensor,
        positions: Tensor,
        cells: Tensor,
        batch: Tensor,
        neighbor: Tensor,
        center: Tensor,
        shift: Tensor,
        *,
        stress: bool = False,
        threads: int = 1,
    ) -> dict[str, Tensor]:
        """Evaluate a structure or a batch of them.

        Args:
            species: number of the element of each atom in the model, int64 [atoms].
            positions: Å, float64 [atoms, 3].
            cells: lattice vectors in rows, Å, float64 [graphs, 3, 3].
            batch: number of the structure of each atom, int64 [atoms].
            neighbor: j of each pair, int64 [pairs], sorted by centre. Pairs beyond the cutoff are skipped.
            center: i of each pair, int64 [pairs].
            shift: S with r_ij = r_j + S·cell − r_i, float64 [pairs, 3].
            stress: also give the virial.
            threads: at most so many; the result does not depend on it.

        Returns:
            ``energies`` [atoms] in eV, ``forces`` [atoms, 3] in eV/Å, ``features`` [atoms, channels], and
            ``virial`` [graphs, 3, 3] = Σ_e r_e ⊗ ∂E/∂r_e in eV.

        Raises:
            DataError: shapes that do not fit, an index out of range, pairs that are not sorted.
            UnsupportedError: memory is exhausted.
        """
        integers = [x.contiguous() for x in (species, batch, neighbor, center)]
        numbers = [x.contiguous() for x in (positions, cells, shift)]
        _check(integers, numbers)
        n, graphs, channels = len(species), len(cells), self._packed.model.c
        energies, forces = positions.new_empty(n), positions.new_empty((n, 3))
        virial = cells.new_empty((graphs, 3, 3)) if stress else None
        features = torch.empty((n, channels), dtype=self.dtype)
        given = Input(n, graphs, len(neighbor), *_addresses(integers[0], integers[1], numbers[0], numbers[1]))
        given.neighbor, given.center, given.shift = _addresses(integers[2], integers[3], numbers[2])
        given.threads = threads
        out = Output(*_addresses(energies, forces, virial, features))
        status = self._evaluate(ctypes.c_void_p(self._handle), ctypes.byref(given), ctypes.byref(out))
        refuse(status, f"native evaluation of {n} atoms")
        self.phases = self._named_phases(out)
        result = {"energies": energies, "forces": forces, "features": features[:, : self._packed.channels]}
        return result if virial is None else result | {"virial": virial}

    def _named_phases(self, out: Output) -> dict[str, float]:
        layers = self._packed.model.layers
        names = ["harmonics", *(f"forward {t}" for t in range(layers))]
        names += [*(f"backward {t}" for t in reversed(range(layers))), "pair forces", "forces"]
        return dict(zip(names, out.phases, strict=False))


def _check(integers: list[Tensor], numbers: list[Tensor]) -> None:
    species, batch, neighbor, center = integers
    positions, cells, shift = numbers
    n, pairs = len(species), len(neighbor)
    fits = (
        positions.shape == (n, 3)
        and cells.shape[1:] == (3, 3)
        and batch.shape == (n,)
        and center.shape == (pairs,)
        and shift.shape == (pairs, 3)
    )
    kinds = all(x.dtype == torch.int64 for x in integers) and all(x.dtype == torch.float64 for x in numbers)
    if not (fits and kinds and all(x.device.type == "cpu" for x in integers + numbers)):
        shapes = ", ".join(f"{tuple(x.shape)} {x.dtype}" for x in integers + numbers)
        raise DataError(
            f"Arrays of a structure do not fit together: {shapes}.",
            fix="species, batch, neighbor and center are int64, positions, cells and shift float64, on the CPU",
        )


def _addresses(*tensors: Tensor | None) -> list[int | None]:
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]
