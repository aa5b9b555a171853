"""LMDB shards whose keys are "0", "1", ... and whose values are pickles: how many, in which order, what is wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from atomml.datasets.readers.oc20.common import files_of
from atomml.datasets.readers.reader import PIECE_FRAMES, Piece
from atomml.datasets.safe.lmdb_file import open_lmdb
from atomml.datasets.safe.safe_pickle import load_pickle, scan_pickle
from atomml.errors import DataError

__all__ = ["PYG", "Shard", "first_globals", "first_lmdb", "records_of", "shard_of", "shard_pieces"]

LENGTH = b"length"
PYG = "torch_geometric."


class Shard(NamedTuple):
    """What the keys of a file say.

    Attributes:
        frames: number of records, with keys 0 to frames - 1.
        warnings: what is odd, in words.
        other: keys that are not records.
    """

    frames: int
    warnings: tuple[str, ...]
    other: tuple[str, ...]


def shard_of(path: Path) -> Shard:
    """The records of a file; ``length`` is compared, never trusted.

    Raises:
        DataError: not an LMDB file, a damaged one, no records, a gap in the numbers (names the key).
    """
    status = path.stat()
    return _shard(Path(os.path.abspath(path)), status.st_size, status.st_mtime_ns)


def shard_pieces(paths: Sequence[Path]) -> list[Piece]:
    """Ranges of records, over the files in the order of their names.

    Raises:
        DataError: see `shard_of` and `files_of`.
    """
    return [
        Piece(path, start, min(start + PIECE_FRAMES, frames))
        for path in files_of(paths, (".lmdb",))
        for frames in (shard_of(path).frames,)
        for start in range(0, frames, PIECE_FRAMES)
    ]


def records_of(piece: Piece, allow: Literal["builtins", "numpy", "pyg"]) -> Iterator[tuple[int, str, Any]]:
    """Number, place and content of the records of a piece.

    Raises:
        DataError: a record that is missing, damaged, or holds anything but data.
    """
    lmdb = open_lmdb(piece.path)
    stop = shard_of(piece.path).frames if piece.stop is None else piece.stop
    for k in range(piece.start, stop):
        where = f"{piece.path}, key {k}"
        value = lmdb.get(str(k).encode())
        if value is None:
            raise _gap(piece.path, k)
        yield k, where, load_pickle(value, where=where, allow=allow)


def first_globals(path: Path) -> list[str] | None:
    """The classes and functions that the first record names; None if it is not a pickle under the key "0".

    Raises:
        DataError: the file is not LMDB, or damaged.
    """
    value = open_lmdb(path).get(b"0")
    if value is None or value[:1] != b"\x80":
        return None
    return scan_pickle(value, where=f"{path}, key 0")


def first_lmdb(path: Path) -> Path | None:
    """The file itself, or the first shard of a folder; None if there is none."""
    if not path.is_dir():
        return path if path.suffix == ".lmdb" else None
    try:
        return files_of([path], (".lmdb",))[0]
    except DataError:
        return None


@lru_cache(maxsize=256)
def _shard(path: Path, size: int, changed: int) -> Shard:
    lmdb = open_lmdb(path)
    canonical, other = set[int](), []
    keys = lmdb.keys()
    for key in keys:
        if key.isdigit() and (key[:1] != b"0" or key == b"0"):
            canonical.add(int(key))
        elif key != LENGTH:
            other.append(key.decode("ascii", "backslashreplace")[:60])
    frames = len(canonical)
    if not frames:
        raise DataError(
            "The file has no records under the keys 0, 1, 2, ...",
            where=str(path),
            fix=f"its keys are {', '.join(other[:5])}: another reader may know it"
            if other
            else "get it again",
        )
    if max(canonical) != frames - 1:
        raise _gap(path, next(k for k in range(frames) if k not in canonical))
    return Shard(frames, _length_warnings(lmdb.get(LENGTH), frames, path), tuple(other))


def _length_warnings(value: bytes | None, frames: int, path: Path) -> tuple[str, ...]:
    if value is None:
        return ()
    stated = load_pickle(value, where=f"{path}, key 'length'", allow="pyg")
    try:
        count = int(stated)
    except (TypeError, ValueError):
        count = -1
    if count == frames:
        return ()
    return (
        f"{path.name}: the key 'length' says {str(stated)[:40]}, there are {frames} records; all are read.",
    )


def _gap(path: Path, k: int) -> DataError:
    return DataError(
        f"The record with the key {str(k)!r} is missing.",
        where=f"{path}, key {k}",
        fix="the keys must be 0, 1, 2, ... without a gap: the file is incomplete, get it again",
    )
