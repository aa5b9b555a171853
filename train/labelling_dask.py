"""200 labels on two Dask workers, one of them killed in mid-label, against one process.

    python train/labelling_dask.py --labels 200 --pause 0.1 --json labelling_dask.json

The calculator is EMT with a pause, which stands for a program that computes on other cores.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from atomml.labelling import LabelCache, LabellerConfig, LabelOutcome, label_structures
from atomml.labelling.executors import dask_executor


class PausingEMT(EMT):
    """EMT that takes a while."""

    def __init__(self, pause: float) -> None:
        super().__init__()
        self.pause = pause

    def calculate(self, *args: Any, **kwargs: Any) -> None:
        """Pause, then compute."""
        time.sleep(self.pause)
        super().calculate(*args, **kwargs)


def make(pause: float) -> PausingEMT:
    """The calculator."""
    return PausingEMT(pause)


def cells(number: int) -> list[Atoms]:
    """Different cells of copper."""
    out = [bulk("Cu", cubic=True) for _ in range(number)]
    for seed, atoms in enumerate(out):
        atoms.rattle(0.05, seed=seed)
    return out


def labelled(
    number: int, pause: float, executor: Executor | None = None, victim: int | None = None
) -> dict[str, float]:
    """Counts and times; ``victim`` is a process to kill after a quarter of the labels."""
    calculator = {"kind": "import", "target": "labelling_dask:make", "arguments": {"pause": pause}}
    labeller = LabellerConfig(calculator=calculator)
    times: list[float] = []

    def heard(index: int, outcome: LabelOutcome) -> None:
        times.append(time.perf_counter())
        if victim is not None and len(times) == number // 4:
            os.kill(victim, signal.SIGKILL)

    with tempfile.TemporaryDirectory() as folder:
        with LabelCache(Path(folder)) as cache:
            out = label_structures(cells(number), labeller, cache=cache, executor=executor, on_outcome=heard)
            kept = len(cache)
        lines = len((Path(folder) / "labels.jsonl").read_text(encoding="utf-8").splitlines())
    return {
        "labelled": sum(outcome.failure is None for outcome in out),
        "in_cache": kept,
        "lines_in_cache": lines,
        "seconds_after_the_first": times[-1] - times[0],
        "labels_per_second": (number - 1) / (times[-1] - times[0]),
        "compute_seconds_per_label": sum(outcome.seconds for outcome in out) / number,
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=int, default=200)
    parser.add_argument("--pause", type=float, default=0.1, help="seconds")
    parser.add_argument("--json", type=Path)
    settings = parser.parse_args()
    from distributed import LocalCluster

    how = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(**how) as cluster:
        free = LabellerConfig(calculator={"kind": "emt"})
        with dask_executor(cluster.scheduler_address, free) as executor:
            two = labelled(settings.labels, settings.pause, executor)
            victim = executor._client.run(os.getpid)  # type: ignore[attr-defined]
            killed = labelled(settings.labels, settings.pause, executor, next(iter(victim.values())))
    found = {
        "one process": labelled(settings.labels, settings.pause),
        "two Dask workers": two,
        "two Dask workers, one killed": killed,
    }
    text = json.dumps(found, indent=1)
    sys.stdout.write(text + "\n")
    if settings.json is not None:
        settings.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
