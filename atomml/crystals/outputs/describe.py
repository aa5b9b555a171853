"""One generated crystal: is it one at all, its cell in the usual orientation, and what is said about it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.cell import Cell

from atomml.crystals.evaluate.symmetry import SpaceGroup, space_group
from atomml.datasets.lattice import wrap_fractional
from atomml.errors import DataError
from atomml.shapes import Float, Int64, ndarray

__all__ = ["SYMPREC", "content_of", "crystal_of", "description_of", "flaw_of", "pretty_formula"]

SYMPREC = 0.1
"""Tolerance in Å with which symmetry is looked for: generated atoms are off their sites by a few hundredths."""
_SMALLEST_VOLUME = 0.1
_SMALLEST_HEIGHT = 0.1


def flaw_of(fractional: Float[ndarray, "atoms 3"], lattice: Float[ndarray, "3 3"]) -> str | None:
    """Why this is no crystal, or None.

    ``not finite``: a NaN or infinity. ``degenerate lattice``: V < 0.1 Å³, or two opposite faces of the cell closer
    than 0.1 Å, which no neighbour list survives.
    """
    if not (np.isfinite(fractional).all() and np.isfinite(lattice).all()):
        return "not finite"
    volume = abs(np.linalg.det(lattice))
    faces = np.linalg.norm(np.cross(lattice[[1, 2, 0]], lattice[[2, 0, 1]]), axis=1)
    if volume < _SMALLEST_VOLUME or (volume < _SMALLEST_HEIGHT * faces).any():
        return "degenerate lattice"
    return None


def crystal_of(
    numbers: Int64[ndarray, " atoms"],
    fractional: Float[ndarray, "atoms 3"],
    lattice: Float[ndarray, "3 3"],
    *,
    keep_lattice: bool = False,
) -> Atoms:
    """The crystal in the orientation that a CIF implies: a along x, b in the xy plane, a right-handed cell.

    Positions relative to the cell are kept. A left-handed cell so becomes its mirror image, which is as probable: a
    model of lengths and angles cannot tell them apart.

    Args:
        numbers: of the atoms.
        fractional: positions relative to the cell.
        lattice: rows are lattice vectors, Å.
        keep_lattice: keep the orientation too.
    """
    cell = Cell(np.asarray(lattice, dtype=np.float64))
    cell = cell if keep_lattice else Cell.fromcellpar(cell.cellpar())
    return Atoms(
        numbers,
        scaled_positions=wrap_fractional(np.asarray(fractional, dtype=np.float64)),
        cell=cell,
        pbc=True,
    )


def description_of(atoms: Atoms, *, unit: int = 0, symprec: float = SYMPREC) -> dict[str, Any]:
    """What a row of the table says: formula, Z, space group, density (g/cm³), volume per atom (Å³).

    Args:
        atoms: the crystal.
        unit: number of atoms of a formula unit; 0: that of the smallest formula.
        symprec: tolerance of the symmetry in Å.
    """
    volume, group = atoms.get_volume(), _space_group(atoms, symprec)
    counts = list(atoms.symbols.formula.count().values())
    return {
        "formula": content_of(atoms),
        "n_atoms": len(atoms),
        "z": len(atoms) // unit if unit else math.gcd(*counts),
        "spacegroup": group.symbol,
        "spacegroup_number": group.number,
        "volume_per_atom": float(volume / len(atoms)),
        "density": float(atoms.get_masses().sum() / volume * units._amu * 1e3 / 1e-24),
    }


def _space_group(atoms: Atoms, symprec: float) -> SpaceGroup:
    """That of the structure; P1, which every structure has, where none is found."""
    try:
        return space_group(atoms, symprec)
    except DataError:
        return SpaceGroup(1, "P1")


def content_of(atoms: Atoms) -> str:
    """The content of the cell as "Li1 Mn3 O4".

    Always with numbers: programs take the formulas NaN, InF and F for numbers and truth values.
    """
    return " ".join(
        f"{symbol}{count}" for symbol, count in atoms.symbols.formula.convert("metal").count().items()
    )


def pretty_formula(atoms: Atoms) -> str:
    """The formula for the eye: LiMn₃O₄."""
    return str(atoms.symbols.formula.format("metal")).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))
