"""Frames into the packed columns of a `FrameStore`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from atomml.datasets.frame import Frame, Skipped, Tag, check_frame
from atomml.datasets.store import FrameStore, offsets_of
from atomml.datasets.strings import PackedStrings
from atomml.shapes import ndarray

__all__ = ["merge_skipped", "optional_column", "pack_frames", "tag_column"]

EXAMPLES = 5  # skipped frames that are named per reason


def pack_frames(frames: Iterable[Frame | Skipped], info: Mapping[str, Any], *, where: str) -> FrameStore:
    """Frames as a store; what was skipped is counted in ``info["skipped"]``.

    Args:
        frames: checked here, in order.
        info: source, units, level of theory; JSON values.
        where: the file, for messages.

    Raises:
        DataError: see `check_frame`.
    """
    kept: list[Frame] = []
    skipped: dict[str, dict[str, Any]] = {}
    for k, frame in enumerate(frames):
        if isinstance(frame, Skipped):
            entry = skipped.setdefault(frame.reason, {"frames": 0, "examples": []})
            entry["frames"] += 1
            if len(entry["examples"]) < EXAMPLES:
                entry["examples"].append(frame.where)
        else:
            kept.append(check_frame(frame, f"{where}, {frame.id or f'frame {k} (counting from 0)'}"))
    n_atoms = np.array([len(f.numbers) for f in kept], dtype=np.int64)
    return FrameStore(
        n_atoms,
        offsets_of(n_atoms),
        _joined([f.numbers for f in kept], (0,), np.uint8),
        _joined([f.positions for f in kept], (0, 3), np.float64),
        _stacked([f.cell for f in kept], (3, 3), np.float64),
        _stacked([f.pbc for f in kept], (3,), np.bool_),
        np.array([f.energy for f in kept], dtype=np.float64),
        _joined([_forces(f) for f in kept], (0, 3), np.float64),
        _stacked(
            [np.full((3, 3), np.nan) if f.stress is None else f.stress for f in kept], (3, 3), np.float64
        ),
        PackedStrings.pack(f.id for f in kept),
        {
            name: tag_column([f.tags.get(name) for f in kept])
            for name in dict.fromkeys(name for f in kept for name in f.tags)
        },
        optional_column([f.atom_tags for f in kept], n_atoms, np.int64),
        optional_column([f.fixed for f in kept], n_atoms, np.bool_),
        {**info, **({"skipped": skipped} if skipped else {})},
    )


def merge_skipped(reports: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The sum of several ``info["skipped"]``."""
    counts: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    for report in reports:
        for reason, entry in report.items():
            counts[reason] += entry["frames"]
            examples[reason] = (examples.get(reason, []) + entry["examples"])[:EXAMPLES]
    return {reason: {"frames": n, "examples": examples[reason]} for reason, n in counts.items()}


def tag_column(values: list[Tag | None]) -> ndarray:
    """Text if any value is text, else flags, integers or numbers (empty or NaN where absent).

    Integers that a number (64-bit float) cannot hold beside NaN become text, so that none is altered.
    """
    kinds = {type(v) for v in values}
    integers = [v for v in values if isinstance(v, int)]
    if kinds == {bool}:
        return np.array(values, dtype=np.bool_)
    if str not in kinds and kinds <= {int, bool} and all(abs(v) < 2**63 for v in integers):
        return np.array(values, dtype=np.int64)
    if str in kinds or any(abs(v) > 2**53 for v in integers):
        return np.array(["" if v is None else str(v) for v in values])
    return np.array([np.nan if v is None else float(v) for v in values])


def optional_column(
    columns: list[ndarray | None], n_atoms: ndarray, dtype: type[np.generic]
) -> ndarray | None:
    """A per-atom column that some frames lack (zeros there); None if all do."""
    if all(c is None for c in columns):
        return None
    return np.concatenate(
        [
            np.zeros(n, dtype=dtype) if c is None else c.astype(dtype)
            for c, n in zip(columns, n_atoms, strict=True)
        ]
    )


def _forces(frame: Frame) -> ndarray:
    return np.full((len(frame.numbers), 3), np.nan) if frame.forces is None else frame.forces


def _joined(arrays: list[ndarray], empty: tuple[int, ...], dtype: type[np.generic]) -> ndarray:
    return np.concatenate(arrays).astype(dtype) if arrays else np.empty(empty, dtype=dtype)


def _stacked(arrays: list[ndarray], tail: tuple[int, ...], dtype: type[np.generic]) -> ndarray:
    return np.stack(arrays).astype(dtype) if arrays else np.empty((0, *tail), dtype=dtype)
