"""The main job from start to end on the bundled sample: train, evaluate, simulate, report."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import yaml
from ase.build import bulk
from rich.console import Console
from rich.table import Table

from atomml._version import __version__
from atomml.datasets import load_frames
from atomml.errors import ConfigError
from atomml.potentials import Potential
from atomml.simulate import MDResult, run_md
from atomml.training import TrainConfig, train
from atomml.uncertainty.model_file import load_model

__all__ = ["demo_config", "run_demo"]

ASSETS = Path(__file__).parent / "assets"
SAMPLE = "li_halide.extxyz.gz"
REPORT = """# atomml demo

A conservative tensor decomposition network was trained on {frames} bundled frames of nine lithium halides
(300 to 1000 K), tested at temperatures and strains that it has not seen, and used for molecular dynamics.

{table}

![Prediction against label on the held-out frames](training/figures/test_parity.png)

![Learning curve](training/figures/learning_curve.png)

![Molecular dynamics of LiCl at 600 K](md/md.png)

- Model file: `training/model.safetensors` (atomml {version}; `atomml info` shows what is in it).
- Full training report: `training/report.md`. Trajectory: `md/`.
- Next: `atomml check training/model.safetensors`, or `atomml template train > mine.yaml` for your own data.

The labels come from another machine-learned model, not from DFT: this potential is for learning how atomml works.
"""


def demo_config(run_dir: Path, epochs: int) -> TrainConfig:
    """The recipe of the demo with another run folder and number of epochs."""
    recipe: dict[str, Any] = yaml.safe_load((ASSETS / "demo.yaml").read_text(encoding="utf-8"))
    recipe["data"]["train"] = str(ASSETS / SAMPLE)
    return TrainConfig.model_validate(recipe | {"run_dir": str(run_dir), "epochs": epochs})


def run_demo(out: Path, *, epochs: int = 15, md_steps: int = 300, overwrite: bool = False) -> dict[str, Any]:
    """Train on the bundled lithium halides, evaluate, run LiCl at 600 K, and write ``out/report.md``.

    Returns:
        The numbers of the report, as in ``out/summary.json``.

    Raises:
        ConfigError: ``out`` has files in it and ``overwrite`` was not given.
    """
    if out.exists() and any(out.iterdir()) and not overwrite:
        raise ConfigError(
            "The folder has files in it.", where=str(out), fix="choose another --out or give --overwrite"
        )
    started = time.perf_counter()
    result = train(demo_config(out / "training", epochs), overwrite=overwrite)
    trained = time.perf_counter()
    potential = load_model(out / "training" / "model.safetensors")
    cell = bulk("LiCl", "rocksalt", 5.13, cubic=True) * (2, 2, 2)
    md = run_md(
        cell, potential, temperature=600.0, steps=md_steps, timestep=2.0, out_dir=out / "md", progress=True
    )
    summary = {
        "version": __version__,
        "training_seconds": round(trained - started, 1),
        "md_microseconds_per_atom_and_step": speed(md),
        "metrics": result.metrics,
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=1))
    rows = table_rows(result.metrics, md, potential, summary)
    frames = len(load_frames(ASSETS / SAMPLE))
    (out / "report.md").write_text(
        REPORT.format(table=markdown(rows), version=__version__, frames=frames), encoding="utf-8"
    )
    show(rows, out)
    return summary


def speed(md: MDResult) -> float:
    """Wall time of the run in µs per atom and step."""
    return float(1e6 * md.summary["seconds"] / md.summary["steps"] / md.summary["n_atoms"])


def table_rows(
    metrics: dict[str, Any], md: MDResult, potential: Potential, summary: dict[str, Any]
) -> list[tuple[str, str]]:
    """What was measured, in words and numbers."""

    def errors(part: str) -> str:
        m = metrics[part]
        return (
            f"{1000 * m['energy_per_atom_rmse']:.1f} meV/atom, {1000 * m['forces_rmse']:.0f} meV/Å, "
            f"{160.2 * m['stress_rmse']:.2f} GPa"
        )

    temperature = md.log["temperature_K"][len(md.log["temperature_K"]) // 2 :]
    parameters = sum(p.numel() for p in potential.parameters())
    return [
        ("training", f"{summary['training_seconds']:.0f} s, {parameters:,} parameters"),
        ("RMSE, validation (300 to 1000 K)", errors("valid")),
        ("RMSE, test (1500 K and strained 1000 K)", errors("test")),
        (
            f"MD of LiCl, {len(md.atoms)} atoms, 600 K",
            f"{temperature.mean():.0f} ± {temperature.std():.0f} K",
        ),
        ("MD speed", f"{speed(md):.0f} µs per atom and step"),
    ]


def markdown(rows: list[tuple[str, str]]) -> str:
    """A table of two columns."""
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def show(rows: list[tuple[str, str]], out: Path) -> None:
    """Print the one table."""
    table = Table(show_header=False)
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(table)
    console.print(f"Report with figures: {out / 'report.md'}", soft_wrap=True)
