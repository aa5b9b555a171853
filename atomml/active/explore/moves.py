"""Candidates that need no model: displaced and strained structures, and those of files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms

from atomml.active.explore.config import FilesExplorer, RattleExplorer, StrainExplorer
from atomml.active.explore.units import Explored, Unit, geometry
from atomml.datasets import load_frames
from atomml.simulate.calculator import has_volume
from atomml.simulate.sampling.config import StrainConfig
from atomml.simulate.sampling.structures import draw_strain, random_stream, strained

__all__ = ["FilesUnit", "RattleUnit", "StrainUnit", "displaced"]


@dataclass(frozen=True)
class RattleUnit(Unit):
    """Displaced copies of one structure."""

    atoms: Atoms
    explorer: RattleExplorer
    tags: dict[str, Any]

    def explore(self) -> Explored:
        """``n`` copies."""
        rng = random_stream(self.seed, self.name)
        found = []
        for _ in range(self.explorer.n):
            size = float(rng.uniform(*self.explorer.displacement))
            found.append(geometry(displaced(self.atoms, size, rng), self.tags | {"displacement": size}))
        return Explored(found)


@dataclass(frozen=True)
class StrainUnit(Unit):
    """Strained copies of one structure; one without a volume is only displaced."""

    atoms: Atoms
    explorer: StrainExplorer
    tags: dict[str, Any]

    def explore(self) -> Explored:
        """``n`` copies."""
        explorer, rng = self.explorer, random_stream(self.seed, self.name)
        how = StrainConfig(runs=explorer.n, isotropic=explorer.isotropic, shear=explorer.shear)
        found = []
        for k in range(explorer.n):
            tensor = draw_strain(how, k, rng) if has_volume(self.atoms) else np.zeros((3, 3))
            atoms = displaced(strained(self.atoms, tensor), explorer.displacement, rng)
            found.append(geometry(atoms, self.tags | {"strain": float(np.trace(tensor)) / 3.0}))
        return Explored(found)


@dataclass(frozen=True)
class FilesUnit(Unit):
    """Structures of files."""

    explorer: FilesExplorer
    tags: dict[str, Any]

    def explore(self) -> Explored:
        """All of them, or ``n`` drawn at random."""
        store = load_frames(list(self.explorer.files), require_energy=False)
        rows = np.arange(len(store))
        if self.explorer.n is not None and self.explorer.n < len(rows):
            rows = np.sort(random_stream(self.seed, self.name).permutation(rows)[: self.explorer.n])
        return Explored([geometry(store[int(k)], self.tags | {"row": int(k)}) for k in rows])


def displaced(atoms: Atoms, size: float, rng: np.random.Generator) -> Atoms:
    """A copy whose coordinates are displaced by ``size`` Å (standard deviation)."""
    copy = atoms.copy()
    copy.positions += size * rng.standard_normal((len(copy), 3))
    return copy
