"""Arrow columns of lists as flat numpy arrays with offsets: no Python object per number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from atomml.datasets.readers.aselmdb.codec import array_parts
from atomml.datasets.safe.bounded import parse_json
from atomml.datasets.store import atom_rows, offsets_of
from atomml.errors import DataError
from atomml.shapes import ndarray

__all__ = ["Problems", "Ragged", "cells_of_text", "element_column", "is_text", "ragged", "scalars"]

DEEPEST = 4  # lists in lists
NUMBERS = {symbol: z for z, symbol in enumerate(chemical_symbols) if z > 0}


@dataclass
class Problems:
    """What is wrong with rows of a batch; the first reason of each row is kept."""

    reasons: dict[int, str] = field(default_factory=dict)

    def add(self, rows: ndarray, what: str) -> None:
        """``what`` is wrong with these rows (row numbers or flags)."""
        for row in np.flatnonzero(rows) if rows.dtype == np.bool_ else rows:
            self.reasons.setdefault(int(row), what)

    def __contains__(self, row: int) -> bool:
        return row in self.reasons


@dataclass(frozen=True)
class Ragged:
    """Numbers of row i are ``values[offsets[i]:offsets[i+1]]``.

    Attributes:
        values: flat.
        offsets: [rows + 1].
        valid: False where the row is null.
        odd: rows with an innermost list that has not three numbers; None if the rows are flat lists.
    """

    values: ndarray
    offsets: ndarray
    valid: ndarray
    odd: ndarray | None = None

    @property
    def counts(self) -> ndarray:
        """Numbers per row."""
        return np.diff(self.offsets)

    def take(self, rows: ndarray) -> Ragged:
        """Only these rows, in order."""
        if len(rows) == len(self.valid):
            return self
        counts = self.counts[rows]
        values = self.values[atom_rows(self.offsets, rows)]
        return Ragged(
            values, offsets_of(counts), self.valid[rows], None if self.odd is None else self.odd[rows]
        )


def ragged(array: Any, name: str, problems: Problems, where: str) -> Ragged:
    """A column of lists (of lists) of numbers or flags, or of JSON texts of such.

    Args:
        array: an arrow array.
        name: of the column, for messages.
        problems: rows whose lists hold nulls are noted here.
        where: file, for messages.

    Raises:
        DataError: the column is of another type.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if is_text(array.type):
        return _from_text(array, name, problems)
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    offsets, odd, depth = np.arange(len(array) + 1), None, 0
    while pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or _is_fixed(array.type):
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        if depth:
            nulls = array.is_null().to_numpy(zero_copy_only=False)
            problems.add(_rows_of(offsets, np.flatnonzero(nulls)), f"The {name} hold a null.")
            odd = np.zeros(len(valid), dtype=np.bool_)
            odd[_rows_of(offsets, np.flatnonzero(lengths != 3))] = True
        offsets = offsets_of(lengths.astype(np.int64))[offsets]
        array, depth = array.flatten(), depth + 1
        if depth > DEEPEST:
            break
    kind = array.type
    if depth == 0 or not (
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    ):
        raise DataError(f"The column {name!r} is not of lists of numbers but {kind}.", where=where)
    if array.null_count:
        nulls = np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))
        problems.add(_rows_of(offsets, nulls), f"The {name} hold a null.")
        array = pc.fill_null(array, False if pa.types.is_boolean(kind) else 0)
    return Ragged(array.to_numpy(zero_copy_only=False), offsets, valid, odd)


def element_column(array: Any, name: str, problems: Problems, where: str) -> Ragged:
    """Atomic numbers from a column of lists of atomic numbers or of chemical symbols.

    Raises:
        DataError: the column is of another type.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if is_text(array.type):
        return _elements_from_text(array, name, problems)
    value_type = getattr(array.type, "value_type", None)
    if value_type is None or not (is_text(value_type) or pa.types.is_dictionary(value_type)):
        return _whole_numbers(ragged(array, name, problems, where), name, problems, where)
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    offsets = offsets_of(lengths.astype(np.int64))
    numbers = symbol_numbers(array.flatten())
    unknown = np.flatnonzero(numbers == 0)
    problems.add(_rows_of(offsets, unknown), f"The {name} name something that is not an element.")
    return Ragged(numbers, offsets, valid)


def symbol_numbers(array: Any) -> ndarray:
    """Atomic numbers of an arrow array of chemical symbols; 0 for anything else."""
    import pyarrow as pa

    coded = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
    table = np.array(
        [0, *(NUMBERS.get(str(word), 0) for word in coded.dictionary.to_pylist())], dtype=np.uint8
    )
    codes = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return table[codes + 1]


def scalars(array: Any, name: str, where: str) -> tuple[ndarray, ndarray]:
    """Numbers [rows] (0 where null) and which are there.

    Raises:
        DataError: the column is not of numbers.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = array.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise DataError(f"The column {name!r} is not of numbers but {kind}.", where=where)
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    return pc.fill_null(array.cast(pa.float64()), 0.0).to_numpy(zero_copy_only=False), valid


def is_text(kind: Any) -> bool:
    """Whether an arrow type is text."""
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def cells_of_text(array: Any, name: str, problems: Problems) -> list[Any]:
    """The JSON of every cell of a text column; None where it is null or no JSON (noted in ``problems``)."""
    cells: list[Any] = []
    for row, text in enumerate(array.to_pylist()):
        try:
            cells.append(None if text is None else parse_json(text.encode(), where=name, nan=True))
        except DataError:
            problems.add(np.array([row]), f"The {name} are no JSON text.")
            cells.append(None)
    return cells


def join_rows(rows: Sequence[tuple[list[Any], int | None] | None], name: str, problems: Problems) -> Ragged:
    """Ragged numbers of Python lists, each with the width of its innermost lists (None for a flat list)."""
    counts = np.array([0 if row is None else len(row[0]) for row in rows], dtype=np.int64)
    widths = [None if row is None else row[1] for row in rows]
    values = np.zeros(int(counts.sum()))
    offsets = offsets_of(counts)
    for k, row in enumerate(rows):
        if row is None:
            continue
        if not all(type(x) in (float, int, bool) for x in row[0]):
            problems.add(np.array([k]), f"The {name} are not all numbers.")
        else:
            values[offsets[k] : offsets[k + 1]] = row[0]
    valid = np.array([row is not None for row in rows], dtype=np.bool_)
    odd = np.array([width not in (None, 3) for width in widths], dtype=np.bool_)
    return Ragged(values, offsets, valid, None if set(widths) <= {None} else odd)


def _from_text(array: Any, name: str, problems: Problems) -> Ragged:
    rows: list[tuple[list[Any], int | None] | None] = []
    for row, cell in enumerate(cells_of_text(array, name, problems)):
        try:
            flat, shape = ([], (0,)) if cell is None else array_parts(cell, name, name)
            rows.append(None if cell is None else (flat, shape[-1] if len(shape) > 1 else None))
        except DataError as error:
            problems.add(np.array([row]), error.what)
            rows.append(None)
    return join_rows(rows, name, problems)


def _elements_from_text(array: Any, name: str, problems: Problems) -> Ragged:
    rows: list[tuple[list[Any], int | None] | None] = []
    for row, cell in enumerate(cells_of_text(array, name, problems)):
        flat = cell if isinstance(cell, list) else None
        if flat and all(type(x) is str for x in flat):
            flat = [NUMBERS.get(x, 0) for x in flat]
            if 0 in flat:
                problems.add(np.array([row]), f"The {name} name something that is not an element.")
        elif cell is not None and flat is None:
            problems.add(np.array([row]), f"The {name} are not a list.")
        rows.append(None if flat is None else (flat, None))
    return _whole_numbers(join_rows(rows, name, problems), name, problems, name)


def _whole_numbers(column: Ragged, name: str, problems: Problems, where: str) -> Ragged:
    if column.odd is not None:
        raise DataError(f"The column {name!r} has lists in lists.", where=where)
    values = column.values
    wrong = ~((values >= 1) & (values <= 118) & (values == np.round(values)))
    problems.add(_rows_of(column.offsets, np.flatnonzero(wrong)), "The frame has an unknown element.")
    numbers = np.where(wrong, 0, values).astype(np.uint8)
    return Ragged(numbers, column.offsets, column.valid)


def _is_fixed(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_fixed_size_list(kind))


def _rows_of(offsets: ndarray, positions: ndarray) -> ndarray:
    """Rows that the flat ``positions`` belong to."""
    return np.unique(np.searchsorted(offsets, positions, side="right") - 1)
