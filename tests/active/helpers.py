"""A loop that takes seconds: copper by EMT, a network of four channels, and ways to count what the oracle did."""

from __future__ import annotations

import tempfile
from collections import Counter
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import yaml
from ase.calculators.emt import EMT

from atomml.active.config import load_active_config
from atomml.active.journal import read_journal
from atomml.active.loop import run_active
from atomml.labelling.attempt import attempt
from atomml.labelling.children import Children
from tests.conftest import ROOT

_spec = spec_from_file_location("active_kill", ROOT / "train" / "active_kill.py")
_script = module_from_spec(_spec)
_spec.loader.exec_module(_script)
MODEL, copper, write_inputs = _script.MODEL, _script.copper, _script.write_inputs


class CountedEMT(EMT):
    """EMT that writes a line to a file when a calculation is complete; a file ``fails`` makes it fail.

    Args:
        counts: file of the lines.

    The file ``fails`` holds what is wrong ("nan", or what to raise) and which of the calculations: each so-manieth.
    """

    def __init__(self, counts: str) -> None:
        super().__init__()
        self.counts = counts

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        with open(self.counts, "a", encoding="utf-8") as file:
            file.write(self.atoms.positions.tobytes().hex() + "\n")
        if not Path("fails").exists():
            return
        wrong, every = Path("fails").read_text(encoding="utf-8").split()
        if completed_calls(self.counts).total() % int(every) == 0:
            if wrong != "nan":
                raise RuntimeError(wrong)
            self.results["energy"] = float("nan")


def counted_emt(**arguments):
    """For ``label.calculator: {kind: import}``."""
    return CountedEMT(**arguments)


def completed_calls(counts):
    """How often the oracle completed each structure."""
    return Counter(Path(counts).read_text().splitlines()) if Path(counts).exists() else Counter()


def light(monkeypatch):
    """Labels in this process."""

    def ask(self, request, *args):
        request = {key: value for key, value in request.items() if key != "timeout"}
        return attempt(**request, folder=Path(tempfile.gettempdir())) | {"seconds": 0.0}

    monkeypatch.setattr(Children, "ask", ask)


def settings(folder, name="run", **changes):
    """A dictionary of a loop of one round; ``changes`` replace whole groups."""
    return {
        "run_dir": str(folder / name),
        "seed": 1,
        "figures": False,
        "start": {
            "labelled": ["train.extxyz"],
            "test": ["test.extxyz"],
            "structures": {"files": ["cu.cif"]},
            "cell": {"min_length": 0, "min_atoms": 1},
        },
        "explore": [
            {"kind": "md", "temperatures": [900], "steps": 12, "record_every": 3},
            {"kind": "rattle", "n": 5, "displacement": [0.05, 0.2]},
        ],
        "gate": {"force_std_min": 0.01, "force_std_max": 50, "min_difference": 0.001},
        "select": {"n": 4, "diversity": 1.5},
        "label": {
            "calculator": {
                "kind": "import",
                "target": "tests.active.helpers:counted_emt",
                "arguments": {"counts": f"{name}.calls"},
            }
        },
        "learn": {
            "training": {"model": MODEL, "batch": {"batch_size": 12}, "max_steps": 6, "threads": 1}
        },
        "calibrate": {"share": 0.5},
        "stop": {"max_rounds": 1},
    } | changes  # fmt: skip


def written(folder, **changes):
    """The path of a configuration file."""
    content = settings(folder, **changes)
    path = folder / f"{Path(content['run_dir']).name}.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def loop(folder, *, resume=False, say=lambda line: None, forget_failures=False, overrides=None, **changes):
    """Run a loop in this process."""
    config = load_active_config(written(folder, **changes), overrides)
    return run_active(config, resume=resume, say=say, forget_failures=forget_failures)


def steps(run_dir):
    """Round and name of every step, settings left out."""
    return [(r["round"], r["step"]) for r in read_journal(run_dir) if r["step"] != "settings"]


def of_step(run_dir, round_, step):
    """The facts of a step."""
    return next(f for r, s, f in facts(run_dir) if (r, s) == (round_, step))


def again(folder, **changes):
    """Go on with a copied loop, whose files are where they were when it was begun."""
    begun = read_journal(folder / "run")[0]["facts"]["settings"]["start"]
    return loop(folder, resume=True, **({"start": begun} | changes))


def facts(run_dir):
    """What two equal runs have in common: all facts of all steps but the settings, which name files."""
    return [
        (r["round"], r["step"], r["facts"]) for r in read_journal(Path(run_dir)) if r["step"] != "settings"
    ]
