"""From the CIF and the columns of one row to a frame: reduction, orientation, filters, tags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field

from atomml.config import Config
from atomml.datasets.frame import Frame, Skipped, Tag
from atomml.datasets.labels import LabelKeys
from atomml.datasets.lattice import canonical_cell, niggli_reduce, shortest_distance
from atomml.datasets.readers.crystals.cif_text import FIX, NOTE_PYMATGEN, Crystal, parse_cif
from atomml.datasets.readers.labelled import Geometry, labelled_frame, new_info
from atomml.errors import DataError

__all__ = ["CrystalOptions", "crystal_frame", "finish_info", "piece_info"]

Tags = Mapping[str, Tag | None]


class CrystalOptions(Config):
    """Options of the readers ``crystals-csv`` and ``cif``."""

    niggli: bool = True
    """Reduce the cell after Niggli, as data sets for generation are (CDVAE, DiffCSP, CrysBFN). The crystal is the
    same; its lattice vectors and the cell that an atom is drawn in are others."""
    niggli_by: Literal["spglib", "pymatgen"] = "spglib"
    """Who reduces. pymatgen is what CDVAE calls: it is slower, and accepts a cell within one degree of the Niggli
    cell, so that up to one in eight crystals gets other lattice vectors."""
    canonical: bool = True
    """Rotate the crystal so that c is along z and a in the xz plane, right-handed."""
    primitive: bool = False
    """Take pymatgen's primitive cell first (slow)."""
    thirds: bool = True
    """Coordinates within 1e-4 (relative) of 1/3 and 2/3 become these, as pymatgen does; counted in not_read."""
    max_atoms: int | None = Field(default=None, gt=0)
    """Leave out crystals with more atoms in the cell (after the reductions); counted."""
    min_distance: float | None = Field(default=None, gt=0)
    """Leave out crystals with two atoms, or an atom and its image, closer than this (Å); counted."""
    energy_column: str | None = None
    """Column to read as the energy label. By default no column is: what data sets for generation call energy is
    often a formation energy or a heat of some reference, and stays a tag."""
    energy_per_atom: bool | None = None
    """Whether that energy is per atom; to be stated with ``energy_column``."""
    energy_unit: str = "eV"
    """eV, Hartree, Ry, kcal/mol or kJ/mol, of ``energy_column``."""
    text_columns: tuple[str, ...] = ()
    """Columns that stay text although they look like numbers."""
    skip_bad: bool = False
    """Leave out crystals that cannot be used (partly occupied or shared sites, broken CIF), and count them,
    instead of stopping at the first."""


def check_options(options: CrystalOptions) -> None:
    """Refuse options that contradict each other.

    Raises:
        DataError: an energy that is not said to be per atom or per cell; a primitive cell with energies of
            the other cell.
    """
    if options.energy_column is None:
        return
    if options.energy_per_atom is None:
        raise DataError(
            f"It is not stated whether {options.energy_column!r} is per atom or per cell.",
            fix="state energy_per_atom=True or energy_per_atom=False",
        )
    if options.primitive and not options.energy_per_atom:
        raise DataError(
            "The energies are of the file's cell, not of the primitive one.", fix="primitive=False"
        )


def piece_info(source: str, options: CrystalOptions, **known: Any) -> dict[str, Any]:
    """The ``info`` of a piece before its first crystal."""
    named = ("niggli", "niggli_by", "canonical", "primitive", "thirds", "max_atoms", "min_distance")
    stated = {name: getattr(options, name) for name in named}
    if options.energy_column is not None:
        stated |= {name: getattr(options, name) for name in ("energy_per_atom", "energy_unit")}
    keys = {"energy": options.energy_column}
    return new_info(source, keys, stated=stated, **known)


def finish_info(info: dict[str, Any], notes: Counter[str]) -> None:
    """Enter what `parse_cif` counted."""
    for name, count in sorted(notes.items()):
        if name.startswith(NOTE_PYMATGEN):
            info.setdefault("warnings", []).append(name)
        elif count:
            info["not_read"][name] = info["not_read"].get(name, 0) + count


def crystal_frame(
    text: str,
    where: str,
    options: CrystalOptions,
    info: dict[str, Any],
    notes: Counter[str],
    *,
    id: str,
    tags: Tags,
) -> Frame | Skipped:
    """One crystal as a frame, or why a filter leaves it out.

    Args:
        text: CIF.
        where: file and row.
        options: of the reader.
        info: of the piece; labels are counted in it.
        notes: see `parse_cif`.
        id: name of the frame.
        tags: values of the row; None where it is empty.

    Raises:
        DataError: the CIF or the energy cannot be used.
    """
    crystal = _reduced(parse_cif(text, where, thirds=options.thirds, notes=notes), where, options)
    n = len(crystal.numbers)
    if options.max_atoms is not None and n > options.max_atoms:
        return Skipped(where, f"more than max_atoms = {options.max_atoms} atoms")
    limit = options.min_distance
    if limit is not None and shortest_distance(crystal.cell, crystal.fractional, limit) < limit:
        return Skipped(where, f"atoms closer than min_distance = {limit:g} Å")
    geometry = Geometry(
        crystal.numbers, crystal.fractional @ crystal.cell, crystal.cell, np.ones(3, dtype=np.bool_)
    )
    column = options.energy_column
    energy = None if column is None else _energy(tags.get(column), n, options, where)
    kept = {name: value for name, value in tags.items() if value is not None and name != column}
    keys = LabelKeys(energy_unit=options.energy_unit)
    return labelled_frame(geometry, {"energy": energy}, keys, info, where, id=id, tags=kept)


def _reduced(crystal: Crystal, where: str, options: CrystalOptions) -> Crystal:
    if options.primitive:
        crystal = _primitive(crystal, where)
    cell, fractional = crystal.cell, crystal.fractional
    try:
        if options.niggli:
            cell, fractional = niggli_reduce(cell, fractional, by=options.niggli_by)
        if options.canonical and cell is not crystal.cell:
            cell, fractional = canonical_cell(cell, fractional)
    except DataError as error:
        raise DataError(error.what, where=where, fix=error.fix) from error
    return Crystal(crystal.numbers, fractional, cell)


def _primitive(crystal: Crystal, where: str) -> Crystal:
    from pymatgen.core import Structure

    try:
        found = Structure(crystal.cell, crystal.numbers, crystal.fractional).get_primitive_structure()
    except Exception as error:  # numerical trouble in foreign code
        raise DataError(f"pymatgen finds no primitive cell ({error}).", where=where, fix=FIX) from error
    numbers = np.array(found.atomic_numbers, dtype=np.int64)
    return Crystal(
        numbers, *canonical_cell(np.array(found.lattice.matrix), np.array(found.frac_coords))[::-1]
    )


def _energy(value: Tag | None, n_atoms: int, options: CrystalOptions, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, str | bool):
        raise DataError(f"The energy {value!r} is not a number.", where=where, fix="check energy_column")
    return float(value) * (n_atoms if options.energy_per_atom else 1)
