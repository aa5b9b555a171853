"""Which recorded frames are labelled: spaced in time, inside limits of force, different from each other."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from atomml.datasets.farthest import farthest_points
from atomml.datasets.store import FrameStore
from atomml.shapes import Int64, ndarray
from atomml.simulate.sampling.config import SelectionConfig
from atomml.simulate.sampling.fingerprint import radial_fingerprint, relative_scale

__all__ = ["Choice", "Pool", "choose_frames", "frames_of_run", "spacing_of_run"]

Composition = tuple[tuple[int, ...], tuple[int, ...]]


class Pool(NamedTuple):
    """The recorded frames of one unit; thousands of them cannot be open at once.

    Attributes:
        name: of the unit.
        source: its frames, or the folder they are in.
        record: see `Outcome`.
        sampled: whether it is a trajectory, not a relaxed structure.
    """

    name: str
    source: FrameStore | Path
    record: Mapping[str, Any]
    sampled: bool

    def frames(self) -> FrameStore:
        """The frames, opened anew."""
        if isinstance(self.source, FrameStore):
            return self.source
        return FrameStore.open(self.source, verify=False)


class Choice(NamedTuple):
    """The frames chosen, as (pool, row) in order of pools and time, and how many each step left."""

    rows: list[tuple[int, int]]
    counts: dict[str, int]


def spacing_of_run(record: Mapping[str, Any], config: SelectionConfig) -> float:
    """Smallest time between chosen frames of a run, fs: so many times 2τ, and at least ``min_spacing``."""
    independent = config.correlation_times * max(2.0 * record["tau_fs"], record["timestep_fs"])
    return max(independent, config.min_spacing) if config.correlation_times > 0 else config.min_spacing


def frames_of_run(
    store: FrameStore, record: Mapping[str, Any], config: SelectionConfig
) -> tuple[Int64[ndarray, " rows"], int]:
    """Rows of a trajectory inside the limits of force and far enough apart, in order of time.

    Returns:
        the rows, and how many frames were within the limits.
    """
    time, fmax = np.asarray(store.tags["time_fs"]), np.asarray(store.tags["fmax"])
    inside = np.flatnonzero((fmax >= config.fmax_min) & (fmax <= (config.fmax_max or np.inf)))
    spacing = spacing_of_run(record, config)
    chosen: list[int] = []
    for row in inside:
        if not chosen or time[row] - time[chosen[-1]] >= spacing * (1 - 1e-9):
            chosen.append(int(row))
    rows = np.array(chosen, dtype=np.int64)
    if config.per_run is not None and len(rows) > config.per_run:
        picks = np.floor((np.arange(config.per_run) + 0.5) * len(rows) / config.per_run)
        rows = rows[picks.astype(np.int64)]
    return rows, len(inside)


def choose_frames(pools: Sequence[Pool], config: SelectionConfig) -> Choice:
    """Frames of all units: spaced in each, then the different ones of all runs of a composition together.

    The farthest-point order within each composition decides who is a near-duplicate; with ``max_frames`` the
    frames farthest from the earlier ones of their composition are kept, over all compositions.
    """
    counts: Counter[str] = Counter(recorded=0, within_force_limits=0, decorrelated=0, different=0, chosen=0)
    groups: dict[Composition, list[tuple[int, int, ndarray]]] = defaultdict(list)
    always: list[tuple[int, int]] = []
    for k, pool in enumerate(pools):
        store = pool.frames()
        if not len(store):
            continue
        if not pool.sampled:
            always.append((k, 0))
            continue
        rows, inside = frames_of_run(store, pool.record, config)
        counts.update(recorded=len(store), within_force_limits=inside, decorrelated=len(rows))
        for row in rows.tolist():
            elements, ratio = _composition(store, row)
            point = radial_fingerprint(store.frame(row), np.array(elements), config.fingerprint_cutoff)
            groups[elements, ratio].append((k, row, point))
    ranked = _ranked(list(groups.values()), config)
    counts["different"] = len(ranked)
    if config.max_frames is not None:
        ranked = ranked[: config.max_frames]
    counts["chosen"] = len(ranked)
    counts["relaxed"] = len(always)
    return Choice(sorted([*ranked, *always]), dict(counts))


def _ranked(
    groups: Sequence[Sequence[tuple[int, int, ndarray]]], config: SelectionConfig
) -> list[tuple[int, int]]:
    """(pool, row) without near-duplicates within a group, most different first."""
    ranked: list[tuple[float, tuple[int, int]]] = []
    for members in groups:
        points = np.stack([point for _, _, point in members])
        least = config.min_difference * relative_scale(points)
        order, distance = farthest_points(points, least_distance=least)
        ranked += [(-float(d), members[int(i)][:2]) for i, d in zip(order, distance, strict=True)]
    return [member for _, member in sorted(ranked, key=lambda entry: entry[0])]


def _composition(store: FrameStore, row: int) -> Composition:
    """Elements, ascending, and their ratio: a repeated cell has the composition of the single one."""
    elements, counts = np.unique(store.numbers[store.atoms_of(row)], return_counts=True)
    divisor = math.gcd(*counts.tolist())
    return tuple(elements.tolist()), tuple((counts // divisor).tolist())
