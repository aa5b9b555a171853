"""`Structures`: many structures in one set of tensors, of which some can be taken out and others put in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import ClassVar, TypeVar

import numpy as np
import torch
from ase import Atoms
from ase.constraints import FixAtoms

from atomml.shapes import Bool, Float64, Int64, Tensor
from atomml.simulate.calculator import has_volume

__all__ = ["Ragged", "Structures", "can_be_batched", "tensors_of"]

R = TypeVar("R", bound="Ragged")


@dataclass(frozen=True, kw_only=True)
class Ragged:
    """Tensors of B structures with N atoms in all, the atoms of a structure in consecutive rows.

    Attributes:
        of_atoms: names of the fields that have a row for each atom; the others have one for each structure.
        counts: atoms of each structure.
    """

    of_atoms: ClassVar[tuple[str, ...]] = ()
    counts: Int64[Tensor, " graphs"]

    @cached_property
    def owner(self) -> Int64[Tensor, " atoms"]:
        """The structure that each atom belongs to."""
        return torch.repeat_interleave(self.counts)

    def __len__(self) -> int:
        return len(self.counts)

    def rows(self, k: int) -> slice:
        """The atoms of structure ``k``."""
        first = int(self.counts[:k].sum())
        return slice(first, first + int(self.counts[k]))

    def sums(self, x: Float64[Tensor, "atoms ..."]) -> Float64[Tensor, "graphs ..."]:
        """Σ x over the atoms of each structure."""
        return x.new_zeros((len(self), *x.shape[1:])).index_add(0, self.owner, x)

    def largest(self, x: Float64[Tensor, " atoms"]) -> Float64[Tensor, " graphs"]:
        """Largest x ≥ 0 over the atoms of each structure."""
        return x.new_zeros(len(self)).scatter_reduce(0, self.owner, x, "amax")

    def select(self: R, keep: Bool[Tensor, " graphs"]) -> R:
        """The structures that are to be kept, in the same order."""
        if bool(keep.all()):
            return self
        atoms = keep[self.owner]
        names = [f.name for f in fields(self)]
        return type(self)(**{n: getattr(self, n)[atoms if n in self.of_atoms else keep] for n in names})

    @classmethod
    def join(cls: type[R], parts: Sequence[R]) -> R:
        """Structures of all parts, one part after the other."""
        if len(parts) == 1:
            return parts[0]
        names = [f.name for f in fields(cls)]
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


@dataclass(frozen=True, kw_only=True)
class Structures(Ragged):
    """What a potential needs to know of B structures.

    Attributes:
        index: number of the structure among those given.
        z: atomic numbers.
        pos: Å.
        free: 1 for atoms that may move, 0 for those held by ``FixAtoms``.
        cell: Å, rows are lattice vectors.
        pbc: periodic directions.
        volume: whether a stress exists.
    """

    of_atoms: ClassVar[tuple[str, ...]] = ("z", "pos", "free")
    index: Int64[Tensor, " graphs"]
    z: Int64[Tensor, " atoms"]
    pos: Float64[Tensor, "atoms 3"]
    free: Float64[Tensor, "atoms 1"]
    cell: Float64[Tensor, "graphs 3 3"]
    pbc: Bool[Tensor, "graphs 3"]
    volume: Bool[Tensor, " graphs"]


def can_be_batched(atoms: Atoms) -> bool:
    """Whether there are no constraints but those that hold atoms in their places."""
    return all(type(constraint) is FixAtoms for constraint in atoms.constraints)


def tensors_of(atoms: Atoms, index: int) -> dict[str, Tensor]:
    """Fields of `Structures` for one structure."""
    free = np.ones((len(atoms), 1))
    for constraint in atoms.constraints:
        free[constraint.index] = 0.0
    return {
        "counts": torch.tensor([len(atoms)]),
        "index": torch.tensor([index]),
        "z": torch.from_numpy(atoms.numbers.astype(np.int64)),
        "pos": torch.from_numpy(np.array(atoms.positions, dtype=np.float64)),
        "free": torch.from_numpy(free),
        "cell": torch.from_numpy(np.array(atoms.cell.array, dtype=np.float64))[None],
        "pbc": torch.from_numpy(np.array(atoms.pbc, dtype=bool))[None],
        "volume": torch.tensor([has_volume(atoms)]),
    }
