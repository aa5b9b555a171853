"""How long it takes to get a frame out of a file, in interleaved rounds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from atomml.bench.data_cases import data_cases
from atomml.bench.machine import facts
from atomml.bench.rounds import interleave, ratio
from atomml.datasets import load_frames

__all__ = ["measure_data"]

SAMPLE = Path(__file__).parents[1] / "assets" / "li_halide.extxyz.gz"
COMPARED = (
    ("ASE, extxyz in sequence", "native store, random frames"),
    ("ase-db-backends, random rows", "native store, random frames"),
    ("ase-db-backends, random rows", "atomml, aselmdb rows"),
)


def measure_data(
    source: Path | None, *, rounds: int, slot: float, say: Callable[[str], object] = lambda _: None
) -> dict[str, Any]:
    """Times of every access to the same frames and the ratios in `COMPARED`.

    Args:
        source: frames to use; the bundled lithium halides by default.
        rounds: interleaved rounds.
        slot: seconds that one measurement lasts at least.
        say: is told what is going on.

    Raises:
        DataError: the source cannot be read.
    """
    say("writing the formats")
    store = load_frames(source or SAMPLE)
    with tempfile.TemporaryDirectory(prefix="atomml-bench-") as folder:
        database = source if source is not None and source.suffix == ".aselmdb" else None
        cases = data_cases(store, Path(folder), database)
        runs = interleave(cases, rounds=rounds, slot=slot, progress=lambda k: say(f"round {k} of {rounds}"))
    seconds = {case.name: runs[case.name] / case.frames for case in cases}
    pairs = [(a, b) for a, b in COMPARED if a in seconds and b in seconds]
    absent = {"name": "ase-db-backends", "what": "aselmdb", "reason": "not installed"}
    return {
        "source": str(source or SAMPLE.name),
        "frames": len(store),
        "atoms_per_frame": len(store.numbers) / len(store),
        "rounds": rounds,
        "machine": facts(1),
        "missing": [] if len(pairs) == len(COMPARED) else [absent],
        "rows": [
            {"case": name, "us_per_frame": 1e6 * float(np.median(values))} for name, values in seconds.items()
        ],
        "ratios": [asdict(ratio(seconds, a, b)) for a, b in pairs],
    }
