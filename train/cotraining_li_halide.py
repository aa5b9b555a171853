"""Does training on hot frames as well remove the energy error at 1500 K? Three potentials are compared.

    python train/cotraining_li_halide.py DATA [--out FOLDER] [--seeds 0 1 2] [--steps 4500]

Three potentials for each seed, by the recipe ``li_halide_cotraining.yaml`` with the same number of steps:

base        frames at 600 K
base + hot  as many steps, and a third of the frames from 1500 K (the compressed trajectories)
base + cold as many steps, and a third of the frames from 300 K (the compressed trajectories)

Hot and cold add the same number of frames of each composition. All are tested on the same trajectories, which no
arm has seen: the expanded ones at 1500 K and at 300 K, and everything at 1000 K. Errors of the energy are divided
into the mean signed error of each composition (bias) and the rest (scatter). A finished run is not repeated.

DATA is the full set of 1,300 frames (``data/li_halide/li_halide_umlip.extxyz.gz``) or the sample of 455.
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

from atomml._version import __version__
from atomml.config import parse_config, read_yaml
from atomml.datasets import FrameStore, load_frames, rows_where, tag_values
from atomml.errors import DataError
from atomml.potentials import load_model
from atomml.training import train
from atomml.training.config import TrainConfig
from atomml.training.evaluation import Evaluation, evaluate
from atomml.training.report import markdown_table, save_figure

RECIPE = Path(__file__).parent / "li_halide_cotraining.yaml"
BASE = "T == 600"
ADDED = {"base": None, "base + hot": "T == 1500 and strain < 0", "base + cold": "T == 300 and strain < 0"}
TESTS = {"1500 K": "T == 1500 and strain > 0", "1000 K": "T == 1000", "300 K": "T == 300 and strain > 0"}
QUANTITIES = {
    "energy_rmse": "energy RMSE (meV/atom)",
    "bias": "mean signed error (meV/atom)",
    "bias_rms": "RMS bias of a composition (meV/atom)",
    "scatter": "scatter within a composition (meV/atom)",
    "forces_rmse": "forces RMSE (meV/Å)",
    "stress_rmse": "stress RMSE (meV/Å³)",
}


def settings_of(arm: str, seed: int, steps: int, data: Path, run_dir: Path) -> TrainConfig:
    """The recipe with the frames of an arm."""
    recipe = read_yaml(RECIPE)
    base = recipe["data"]["sets"]["base"] | {"train": str(data), "where": BASE}
    sets = {"base": base}
    if ADDED[arm] is not None:
        sets["added"] = base | {"where": ADDED[arm], "references": "none"}
    changes = {"run_dir": str(run_dir), "seed": seed, "max_steps": steps}
    changes["data"] = recipe["data"] | {"sets": sets}
    return parse_config(TrainConfig, recipe | changes, where=str(RECIPE))


def require_fair(store: FrameStore) -> dict[str, int]:
    """Number of frames of every part; hot and cold must add the same number of each composition.

    Raises:
        DataError: they do not, or a test set shares a trajectory with training.
    """
    formulas, trajectories = tag_values(store, "formula"), tag_values(store, "traj")
    rows = {name: rows_where(store, where) for name, where in {**ADDED, **TESTS}.items() if where}
    rows["base"] = rows_where(store, BASE)
    counts = [np.unique(formulas[rows[arm]], return_counts=True) for arm in ("base + hot", "base + cold")]
    if any(not np.array_equal(a, b) for a, b in zip(*counts, strict=True)):
        raise DataError("The two arms do not add the same frames of each composition.", where="require_fair")
    trained = np.unique(np.concatenate([trajectories[rows[arm]] for arm in ADDED]))
    for name in TESTS:
        if np.isin(trajectories[rows[name]], trained).any():
            raise DataError(f"A trajectory of the test at {name} is trained on.", where="require_fair")
    return {name: len(found) for name, found in rows.items()}


def errors_of(result: Evaluation, formulas: np.ndarray) -> dict[str, Any]:
    """Errors in meV/atom, meV/Å and meV/Å³, the energy's divided into bias and scatter of each composition."""
    error = 1e3 * (result.energy - result.energy_label) / result.n_atoms
    bias = {str(name): float(error[formulas == name].mean()) for name in np.unique(formulas)}
    rest = error - np.array([bias[str(name)] for name in formulas])
    return {
        "energy_rmse": float(np.sqrt((error**2).mean())),
        "bias": float(error.mean()),
        "bias_rms": float(np.sqrt(np.mean([bias[str(name)] ** 2 for name in formulas]))),
        "scatter": float(np.sqrt((rest**2).mean())),
        "forces_rmse": 1e3 * result.metrics["forces_rmse"],
        "stress_rmse": 1e3 * result.metrics["stress_rmse"],
        "bias_by_composition": bias,
    }


def run_arm(arm: str, seed: int, steps: int, data: Path, out: Path) -> dict[str, Any]:
    """Train one potential unless it is there, and test it; the result is kept in the run folder."""
    run_dir = out / f"{arm.replace(' + ', '_')}_{seed}"
    kept = run_dir / "cotraining.json"
    if kept.exists():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    trained = train(settings_of(arm, seed, steps, data, run_dir), quiet=True, resume=True).metrics
    potential = load_model(run_dir / "model.safetensors")
    store = load_frames(data)
    formulas = tag_values(store, "formula")
    result: dict[str, Any] = {"arm": arm, "seed": seed, "steps": trained["training"]["steps"]}
    result |= {"minutes": trained["training"]["minutes"], "frames": trained["training"]["frames"]["train"]}
    for name, where in TESTS.items():
        rows = rows_where(store, where)
        result[name] = errors_of(evaluate(potential, store, rows), formulas[rows])
    kept.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return result


def summary_of(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Mean and standard deviation over the seeds: test -> arm -> quantity -> [mean, deviation]."""
    out: dict[str, dict[str, dict[str, list[float]]]] = {}
    for test in TESTS:
        out[test] = {}
        for arm in dict.fromkeys(r["arm"] for r in results):
            mine = [r[test] for r in results if r["arm"] == arm]
            values = {key: np.array([m[key] for m in mine]) for key in QUANTITIES}
            ddof = 1 if len(mine) > 1 else 0
            out[test][arm] = {key: [float(v.mean()), float(v.std(ddof=ddof))] for key, v in values.items()}
    return out


def tables_of(summary: Mapping[str, Mapping[str, Mapping[str, list[float]]]]) -> str:
    """One Markdown table for each test."""
    text = []
    for test, arms in summary.items():
        rows = [
            [arm, *(f"{q[key][0]:.1f} ± {q[key][1]:.1f}" for key in QUANTITIES)] for arm, q in arms.items()
        ]
        text += [f"## Test at {test}", "", markdown_table(["trained on", *QUANTITIES.values()], rows), ""]
    return "\n".join(text)


def composition_table(results: Sequence[Mapping[str, Any]], test: str = "1500 K") -> str:
    """Mean over the seeds of the signed energy error of each composition at ``test``."""
    arms = list(dict.fromkeys(r["arm"] for r in results))
    rows = []
    for name in results[0][test]["bias_by_composition"]:
        each = [[r[test]["bias_by_composition"][name] for r in results if r["arm"] == arm] for arm in arms]
        rows.append([name, *(f"{np.mean(v):+.1f}" for v in each)])
    title = f"## Signed energy error at {test} by composition (meV/atom, mean over seeds)"
    return "\n".join([title, "", markdown_table(["composition", *arms], rows), ""])


def figure_of(results: Sequence[Mapping[str, Any]]) -> Figure:
    """Bias, scatter and force error at every test; a dot for each seed."""
    figure = Figure(figsize=(11.0, 3.4), layout="constrained")
    shown = ("bias_rms", "scatter", "forces_rmse")
    arms = list(dict.fromkeys(r["arm"] for r in results))
    for axes, key in zip(figure.subplots(1, len(shown)), shown, strict=True):
        for k, arm in enumerate(arms):
            for j, test in enumerate(TESTS):
                values = [r[test][key] for r in results if r["arm"] == arm]
                place = j + 0.25 * (k - 1)
                axes.bar(
                    place, np.mean(values), 0.22, color=f"C{k}", alpha=0.5, label=arm if j == 0 else None
                )
                axes.plot([place] * len(values), values, ".", color=f"C{k}")
        axes.set_xticks(range(len(TESTS)), list(TESTS))
        axes.set_title(QUANTITIES[key], fontsize=9)
    figure.axes[0].legend(frameon=False, fontsize=8)
    return figure


def compare(data: Path, out: Path, seeds: Sequence[int], steps: int, console: Console) -> dict[str, Any]:
    """Train and test every arm for every seed; returns what `write_results` writes."""
    store = load_frames(data)
    frames = require_fair(store)
    results = []
    for seed in seeds:
        for arm in ADDED:
            results.append(run_arm(arm, seed, steps, data, out))
            hot = results[-1]["1500 K"]
            console.print(f"seed {seed}, {arm}: {hot['energy_rmse']:.1f} meV/atom at 1500 K", highlight=False)
    return {
        "version": __version__,
        "data": data.name,
        "data_fingerprint": store.fingerprint(),
        "frames": frames,
        "seeds": list(seeds),
        "steps": steps,
        "results": results,
        "summary": summary_of(results),
    }


def write_results(content: Mapping[str, Any], out: Path) -> None:
    """``cotraining_li_halide.json``, ``.md`` (tables) and ``.png`` in ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "cotraining_li_halide.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    text = f"{tables_of(content['summary'])}\n{composition_table(content['results'])}"
    (out / "cotraining_li_halide.md").write_text(text, encoding="utf-8")
    save_figure(figure_of(content["results"]), out / "cotraining_li_halide.png")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/cotraining_li_halide"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=4500)
    options = parser.parse_args(arguments)
    console = Console()
    content = compare(options.data, options.out, options.seeds, options.steps, console)
    write_results(content, options.out)
    console.print(tables_of(content["summary"]), highlight=False)


if __name__ == "__main__":
    main()
