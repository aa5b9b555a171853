"""Validity of structures: a cell with a volume, and no two atoms on top of each other."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.geometry.minkowski_reduction import minkowski_reduce

from atomml.shapes import Float64, ndarray

__all__ = ["LEAST_DISTANCE", "LEAST_VOLUME", "Validity", "structure_validity"]

LEAST_VOLUME, LEAST_DISTANCE = 0.1, 0.5  # Å³, Å
SHIFTS = np.array(list(product((-1.0, 0.0, 1.0), repeat=3)))


@dataclass(frozen=True)
class Validity:
    """Whether a structure is possible at all.

    Attributes:
        valid: as in the literature, which ignores distances of an atom to its own images.
        strict: valid, and no atom is too close to its own images.
        volume_per_atom: in Å³; NaN where it is not defined, as the distances.
        distance: of the closest pair of different atoms, images included, in Å; infinite for a single atom.
        image_distance: of an atom and its closest image, the length of the shortest lattice vector, in Å.
        reason: why the structure is not (strictly) valid; None if it is.
    """

    valid: bool
    strict: bool
    volume_per_atom: float
    distance: float
    image_distance: float
    reason: str | None


def structure_validity(atoms: Atoms) -> Validity:
    """Structural validity as in CDVAE (Xie et al., ICLR 2022), and a stricter one.

        valid ⇔ V ≥ 0.1 Å³ and min_{i<j, n} |r_j − r_i + n L| ≥ 0.5 Å;  strict ⇔ valid and min_{n≠0} |n L| ≥ 0.5 Å

    with integer n and a lattice L whose entries, like the positions, are finite. The structure is taken as periodic
    in three directions whatever ``atoms.pbc`` says. What is wrong with a structure is an answer, never an error.

    Distances are exact for every cell: in a Minkowski-reduced basis the closest image of a point with fractional
    coordinates in [−1/2, 1/2] has n ∈ {−1, 0, 1}³.
    """
    cell = np.asarray(atoms.cell.array, dtype=np.float64)
    if (reason := _not_constructible(atoms, cell)) is not None:
        return _invalid(reason)
    with np.errstate(over="ignore"):
        volume = abs(float(np.linalg.det(cell)))
    if not LEAST_VOLUME <= volume < np.inf:
        return _invalid(f"the volume of the cell is {volume:.3g} Å³", volume / len(atoms))
    try:
        reduced = np.asarray(minkowski_reduce(cell)[0])
    except RuntimeError:  # of a cell so skewed that rounding decides
        return _invalid("the lattice cannot be reduced", volume / len(atoms))
    distance = _closest_pair(atoms.positions @ np.linalg.inv(reduced), reduced)
    image_distance = float(np.linalg.norm(reduced, axis=1).min())
    valid, apart = distance >= LEAST_DISTANCE, image_distance >= LEAST_DISTANCE
    reason = None
    if not valid:
        reason = f"two atoms are {distance:.3f} Å apart"
    elif not apart:
        reason = f"an atom and its image are {image_distance:.3f} Å apart"
    return Validity(valid, valid and apart, volume / len(atoms), distance, image_distance, reason)


def _not_constructible(atoms: Atoms, cell: Float64[ndarray, "3 3"]) -> str | None:
    if not len(atoms):
        return "there are no atoms"
    if not 0 < atoms.numbers.min() <= atoms.numbers.max() < len(chemical_symbols):
        return "an atomic number is not of an element"
    if not np.isfinite(cell).all():
        return "the cell is not finite"
    if not np.isfinite(atoms.positions).all():
        return "a position is not finite"
    return None


def _invalid(reason: str, volume_per_atom: float = np.nan) -> Validity:
    return Validity(False, False, volume_per_atom, np.nan, np.nan, reason)


def _closest_pair(fractional: Float64[ndarray, "atoms 3"], reduced: Float64[ndarray, "3 3"]) -> float:
    i, j = np.triu_indices(len(fractional), 1)
    difference = fractional[j] - fractional[i]
    vectors = (difference - np.round(difference)) @ reduced
    squared = min(np.square(vectors + shift).sum(1).min(initial=np.inf) for shift in SHIFTS @ reduced)
    return float(np.sqrt(squared))
