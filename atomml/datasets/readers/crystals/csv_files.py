"""Crystals in CSV files with a column of CIF text, as CDVAE and DiffCSP distribute them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from atomml.datasets.frame import Frame, Skipped, Tag
from atomml.datasets.readers.crystals.frame import (
    CrystalOptions,
    check_options,
    crystal_frame,
    finish_info,
    piece_info,
)
from atomml.datasets.readers.crystals.rows import Table, column_names, parse_rows, row_ends, typed
from atomml.datasets.readers.labelled import convert_records, note_unread, pack_in_batches
from atomml.datasets.readers.reader import PIECE_FRAMES, Piece, Reader
from atomml.datasets.safe.bounded import open_compressed
from atomml.datasets.store import FrameStore
from atomml.errors import DataError

__all__ = ["READER", "Columns", "CsvOptions", "id_column", "typed_columns"]

SUFFIXES = (".csv", ".csv.gz", ".csv.xz", ".csv.bz2")
LARGEST_FILE = 1 << 37  # bytes after decompression
LARGEST_PIECE, LARGEST_HEADER = 1 << 28, 1 << 16
PIECES_OF_COMPRESSED = 32  # each has to inflate all that is before it
ID_COLUMNS = ("material_id", "mat_id", "jid", "id")
Columns = dict[str, list[Tag | None]]


class CsvOptions(CrystalOptions):
    """Options of the reader ``crystals-csv``."""

    cif_column: str = "cif"
    """Column with the text of a CIF."""
    id_column: str | None = None
    """Column with the names of the crystals: ``material_id``, ``mat_id``, ``jid``, ``id`` or a nameless first column
    if not given, else the number of the row."""


def recognises(path: Path) -> bool:
    """A CSV file, compressed or not, whose first row names a column ``cif``."""
    if not path.is_file() or not path.name.lower().endswith(SUFFIXES):
        return False
    try:
        with open_compressed(path, limit=LARGEST_FILE, where=str(path)) as file:
            return "cif" in column_names(file.readline(LARGEST_HEADER), str(path))
    except DataError:
        return False


def pieces(paths: Sequence[Path], options: CsvOptions) -> list[Piece]:
    """Ranges of bytes (after decompression) of 5000 rows; each file is scanned once, without parsing it.

    Raises:
        DataError: no column of CIF texts, a file without rows, quotes that do not close.
    """
    check_options(options)
    made = []
    for path in paths:
        header, ends = _layout(path, options)
        size = PIECE_FRAMES
        if path.suffix.lower() != ".csv":
            size = max(size, -(-len(ends) // PIECES_OF_COMPRESSED))
        starts = np.concatenate([[header], ends])
        for first in range(0, len(ends), size):
            last = min(first + size, len(ends))
            start, stop = int(starts[first]), int(starts[last])
            if stop - start > LARGEST_PIECE:
                raise DataError(
                    f"{last - first} rows take {stop - start:,} bytes.",
                    where=f"{path}, from row {first} (counting from 0)",
                    fix="check the double quotes; a text that does not end swallows the rows after it",
                )
            made.append(Piece(path, start, stop, first=first))
    return made


def _layout(path: Path, options: CsvOptions) -> tuple[int, np.ndarray]:
    """Where the header ends, and where each row ends."""
    with open_compressed(path, limit=LARGEST_FILE, where=str(path)) as file:
        header = file.readline(LARGEST_HEADER)
        names = column_names(header, str(path))
        for role in ("cif_column", "id_column", "energy_column"):
            name = getattr(options, role)
            if name is not None and name not in names:
                raise DataError(
                    f"There is no column {name!r}; there are {', '.join(names)}.",
                    where=str(path),
                    fix=f"name it with {role}=",
                )
        ends = np.concatenate([[0], *row_ends(file, str(path))])[1:].astype(np.int64) + len(header)
    if not len(ends):
        raise DataError("The file has no rows.", where=str(path), fix="fetch it again")
    return len(header), ends


def _skip(file: BinaryIO, count: int) -> None:
    while count > 0 and (part := file.read(min(1 << 22, count))):
        count -= len(part)


def read(piece: Piece, options: CsvOptions) -> FrameStore:
    """Crystals as frames; every other column of flags, numbers or short text is a tag.

    Raises:
        DataError: irregular CSV; a CIF that cannot be used, unless ``skip_bad``.
    """
    table = _table(piece, options)
    named = options.id_column or id_column(table.names)
    ids = table.columns[named] if named else [str(row) for row in table.rows]
    info, notes = piece_info(piece.path.name, options), Counter[str]()
    columns = typed_columns(table, {options.cif_column, named}, options, info)
    texts = table.columns[options.cif_column]

    def convert(k: int, where: str) -> Frame | Skipped:
        tags = {name: values[k] for name, values in columns.items()}
        return crystal_frame(texts[k], where, options, info, notes, id=ids[k], tags=tags)

    records = (
        (f"{piece.path}, row {row} (counting from 0), {named or 'row'} {ids[k]}", k)
        for k, row in enumerate(table.rows)
    )
    frames = convert_records(records, convert, skip_bad=options.skip_bad)
    store = pack_in_batches(frames, info, where=str(piece))
    finish_info(store.info, notes)
    return store


def _table(piece: Piece, options: CsvOptions) -> Table:
    path, stop = piece.path, piece.stop
    if stop is None:
        raise DataError("A piece of CSV has an end.", where=str(piece))
    compressed = path.suffix.lower() != ".csv"
    with open_compressed(path, limit=LARGEST_FILE, where=str(path)) as file:
        header = file.readline(LARGEST_HEADER)
        names = column_names(header, str(path))
        if compressed:
            _skip(file, piece.start - len(header))
            data = file.read(stop - piece.start)
    if not compressed:
        with path.open("rb") as plain:
            plain.seek(piece.start)
            data = plain.read(stop - piece.start)
    if len(data) < stop - piece.start:
        raise DataError("The file is shorter than it was.", where=str(path), fix="do not change it meanwhile")
    wanted = [n for n in names if n == options.cif_column or not n.startswith("cif")]
    return parse_rows(data, names, wanted, first=piece.first, where=str(path))


def id_column(names: Sequence[str]) -> str | None:
    """The column that names the crystals, if there is one."""
    nameless = [name for name in names[:1] if name.startswith("Unnamed: ")]
    return next((name for name in (*ID_COLUMNS, *nameless) if name in names), None)


def typed_columns(
    table: Table, roles: set[str | None], options: CrystalOptions, info: dict[str, Any]
) -> Columns:
    """Columns that become tags; the others are named in ``info["not_read"]`` with their number of rows."""
    columns: Columns = {}
    for name in table.names:
        if name in roles:
            continue
        column = _column(table.columns.get(name), name in options.text_columns)
        if column is None or name.startswith("Unnamed: "):
            note_unread(info, [name] * len(table.rows))
        else:
            columns[name] = column
    return columns


def _column(values: list[str] | None, text: bool) -> list[Tag | None] | None:
    if values is None:
        return None
    return [value or None for value in values] if text else typed(values)


READER = Reader(
    "crystals-csv",
    "CSV files with a column of CIF text (CDVAE, DiffCSP): crystals with properties as tags",
    CsvOptions,
    recognises,
    pieces,
    read,
)
