"""What `crystals.py` measures, as records in the order in which they are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
from ase.io import write
from crystals_baselines import baselines
from crystals_speed import memory, speed
from crystals_study import HERE, Record, Study
from crystals_tables import write_results
from rich.console import Console

from atomml._version import __version__
from atomml.bench import machine
from atomml.cli.train import parse_settings
from atomml.crystals.drawing import SamplingSettings
from atomml.crystals.evaluate.distributions import compare_distributions
from atomml.crystals.generate import fingerprint_of
from atomml.crystals.outputs.folder import read_generated
from atomml.training.config import resolve_path

PLANS = {
    "curve": (5, 10, 20, 50, 100, 200),
    "short": (10, 50),
    "prediction": (10, 20, 50, 100),
    "generation": (10, 100),
}
"""Numbers of steps to sample with: for a curve, to compare strategies and trainings, for MP-20, to generate."""
SHORT = 100
"""Epochs of each training that is compared with others."""
EPOCHS_EQUIVARIANT = 55
"""Epochs of the equivariant network in the same time."""
RECIPE = "as the recipe"
TRAININGS: dict[str, dict[str, dict[str, Any]]] = {
    "steps": {
        RECIPE: {},
        "for 10 steps": {"model.flow.steps": [10]},
        "for 50 steps": {"model.flow.steps": [50]},
    },
    "losses": {
        RECIPE: {},
        "weights of the bound": {"loss.weight_power": 1.0},
        "mean over origins": {"loss.origin": "mean"},
        "origin given": {"loss.origin": "given"},
        "published loss": {
            "loss.distance": "square",
            "loss.origin": "given",
            "loss.weight_power": 1.0,
            "loss.coordinates": 1.0,
        },
        "additive flow": {"model.flow.coordinates": "additive"},
    },
    "networks": {
        RECIPE: {},
        "moves in every layer": {"model.network.refine": True},
        "and distances": {"model.network.refine": True, "model.network.distances": 12},
        "equivariant network": {"model.network": {"kind": "equivariant"}, "epochs": EPOCHS_EQUIVARIANT},
    },
}
"""Trainings that are compared, as changes of the recipe."""


def predictions(study: Study, plan: Sequence[tuple[str, int]]) -> Iterator[Record]:
    """One prediction of each test crystal by the model, for strategies and numbers of steps."""
    task = {"task": "prediction", "reference": study.file("test")}
    n = len(study.crystals("test"))
    for strategy, steps in plan:
        how = SamplingSettings(n=n, steps=steps, strategy=strategy)
        metrics = study.drawn("prediction", task, how, like=study.file("test"))
        yield {"task": "prediction", "method": strategy, "steps": steps, "metrics": metrics}


def generations(study: Study, steps: Sequence[int]) -> Iterator[Record]:
    """Crystals that the model makes, compared with the test and for novelty with the training."""
    task = _generation(study) | {"training": study.file("train")}
    for n in steps:
        metrics = study.drawn("generation", task, SamplingSettings(n=study.count, steps=n))
        yield {"task": "generation", "method": "model", "steps": n, "metrics": metrics}


def without_model(study: Study, task: str) -> Iterator[Record]:
    """Baselines: predictions of the test crystals, or crystals with the compositions of random training crystals."""
    training = study.crystals("train")
    if task == "prediction":
        wanted, how = study.crystals("test"), {"task": task, "reference": study.file("test")}
    else:
        rows = np.random.default_rng(0).integers(len(training), size=study.count)
        wanted, how = [training[row] for row in rows], _generation(study)
    folder = study.sets / f"{task}{len(wanted)}"
    folder.mkdir(exist_ok=True)
    names = ("random cell", "other elements", "PyXtal")
    files = {name: folder / f"{name.replace(' ', '_')}.extxyz" for name in names}
    if not all(file.exists() for file in files.values()):
        for name, outcomes in baselines(wanted, training, **study.work).items():
            made = []
            for row, outcome in enumerate(outcomes):
                if outcome.value is not None:
                    outcome.value.info = {"reference": row}
                    made.append(outcome.value)
            write(files[name], made, format="extxyz")
    for name, file in files.items():
        record: Record = {"task": task, "method": name, "steps": None, "failed": len(wanted)}
        if file.stat().st_size:  # empty where it made nothing
            record["metrics"] = study.judged(file, file.with_suffix(""), how)
            record["failed"] -= record["metrics"]["n"]
        yield record


def extrapolated(study: Study) -> Iterator[Record]:
    """Carbon of eight atoms, fewer than any training crystal has."""
    file = resolve_path(str(Path(str(study.settings.data.train)).with_name("val.csv.gz")), HERE)
    n, steps = min(study.count, 300), PLANS["generation"][-1]
    how = SamplingSettings(n=n, steps=steps)
    metrics = study.drawn("eight", _generation(study) | {"reference": file}, how, n_atoms=8)
    yield {"task": "generation", "method": "model, 8 atoms", "steps": steps, "metrics": metrics}


def guided(study: Study, strengths: Sequence[float]) -> Iterator[Record]:
    """Densities of what is made when a density is asked for."""
    mean, deviation = study.model.property_scales["density"]
    n, steps = max(study.count // 5, 2), PLANS["generation"][-1]
    for shift, strength in product((-1.0, 0.0, 1.0), strengths):
        target = round(mean + shift * deviation, 3)
        how = SamplingSettings(n=n, steps=steps, guidance=strength)
        folder = study.generated(f"density_{target:g}_{strength:g}", how, properties={"density": target})
        made, _ = read_generated(folder)
        values = compare_distributions(made, [], most=None)["density"].generated
        found = dict.fromkeys(("mean", "deviation", "error"))
        if len(values):
            error = float(np.abs(values - target).mean())
            found = {"mean": float(values.mean()), "deviation": float(values.std()), "error": error}
        asked = {"task": "guidance", "target": target, "guidance": strength, "steps": steps, "n": n}
        yield {**asked, "made": len(values), **found}


def trainings(study: Study, cases: Mapping[str, Mapping[str, Any]], seeds: Sequence[int]) -> Iterator[Record]:
    """Models trained otherwise, each shorter than the recipe and sampled with two numbers of steps."""
    for seed, (name, changes) in product(seeds, cases.items()):
        changes = {"epochs": SHORT, **changes, **study.changes, "seed": seed}
        trained = replace(
            study, changes=changes, model_file=None, name=f"{name.replace(' ', '_')}_seed{seed}"
        )
        for record in predictions(trained, [("end_back", n) for n in PLANS["short"]]):
            yield record | {"trained": name, "seed": seed, "model": _facts(trained)}


def measure(command: str, **options: Any) -> None:
    """Everything that a command asks for; results are written after each measurement."""
    console, runs = Console(), options["runs"]
    out = options["out"] or runs / f"crystals_{command}.json"
    study = Study(
        recipe=command if command in ("perov_5", "carbon_24", "mp_20") else "perov_5",
        runs=runs,
        model_file=options["model"],
        samples=options["samples"],
        changes=parse_settings(options["changes"]),
        work={"workers": options["workers"], "timeout": options["timeout"] or None},
    )
    content: dict[str, Any] = {
        "command": command,
        "version": __version__,
        "machine": machine.facts(1),
        "data": {
            "fingerprint": study.source.fingerprint,
            "rows": study.source.summary,
            "test": len(study.crystals("test")),
        },
        "settings": study.settings.resolved(),
        "model": None if command in TRAININGS else _facts(study),
        "records": [],
    }
    for record in _records(command, study, options["seeds"]):
        content["records"].append(record)
        write_results(content, out)
        console.print(*(str(record[k]) for k in ("task", "method", "steps") if k in record), highlight=False)
    console.print(f"Results are in {out}.", highlight=False)


def _records(command: str, study: Study, seeds: Sequence[int]) -> Iterator[Record]:
    others = [(s, n) for s in ("vanilla", "mix") for n in PLANS["short"]]
    if command in TRAININGS:
        return trainings(study, TRAININGS[command], seeds)
    commands: dict[str, Callable[[], Iterator[Record]]] = {
        "perov_5": lambda: chain(
            predictions(study, [("end_back", n) for n in PLANS["curve"]] + others),
            without_model(study, "prediction"),
        ),
        "carbon_24": lambda: chain(
            guided(study, (0.0, 1.0, 2.0)),
            generations(study, PLANS["generation"]),
            without_model(study, "generation"),
            extrapolated(study),
        ),
        "mp_20": lambda: chain(
            predictions(study, [("end_back", n) for n in PLANS["prediction"]]),
            without_model(study, "prediction"),
            generations(study, PLANS["generation"]),
            without_model(study, "generation"),
        ),
        "speed": lambda: chain(
            speed(study.model, study.crystals("test")),
            memory(study.model_path, study.file("test"), (max(study.count // 5, 1), 2 * study.count)),
        ),
    }
    return commands[command]()


def _facts(study: Study) -> dict[str, Any]:
    training = study.model.metadata["training"]
    return {
        "file": str(study.model_path),
        "fingerprint": fingerprint_of(study.model),
        "division_checked": bool(study.model.metadata["data"]),
        **{
            key: training.get(key)
            for key in ("parameters", "crystals", "epochs", "steps", "minutes", "version")
        },
    }


def _generation(study: Study) -> dict[str, Any]:
    cutoffs = "carbon_24" if study.recipe == "carbon_24" else "mp_20"
    return {"task": "generation", "reference": study.file("test"), "cutoffs": cutoffs}
