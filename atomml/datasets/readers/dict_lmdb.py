"""LMDB files of pickled dictionaries of tensors, as matsciml and nequip write them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from atomml.datasets.frame import Frame
from atomml.datasets.labels import KNOWN_KEYS, LabelKeys
from atomml.datasets.packing import pack_frames
from atomml.datasets.readers.label_options import LabelOptions
from atomml.datasets.readers.labelled import Geometry, labelled_frame, new_info, note_unread, scalar_tags
from atomml.datasets.readers.oc20.common import part_of
from atomml.datasets.readers.oc20.shards import (
    PYG,
    first_globals,
    first_lmdb,
    records_of,
    shard_of,
    shard_pieces,
)
from atomml.datasets.readers.oc20.values import cell_of, integers_of, pbc_of, required, vectors_of
from atomml.datasets.readers.reader import Piece, Reader
from atomml.datasets.safe.lmdb_file import open_lmdb
from atomml.datasets.store import FrameStore
from atomml.errors import DataError

__all__ = ["READER"]

GEOMETRY = ("pos", "cell", "pbc", "atomic_numbers")


def _recognises(path: Path) -> bool:
    first = first_lmdb(path)
    names = first_globals(first) if first is not None and first.is_file() else None
    if first is None or names is None or any(name.startswith(PYG) for name in names):
        return False
    value = open_lmdb(first).get(b"0") or b""
    return all(key.encode() in value for key in ("pos", "atomic_numbers"))


def _pieces(paths: Sequence[Path], options: LabelOptions) -> list[Piece]:
    return shard_pieces(paths)


def _read(piece: Piece, options: LabelOptions) -> FrameStore:
    path, shard = piece.path, shard_of(piece.path)
    keys = options.keys()
    chosen: dict[str, str | None] = {}
    info: dict[str, Any] = new_info(path.name, {}, stated=options.model_dump())
    part = part_of(path)
    frames: list[Frame] = []
    for k, where, record in records_of(piece, "pyg"):
        if not isinstance(record, Mapping):
            raise DataError(f"The record is a {type(record).__name__}, not a dictionary.", where=where)
        chosen = chosen or _label_keys(record, keys, where)
        frames.append(_frame(record, chosen, keys, info, f"{path.name}#{k}", part, where))
    for label, key in chosen.items():
        info["labels"][label]["key"] = key
    if piece.start == 0:
        note_unread(info, (f"key {key!r}" for key in shard.other))
        info |= {"warnings": list(shard.warnings)} if shard.warnings else {}
    return pack_frames(frames, info, where=str(piece))


def _label_keys(record: Mapping[str, Any], keys: LabelKeys, where: str) -> dict[str, str | None]:
    """The key of every label, from the first record: the stated one, or the first usual name."""
    has = {key for key, value in record.items() if value is not None}
    chosen: dict[str, str | None] = {}
    for label, usual in KNOWN_KEYS.items():
        stated = keys.stated(label)
        if stated is not None and stated not in has:
            raise DataError(
                f"The record has no {label} key {stated!r}.",
                where=where,
                fix=f"it has: {', '.join(sorted(map(str, has)))}",
            )
        chosen[label] = stated or next((key for key in usual if key in has), None)
    return chosen


def _frame(
    record: Mapping[str, Any],
    chosen: Mapping[str, str | None],
    keys: LabelKeys,
    info: dict[str, Any],
    id: str,
    part: str | None,
    where: str,
) -> Frame:
    numbers = integers_of(required(record, "atomic_numbers", where), "atomic_numbers", where).reshape(-1)
    cell = cell_of(record.get("cell"), where)
    positions = vectors_of(required(record, "pos", where), len(numbers), "pos", where)
    raw = {label: _label(record, label, key, where) for label, key in chosen.items()}
    tags, other = scalar_tags(record, leave=_used(chosen.values()))
    note_unread(info, other)
    geometry = Geometry(
        numbers,
        positions * keys.length_scale,
        cell * keys.length_scale,
        pbc_of(record.get("pbc"), cell, where),
    )
    stress_keys = LabelKeys(**{**vars(keys), "stress_key": chosen["stress"]})
    return labelled_frame(
        geometry, raw, stress_keys, info, where, id=id, tags={**tags, **({"part": part} if part else {})}
    )


def _label(record: Mapping[str, Any], label: str, key: str | None, where: str) -> Any:
    value = None if key is None else record.get(key)
    if value is None and (other := [k for k in KNOWN_KEYS[label] if record.get(k) is not None]):
        raise DataError(
            f"Records keep the {label} under different keys: {key} in the first, {other[0]} here.",
            where=where,
            fix=f"state the key to use ({label}_key), or divide the file",
        )
    return value


def _used(keys: Iterable[str | None]) -> list[str]:
    return [*GEOMETRY, *(key for key in keys if key is not None)]


READER = Reader(
    name="dict-lmdb",
    about="LMDB files of pickled dictionaries of tensors (matsciml, nequip)",
    options=LabelOptions,
    recognises=_recognises,
    pieces=_pieces,
    read=_read,
)
