"""Methods of uncertainty compared: accuracy, calibration, detection of other structures, and cost.

    python train/uncertainty.py ethanol   [--seeds 0 1 2 3 4] [--methods jef mse ...] [--runs DIR] [--out FILE]
    python train/uncertainty.py li_halide|3bpa|mlearn ...

For every seed the recipe ``uncertainty_DATA.yaml`` is trained, with predicted
deviations ("jef") and without ("mse"); the methods that follow a training share it. Deep ensembles leave out one
seed each. Deviations are calibrated on held-out frames and measured on others: in distribution, and on structures
from elsewhere. What is finished is not repeated, and FILE (.json, with .md and .png beside it) is written after
each model.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from uncertainty_measures import mixture_of, record_of
from uncertainty_tables import figure_of, goals_of, summary_of, tables_of

from atomml._version import __version__
from atomml.bench import machine
from atomml.bench.rounds import interleave, ratio
from atomml.config import parse_config, read_yaml
from atomml.datasets import FrameStore, load_frames, rows_where, tag_values
from atomml.errors import TrainingError
from atomml.files import replace_file
from atomml.shapes import ndarray
from atomml.training import train
from atomml.training.batches import join
from atomml.training.config import TrainConfig, resolve_path
from atomml.training.data import load_training_data
from atomml.training.evaluation import evaluate
from atomml.training.report import markdown_table, save_figure
from atomml.uncertainty.bayesian import BayesianPotential
from atomml.uncertainty.model_file import load_model
from atomml.uncertainty.posterior import Members

HERE = Path(__file__).parent
DATA = ("ethanol", "li_halide", "3bpa", "mlearn")
IVON_RATE = 0.002


class Method(NamedTuple):
    """A training, and what follows it.

    Attributes:
        training: which; methods with the same one share its run folder.
        uncertainty: section of the configuration, without calibration; None for none.
        exact: derive the spread of forces from a posterior of the last layer instead of estimating it.
        noise: whether labels have a predicted deviation; without one a constant is calibrated as well.
    """

    training: str
    uncertainty: Mapping[str, Any] | None
    exact: bool = False
    noise: bool = True

    @property
    def calibrations(self) -> dict[str, str]:
        """Name in the results → method of `atomml.uncertainty.calibration.fit_scale`."""
        if self.noise:
            return {"likelihood": "nll", "fractions": "coverage"}
        return {"likelihood": "affine", "fractions": "coverage", "without constant": "nll"}


METHODS = {
    "jef": Method("jef", {"kind": "heads"}),
    "mse": Method("mse", None),
    "jef llpr": Method("jef", {"kind": "llpr"}, exact=True),
    "jef llpr, estimated forces": Method("jef", {"kind": "llpr"}),
    "mse llpr": Method("mse", {"kind": "llpr"}, exact=True, noise=False),
    "mse llpr, estimated forces": Method("mse", {"kind": "llpr"}, noise=False),
    "shallow ensemble": Method("shallow", {"kind": "heads"}, exact=True, noise=False),
    "jef swag": Method("jef", {"kind": "swag", "epochs": 12, "rank": 12}),
    "ivon": Method("ivon", {"kind": "ivon", "std_init": 0.003}),
    "mse laplace": Method("mse", {"kind": "laplace_diagonal"}, noise=False),
}
ENSEMBLES = {"jef ensemble": Method("jef", None), "mse ensemble": Method("mse", None, noise=False)}
ALL = METHODS | ENSEMBLES


class Frames(NamedTuple):
    """What is predicted.

    Attributes:
        sets: name → store and rows: ``calibration`` if there is one, ``id``, sets from elsewhere.
        others: groups of the frames of ``id``, each of which can be calibrated on the others.
    """

    sets: dict[str, tuple[FrameStore, ndarray]]
    others: dict[str, ndarray]


def settings_of(data: str, method: str, seed: int, run_dir: Path) -> TrainConfig:
    """The recipe of a data set, changed for a method."""
    training, uncertainty = METHODS[method].training, METHODS[method].uncertainty
    path = HERE / f"uncertainty_{data}.yaml"
    recipe = read_yaml(path)
    files = {
        key: str(resolve_path(value, HERE))
        for key, value in recipe["data"].items()
        if key in ("train", "references") and "/" in str(value)
    }
    changes: dict[str, Any] = {"run_dir": str(run_dir), "seed": seed, "data": recipe["data"] | files}
    changes["uncertainty"] = None if uncertainty is None else {**uncertainty, "calibrate": "none"}
    if training == "mse":
        changes |= {"model": recipe["model"] | {"noise": None}, "loss": recipe["loss"]["mean"]}
    elif training == "shallow":
        changes["model"] = recipe["model"] | {"noise": None, "heads": 16}
    elif training == "ivon":
        # only the likelihood of whole structures makes the Gaussian over the weights a posterior; with a warm-up by
        # the errors alone, whose curvature is a thousandth, it diverges a few steps after the change
        loss = recipe["loss"] | {
            "normalization": "structure",
            "balance": "likelihood",
            "beta": 0.0,
            "warmup": 0.0,
        }
        # its gradients are 200 to 500 long; the limit is for the spikes of the first steps, which are thousands
        changes |= {"loss": loss, "ema": 0.0, "clip_norm": 1000.0, "optimizer": {"lr": IVON_RATE}}
    return parse_config(TrainConfig, recipe | changes, where=str(path))


def model_of(data: str, method: str, seed: int, runs: Path) -> Path:
    """The model file of a method, trained unless it is there; methods with one training share its run folder."""
    training, uncertainty = METHODS[method].training, METHODS[method].uncertainty
    kind = "plain" if uncertainty is None else uncertainty["kind"]
    kept = runs / data / "models" / f"{training}_{kind}_{seed}.safetensors"
    if not kept.exists():
        run_dir = runs / data / f"{training}_{seed}"
        train(settings_of(data, method, seed, run_dir), resume=True, quiet=True)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(run_dir / "model.safetensors", kept)
    return kept


def frames_of(data: str) -> Frames:
    """Calibration, test in distribution, and structures from elsewhere, none of which a training has seen."""
    settings = settings_of(data, "mse", 0, Path("unused"))
    parts = load_training_data(settings.data, settings.loss).single_parts()
    store, held = parts["test"].store, parts["test"].rows
    if data == "li_halide":
        family, warm = "formula == Li6Br12Y2", "T <= 1000"
        sets = {
            "id": (store, held),
            "1500 K": (store, rows_where(store, "T == 1500 and formula != Li6Br12Y2")[::3]),
            "strain > 3 %": (store, rows_where(store, f"{warm} and strain > 0.03 and formula != Li6Br12Y2")),
            "Li3YBr6": (store, rows_where(store, f"{warm} and {family}")[::2]),
        }
        return Frames(sets, {"trajectory": tag_values(store, "traj")[held]})
    if data in ("3bpa", "mlearn"):
        groups = ("Surface", "Vacancy") if data == "mlearn" else ()
        sets = {"id": (store, held)} | {
            name: (store, rows_where(store, f"group == {name}")) for name in groups
        }
        return Frames(sets, {"the other half": np.random.default_rng(0).permutation(len(held)) % 2})
    folder = Path(str(settings.data.train)).parent
    usual = tag_values(store, "OH_dist")
    test, mixed, removal, dimers = (
        load_frames(folder / f"test_{name}.xyz") for name in ("MD", "eth_meth", "H_removal", "dimers")
    )
    distance = tag_values(removal, "OH_dist")
    far = np.flatnonzero((distance < usual.min()) | (distance > usual.max()))
    sets = {
        "calibration": (store, held),
        "id": (test, np.arange(len(test))),
        "methanol": (mixed, rows_where(mixed, "config_type == methanol")),
        "O–H out of range": (removal, far),
        "dimers": (dimers, np.arange(len(dimers))),
    }
    halves = np.random.default_rng(0).permutation(len(test)) % 2
    return Frames(sets, {"the other half": halves})


def predicted(path: Path, method: str, frames: Frames, kept: Path) -> dict[str, dict[str, ndarray]]:
    """Arrays of every set, from ``kept`` if it is there."""
    if not kept.exists():
        model = load_model(path)
        arrays: dict[str, ndarray] = {}
        for name, (store, rows) in frames.sets.items():
            found = evaluate(model, store, rows, unlabelled=True, exact=METHODS[method].exact).arrays()
            arrays |= {f"{name}/{key}": value for key, value in found.items()}
        kept.parent.mkdir(parents=True, exist_ok=True)
        with kept.with_suffix(".part").open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        kept.with_suffix(".part").replace(kept)
    out: dict[str, dict[str, ndarray]] = {}
    with np.load(kept) as stored:
        for key in stored.files:
            name, array = key.rsplit("/", 1)
            out.setdefault(name, {})[array] = stored[key]
    return out


def predictions_file(data: str, method: str, seed: int, runs: Path) -> Path:
    """Where the predictions of a model are kept."""
    return runs / data / "predictions" / f"{re.sub(r'[^a-z]+', '_', method)}_{seed}.npz"


def measure(
    data: str, method: str, seed: int, frames: Frames, runs: Path, seeds: Sequence[int]
) -> dict[str, Any]:
    """The record of one model, or of the ensemble without ``seed``; kept beside the predictions."""
    kept = predictions_file(data, method, seed, runs).with_suffix(".json")
    if kept.exists():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    record: dict[str, Any] = {"method": method, "seed": seed}
    if method in ENSEMBLES:
        members = [s for s in seeds if s != seed]
        single = ENSEMBLES[method].training
        each = [predicted(Path(), single, frames, predictions_file(data, single, s, runs)) for s in members]
        arrays = {name: mixture_of([one[name] for one in each]) for name in frames.sets}
        record |= {"members": members}
    else:
        path = model_of(data, method, seed, runs)
        arrays = predicted(path, method, frames, predictions_file(data, method, seed, runs))
        facts = load_model(path).metadata["training"]
        record |= {key: facts[key] for key in ("steps", "minutes", "parameters", "frames")}
    record |= record_of(arrays, frames.others, ALL[method].calibrations)
    replace_file(kept, json.dumps(record, indent=1).encode())
    return record


class Prediction(NamedTuple):
    """A case of `atomml.bench.rounds.interleave`: energy and forces of a batch."""

    name: str
    model: Any
    graph: Any
    exact: bool

    def seconds(self, count: int) -> float:
        """Time of ``count`` predictions."""
        options = {"exact": self.exact} if isinstance(self.model, BayesianPotential) else {}
        start = time.perf_counter()
        for _ in range(count):
            with torch.no_grad():
                self.model(self.graph, forces=True, **options)
        return time.perf_counter() - start


def cost_of(
    data: str, methods: Sequence[str], seeds: Sequence[int], frames: Frames, runs: Path
) -> dict[str, Any]:
    """Microseconds per atom of energy and forces, and times those of the plain model, in interleaved rounds."""
    plain = load_model(model_of(data, "mse", seeds[0], runs))
    store, rows = frames.sets["id"]
    graph = join([store.graph(int(i), plain.cutoff) for i in rows[:20]])
    cases = [Prediction("mse", plain, graph, exact=False)]
    for method in (m for m in methods if m in METHODS and m != "mse"):
        model = load_model(model_of(data, method, seeds[0], runs))
        cases.append(Prediction(method, model, graph, METHODS[method].exact))
    for method in (m for m in methods if m in ENSEMBLES):
        each = [load_model(model_of(data, ENSEMBLES[method].training, s, runs)) for s in seeds[1:]]
        potentials = [m.potential if isinstance(m, BayesianPotential) else m for m in each]
        cases.append(Prediction(method, BayesianPotential(Members(potentials)), graph, exact=False))
    seconds = interleave(cases, rounds=7, slot=0.2)
    atoms = len(graph.z)
    return {
        case.name: {
            "microseconds_per_atom": 1e6 * float(np.median(seconds[case.name])) / atoms,
            "times": ratio(seconds, case.name, "mse").median,
        }
        for case in cases
    }


def compare(
    data: str,
    methods: Sequence[str],
    seeds: Sequence[int],
    runs: Path,
    write: Callable[[Mapping[str, Any]], None],
    console: Console,
) -> dict[str, Any]:
    """Train, predict and measure all methods for all seeds; ``write`` is given what there is after each model.

    A training that fails is noted, and the others go on.
    """
    frames = frames_of(data)
    content: dict[str, Any] = {
        "version": __version__,
        "machine": machine.facts(1),
        "data": data,
        "sets": {
            name: {"frames": len(rows), "fingerprint": store.subset(rows).fingerprint()}
            for name, (store, rows) in frames.sets.items()
        },
        "settings": settings_of(data, "jef", 0, Path("runs")).resolved(),
        "methods": {name: ALL[name]._asdict() for name in methods},
        "seeds": list(seeds),
        "cost": {},
        "records": [],
        "failed": [],
    }
    for method in methods:
        for seed in seeds:
            try:
                content["records"].append(measure(data, method, seed, frames, runs, seeds))
            except TrainingError as error:
                content["failed"].append({"method": method, "seed": seed, "error": str(error)})
            write(content)
            console.print(f"{data}: {method}, seed {seed}", highlight=False)
    content["cost"] = cost_of(data, methods, seeds, frames, runs)
    write(content)
    return content


def write_results(content: Mapping[str, Any], out: Path) -> None:
    """``out`` (.json), and tables (.md) and figure (.png) beside it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    summary = summary_of(content["records"])
    replace_file(out, json.dumps({**content, "summary": summary}, indent=1).encode())
    goals = markdown_table(["goal", "reached", ""], goals_of(summary))
    text = f"{tables_of(summary, content['cost'])}\n## Goals\n\n{goals}\n"
    out.with_suffix(".md").write_text(text, encoding="utf-8")
    save_figure(figure_of(content["records"], summary), out.with_suffix(".png"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", choices=DATA)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--methods", nargs="+", default=[*ALL], choices=[*ALL])
    parser.add_argument("--runs", type=Path, default=Path("runs/uncertainty"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    out = options.out or options.runs / options.data / f"uncertainty_{options.data}.json"
    compare(
        options.data,
        options.methods,
        options.seeds,
        options.runs,
        lambda content: write_results(content, out),
        Console(),
    )


if __name__ == "__main__":
    main()
