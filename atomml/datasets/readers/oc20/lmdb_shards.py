"""Legacy LMDB files of OC20 and OC22 (pickled PyG ``Data``), and pickled lists of the same objects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from atomml.datasets.packing import pack_frames
from atomml.datasets.readers.oc20.common import files_of, info_of, parse_frame_name, part_of, with_suffix
from atomml.datasets.readers.oc20.record import RecordOptions, Tally, frame_of_record
from atomml.datasets.readers.oc20.shards import (
    PYG,
    first_globals,
    first_lmdb,
    records_of,
    shard_of,
    shard_pieces,
)
from atomml.datasets.readers.oc20.systems import systems_of
from atomml.datasets.readers.reader import Piece, Reader
from atomml.datasets.safe.bounded import open_compressed
from atomml.datasets.safe.safe_pickle import load_pickle
from atomml.datasets.store import FrameStore
from atomml.errors import DataError

__all__ = ["PICKLE_READER", "READER"]

MOST_LOG = 256 << 20  # bytes
MOST_PICKLE = 2 << 30
PICKLES = (".pkl", ".pickle")
_SHARD = re.compile(r"data\.(\d+)\.lmdb")


def _recognises(path: Path) -> bool:
    first = first_lmdb(path)
    names = first_globals(first) if first is not None and first.is_file() else None
    return names is not None and any(name.startswith(PYG) for name in names)


def _pieces(paths: Sequence[Path], options: RecordOptions) -> list[Piece]:
    return shard_pieces(paths)


def _read(piece: Piece, options: RecordOptions) -> FrameStore:
    path = piece.path
    shard, tally = shard_of(path), Tally(systems_of(options))
    log, odd = _log_names(path, shard.frames)
    part = part_of(path)
    frames = [
        frame_of_record(
            record,
            options,
            tally,
            where=where,
            default_id=f"{path.name}#{k}",
            name=parse_frame_name(log[k], f"line {k + 1} of the data_log of {path}") if log else None,
            part=part,
        )
        for k, where, record in records_of(piece, "pyg")
    ]
    info = info_of(path, **tally.info(options, str(piece)))
    if piece.start == 0:
        info["not_read"] = info.get("not_read", {}) | {f"key {key!r}": 1 for key in shard.other}
        info["warnings"] = [*shard.warnings, *odd, *info.get("warnings", [])]
    return pack_frames(frames, {k: v for k, v in info.items() if v not in ({}, [])}, where=str(piece))


def _log_names(path: Path, frames: int) -> tuple[list[str], list[str]]:
    """The lines of ``data_log.N.txt`` beside ``data.N.lmdb``, and what is odd about them."""
    match = _SHARD.fullmatch(path.name)
    log = path.with_name(f"data_log.{match.group(1)}.txt") if match else None
    if log is None or not log.is_file():
        return [], []
    status = log.stat()
    lines = _log_lines(log, status.st_size, status.st_mtime_ns)
    if len(lines) != frames:
        return [], [f"{log.name} has {len(lines)} lines, {path.name} {frames} records; it is not used."]
    return lines, []


@lru_cache(maxsize=8)
def _log_lines(log: Path, size: int, changed: int) -> list[str]:
    with open_compressed(log, limit=MOST_LOG, where=str(log)) as stream:
        text = stream.read().decode("utf-8", "replace")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _recognises_pickle(path: Path) -> bool:
    files = with_suffix(path.iterdir(), PICKLES)[:1] if path.is_dir() else [path]
    if not files or files[0].suffix not in PICKLES or not files[0].is_file():
        return False
    with open(files[0], "rb") as file:
        head = file.read(4096)
    return head[:1] == b"\x80" and PYG.encode() in head and b"]" in head[:32]


def _pickle_pieces(paths: Sequence[Path], options: RecordOptions) -> list[Piece]:
    return [Piece(path) for path in files_of(paths, PICKLES)]


def _read_pickle(piece: Piece, options: RecordOptions) -> FrameStore:
    path, tally = piece.path, Tally(systems_of(options))
    size = path.stat().st_size
    if size > MOST_PICKLE:
        raise DataError(
            f"The pickle has {size} bytes, more than {MOST_PICKLE}: it would have to be read at once.",
            where=str(path),
            fix="divide it, or write it as LMDB",
        )
    records = load_pickle(path.read_bytes(), where=str(path), allow="pyg")
    if not isinstance(records, list):
        raise DataError(
            f"The pickle holds a {type(records).__name__}, not a list of PyG Data.", where=str(path)
        )
    part = part_of(path)
    frames = [
        frame_of_record(
            record,
            options,
            tally,
            where=f"{path}, record {k} (counting from 0)",
            default_id=f"{path.name}#{k}",
            part=part,
        )
        for k, record in enumerate(records)
    ]
    return pack_frames(frames, info_of(path, **tally.info(options, path.name)), where=str(path))


READER = Reader(
    name="oc20-lmdb",
    about="OC20 and OC22 as LMDB files of pickled PyG Data (S2EF, IS2RE; one file or many)",
    options=RecordOptions,
    recognises=_recognises,
    pieces=_pieces,
    read=_read,
)
PICKLE_READER = Reader(
    name="pyg-pickle",
    about="a pickled list of PyG Data with the attributes of OC20 and OC22",
    options=RecordOptions,
    recognises=_recognises_pickle,
    pieces=_pickle_pieces,
    read=_read_pickle,
)
