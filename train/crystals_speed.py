"""How fast crystals are made, in interleaved runs, and how much memory a generation to files takes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms

from atomml.bench.rounds import interleave, ratio
from atomml.crystals.batch import CrystalBatch
from atomml.crystals.drawing import SamplingSettings
from atomml.crystals.generate import generate_folder
from atomml.crystals.model import Constraint, CrystalModel
from atomml.crystals.requests import Request
from atomml.crystals.sampler import sample
from atomml.processes import worker_pool

BATCH = 50
STEPS = (10, 50, 100)
DIFFUSION = (1000, 2)
"""Steps of a diffusion as DiffCSP makes them, and calls of the network in each (predictor and corrector)."""


class Sampling(NamedTuple):
    """A case of `interleave`: crystals of given compositions in a number of steps."""

    name: str
    model: CrystalModel
    crystals: Sequence[Atoms]
    steps: int

    def seconds(self, count: int) -> float:
        """Time of drawing all of them ``count`` times."""
        requests = [Request(n_atoms=len(a), numbers=tuple(a.numbers.tolist())) for a in self.crystals]
        start = time.perf_counter()
        for _ in range(count):
            sample(self.model, requests, steps=self.steps)
        return time.perf_counter() - start


class Calls(NamedTuple):
    """A case of `interleave`: only calls of the network with all crystals, what a diffusion costs at least."""

    name: str
    model: CrystalModel
    crystals: Sequence[Atoms]
    calls: int

    @torch.no_grad()
    def seconds(self, count: int) -> float:
        """Time of the calls, ``count`` times."""
        batch = CrystalBatch.from_atoms(list(self.crystals), dtype=torch.float32)
        half = torch.ones(len(batch), dtype=torch.int64)
        state = self.model.after(
            self.model.target(batch),
            half,
            2,
            Constraint(batch.mask),
            generator=torch.Generator().manual_seed(0),
        )
        start = time.perf_counter()
        for _ in range(count * self.calls):
            self.model(state, half / 2, batch.mask)
        return time.perf_counter() - start


def speed(model: CrystalModel, crystals: Sequence[Atoms], *, rounds: int = 3) -> Iterator[dict[str, Any]]:
    """Crystals per second in batches of `BATCH`, medians over interleaved rounds on one thread.

    The diffusion is not run: the same network is called as often as DiffCSP calls its network for a crystal.
    """
    some = [crystals[k % len(crystals)] for k in range(min(BATCH, 10 * len(crystals)))]
    steps, calls = DIFFUSION
    slow = f"{steps} × {calls} calls"
    cases: list[Sampling | Calls] = [
        *(Sampling(f"{n} steps", model, some, n) for n in (*STEPS, steps)),
        Calls(slow, model, some, steps * calls),
    ]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = interleave(cases, rounds=rounds, slot=0.0)
    finally:
        torch.set_num_threads(before)
    for name, each in seconds.items():
        faster = ratio(seconds, slow, name)
        yield {
            "task": "speed",
            "method": name,
            "batch": len(some),
            "rounds": rounds,
            "crystals_per_second": float(len(some) / np.median(each)),
            "times_faster": [faster.median, faster.low, faster.high],
        }


def memory(
    model: Path, compositions: Path, numbers: Sequence[int], *, steps: int = 10
) -> Iterator[dict[str, Any]]:
    """Largest resident memory of processes that generate so many crystals to files, each a new one."""
    for n in numbers:
        with worker_pool(1) as pool:
            peak = pool.submit(peak_of, model, compositions, n, steps).result()
        yield {"task": "memory", "method": f"{n} crystals", "n": n, "steps": steps, "peak_mib": peak / 2**20}


def peak_of(model: Path, compositions: Path, n: int, steps: int) -> int:
    """Peak of this process in bytes, after a generation to a folder that is then removed."""
    torch.set_num_threads(1)
    folder = compositions.with_name(f"memory_{n}")
    how = SamplingSettings(n=n, steps=steps)
    generate_folder(model, folder, how, like=compositions, overwrite=True)
    shutil.rmtree(folder)
    # not getrusage, whose peak is that of the parent where it was larger
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024
