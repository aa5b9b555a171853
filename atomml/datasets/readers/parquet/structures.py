"""Geometries of a batch of parquet rows, from the four ways in which structures are written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from atomml.datasets.readers.aselmdb.codec import atomic_numbers, flat_list, floats
from atomml.datasets.readers.documents.structures import SAME_PLACE, pymatgen_geometry
from atomml.datasets.readers.labelled import Geometry
from atomml.datasets.readers.parquet.columns import (
    Problems,
    Ragged,
    cells_of_text,
    element_column,
    is_text,
    ragged,
    symbol_numbers,
)
from atomml.datasets.readers.parquet.schema import Roles
from atomml.datasets.store import offsets_of
from atomml.errors import DataError
from atomml.shapes import ndarray

__all__ = ["Structures", "read_structures"]

DISORDERED = "A site is disordered (several species, or an occupancy that is not 1)."


@dataclass(frozen=True)
class Structures:
    """Geometries of the rows of a batch; rows with problems hold anything.

    Attributes:
        numbers: atomic numbers, one per atom.
        positions: three per atom, Å.
        cell: nine per row [rows, 9]; zeros without a cell.
        pbc: [rows, 3].
    """

    numbers: Ragged
    positions: Ragged
    cell: ndarray
    pbc: ndarray


def read_structures(
    column: Callable[[str], Any],
    roles: Roles,
    rows: int,
    problems: Problems,
    where: str,
    *,
    periodic: bool | None = None,
) -> Structures:
    """The geometries of a batch.

    Args:
        column: gives the arrow array of a column by its name.
        roles: where the parts are.
        rows: of the batch.
        problems: rows that cannot be used are noted here.
        where: file, for messages.
        periodic: of frames with a cell, if no column says it.

    Raises:
        DataError: a column of the wrong type, a cell without a word on periodicity.
    """
    if roles.structure is None:
        made = _from_columns(column, roles, rows, problems, where, periodic)
    elif roles.sites is not None:
        made = _from_pymatgen(column("lattice"), column(roles.sites), problems, where)
    elif is_text(column(roles.structure).type):
        made = _from_text(column(roles.structure), roles.structure, problems, where)
    else:
        array = column(roles.structure)
        names = [array.type.field(k).name for k in range(array.type.num_fields)]
        if "lattice" not in names or "sites" not in names:
            raise DataError(
                f"The struct {roles.structure!r} is neither a pymatgen structure (lattice, sites) nor ASE's "
                f"(numbers, positions): it has {', '.join(names)[:200]}.",
                where=where,
                fix="state the columns of its parts: positions=STRUCT.FIELD, numbers=STRUCT.FIELD, ...",
            )
        made = _from_pymatgen(_field(array, "lattice"), _field(array, "sites"), problems, where)
    atoms = made.numbers.counts
    problems.add((atoms == 0) | ~made.numbers.valid, "The frame has no atoms.")
    problems.add(made.positions.counts != 3 * atoms, "The positions are not three per atom.")
    if made.positions.odd is not None:
        problems.add(made.positions.odd, "The positions are not lists of three numbers.")
    return made


def _from_columns(
    column: Callable[[str], Any],
    roles: Roles,
    rows: int,
    problems: Problems,
    where: str,
    periodic: bool | None,
) -> Structures:
    if roles.numbers is None or roles.positions is None:
        raise DataError("There is no column of positions or of atomic numbers.", where=where)
    numbers = element_column(column(roles.numbers), "atomic numbers", problems, where)
    positions = ragged(column(roles.positions), "positions", problems, where)
    cell = np.zeros((rows, 9))
    if roles.cell is not None:
        found = ragged(column(roles.cell), "cell", problems, where)
        cell = fixed_rows(found, 9, "cell", problems, optional=True)
    if roles.pbc is not None:
        return Structures(numbers, positions, cell, _pbc(column(roles.pbc), problems, where))
    if roles.cell is not None and periodic is None:
        raise DataError(
            "No column says in which directions the frames are periodic.",
            where=where,
            fix="state pbc=COLUMN, or periodic=true (along every vector of the cell) or periodic=false",
        )
    along = (cell.reshape(-1, 3, 3) != 0).any(axis=2)
    return Structures(numbers, positions, cell, along if periodic else np.zeros_like(along))


def _pbc(array: Any, problems: Problems, where: str) -> ndarray:
    import pyarrow as pa

    if pa.types.is_boolean(array.type):
        problems.add(array.is_null().to_numpy(zero_copy_only=False), "The pbc is missing.")
        return np.repeat(array.fill_null(False).to_numpy(zero_copy_only=False)[:, None], 3, axis=1)
    found = ragged(array, "pbc", problems, where)
    problems.add(~found.valid, "The pbc is missing.")
    flags = fixed_rows(found, 3, "pbc", problems)
    problems.add(((flags != 0) & (flags != 1)).any(axis=1), "The pbc is not of flags.")
    return flags == 1


def fixed_rows(column: Ragged, n: int, name: str, problems: Problems, *, optional: bool = False) -> ndarray:
    """Exactly ``n`` numbers per row [rows, n]; zeros where the row is null or has another count (a problem)."""
    counts = column.counts
    right = counts == n
    problems.add(~right & column.valid if optional else ~right, f"The {name} does not have {n} numbers.")
    if right.all():
        return column.values.reshape(-1, n)
    made = np.zeros((len(counts), n), dtype=column.values.dtype)
    rows = np.flatnonzero(right)
    made[rows] = column.take(rows).values.reshape(-1, n)
    return made


def _from_pymatgen(lattice: Any, sites: Any, problems: Problems, where: str) -> Structures:
    """``Structure.as_dict()`` as arrow structs: ``lattice.matrix``, ``sites[].species``, ``.abc``, ``.xyz``."""
    import pyarrow.compute as pc

    try:
        matrix = ragged(_field(lattice, "matrix"), "lattice matrix", problems, where)
        cell = fixed_rows(matrix, 9, "lattice matrix", problems)
        lengths = pc.fill_null(pc.list_value_length(sites), 0).to_numpy(zero_copy_only=False)
        offsets = offsets_of(lengths.astype(np.int64))
        flat = sites.flatten()
        row_of_atom = np.repeat(np.arange(len(lengths)), lengths)
        numbers = _species(_field(flat, "species"), row_of_atom, problems)
        positions = _places(flat, cell, row_of_atom, problems, where)
    except (KeyError, AttributeError, NotImplementedError) as error:
        raise DataError(
            f"The structs are not those of pymatgen structures ({type(error).__name__}: {str(error)[:200]}).",
            where=where,
            fix="lattice.matrix, sites[].species[].element and sites[].abc or .xyz are needed",
        ) from error
    valid = sites.is_valid().to_numpy(zero_copy_only=False)
    pbc = np.ones((len(lengths), 3), dtype=np.bool_)
    if lattice.type.get_field_index("pbc") >= 0:
        flags = ragged(_field(lattice, "pbc"), "lattice pbc", problems, where)
        three = fixed_rows(flags, 3, "lattice pbc", problems, optional=True)
        pbc = np.where(flags.valid[:, None], three != 0, True)
    return Structures(
        Ragged(numbers, offsets, valid), Ragged(positions.reshape(-1), 3 * offsets, valid), cell, pbc
    )


def _species(species: Any, row_of_atom: ndarray, problems: Problems) -> ndarray:
    import pyarrow.compute as pc

    lengths = pc.fill_null(pc.list_value_length(species), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    problems.add(row_of_atom[lengths != 1], DISORDERED)
    flat = species.flatten()
    first = offsets_of(lengths)[:-1]
    numbers = np.zeros(len(lengths), dtype=np.uint8)
    has = np.flatnonzero(lengths > 0)
    elements = symbol_numbers(_field(flat, "element"))
    occupancy = pc.fill_null(_field(flat, "occu").cast("float64"), 0.0).to_numpy(zero_copy_only=False)
    numbers[has] = elements[first[has]]
    problems.add(row_of_atom[has[occupancy[first[has]] != 1.0]], DISORDERED)
    problems.add(row_of_atom[numbers == 0], "A site names something that is not an element.")
    return numbers


def _places(flat: Any, cell: ndarray, row_of_atom: ndarray, problems: Problems, where: str) -> ndarray:
    """Cartesian positions [atoms, 3]: ``abc`` times the lattice, as pymatgen has them, and ``xyz`` agrees."""
    found: dict[str, ndarray] = {}
    for name in ("abc", "xyz"):
        if flat.type.get_field_index(name) >= 0 and _field(flat, name).null_count < len(flat):
            inside = Problems()
            places = ragged(_field(flat, name), name, inside, where)
            found[name] = fixed_rows(places, 3, name, inside)
            for atom, what in inside.reasons.items():
                problems.add(row_of_atom[[atom]], what)
    if not found:
        raise KeyError("no abc or xyz")
    if "abc" not in found:
        return found["xyz"]
    positions = np.einsum("ai,aij->aj", found["abc"], cell.reshape(-1, 3, 3)[row_of_atom])
    if "xyz" in found:
        apart = np.abs(positions - found["xyz"]).max(axis=1, initial=0.0) > SAME_PLACE
        problems.add(
            np.unique(row_of_atom[apart]), f"The places abc and xyz differ by more than {SAME_PLACE} Å."
        )
    return positions


def _from_text(array: Any, name: str, problems: Problems, where: str) -> Structures:
    geometries: list[Geometry] = []
    valid = np.ones(len(array), dtype=np.bool_)
    for row, cell in enumerate(cells_of_text(array, name, problems)):
        try:
            geometry = _geometry(cell, f"{where}, {name}")
        except DataError as error:
            problems.add(np.array([row]), error.what)
            valid[row] = False
            geometry = Geometry(np.zeros(0), np.zeros((0, 3)), np.zeros((3, 3)), np.zeros(3))
        geometries.append(geometry)
    counts = np.array([len(g.numbers) for g in geometries], dtype=np.int64)
    offsets = offsets_of(counts)
    empty = np.zeros((0, 3))
    return Structures(
        Ragged(
            np.concatenate([np.zeros(0), *(g.numbers for g in geometries)]).astype(np.uint8), offsets, valid
        ),
        Ragged(np.concatenate([empty, *(g.positions for g in geometries)]).reshape(-1), 3 * offsets, valid),
        np.array([g.cell for g in geometries]).reshape(-1, 9),
        np.array([g.pbc for g in geometries], dtype=np.bool_).reshape(-1, 3),
    )


def _geometry(cell: Any, where: str) -> Geometry:
    """A structure from JSON: pymatgen's dictionary or ASE's."""
    if not isinstance(cell, dict):
        raise DataError("The structure is missing or not a dictionary.", where=where)
    if "positions" not in cell or "numbers" not in cell:
        geometry = pymatgen_geometry(cell, where)
        if geometry.cell.shape != (3, 3) or geometry.pbc.shape != (3,):
            raise DataError("The lattice is not of three vectors.", where=where)
        return geometry
    numbers = atomic_numbers(cell["numbers"], where)
    positions = floats(cell["positions"], (len(numbers), 3), "positions", where)
    lattice = (
        floats(cell["cell"], (3, 3), "cell", where) if cell.get("cell") is not None else np.zeros((3, 3))
    )
    if cell.get("pbc") is None:
        raise DataError("The pbc is missing.", where=where)
    flags = flat_list(cell["pbc"], "pbc", where)
    if len(flags) != 3 or not all(v in (0, 1) for v in flags):
        raise DataError("The pbc is not three flags.", where=where)
    return Geometry(numbers, positions, lattice, np.array(flags, dtype=np.bool_))


def _field(array: Any, name: str) -> Any:
    """A field of an arrow struct array, null where the struct is."""
    import pyarrow.compute as pc

    if array.type.get_field_index(name) < 0:
        raise KeyError(name)
    return pc.struct_field(array, name)
