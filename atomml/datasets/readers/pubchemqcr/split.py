"""The published split of PubChemQCR by molecule, and splits that are stated as lists of CIDs."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from atomml.datasets.packing import merge_skipped
from atomml.datasets.readers.pubchemqcr.record import MOLECULE_OF_OTHER_ATOMS
from atomml.datasets.safe.bounded import parse_json
from atomml.datasets.splits import Split
from atomml.datasets.store import FrameStore
from atomml.errors import DataError
from atomml.files import write_atomically
from atomml.shapes import Int64, ndarray

__all__ = ["pubchemqcr_split", "save_cids", "split_from_cids"]

PARTS = ("train", "valid", "test")
NAMES = {"train": 0, "training": 0, "valid": 1, "val": 1, "validation": 1, "test": 2, "testing": 2}


def pubchemqcr_split(
    trajectories: int | FrameStore,
    *,
    seed: int = 42,
    ratios: tuple[float, float] = (0.6, 0.2),
    order: Sequence[int] | None = None,
) -> Split:
    """The split of the published models: numbers 0..n-1 shuffled by Python's ``random`` after ``seed``.

    Args:
        trajectories: their number n, or frames of the reader ``pubchemqcr`` in the order of shards and CIDs;
            the rows are then frames, all of a molecule in one part.
        seed: of the shuffle.
        ratios: share of training and validation (0.6, 0.2 for PubChemQCR-S; 0.8, 0.1 for the full set), each
            rounded down; the rest is the test part.
        order: the CID of trajectory 0, 1, ... where frames of some of them are not in the store, see `valid_cids`.

    Raises:
        DataError: no training part; ratios that do not fit; molecules that were left out although the published
            numbering counts them, or that are not in ``order``.
    """
    if not (min(ratios) >= 0 and sum(ratios) <= 1 + 1e-12):
        raise DataError(f"The ratios {ratios} are not shares of the whole.", where="PubChemQCR split")
    if isinstance(trajectories, int):
        n, row_number = trajectories, np.arange(trajectories, dtype=np.int64)
    else:
        n, row_number = _numbering(trajectories, order)
    shuffled = list(range(n))
    random.Random(seed).shuffle(shuffled)
    n_train, n_valid = int(ratios[0] * n), int(ratios[1] * n)
    if n_train == 0:
        raise DataError(f"The training part would be empty: {n} trajectories.", where="PubChemQCR split")
    part_of = np.full(n, 2)
    part_of[shuffled[:n_train]] = 0
    part_of[shuffled[n_train : n_train + n_valid]] = 1
    how: dict[str, Any] = {"method": "pubchemqcr", "seed": seed, "ratios": list(ratios), "trajectories": n}
    if isinstance(trajectories, FrameStore):
        how["cids_in_several_parts"] = _shared(cids_of(trajectories), part_of[row_number])
    return _split(part_of[row_number], how)


def split_from_cids(
    store: FrameStore, source: str | Path | Mapping[str, Any], *, ratios: tuple[float, float] | None = None
) -> Split:
    """A split that is stated as CIDs, as in ``new_split.json`` or a file of `save_cids`.

    Args:
        store: frames of the reader ``pubchemqcr``.
        source: a JSON file or its content: ``{"train": [...], "val": [...], "test": [...]}``, three lists in this
            order, ``{CID: part}``, or one list of CIDs, of which ``ratios`` gives the parts in order.
        ratios: as in `pubchemqcr_split`, only for one list.

    Raises:
        DataError: the file cannot be read, has another layout, or a CID is in two parts.
    """
    where = "CIDs" if isinstance(source, Mapping) else str(source)
    part_of = _stated_parts(source if isinstance(source, Mapping) else _json(Path(source)), ratios, where)
    cids = cids_of(store)
    present, inverse = np.unique(cids, return_inverse=True)
    parts = np.array([part_of.get(int(cid), -1) for cid in present], dtype=np.int64)
    how = {
        "method": "cids",
        "source": Path(where).name,
        "cids_stated": len(part_of),
        "cids_not_in_data": len(part_of.keys() - {int(cid) for cid in present}),
        "cids_in_no_part": int((parts < 0).sum()),
    }
    if not (parts >= 0).any():
        raise DataError(
            "None of the stated CIDs is in the data set.", where=where, fix="use the split of this data set"
        )
    return _split(parts[inverse], how)


def save_cids(path: str | Path, store: FrameStore, split: Split) -> Path:
    """Write the CIDs of every part, in the order of the frames, as JSON that `split_from_cids` reads.

    Raises:
        DataError: the file cannot be written.
    """
    out, cids = Path(path), cids_of(store)
    lists = {
        name: list(dict.fromkeys(cids[rows].tolist()))
        for name, rows in zip(PARTS, split.parts(), strict=True)
    }
    write_atomically(out, json.dumps(lists).encode())
    return out


def cids_of(store: FrameStore) -> Int64[ndarray, " frames"]:
    """The CID of every frame.

    Raises:
        DataError: the store has no whole-number tag ``cid``.
    """
    if "cid" not in store.tags or store.tags["cid"].dtype.kind != "i":
        raise DataError(
            "The frames have no tag 'cid'.",
            where=str(store.info.get("source", "the data set")),
            fix="read the shards with the reader pubchemqcr",
        )
    return np.asarray(store.tags["cid"], dtype=np.int64)


def _numbering(store: FrameStore, order: Sequence[int] | None) -> tuple[int, ndarray]:
    """Number of trajectories and the trajectory of every frame."""
    cids = cids_of(store)
    starts = np.flatnonzero(np.diff(cids, prepend=-1))
    if order is None:
        lost = _skipped(store).get(MOLECULE_OF_OTHER_ATOMS, {"frames": 0})["frames"]
        if lost:
            raise DataError(
                f"{lost} molecules that the published numbering counts were left out (their gradients are of "
                "other atoms), so the shuffle would differ.",
                where="PubChemQCR split",
                fix="give order=valid_cids(paths, stage=...)",
            )
        return len(starts), np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(cids))))
    number = {int(cid): k for k, cid in enumerate(order)}
    unknown = next((int(c) for c in cids[starts] if int(c) not in number), None)
    if unknown is not None or len(number) != len(order):
        what = "A CID occurs twice" if unknown is None else f"CID {unknown} is not"
        raise DataError(f"{what} in the stated order.", where="PubChemQCR split", fix="use valid_cids")
    counts = np.diff(np.append(starts, len(cids)))
    return len(order), np.repeat([number[int(c)] for c in cids[starts]], counts)


def _skipped(store: FrameStore) -> dict[str, Any]:
    if "skipped" in store.info:
        return dict(store.info["skipped"])
    return merge_skipped(origin.get("skipped", {}) for origin in store.origins())


def _shared(cids: ndarray, parts: ndarray) -> int:
    pairs = np.unique(np.stack([cids, parts]), axis=1)
    return int(pairs.shape[1] - len(np.unique(pairs[0])))


def _split(parts: ndarray, how: dict[str, Any]) -> Split:
    rows = [np.flatnonzero(parts == p).astype(np.int64) for p in range(3)]
    return Split(rows[0], rows[1], rows[2], how)


def _json(path: Path) -> Any:
    try:
        return parse_json(path.read_bytes(), where=str(path))
    except OSError as error:
        raise DataError(f"The CIDs cannot be read ({error.strerror}).", where=str(path)) from error


def _stated_parts(data: Any, ratios: tuple[float, float] | None, where: str) -> dict[int, int]:
    """The part (0 train, 1 valid, 2 test) of every CID."""
    lists = _lists(data, ratios, where)
    counts: Counter[int] = Counter()
    part_of: dict[int, int] = {}
    for part, cids in enumerate(lists):
        for cid in {_number(c, where) for c in cids}:
            counts[cid] += 1
            part_of[cid] = part
    twice = next((cid for cid, count in counts.items() if count > 1), None)
    if twice is not None:
        raise DataError(f"CID {twice} is in two parts.", where=where)
    return part_of


def _lists(data: Any, ratios: tuple[float, float] | None, where: str) -> list[Sequence[Any]]:
    lists: list[list[Any]] = [[], [], []]
    if isinstance(data, Mapping) and data and all(str(k).lower() in NAMES for k in data):
        for name, cids in data.items():
            lists[NAMES[str(name).lower()]] += _list(cids, where)
    elif isinstance(data, Mapping) and data and all(str(p).lower() in NAMES for p in data.values()):
        for cid, part in data.items():
            lists[NAMES[str(part).lower()]].append(cid)
    elif isinstance(data, list) and len(data) == 3 and all(isinstance(part, list) for part in data):
        lists = data
    elif isinstance(data, list) and data and ratios is not None:
        a, b = int(ratios[0] * len(data)), int(ratios[1] * len(data))
        lists = [data[:a], data[a : a + b], data[a + b :]]
    else:
        raise DataError(
            "This is not a split by CIDs.",
            where=where,
            fix='it is {"train": [...], "val": [...], "test": [...]}, three lists, {CID: part}, or one list of '
            "CIDs with ratios=(0.6, 0.2)",
        )
    return list(lists)


def _list(cids: Any, where: str) -> list[Any]:
    if not isinstance(cids, list):
        raise DataError("A part is not a list of CIDs.", where=where)
    return cids


def _number(cid: Any, where: str) -> int:
    text = str(cid).strip()
    if isinstance(cid, bool) or not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise DataError(f"{text[:20]!r} is not a CID.", where=where, fix="CIDs are whole numbers")
    return int(text)
