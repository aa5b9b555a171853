"""How much faster small crystals are relaxed in one graph than one by one through ASE, and to the same minima.

    python train/batched_relaxation.py [--crystals 200] [--rounds 3] [--out train/batched_relaxation.json]

Each round relaxes all crystals in every way, one way after the other. Rounds are added to what the file already has,
so that it can be stopped and go on. Times are CPU seconds of one thread: they do not depend on who else computes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk

from atomml.bench import machine
from atomml.files import write_atomically
from atomml.potentials.compile import compile_potential
from atomml.simulate import Calculator, RelaxResult, relax
from atomml.simulate.batched import relax_batched
from atomml.simulate.interface import resolve_potential
from atomml.training.report import markdown_table

LATTICES = {
    "rocksalt": {"LiF": 4.0, "LiCl": 5.1, "LiBr": 5.5, "LiI": 6.0},
    "zincblende": {"LiF": 4.4, "LiCl": 5.6, "LiBr": 6.0, "LiI": 6.5},
    "cesiumchloride": {"LiF": 2.5, "LiCl": 3.2},
}
WAYS = ("ASE", "batched", "compiled, ASE", "compiled, batched")
HEADER = (
    "relaxed",
    "CPU seconds",
    "ms per structure and step",
    "times faster (range)",
    "converged",
    "steps: median, most",
    "largest difference of the energy (meV/atom)",
)
FMAX = 0.01


def crystals(n: int, seed: int = 0) -> list[Atoms]:
    """Lithium halides of 2 to 8 atoms, strained by 3 % and rattled by 0.1 Å."""
    rng = np.random.RandomState(seed)
    kinds = [(name, kind, a) for kind, names in LATTICES.items() for name, a in names.items()]
    found = []
    for k in range(n):
        name, kind, a = kinds[k % len(kinds)]
        atoms = bulk(name, kind, a, cubic=k // len(kinds) % 2 == 1)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.03 * rng.randn(3, 3)), scale_atoms=True)
        atoms.rattle(0.1, rng=rng)
        found.append(atoms)
    return found


def ways() -> dict[str, Callable[[Sequence[Atoms]], list[RelaxResult]]]:
    """Four ways of relaxing crystals by the demo model in float32."""
    plain: Any = resolve_potential("demo")
    compiled = compile_potential(plain)
    calculators = Calculator(plain), Calculator(compiled)
    return {
        WAYS[0]: lambda given: relax(given, calculators[0], fmax=FMAX),
        WAYS[1]: lambda given: relax_batched(given, plain, fmax=FMAX),
        WAYS[2]: lambda given: relax(given, calculators[1], fmax=FMAX),
        WAYS[3]: lambda given: relax_batched(given, compiled, fmax=FMAX),
    }


def measure(way: Callable[[Sequence[Atoms]], list[RelaxResult]], given: Sequence[Atoms]) -> dict[str, Any]:
    """CPU seconds and results of one way."""
    way(given[:2])  # warm up
    start = time.process_time()
    results = way(given)
    return {
        "seconds": time.process_time() - start,
        "steps": [r.steps for r in results],
        "energies": [r.energy_last / r.n_atoms for r in results],
        "converged": sum(r.converged for r in results),
        "failed": sum(r.error is not None for r in results),
    }


def table(rounds: Sequence[dict[str, dict[str, Any]]]) -> str:
    """Medians over the rounds, and how far the minima are apart."""
    rows = []
    for name, base in zip(WAYS, (WAYS[0], WAYS[0], WAYS[2], WAYS[2]), strict=True):
        seconds = np.array([r[name]["seconds"] for r in rounds])
        faster = np.array([r[base]["seconds"] for r in rounds]) / seconds
        last, steps = rounds[-1][name], np.array(rounds[-1][name]["steps"])
        apart = np.abs(np.array(last["energies"]) - np.array(rounds[-1][base]["energies"]))
        rows.append(
            [
                name,
                float(np.median(seconds)),
                float(1e3 * np.median(seconds) / (steps + 1).sum()),
                f"{np.median(faster):.1f} ({faster.min():.1f}–{faster.max():.1f})",
                f"{last['converged']} of {len(steps)}",
                f"{np.median(steps):.0f}, {steps.max()}",
                float(1e3 * np.nanmax(apart)),
            ]
        )
    return markdown_table(HEADER, rows)


def main() -> None:
    """Measure, add to the file and write the table beside it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crystals", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    settings = parser.parse_args()
    torch.set_num_threads(1)
    given, how = crystals(settings.crystals), ways()
    about = {"crystals": len(given), "atoms": sum(map(len, given)), "fmax": FMAX}
    content: dict[str, Any] = {"about": about, "machine": machine.facts(1), "rounds": []}
    if settings.out.exists():
        before = json.loads(settings.out.read_text())
        content["rounds"] = before["rounds"] if before["about"] == about else []
    rounds = content["rounds"]
    while len(rounds) < settings.rounds or len(rounds[-1]) < len(WAYS):
        if not rounds or len(rounds[-1]) == len(WAYS):
            rounds.append({})
        name = WAYS[len(rounds[-1])]
        rounds[-1][name] = measure(how[name], given)
        write_atomically(settings.out, json.dumps(content).encode())
    text = f"# Relaxation of {len(given)} crystals ({about['atoms']} atoms)\n\n{table(rounds)}\n"
    write_atomically(settings.out.with_suffix(".md"), text.encode())


if __name__ == "__main__":
    main()
