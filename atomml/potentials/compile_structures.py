"""Structures made from a list of elements, at all densities, to measure the error of a compiled model on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle, islice

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.data import covalent_radii

__all__ = ["sample_structures"]

CRYSTALS = (("fcc", 2**0.5, 4), ("bcc", 2 / 3**0.5, 2), ("sc", 1.0, 1), ("diamond", 4 / 3**0.5, 8))
"""Lattice, lattice constant over the distance of nearest neighbours, atoms of the cubic cell."""
SPACINGS = (0.8, 0.95, 1.1, 1.3, 1.6)
"""Distance of nearest neighbours over twice the mean covalent radius: from compressed to a gas."""
DIMERS = (0.6, 0.8, 1.2, 2.0)
"""Distances of dimers over the sum of the covalent radii."""
ATOMS = 24
RATTLE = 0.08


def sample_structures(elements: Sequence[int], *, seed: int = 0) -> list[Atoms]:
    """Rattled crystals of random composition, a slab, a cluster, a primitive cell, dimers and lone atoms.

    Every element comes at least once when there are at most 200 of them. The structures need not be stable:
    they cover distances from 0.6 bond lengths to beyond the cutoff, wherever a simulation may go.

    Args:
        elements: atomic numbers.
        seed: of composition and displacements.
    """
    rng = np.random.default_rng(seed)
    numbers = cycle(rng.permutation(np.asarray(elements)).tolist())
    crystals = [
        _crystal(*lattice, spacing, numbers, rng)
        for spacing, lattice in zip(SPACINGS, cycle(CRYSTALS), strict=False)
    ]
    crystals += [_crystal(*CRYSTALS[k], 1.0, numbers, rng) for k in (1, 3)]
    slab, cluster = _crystal(*CRYSTALS[0], 1.0, numbers, rng), _crystal(*CRYSTALS[1], 1.1, numbers, rng)
    slab.pbc = (True, True, False)
    cluster.pbc = False
    primitive = _crystal(*CRYSTALS[2], 1.2, numbers, rng)[:1]
    primitive.set_cell(np.eye(3) * 2.4 * covalent_radii[primitive.numbers[0]] + rng.normal(0, 0.1, (3, 3)))
    dimers = [_dimer(spacing, numbers) for spacing in DIMERS]
    return [*crystals, slab, cluster, primitive, *dimers, Atoms(numbers=[next(numbers)])]


def _crystal(
    lattice: str,
    constant: float,
    atoms_per_cell: int,
    spacing: float,
    numbers: Iterator[int],
    rng: np.random.Generator,
) -> Atoms:
    unit = bulk("X", lattice, a=constant, cubic=True)
    side = int(np.ceil((ATOMS / atoms_per_cell) ** (1 / 3)))
    atoms = unit.repeat(side)
    atoms.numbers = list(islice(numbers, len(atoms)))
    bond = spacing * 2 * float(covalent_radii[atoms.numbers].mean())
    strain = np.eye(3) + rng.uniform(-0.03, 0.03, (3, 3))
    atoms.set_cell(bond * atoms.cell.array @ strain, scale_atoms=True)
    atoms.positions += rng.normal(0, RATTLE * bond, atoms.positions.shape)
    return atoms


def _dimer(spacing: float, numbers: Iterator[int]) -> Atoms:
    pair = [next(numbers), next(numbers)]
    length = spacing * float(covalent_radii[pair].sum())
    return Atoms(numbers=pair, positions=length * np.array([[0, 0, 0], [0.6, 0.48, 0.64]]))
