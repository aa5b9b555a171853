"""Cost and memory of our compiled potential against atoms, channels, degree, neighbours and threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atomml.bench.models import Model, Started, start, tdn
from atomml.bench.rounds import interleave, ratio
from atomml.bench.settings import PotentialSettings
from atomml.bench.structures import silicon

__all__ = ["Point", "measure_scaling", "sweeps"]

MIDDLE = 1_000  # atoms where the other quantities are varied


@dataclass(frozen=True)
class Point:
    """One model on one number of atoms with one number of threads, as part of a sweep over ``value``."""

    value: float
    model: Model
    atoms: int
    threads: int


def sweeps(sizes: Sequence[int], threads: int) -> dict[str, list[Point]]:
    """What is varied → points; all else is silicon, L = 1, 64 channels, 3 layers, 5 Å."""

    def points(key: str, values: Sequence[int | float]) -> list[Point]:
        made = (tdn(f"{key} {value:g}", compiled=True, settings={key: value}) for value in values)
        return [
            Point(float(value), model, MIDDLE, threads) for value, model in zip(values, made, strict=True)
        ]

    return {
        "atoms": [Point(float(n), tdn(f"atoms {n}", compiled=True), n, threads) for n in sizes],
        "channels": points("channels", (16, 32, 64, 128)),
        "lmax": points("lmax", (1, 2, 3)),
        "cutoff": points("cutoff", (4.0, 5.0, 6.0)),
        "threads": [Point(float(n), tdn(f"threads {n}", compiled=True), MIDDLE, n) for n in (1, 2)],
    }


def measure_scaling(
    settings: PotentialSettings, folder: Path, result: dict[str, Any], say: Callable[[str], object]
) -> dict[str, Any]:
    """Each point in a fresh process, the points of a sweep interleaved.

    Returns:
        For every sweep ``rows`` (value, atoms, neighbours, µs per atom, peak memory) and ``ratios`` of the time
        per atom of each point to that of every point before it.
    """
    found = {}
    for name, points in sweeps(settings.sizes, settings.threads).items():
        with ExitStack() as stack:
            started = [_start(point, name, folder, result, stack, say) for point in points]
            ready = [(p, s) for p, s in zip(points, started, strict=True) if s is not None]
            found[name] = _measure(name, ready, settings, say)
    return found


def _start(
    point: Point,
    sweep: str,
    folder: Path,
    result: dict[str, Any],
    stack: ExitStack,
    say: Callable[[str], object],
) -> Started | None:
    started = start(
        [point.model],
        "evaluate",
        [silicon(point.atoms)],
        threads=point.threads,
        folder=folder,
        stack=stack,
        missing=result["missing"],
        what=f"scaling with {sweep}",
        processor=result["machine"]["processor"],
        say=say,
    )
    return started[0] if started else None


def _measure(
    sweep: str,
    ready: Sequence[tuple[Point, Started]],
    settings: PotentialSettings,
    say: Callable[[str], object],
) -> dict[str, Any]:
    seconds = interleave(
        [started.worker for _, started in ready],
        rounds=settings.rounds,
        slot=settings.slot,
        progress=lambda k: say(f"scaling with {sweep}: round {k} of {settings.rounds}"),
    )
    per_atom = {s.worker.name: seconds[s.worker.name] / s.facts["atoms"] for _, s in ready}
    rows = [
        {
            "name": s.worker.name,
            "value": point.value,
            "atoms": s.facts["atoms"],
            "neighbors": s.facts["neighbors"],
            "engine": s.facts["engine"],
            "us_per_atom": 1e6 * float(np.median(per_atom[s.worker.name])),
            "peak_bytes": s.worker.peak_bytes(),
            "seconds": seconds[s.worker.name].tolist(),
        }
        for point, s in ready
    ]
    names = [s.worker.name for _, s in ready]
    ratios = [asdict(ratio(per_atom, b, a)) for k, b in enumerate(names) for a in names[:k]]
    return {"rows": rows, "ratios": ratios}
