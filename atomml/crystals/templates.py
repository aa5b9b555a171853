"""What is known before the generation, read from files: atoms in their places, or compositions."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from atomml.datasets.lattice import wrap_fractional
from atomml.errors import DataError

__all__ = ["Site", "Vector", "read_compositions", "read_template"]

Vector = tuple[float, float, float]


class Site(NamedTuple):
    """An atom whose place is known."""

    number: int
    fractional: Vector


def read_template(path: str | Path) -> tuple[tuple[Site, ...], tuple[Vector, Vector, Vector]]:
    """Atoms, with positions wrapped into [0, 1), and lattice vectors in Å of a file that ASE reads.

    Raises:
        DataError: not readable, not one structure, no atoms, no three-dimensional cell, or partly occupied sites.
    """
    from atomml.simulate.commands import read_structures

    frames = read_structures(path)
    atoms = frames[0]
    problem = None
    if len(frames) != 1:
        problem = f"has {len(frames)} structures instead of one"
    elif len(atoms) == 0:
        problem = "has no atoms"
    elif atoms.cell.rank < 3:
        problem = "has no three-dimensional cell"
    elif any(sum(site.values()) < 1 or len(site) > 1 for site in atoms.info.get("occupancy", {}).values()):
        problem = "has partly occupied sites, which are not supported"
    if problem is not None:
        raise DataError(
            f"The template {problem}.", where=str(path), fix="give one ordered crystal (FILE@N picks a frame)"
        )
    fractional = wrap_fractional(atoms.cell.scaled_positions(atoms.positions))
    sites = tuple(Site(int(z), _vector(f)) for z, f in zip(atoms.numbers, fractional, strict=True))
    a, b, c = np.asarray(atoms.cell.array)
    return sites, (_vector(a), _vector(b), _vector(c))


def read_compositions(path: str | Path) -> list[tuple[int, ...]]:
    """Atomic numbers of each crystal of a data set (CSV with a column ``cif``, extxyz, native store, …), in order.

    Raises:
        DataError: the file cannot be read, or has no crystals.
    """
    from atomml.crystals.evaluate.inputs import load_crystals

    store = load_crystals(Path(path), skip_bad=True)
    return [tuple(sorted(store.numbers[store.atoms_of(row)].tolist())) for row in range(len(store))]


def _vector(values: Any) -> Vector:
    x, y, z = (float(value) for value in values)
    return x, y, z
