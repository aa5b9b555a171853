"""`Frame`: one labelled structure on its way into a `FrameStore`, in the units and signs of atomml."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from atomml.errors import DataError
from atomml.shapes import ndarray

__all__ = ["Frame", "Skipped", "Tag", "check_frame"]

Tag = str | bool | int | float


class Frame(NamedTuple):
    """One structure; eV, Å, eV/Å, eV/Å³ (ASE sign, 3×3). A label that the source lacks is NaN or None.

    Attributes:
        numbers: atomic numbers [N].
        positions: [N, 3].
        cell: rows are the lattice vectors [3, 3]; zeros without a cell.
        pbc: [3].
        energy: total energy.
        forces: raw forces [N, 3], also of fixed atoms.
        stress: [3, 3], symmetric.
        id: the frame's name in its source.
        tags: per-frame values.
        atom_tags: class of each atom [N] (OC20: 0 subsurface, 1 surface, 2 adsorbate).
        fixed: atoms that were held [N].
    """

    numbers: ndarray
    positions: ndarray
    cell: ndarray
    pbc: ndarray
    energy: float = float("nan")
    forces: ndarray | None = None
    stress: ndarray | None = None
    id: str = ""
    tags: Mapping[str, Tag] = MappingProxyType({})
    atom_tags: ndarray | None = None
    fixed: ndarray | None = None


class Skipped(NamedTuple):
    """A frame that was not kept: counted, and named in the report.

    Attributes:
        where: file and record.
        reason: the same words for the same problem, as they are counted.
    """

    where: str
    reason: str


def check_frame(frame: Frame, where: str) -> Frame:
    """The frame itself if its shapes fit and its numbers are finite.

    Raises:
        DataError: no atoms, an unknown element, another shape, a position, cell or label that is NaN or
            infinite (a label may be absent: NaN energy, no forces, no stress).
    """
    n = len(frame.numbers)
    if n == 0:
        raise DataError("The frame has no atoms.", where=where, fix="remove the frame")
    if frame.numbers.min() < 1 or frame.numbers.max() > 118:
        raise DataError("The frame has an unknown element (X or beyond 118).", where=where, fix="correct it")
    shapes = {
        "positions": (frame.positions, (n, 3)),
        "cell": (frame.cell, (3, 3)),
        "pbc": (frame.pbc, (3,)),
        "forces": (frame.forces, (n, 3)),
        "stress": (frame.stress, (3, 3)),
        "atom_tags": (frame.atom_tags, (n,)),
        "fixed": (frame.fixed, (n,)),
    }
    for name, (array, shape) in shapes.items():
        if array is None:
            continue
        if array.shape != shape:
            raise DataError(f"The {name} have shape {array.shape}, not {shape}.", where=where)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataError(f"The {name} are NaN or infinite.", where=where, fix="remove the frame")
    if np.isinf(frame.energy):
        raise DataError("The energy is infinite.", where=where, fix="remove the frame")
    return frame
