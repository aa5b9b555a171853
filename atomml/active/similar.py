"""Candidates that are nearly the same as a labelled frame or as each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from atomml.active.config import GateConfig
from atomml.datasets.farthest import farthest_points
from atomml.datasets.store import FrameStore
from atomml.shapes import Int64, ndarray
from atomml.simulate.sampling.fingerprint import radial_fingerprint, relative_scale

__all__ = ["near_duplicates", "numbers_of"]

Composition = tuple[tuple[int, ...], tuple[int, ...]]


def near_duplicates(
    pool: FrameStore, rows: list[int], labelled: Sequence[FrameStore], config: GateConfig
) -> list[int]:
    """Rows that are too near to a labelled frame, or to another row that stays, of the same composition."""
    groups: dict[Composition, list[int]] = {}
    for row in rows:
        groups.setdefault(_composition(numbers_of(pool, row)), []).append(row)
    known: dict[Composition, list[ndarray]] = {group: [] for group in groups}
    for store in labelled:
        for k in range(len(store)):
            group = _composition(numbers_of(store, k))
            if group in known:
                known[group].append(_point(store, k, group, config))
    near: list[int] = []
    for group, members in groups.items():
        points = np.stack([_point(pool, row, group, config) for row in members])
        start = np.stack(known[group]) if known[group] else None
        least = config.min_difference * relative_scale(points)
        kept, _ = farthest_points(points, start=start, least_distance=least)
        near += sorted(set(members) - {members[int(k)] for k in kept})
    return near


def _point(store: FrameStore, row: int, group: Composition, config: GateConfig) -> ndarray:
    return radial_fingerprint(store.frame(row), np.array(group[0]), config.fingerprint_cutoff)


def numbers_of(store: FrameStore, row: int) -> Int64[ndarray, " atoms"]:
    """Atomic numbers of a frame."""
    return np.asarray(store.numbers[store.atoms_of(row)], dtype=np.int64)


def _composition(numbers: Int64[ndarray, " atoms"]) -> Composition:
    """Elements, ascending, and their ratio: a repeated cell has the composition of the single one."""
    elements, counts = np.unique(numbers, return_counts=True)
    divisor = math.gcd(*counts.tolist())
    return tuple(elements.tolist()), tuple((counts // divisor).tolist())
