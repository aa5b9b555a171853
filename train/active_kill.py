"""Kill a small active-learning loop at random moments, go on, and compare with a loop that nobody disturbed.

    python train/active_kill.py [--kills 20] [--seed 0] [--rounds 2] [--work DIR] [--out FILE]

Every loop is the real command, `atomml active run`, on copper with EMT as the oracle; each kill is SIGKILL, at a
random time after the journal was opened. Loops are killed and resumed until they end, until so many kills are done.
Compared are the facts of every step of the journal (labels, models by fingerprint, errors, choices), how often the
oracle completed each structure, and how often each label is in the cache. FILE gets the moments of the kills and the
verdict.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write
from rich.console import Console

from atomml.active.history import next_step
from atomml.active.journal import JOURNAL, is_running, read_journal
from atomml.active.labels import CACHE

CONSOLE = Console()
MODEL = {
    "kind": "tdn",
    "lmax": 1,
    "channels": 4,
    "layers": 1,
    "cutoff": 3.5,
    "radial_hidden": [8],
    "heads": 4,
}
ORACLE = '''
"""EMT that writes a line when a calculation is complete."""

from ase.calculators.emt import EMT


class Counted(EMT):
    def __init__(self, counts):
        super().__init__()
        self.counts = counts

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        with open(self.counts, "a", encoding="utf-8") as file:
            file.write(self.atoms.positions.tobytes().hex() + "\\n")


def make(counts):
    return Counted(counts)
'''


def copper(n: int, seed: int, shake: float) -> list[Any]:
    """Rattled and strained cells with labels."""
    rng, frames = np.random.default_rng(seed), []
    for _ in range(n):
        atoms = bulk("Cu", cubic=True, a=3.6 * (1 + rng.uniform(-0.03, 0.03)))
        atoms.positions += rng.normal(scale=shake, size=atoms.positions.shape)
        atoms.calc = EMT()
        atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
        frames.append(atoms)
    return frames


def write_inputs(folder: Path) -> None:
    """Labelled frames to begin with and to test on, and a crystal to explore from."""
    write(folder / "train.extxyz", copper(44, 0, 0.03))
    write(folder / "test.extxyz", copper(6, 1, 0.1))
    write(folder / "cu.cif", bulk("Cu", cubic=True, a=3.6))


def prepare(work: Path, rounds: int) -> dict[str, Any]:
    """The files of the loops, and their configuration without run_dir."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    write_inputs(work)
    (work / "oracle.py").write_text(ORACLE, encoding="utf-8")
    return {
        "seed": 1,
        "start": {
            "labelled": ["train.extxyz"],
            "test": ["test.extxyz"],
            "structures": {"files": ["cu.cif"]},
            "cell": {"min_length": 0, "min_atoms": 1},
        },
        "explore": [
            {"kind": "md", "temperatures": [600, 900], "steps": 40, "record_every": 8},
            {"kind": "rattle", "n": 4},
            {"kind": "relax", "steps": 10, "record_every": 3},
        ],
        "gate": {"force_std_min": 0.01, "force_std_max": 50, "min_difference": 0.001},
        "select": {"n": 6, "diversity": 1.5},
        "learn": {
            "training": {
                "model": MODEL,
                "batch": {"batch_size": 6},
                "max_steps": 40,
                "checkpoint_steps": 5,
                "threads": 1,
            }
        },
        "calibrate": {"share": 0.5},
        "stop": {"max_rounds": rounds, "confident_share": None},
    }


def configured(work: Path, name: str, settings: dict[str, Any]) -> Path:
    """The configuration file of one loop; its oracle counts in ``NAME.calls``."""
    oracle = {"kind": "import", "target": "oracle:make", "arguments": {"counts": str(work / f"{name}.calls")}}
    path = work / f"{name}.yaml"
    content = settings | {"run_dir": str(work / name), "label": {"calculator": oracle}}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def started(work: Path, config: Path) -> subprocess.Popen[bytes]:
    """The command, going on with what there is."""
    command = [sys.executable, "-m", "atomml.cli.main", "active", "run", str(config), "--resume", "--quiet"]
    paths = os.pathsep.join(filter(None, [str(work), os.environ.get("PYTHONPATH", "")]))
    log = (work / f"{config.stem}.log").open("ab")
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": paths}, stdout=log, stderr=log)  # noqa: S603


def where(folder: Path) -> str:
    """The step that a loop is in, from its journal."""
    records = read_journal(folder) if (folder / JOURNAL).exists() else []
    round_, step = next_step(records)
    return f"round {round_}, {step}"


def killed_until_end(work: Path, config: Path, most: int, span: float, rng: random.Random) -> list[str]:
    """Run a loop to its end with at most so many kills; the step that each kill fell into."""
    moments: list[str] = []
    while True:
        process = started(work, config)
        while process.poll() is None and not is_running(work / config.stem):
            time.sleep(0.05)
        delay = rng.uniform(0.0, span)
        try:
            if len(moments) < most:
                process.wait(delay)
            elif process.wait():
                raise SystemExit(f"the loop failed: see {work / (config.stem + '.log')}")
            if process.returncode:
                raise SystemExit(f"the loop failed: see {work / (config.stem + '.log')}")
            return moments
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            moments.append(where(work / config.stem))
            CONSOLE.print(f"{config.stem}: kill {len(moments)} after {delay:.1f} s in {moments[-1]}")


def facts(folder: Path) -> list[Any]:
    """What equal loops have in common; the settings name files."""
    return [(r["round"], r["step"], r["facts"]) for r in read_journal(folder) if r["step"] != "settings"]


def without_keys(found: list[Any]) -> list[Any]:
    """Without keys of labels, which contain the name of the file that this oracle counts in."""
    return [(r, s, {k: v for k, v in f.items() if k != "keys"}) for r, s, f in found]


def verdict(work: Path, name: str, kills: int) -> dict[str, Any]:
    """How a loop that was killed compares with the undisturbed one, ``calm``."""
    calls = Counter((work / f"{name}.calls").read_text().splitlines())
    lines = (work / name / CACHE / "labels.jsonl").read_text(encoding="utf-8").splitlines()
    cached = Counter(json.loads(line.partition(" ")[2])["key"] for line in lines)
    asked = sum(f["asked"] for _, step, f in facts(work / name) if step == "label")
    return {
        "loop": name,
        "kills": kills,
        "equal": without_keys(facts(work / name)) == without_keys(facts(work / "calm")),
        "labels": asked,
        "labels in the cache": len(cached),
        "labels that are twice in the cache": sum(count > 1 for count in cached.values()),
        "oracle calls": calls.total(),
        "structures computed again": sum(count > 1 for count in calls.values()),
    }


def main() -> None:
    """Kill, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("runs/active_kill"))
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    work, rng = options.work.resolve(), random.Random(options.seed)
    settings = prepare(work, options.rounds)
    begin = time.perf_counter()
    killed_until_end(work, configured(work, "calm", settings), 0, 0.0, rng)
    span = 0.6 * (time.perf_counter() - begin)
    moments: list[str] = []
    verdicts: list[dict[str, Any]] = []
    while len(moments) < options.kills:
        name = f"killed_{len(verdicts)}"
        config = configured(work, name, settings)
        found = killed_until_end(work, config, options.kills - len(moments), span, rng)
        moments += found
        verdicts.append(verdict(work, name, len(found)))
        CONSOLE.print_json(json.dumps(verdicts[-1]))
    result = {"kills": dict(sorted(Counter(moments).items())), "loops": verdicts}
    CONSOLE.print_json(json.dumps(result))
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    good = all(v["equal"] and not v["labels that are twice in the cache"] for v in verdicts)
    again = sum(v["structures computed again"] for v in verdicts)
    if not good or again > len(moments):
        raise SystemExit("The loops differ.")


if __name__ == "__main__":
    main()
