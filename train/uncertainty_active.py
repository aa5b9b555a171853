"""Frames chosen by uncertainty compared with frames chosen at random: learning curves of both.

    python train/uncertainty_active.py [--seeds 0 1 2 3 4] [--methods random ...] [--start 40] [--batch 20]
        [--rounds 4] [--steps 800] [--runs DIR] [--out FILE]

The frames are 1,000 of ethanol and 300 of methanol (``ethanol/train_eth_meth.xyz``), divided anew for every seed into
labelled ones, a pool to choose from, and a test that nothing is chosen from. In each round a potential with eight
energy heads and predicted deviations is trained from scratch on what is labelled, with the same number of steps, and
each method chooses the next frames with its own potential. All methods start from the same labelled frames. What is
finished is not repeated; FILE (.json, with .md and .png beside it) is written after every training.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from learning_curves import write_results
from rich.console import Console

from atomml.bench import machine
from atomml.config import parse_config, read_yaml
from atomml.datasets import FrameStore, load_frames
from atomml.datasets.splits import Split
from atomml.shapes import ndarray
from atomml.training import train
from atomml.training.acquisition import member_predictions, summed_features
from atomml.training.config import TrainConfig, resolve_path
from atomml.training.evaluation import evaluate
from atomml.uncertainty.acquisition import (
    PoolFeatures,
    PoolSplit,
    Selection,
    acquire,
    split_pool,
)
from atomml.uncertainty.bayesian import BayesianPotential
from atomml.uncertainty.model_file import load_model

HERE = Path(__file__).parent
RECIPE = HERE / "uncertainty_ethanol.yaml"
METHODS = ("random", "force_std", "bald_force", "batch_bald", "llpr_maxdet")
TEST = 0.4
MEASURES = {
    "forces": "forces RMSE (meV/Å)",
    "energy": "energy RMSE (meV/atom)",
    "worst": "largest 1 % of force errors, from (meV/Å)",
    "methanol forces": "forces RMSE of methanol (meV/Å)",
}


def division(store: FrameStore, start: int, seed: int) -> PoolSplit:
    """``start`` labelled frames, 40 % for the test, the rest a pool; frames are independent."""
    share = start / len(store)
    fractions = {"labelled": share, "pool": 1 - TEST - share, "calibration": 0.0, "test": TEST}
    return split_pool(range(len(store)), fractions, seed=seed)


def settings_of(data: Path, split: Path, run_dir: Path, seed: int, steps: int) -> TrainConfig:
    """The recipe of ethanol with eight heads, on the training rows of ``split``."""
    recipe = read_yaml(RECIPE)
    references = str(resolve_path(recipe["data"]["references"], HERE))
    changes = {
        "run_dir": str(run_dir),
        "data": {"train": str(data), "references": references, "split": str(split), "valid": None},
        "model": recipe["model"] | {"heads": 8},
        "uncertainty": {"kind": "heads", "calibrate": "none"},
        "epochs": None,
        "max_steps": steps,
        "seed": seed,
    }
    return parse_config(TrainConfig, recipe | changes, where=str(RECIPE))


def trained(
    store: FrameStore, data: Path, labelled: ndarray, seed: int, steps: int, run_dir: Path
) -> BayesianPotential:
    """A potential that knows the labelled rows only; read from the run folder if it is finished."""
    file = run_dir / "model.safetensors"
    if not file.exists():
        none = np.empty(0, dtype=np.int64)
        split = run_dir.with_suffix(".split.json")
        Split(labelled, none, none).save(split, store)
        train(settings_of(data, split, run_dir, seed, steps), resume=True, quiet=True)
    return load_model(file)  # type: ignore[no-any-return]


def choose(
    method: str, model: BayesianPotential, store: FrameStore, split: PoolSplit, n: int, round_: int
) -> Selection:
    """The rows of the pool that a method wants labelled."""
    if method == "random":
        rng = np.random.default_rng([split.seed, round_])
        features = PoolFeatures(pool=np.zeros((len(split.pool), 1)), labelled=np.zeros((0, 1)))
        return acquire("random", n, features=features, rng=rng)
    if method == "llpr_maxdet":
        pool, known = (summed_features(model, store.subset(rows)) for rows in (split.pool, split.labelled))
        return acquire("llpr_maxdet", n, features=PoolFeatures(pool=pool, labelled=known))
    return acquire(method, n, predictions=member_predictions(model, store.subset(split.pool)))  # type: ignore[arg-type]


def errors_of(model: BayesianPotential, store: FrameStore, rows: ndarray) -> dict[str, float]:
    """`MEASURES` on the test frames."""
    result = evaluate(model, store, rows)
    error = result.forces - result.forces_label
    methanol = np.repeat(result.n_atoms == 6, result.n_atoms)
    return {
        "forces": 1e3 * result.metrics["forces_rmse"],
        "energy": 1e3 * result.metrics["energy_per_atom_rmse"],
        "worst": 1e3 * float(np.quantile(np.linalg.norm(error, axis=1), 0.99)),
        "methanol forces": 1e3 * float(np.sqrt(np.mean(error[methanol] ** 2))),
    }


def curve_of(
    method: str, seed: int, data: Path, options: argparse.Namespace, console: Console
) -> list[dict[str, Any]]:
    """One learning curve: errors after the start and after every round, and what was chosen."""
    store = load_frames(data)
    split = division(store, options.start, seed)
    points: list[dict[str, Any]] = []
    for k in range(options.rounds + 1):
        name = "start" if k == 0 else f"{method}_{k}"
        run_dir = options.runs / f"seed{seed}" / name
        model = trained(store, data, split.labelled, seed, options.steps, run_dir)
        errors = errors_of(model, store, split.test)
        point = {"method": method, "seed": seed, "labelled": len(split.labelled), **errors}
        point["methanol labelled"] = int(np.sum(store.n_atoms[split.labelled] == 6))
        points.append(point)
        console.print(
            f"seed {seed}, {method}, {point['labelled']} labelled: {errors['forces']:.1f} meV/Å",
            highlight=False,
        )
        if k < options.rounds:
            selection = choose(method, model, store, split, options.batch, k)
            split = split.label(split.pool[selection.rows])
    return points


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--methods", nargs="+", default=[*METHODS], choices=METHODS)
    for name, default in (("start", 40), ("batch", 20), ("rounds", 4), ("steps", 800)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--runs", type=Path, default=Path("runs/uncertainty_active"))
    parser.add_argument("--out", type=Path, default=Path("runs/uncertainty_active/uncertainty_active.json"))
    options = parser.parse_args(arguments)
    recipe = read_yaml(RECIPE)
    data = resolve_path(recipe["data"]["train"], HERE).parent / "train_eth_meth.xyz"
    content: dict[str, Any] = {"machine": machine.facts(1), "data": data.name, "points": []}
    content["data_fingerprint"] = load_frames(data).fingerprint()
    content |= {
        key: getattr(options, key) for key in ("seeds", "methods", "start", "batch", "rounds", "steps")
    }
    console = Console()
    for seed in options.seeds:
        for method in options.methods:
            content["points"] += curve_of(method, seed, data, options, console)
            write_results(content, MEASURES, options.out)


if __name__ == "__main__":
    main()
