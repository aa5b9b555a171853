"""`CrystalBatch`: crystals padded to one size, so that networks need no scatter operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from ase import Atoms

from atomml.datasets.lattice import wrap_fractional
from atomml.errors import DataError
from atomml.shapes import Bool, Float, Int64, Tensor

__all__ = ["CrystalBatch"]


@dataclass(frozen=True)
class CrystalBatch:
    """B crystals of at most N atoms.

    Attributes:
        numbers: atomic numbers; 0 where there is no atom.
        fractional: positions f in [0, 1), Cartesian positions f · lattice; 0 where there is no atom.
        lattice: rows are the lattice vectors in Å.
        n_atoms: number of atoms of each crystal; its atoms are the first ones.
    """

    numbers: Int64[Tensor, "crystals atoms"]
    fractional: Float[Tensor, "crystals atoms 3"]
    lattice: Float[Tensor, "crystals 3 3"]
    n_atoms: Int64[Tensor, " crystals"]

    def __len__(self) -> int:
        return len(self.n_atoms)

    @property
    def mask(self) -> Bool[Tensor, "crystals atoms"]:
        """Where there is an atom."""
        width = torch.arange(self.fractional.shape[1], device=self.n_atoms.device)
        return width < self.n_atoms[:, None]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> CrystalBatch:
        """The same crystals elsewhere; ``dtype`` is that of positions and lattices."""
        return CrystalBatch(
            self.numbers.to(device=device),
            self.fractional.to(device=device, dtype=dtype),
            self.lattice.to(device=device, dtype=dtype),
            self.n_atoms.to(device=device),
        )

    def rows(self, index: Sequence[int] | Int64[Tensor, " rows"] | slice) -> CrystalBatch:
        """Some of the crystals, without more padding than they need."""
        if not isinstance(index, slice | torch.Tensor):
            index = torch.as_tensor(index, dtype=torch.int64)
        n_atoms = self.n_atoms[index]
        width = int(n_atoms.max()) if len(n_atoms) else 0
        return replace(
            self,
            numbers=self.numbers[index, :width],
            fractional=self.fractional[index, :width],
            lattice=self.lattice[index],
            n_atoms=n_atoms,
        )

    @classmethod
    def from_atoms(cls, structures: Sequence[Atoms], dtype: torch.dtype = torch.float64) -> CrystalBatch:
        """Crystals from ASE structures.

        Raises:
            DataError: a structure without atoms, without a three-dimensional cell, or with a position that is not
                finite.
        """
        for k, atoms in enumerate(structures):
            _require_crystal(atoms, k)
        width = max((len(atoms) for atoms in structures), default=0)
        numbers = np.zeros((len(structures), width), dtype=np.int64)
        fractional = np.zeros((len(structures), width, 3))
        for k, atoms in enumerate(structures):
            numbers[k, : len(atoms)] = atoms.numbers
            fractional[k, : len(atoms)] = atoms.cell.scaled_positions(atoms.positions)
        cells = np.array([atoms.cell.array for atoms in structures], dtype=np.float64).reshape(-1, 3, 3)
        return cls(
            torch.from_numpy(numbers),
            torch.from_numpy(wrap_fractional(fractional)).to(dtype),
            torch.from_numpy(cells).to(dtype),
            torch.tensor([len(atoms) for atoms in structures], dtype=torch.int64),
        )

    def to_atoms(self) -> list[Atoms]:
        """ASE structures, periodic in three directions."""
        arrays: list[Any] = [x.detach().cpu().numpy() for x in (self.numbers, self.fractional, self.lattice)]
        out = []
        for n, numbers, fractional, lattice in zip(self.n_atoms.tolist(), *arrays, strict=True):
            cell = lattice.astype(np.float64)
            out.append(
                Atoms(numbers[:n], scaled_positions=fractional[:n].astype(np.float64), cell=cell, pbc=True)
            )
        return out


def _require_crystal(atoms: Atoms, number: int) -> None:
    if len(atoms) == 0:
        raise DataError("A crystal without atoms.", where=f"structure {number}")
    if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
        raise DataError(
            "Positions or cell are not finite.", where=f"structure {number}, {atoms.get_chemical_formula()}"
        )
    if abs(np.linalg.det(atoms.cell.array)) < 1e-6:
        raise DataError(
            "The structure has no three-dimensional cell.",
            where=f"structure {number}, {atoms.get_chemical_formula()}",
            fix="give three independent lattice vectors",
        )
