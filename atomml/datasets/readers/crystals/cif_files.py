"""CIF files: single ones, folders of them, and zip archives with an optional table of properties."""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from atomml.datasets.frame import Frame, Skipped, Tag
from atomml.datasets.readers.crystals.csv_files import Columns, id_column, typed_columns
from atomml.datasets.readers.crystals.frame import (
    CrystalOptions,
    check_options,
    crystal_frame,
    finish_info,
    piece_info,
)
from atomml.datasets.readers.crystals.rows import column_names, parse_rows
from atomml.datasets.readers.labelled import convert_records, note_unread, pack_in_batches
from atomml.datasets.readers.reader import PIECE_FRAMES, Piece, Reader
from atomml.datasets.store import FrameStore
from atomml.errors import DataError

__all__ = ["READER"]

LARGEST_CIF, LARGEST_TABLE = 16 << 20, 1 << 28  # bytes
MOST_MEMBERS = 5_000_000
LOOK_AT = 2_000  # files of a folder that are looked at to recognise it
TABLE = "metadata.csv"
ABSENT = f"CIF files without a row in {TABLE}"
FILE_COLUMNS = ("cif_filename", "filename", "file_name")


@dataclass(frozen=True)
class _Source:
    """Where CIF files are: their names, and how one is read.

    Attributes:
        cifs: names in order.
        table: name of the table of properties, if there is one.
        others: files that are neither.
        read: the bytes of a name, up to a limit.
    """

    cifs: list[str]
    table: str | None
    others: int
    read: Callable[[str, int], bytes]


def recognises(path: Path) -> bool:
    """A ``.cif`` file, a folder with one, a zip archive with one."""
    if path.is_dir():
        found = (p for _, p in zip(range(LOOK_AT), path.rglob("*"), strict=False))
        return any(p.suffix.lower() == ".cif" for p in found)
    if path.suffix.lower() == ".zip" and path.is_file():
        try:
            with _open(path) as source:
                return bool(source.cifs)
        except DataError:
            return False
    return path.is_file() and path.suffix.lower() == ".cif"


def pieces(paths: Sequence[Path], options: CrystalOptions) -> list[Piece]:
    """5000 CIF files each, in the order of their names.

    Raises:
        DataError: no CIF file, a damaged or dangerous archive.
    """
    check_options(options)
    made = []
    for path in paths:
        with _open(path) as source:
            n = len(source.cifs)
        if n == 0:
            raise DataError("There is no .cif file here.", where=str(path), fix="check the path")
        made += [
            Piece(path, start, min(start + PIECE_FRAMES, n), first=start)
            for start in range(0, n, PIECE_FRAMES)
        ]
    return made


def read(piece: Piece, options: CrystalOptions) -> FrameStore:
    """Crystals as frames, named by the table of properties or by the file; the table's columns are tags.

    Raises:
        DataError: a CIF that cannot be used, unless ``skip_bad``; a member larger than 16 MiB.
    """
    info, notes = piece_info(piece.path.name, options), Counter[str]()
    with _open(piece.path) as source:
        columns, rows, ids, unread = _properties(piece.path, source, options)
        if piece.start == 0 and source.others:
            note_unread(info, ["files that are not CIF"] * source.others)

        def convert(name: str, where: str) -> Frame | Skipped:
            text = source.read(name, LARGEST_CIF).decode("utf-8", errors="replace")
            row = _row(name, rows)
            note_unread(info, unread if row is not None else [ABSENT] * bool(rows))
            tags: dict[str, Tag | None] = {} if row is None else {k: v[row] for k, v in columns.items()}
            id = PurePosixPath(name).stem if row is None else ids[row]
            return crystal_frame(text, where, options, info, notes, id=id, tags=tags)

        records = ((f"{piece.path}:{name}", name) for name in source.cifs[piece.start : piece.stop])
        frames = convert_records(records, convert, skip_bad=options.skip_bad)
        store = pack_in_batches(frames, info, where=str(piece))
    finish_info(store.info, notes)
    return store


def _properties(
    path: Path, source: _Source, options: CrystalOptions
) -> tuple[Columns, dict[str, int], list[str], list[str]]:
    """Columns of the table, the row of every file stem or id in it, the ids, and columns that are not read."""
    if source.table is None:
        if options.energy_column is not None:
            raise DataError(f"There is no {TABLE} with the energies.", where=str(path), fix=f"add {TABLE}")
        return {}, {}, [], []
    where = f"{path}:{source.table}"
    header, _, body = source.read(source.table, LARGEST_TABLE).partition(b"\n")
    names = column_names(header, where)
    column, files = id_column(names), next((n for n in FILE_COLUMNS if n in names), None)
    if column is None and files is None:
        raise DataError(
            f"No column of the table names the CIF files; there are {', '.join(names)}.",
            where=where,
            fix=f"name one of them {FILE_COLUMNS[0]}",
        )
    if options.energy_column is not None and options.energy_column not in names:
        raise DataError(
            f"There is no column {options.energy_column!r}.", where=where, fix="check energy_column"
        )
    table = parse_rows(body, names, names, first=0, where=where)
    stems = table.columns[files or str(column)]
    ids = table.columns[column or str(files)]
    unread: dict[str, Any] = {"not_read": {}}
    columns = typed_columns(table, {column, files}, options, unread)
    rows: dict[str, int] = {}
    for k, stem in enumerate(name.removesuffix(".cif") for name in stems):
        one = rows.setdefault(stem, k)
        if any(cells[one] != cells[k] for cells in table.columns.values()):
            raise DataError(
                f"Two rows of the table say different things of {stem}.", where=where, fix="remove one"
            )
    return columns, rows, ids, list(unread["not_read"])


def _row(name: str, rows: dict[str, int]) -> int | None:
    """Row of a file: by its name, or by the name behind a prefix (``mp_mp-1234.cif`` is mp-1234)."""
    stem = PurePosixPath(name).stem
    return rows.get(stem, rows.get(stem.partition("_")[2]))


@contextmanager
def _open(path: Path) -> Iterator[_Source]:
    if path.suffix.lower() == ".zip" and path.is_file():
        try:
            with zipfile.ZipFile(path) as archive:
                yield _archive(archive, path)
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError) as error:
            raise DataError(
                f"This zip archive cannot be read: {error}", where=str(path), fix="fetch it again"
            ) from error
        return
    if path.is_dir():
        found = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
        yield _sorted_out(found, lambda name, limit: _bounded(path / name, limit))
    else:
        yield _sorted_out([path.name], lambda name, limit: _bounded(path, limit))


def _sorted_out(names: Sequence[str], read: Callable[[str, int], bytes]) -> _Source:
    cifs = sorted(n for n in names if n.lower().endswith(".cif"))
    tables = [n for n in names if PurePosixPath(n).name == TABLE]
    table = tables[0] if len(tables) == 1 else None
    return _Source(cifs, table, len(names) - len(cifs) - (table is not None), read)


def _archive(archive: zipfile.ZipFile, path: Path) -> _Source:
    listed = [m for m in archive.infolist() if not m.is_dir()]
    members = {m.filename: m for m in listed}
    if len(listed) > MOST_MEMBERS or len(members) < len(listed):
        what = f"has {len(listed)} members" if len(listed) > MOST_MEMBERS else "has two members of one name"
        raise DataError(f"The archive {what}.", where=str(path), fix="divide or repair it")
    for name, member in members.items():
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
            raise DataError(
                f"The archive names a file outside of it: {name!r}.", where=str(path), fix="do not use it"
            )
        if member.flag_bits & 1:
            raise DataError("The archive is encrypted.", where=f"{path}:{name}", fix="decrypt it first")

    def read(name: str, limit: int) -> bytes:
        with archive.open(members[name]) as file:  # the size in the directory may be a lie
            data = file.read(limit + 1)
        return _within(data, limit, f"{path}:{name}")

    return _sorted_out(list(members), read)


def _bounded(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            return _within(file.read(limit + 1), limit, str(path))
    except OSError as error:
        raise DataError(f"Cannot read the file ({error.strerror}).", where=str(path)) from error


def _within(data: bytes, limit: int, where: str) -> bytes:
    if len(data) > limit:
        raise DataError(f"The file has more than {limit:,} bytes.", where=where, fix="leave it out")
    return data


READER = Reader(
    "cif",
    "CIF files, folders and zip archives of them, with properties in metadata.csv",
    CrystalOptions,
    recognises,
    pieces,
    read,
)
