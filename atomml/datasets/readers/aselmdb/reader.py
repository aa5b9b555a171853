"""Reader of ASE-LMDB files (``.aselmdb``: OMat24, OMol25, AQCat25, OC20), of folders and archives of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import orjson

from atomml.config import Config
from atomml.datasets.aqvolt26 import dataset_facts
from atomml.datasets.frame import Frame, Skipped, check_frame
from atomml.datasets.labels import LabelKeys
from atomml.datasets.packing import pack_frames
from atomml.datasets.readers.aselmdb.account import RowAccount, RowRules
from atomml.datasets.readers.aselmdb.archive import archive_members, is_archive, open_member
from atomml.datasets.readers.aselmdb.metadata import RowMetadata, metadata_of
from atomml.datasets.readers.aselmdb.rows import row_frame
from atomml.datasets.readers.labelled import check_stress_sign
from atomml.datasets.readers.reader import PIECE_FRAMES, UNITS, Piece, Reader
from atomml.datasets.safe.bounded import parse_json, zlib_decompress
from atomml.datasets.safe.lmdb_file import LmdbFile, open_lmdb
from atomml.datasets.store import FrameStore
from atomml.errors import DataError

__all__ = ["READER", "AseLmdbOptions", "iterate_rows", "row_ids"]

SUFFIX = ".aselmdb"
RESERVED = (b"nextid", b"deleted_ids", b"metadata")
LARGEST_ROW = 1 << 26  # bytes of JSON text: a row of 400,000 atoms
KEPT_METADATA = 1 << 14  # bytes of the file's own description that go into the store
AT_ONCE = 8  # rows parsed before they are turned into frames
NO_OFFSET = RowMetadata({}, 0)


class AseLmdbOptions(Config):
    """Options of ASE-LMDB files. Their units are those of ASE by convention; the files state none."""

    labels: Literal["calculator", "data"] = "calculator"
    """Where energy, forces and stress are taken from when a row has them twice: its calculator's results, or
    its ``data`` (as fairchem does). How many rows differ is reported either way."""
    energy_unit: Literal["eV", "Hartree", "Ry", "kcal/mol", "kJ/mol"] = "eV"
    """Unit of the energies; forces are in this unit per length unit."""
    length_unit: Literal["Ang", "Bohr", "nm"] = "Ang"
    """Unit of positions and cell."""
    stress_unit: Literal["eV/A^3", "GPa", "kbar"] = "eV/A^3"
    """Unit of the stress."""
    stress_sign: Literal["ase", "pressure"] = "ase"
    """``ase``: σ = (1/V) ∂E/∂ε; ``pressure``: the opposite sign, as VASP prints it."""
    check_stress_sign: bool = True
    """Refuse a stress that plainly follows the volume with the wrong sign."""
    tags: tuple[str, ...] | None = None
    """Scalars of ``data`` and ``key_value_pairs`` to keep; all of them if not given. Nested ones are named
    with dots: ``metadata.temperature``."""
    text_tags: tuple[str, ...] = ()
    """Tags that are kept as text, for names that are numbers in some rows and text in others."""
    metadata: Literal["check", "tags", "ignore"] = "check"
    """``metadata.npz`` beside the files: ``check`` compares its atom counts with the rows, ``tags`` also adds
    its other columns as tags, ``ignore`` does not open it."""
    nan_is_absent: bool = False
    """Treat a label that is NaN as one that the row lacks; otherwise it is an error."""
    on_error: Literal["raise", "skip"] = "raise"
    """What a row that cannot be used does: stop, or be skipped and counted."""
    dataset: Literal["other", "aqvolt26"] = "other"
    """A data set whose licence and level of theory are known, for ``info``."""
    level_of_theory: str = ""
    """As it should stand in ``info``."""
    licence: str = ""
    """As it should stand in ``info``."""


def row_ids(lmdb: LmdbFile, where: str) -> Sequence[int]:
    """Ids of the rows: 1 to ``nextid`` - 1 without ``deleted_ids``.

    Raises:
        DataError: no ``nextid`` in a file with rows, or one that does not fit the number of records.
    """
    next_id = _reserved(lmdb, b"nextid", where)
    rows = lmdb.n_entries - sum(lmdb.get(key) is not None for key in RESERVED)
    if next_id is None and rows == 0:
        return ()
    if type(next_id) is not int or next_id < 1:
        raise DataError(
            "This is not an ASE-LMDB file: `nextid` is missing or not a positive number.",
            where=where,
            fix="for other LMDB files name another reader (`atomml data formats`)",
        )
    deleted = _reserved(lmdb, b"deleted_ids", where) or []
    if type(deleted) is not list or not all(type(i) is int for i in deleted):
        raise DataError("The `deleted_ids` are not a list of row ids.", where=where)
    gone = {i for i in deleted if 0 < i < next_id}
    if next_id - 1 - len(gone) > rows:
        raise DataError(
            f"`nextid` promises {next_id - 1 - len(gone)} rows, but the file has {rows}.",
            where=where,
            fix="the file is incomplete: download or write it again",
        )
    return [i for i in range(1, next_id) if i not in gone] if gone else range(1, next_id)


def _reserved(lmdb: LmdbFile, key: bytes, where: str) -> Any:
    value = lmdb.get(key)
    if value is None:
        return None
    inside = f"{where}, {key.decode()}"
    return parse_json(zlib_decompress(value, limit=LARGEST_ROW, where=inside), where=inside, nan=True)


def _recognises(path: Path) -> bool:
    if path.is_dir():
        return next(path.glob(f"*{SUFFIX}"), None) is not None
    if path.name.endswith(SUFFIX):
        return True
    return is_archive(path) and next(iter(archive_members(path, SUFFIX, unpack=False)), None) is not None


def _pieces(paths: Sequence[Path], options: AseLmdbOptions) -> list[Piece]:
    pieces: list[Piece] = []
    for path in paths:
        if path.is_dir():
            files = sorted(path.rglob(f"*{SUFFIX}"))
            if not files:
                raise DataError(
                    f"The folder has no files *{SUFFIX}.",
                    where=str(path),
                    fix="name the folder that has them, or the archives (.tar, .tar.gz)",
                )
            pieces += [piece for file in files for piece in _pieces_of(file, "", open_lmdb(file))]
        elif is_archive(path):
            found = list(archive_members(path, SUFFIX))
            pieces += [piece for name, lmdb in found for piece in _pieces_of(path, name, lmdb)]
            if not found:
                raise DataError(f"The archive has no files *{SUFFIX}.", where=str(path))
        else:
            pieces += _pieces_of(path, "", open_lmdb(path))
    return pieces


def _pieces_of(path: Path, member: str, lmdb: LmdbFile | None) -> list[Piece]:
    if lmdb is None:
        return []
    n = len(row_ids(lmdb, str(Piece(path, member=member))))
    starts = range(0, n, PIECE_FRAMES) if n else (0,)
    return [Piece(path, start, min(start + PIECE_FRAMES, n), member) for start in starts]


def _read(piece: Piece, options: AseLmdbOptions) -> FrameStore:
    lmdb = open_member(piece.path, piece.member, SUFFIX) if piece.member else open_lmdb(piece.path)
    label = str(Piece(piece.path, member=piece.member))
    ids = row_ids(lmdb, label)
    metadata = NO_OFFSET
    if options.metadata != "ignore" and not piece.member:
        metadata = metadata_of(piece.path, SUFFIX, lambda file: len(row_ids(open_lmdb(file), str(file))))
    account = RowAccount()
    info: dict[str, Any] = {}
    frames = _frames(lmdb, piece, ids, metadata, options, account)
    store = pack_frames(frames, info, where=str(piece))
    if options.check_stress_sign:
        check_stress_sign(store, options.stress_sign, str(piece))
    store.info.update(_info(lmdb, piece, len(ids), options, account))
    return store


def iterate_rows(path: Path, **options: Any) -> Iterator[Frame]:
    """The rows of one file as checked frames, one after another, without a store.

    Args:
        path: an ``.aselmdb`` file.
        **options: see `AseLmdbOptions`.

    Raises:
        DataError: a row that cannot be used.
    """
    lmdb = open_lmdb(path)
    ids = row_ids(lmdb, str(path))
    frames = _frames(lmdb, Piece(path), ids, NO_OFFSET, AseLmdbOptions(**options), RowAccount())
    return (check_frame(f, f"{path}, {f.id}") for f in frames if isinstance(f, Frame))


def _info(
    lmdb: LmdbFile, piece: Piece, n_rows: int, options: AseLmdbOptions, account: RowAccount
) -> dict[str, Any]:
    facts = dataset_facts(options.dataset)
    info = {
        "source": piece.path.name,
        "member": piece.member,
        "units": dict(UNITS),
        "labels": account.labels(),
        "stated": options.model_dump(mode="json", exclude_defaults=True),
        "stress_sign": options.stress_sign,
        "licence": options.licence or facts.get("licence", ""),
        "level_of_theory": options.level_of_theory or facts.get("level_of_theory", ""),
    }
    others = lmdb.n_entries - sum(lmdb.get(key) is not None for key in RESERVED) - n_rows
    if piece.start == 0 and others:
        account.unread["records that `nextid` and `deleted_ids` leave out"] = others
    description = lmdb.get(b"metadata")
    if description is not None and len(description) <= KEPT_METADATA:
        info["metadata"] = _reserved(lmdb, b"metadata", str(piece))
    elif description is not None:
        account.unread["metadata (of the file)"] = 1
    info["not_read"] = account.not_read()
    return {key: value for key, value in info.items() if value not in ("", {}, None)}


def _frames(
    lmdb: LmdbFile,
    piece: Piece,
    ids: Sequence[int],
    metadata: RowMetadata,
    options: AseLmdbOptions,
    account: RowAccount,
) -> Iterator[Frame | Skipped]:
    rules = RowRules(
        LabelKeys(
            energy_unit=options.energy_unit,
            length_unit=options.length_unit,
            stress_unit=options.stress_unit,
            stress_sign=options.stress_sign,
        ),
        options.labels == "data",
        None if options.tags is None else frozenset(options.tags),
        frozenset(options.text_tags),
        options.nan_is_absent,
        options.on_error == "skip",
    )
    label = str(Piece(piece.path, member=piece.member))
    file = Path(piece.member or piece.path).name
    as_tags = options.metadata == "tags"
    end = len(ids) if piece.stop is None else piece.stop
    for first in range(piece.start, end, AT_ONCE):
        batch = ids[first : min(first + AT_ONCE, end)]
        places = [f"{label}, row {i}" for i in batch]
        for k, row in enumerate(_documents(lmdb, batch, places)):
            try:
                if type(row) is DataError:
                    raise row
                frame = row_frame(row, rules, account, places[k], f"{file}:{batch[k]}")
            except DataError as error:
                if options.on_error == "raise":
                    raise
                yield Skipped(places[k], re.sub(r"-?\d[\d.e+-]*", "N", error.what))
                continue
            if metadata.columns:
                frame = metadata.applied(frame, first + k, as_tags, places[k])
            yield frame


def _documents(lmdb: LmdbFile, ids: Sequence[int], places: list[str]) -> list[Any]:
    """The JSON of some rows, step by step for all of them, which is kinder to caches; or what is wrong."""
    try:
        values = [lmdb.get(b"%d" % i) or b"" for i in ids]
        texts = [
            zlib_decompress(value, limit=LARGEST_ROW, where=where)
            for value, where in zip(values, places, strict=True)
        ]
        return [orjson.loads(text) for text in texts]  # depth: row_frame follows a few levels only
    except (DataError, orjson.JSONDecodeError):
        return [_document(lmdb, i, where) for i, where in zip(ids, places, strict=True)]


def _document(lmdb: LmdbFile, row_id: int, where: str) -> Any:
    """One row, or the error."""
    try:
        value = lmdb.get(b"%d" % row_id)
        if value is None:
            raise DataError(
                "The row is missing.",
                where=where,
                fix="the file is incomplete: get it again, or skip such rows",
            )
        text = zlib_decompress(value, limit=LARGEST_ROW, where=where)
        return parse_json(text, where=where, nan=True)
    except DataError as error:
        return error


READER = Reader(
    name="aselmdb",
    about="ASE-LMDB files *.aselmdb (OMat24, OMol25, AQCat25, OC20), folders and .tar.gz archives of them",
    options=AseLmdbOptions,
    recognises=_recognises,
    pieces=_pieces,
    read=_read,
)
