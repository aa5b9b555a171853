"""From the raw labels of a record to a `Frame`, with an account of what was found, used and left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from atomml.datasets.frame import Frame, Skipped, Tag, check_frame
from atomml.datasets.labels import LABELS, LabelKeys, to_energy, to_forces, to_stress
from atomml.datasets.packing import merge_skipped, pack_frames
from atomml.datasets.readers.reader import PIECE_FRAMES, UNITS
from atomml.datasets.statistics import formulas, stress_sign_test
from atomml.datasets.store import FrameStore, concatenate
from atomml.errors import DataError
from atomml.shapes import ndarray

__all__ = [
    "Geometry",
    "check_stress_sign",
    "convert_records",
    "labelled_frame",
    "new_info",
    "note_unread",
    "pack_in_batches",
    "scalar_tags",
]

R = TypeVar("R")
SIGN_FRAMES, SIGN_CORRELATION = 100, -0.5  # below, temperature can outweigh volume


@dataclass(frozen=True, slots=True)
class Geometry:
    """Numbers [N], positions [N, 3] in Å, cell [3, 3], pbc [3]."""

    numbers: ndarray
    positions: ndarray
    cell: ndarray
    pbc: ndarray


def new_info(source: str, keys: Mapping[str, str | None], **known: Any) -> dict[str, Any]:
    """The ``info`` of a piece before its first frame.

    Args:
        source: name of the file.
        keys: where each label is; None for a label that the format does not have.
        **known: level of theory, licence, stated options.
    """
    labels = {label: {"key": keys.get(label), "found": 0, "of": 0} for label in LABELS}
    return {"source": source, "units": dict(UNITS), "labels": labels, "not_read": {}, **known}


def note_unread(info: dict[str, Any], names: Iterable[str]) -> None:
    """Count keys of a record that nothing was read from."""
    counts = info["not_read"]
    for name in names:
        counts[name] = counts.get(name, 0) + 1


def labelled_frame(
    geometry: Geometry,
    raw: Mapping[str, Any],
    keys: LabelKeys,
    info: dict[str, Any],
    where: str,
    *,
    id: str = "",
    tags: Mapping[str, Tag] | None = None,
) -> Frame:
    """A checked frame in the units of atomml; labels are counted in ``info``.

    Args:
        geometry: in Å already.
        raw: "energy", "forces" and "stress" as in the file; None for a label that is absent. Six numbers of
            stress are xx yy zz yz xz xy.
        keys: units and sign; a ``stress_key`` with "virial" in it makes the stress a virial.
        info: see `new_info`.
        where: file and record.
        id: name of the frame.
        tags: per-frame values.

    Raises:
        DataError: shapes that do not fit, NaN or infinite numbers, an unknown element.
    """
    energy, forces, stress = (raw.get(label) for label in LABELS)
    volume = abs(float(np.linalg.det(geometry.cell))) if geometry.cell.shape == (3, 3) else 0.0
    flat = stress is not None and not (volume > 0 and geometry.pbc.all())
    frame = Frame(
        geometry.numbers,
        geometry.positions,
        geometry.cell,
        geometry.pbc,
        energy=float("nan") if energy is None else to_energy(energy, keys, where),
        forces=None if forces is None else to_forces(forces, len(geometry.numbers), keys, where),
        stress=None
        if stress is None or flat
        else to_stress(stress, volume, keys.stress_key or "", keys, where),
        id=id,
        tags=tags or {},
    )
    check_frame(frame, where)
    found = {"energy": energy is not None, "forces": forces is not None, "stress": frame.stress is not None}
    for label in LABELS:
        info["labels"][label]["found"] += found[label]
        info["labels"][label]["of"] += 1
    if flat:
        counts = info["labels"]["stress"]
        counts["ignored_without_3d_cell"] = counts.get("ignored_without_3d_cell", 0) + 1
    return frame


def convert_records(
    records: Iterable[tuple[str, R]], convert: Callable[[R, str], Frame | Skipped], *, skip_bad: bool
) -> Iterator[Frame | Skipped]:
    """Frames of (where, record); one that cannot be used is an error, or is skipped.

    Raises:
        DataError: of ``convert``, unless ``skip_bad``.
    """
    for where, record in records:
        try:
            frame = convert(record, where)
        except DataError as error:
            if not skip_bad:
                raise
            frame = Skipped(where, re.sub(r"-?\d[\d.e+-]*", "N", error.what))
        yield frame


def pack_in_batches(frames: Iterable[Frame | Skipped], info: dict[str, Any], *, where: str) -> FrameStore:
    """As `pack_frames`, without holding more than a batch of frames beside their arrays.

    Args:
        frames: may count in ``info`` while they are made.
        info: of the store.
        where: the file, for messages.
    """
    iterator = iter(frames)
    batches = [pack_frames(islice(iterator, PIECE_FRAMES), {}, where=where)]
    while len(batches[-1]) or "skipped" in batches[-1].info:
        batches.append(pack_frames(islice(iterator, PIECE_FRAMES), {}, where=where))
    skipped = merge_skipped(batch.info.get("skipped", {}) for batch in batches)
    joined = concatenate([b for b in batches if len(b)] or batches[:1])
    return replace(joined, info={**info, **({"skipped": skipped} if skipped else {})})


def scalar_tags(record: Mapping[str, Any], leave: Iterable[str] = ()) -> tuple[dict[str, Tag], list[str]]:
    """Numbers, text and flags of a record, and the names of everything else (None is neither).

    Args:
        record: keys and values.
        leave: keys to leave out of both.
    """
    left = set(leave)
    tags: dict[str, Tag] = {}
    other = []
    for name, value in record.items():
        if name in left or value is None:
            continue
        if isinstance(value, str | bool | int | float):
            tags[name] = value
        else:
            other.append(name)
    return tags, other


def check_stress_sign(store: FrameStore, stated: str, where: str) -> FrameStore:
    """The store itself, unless its stress plainly follows the volume with the wrong sign.

    Decided by `stress_sign_test` over compositions of five frames or more, if they have 100 frames together.

    Args:
        store: frames of one piece.
        stated: the sign that the stress was read with, "ase" or "pressure".
        where: the piece.

    Raises:
        DataError: the correlation of volume and trace is below −0.5.
    """
    if not len(store) or not np.isfinite(store.stress).any():
        return store
    names, inverse, members = np.unique(formulas(store), return_inverse=True, return_counts=True)
    rows = np.flatnonzero(members[inverse] >= 5)
    if len(rows) < SIGN_FRAMES or len(names) == 0:
        return store
    found = stress_sign_test(store.subset(rows))
    if found["frames"] >= SIGN_FRAMES and found["correlation"] < SIGN_CORRELATION:
        other = "ase" if stated == "pressure" else "pressure"
        raise DataError(
            f"Read with stress_sign={stated}, the stress grows when the volume shrinks (correlation "
            f"{found['correlation']:.2f} over {found['frames']} frames): the sign is wrong.",
            where=where,
            fix=f"state stress_sign={other}, or check_stress_sign=false if you know better",
        )
    return store
