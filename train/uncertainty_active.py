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
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from scipy.stats import t as student

from atomml.bench import machine
from atomml.config import parse_config, read_yaml
from atomml.datasets import FrameStore, load_frames
from atomml.datasets.splits import Split
from atomml.files import replace_file
from atomml.shapes import ndarray
from atomml.training import train
from atomml.training.acquisition import member_predictions, summed_features
from atomml.training.config import TrainConfig, resolve_path
from atomml.training.evaluation import evaluate
from atomml.training.report import markdown_table, save_figure
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


def summary_of(points: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, list[float | None]]]]:
    """Method → labelled → measure → four numbers over the seeds.

    Mean and its standard error; mean of the difference from random of the same seed, and the half width of its
    interval of 95 % by Student's t (None for one seed).
    """
    out: dict[str, dict[str, dict[str, list[float | None]]]] = {}
    by_key = {(p["method"], p["labelled"], p["seed"]): p for p in points}
    for method in dict.fromkeys(p["method"] for p in points):
        out[method] = {}
        for size in sorted({p["labelled"] for p in points if p["method"] == method}):
            seeds = [s for m, n, s in by_key if (m, n) == (method, size)]
            both = [s for s in seeds if ("random", size, s) in by_key]
            found: dict[str, list[float | None]] = {}
            for key in MEASURES:
                values = np.array([by_key[method, size, s][key] for s in seeds])
                pairs = np.array(
                    [by_key[method, size, s][key] - by_key["random", size, s][key] for s in both]
                )
                found[key] = [*_mean_and_error(values), *_mean_and_interval(pairs)]
            out[method][str(size)] = found
    return out


def verdicts(summary: Mapping[str, Any], key: str = "forces") -> dict[str, str]:
    """In words, for each method: in how many rounds its error differs from that of random choice.

    A difference counts if its interval of 95 % does not hold 0; see `summary_of`.
    """
    words = {}
    for method in (m for m in summary if m != "random"):
        found = [cell[key] for cell in list(summary[method].values())[1:]]
        lower = sum(e is not None and d + e < 0 for _, _, d, e in found)
        higher = sum(e is not None and d - e > 0 for _, _, d, e in found)
        rest = len(found) - lower - higher
        words[method] = (
            f"lower in {lower} of {len(found)} rounds, higher in {higher}, no difference in {rest}"
        )
    return words


def text_of(summary: Mapping[str, Any]) -> str:
    """Tables of every measure, and the verdicts."""
    text = []
    for key, title in MEASURES.items():
        sizes = list(next(iter(summary.values())))
        rows = [
            [
                m,
                *(
                    f"{s[key][0]:.1f} ± {s[key][1]:.1f}"
                    if key != "energy"
                    else f"{s[key][0]:.2f} ± {s[key][1]:.2f}"
                    for s in found.values()
                ),
            ]
            for m, found in summary.items()
        ]
        text += [f"## {title}, mean ± standard error over the seeds", ""]
        text += [markdown_table(["method", *(f"{n} labelled" for n in sizes)], rows), ""]
    text += ["## Against random choice", ""]
    for key, title in MEASURES.items():
        text += [f"- {title}: " + "; ".join(f"{m} {w}" for m, w in verdicts(summary, key).items())]
    return "\n".join(text) + "\n"


def figure_of(summary: Mapping[str, Any]) -> Figure:
    """Learning curves with standard errors."""
    figure = Figure(figsize=(3.4 * len(MEASURES), 3.2), layout="constrained")
    for axes, (key, title) in zip(figure.subplots(1, len(MEASURES)), MEASURES.items(), strict=True):
        for k, (method, found) in enumerate(summary.items()):
            x = np.array([int(size) for size in found]) + 0.6 * (k - 2)
            mean, error = np.array([cell[key][:2] for cell in found.values()]).T
            axes.errorbar(
                x,
                mean,
                error,
                marker="o",
                ms=3,
                lw=1,
                color="k" if method == "random" else f"C{k}",
                label=method,
            )
        axes.set(xlabel="labelled frames", yscale="log")
        axes.set_title(title, fontsize=9)
    figure.axes[0].legend(frameon=False, fontsize=8)
    return figure


def write_results(content: Mapping[str, Any], out: Path) -> None:
    """``out`` (.json), and tables (.md) and figure (.png) beside it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    summary = summary_of(content["points"])
    replace_file(
        out, json.dumps({**content, "summary": summary, "verdicts": verdicts(summary)}, indent=1).encode()
    )
    out.with_suffix(".md").write_text(text_of(summary), encoding="utf-8")
    save_figure(figure_of(summary), out.with_suffix(".png"))


def _mean_and_error(values: ndarray) -> list[float]:
    if len(values) < 2:
        return [float(values.mean()) if len(values) else float("nan"), 0.0]
    return [float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))]


def _mean_and_interval(values: ndarray) -> list[float | None]:
    mean, error = _mean_and_error(values)
    return [mean, error * float(student.ppf(0.975, len(values) - 1)) if len(values) > 1 else None]


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
            write_results(content, options.out)


if __name__ == "__main__":
    main()
