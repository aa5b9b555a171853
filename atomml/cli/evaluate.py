"""`atomml evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("evaluate")(_evaluate)


def _evaluate(
    model: Annotated[str, typer.Argument(help="Model file.", metavar="MODEL")],
    data: Annotated[list[str], typer.Argument(help="Labelled structures.", metavar="DATA...")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Write report, figure and per-frame tables here."),
    ] = None,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the metrics here.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")] = "cpu",
    dtype: Annotated[
        str | None, typer.Option(help="float32 or float64; that of the model by default.")
    ] = None,
    max_atoms: Annotated[int, typer.Option(help="Atoms in one batch.")] = 2000,
    energy_key: Annotated[str | None, typer.Option(help="Name of the energy, if it is not found.")] = None,
    forces_key: Annotated[str | None, typer.Option(help="Name of the forces.")] = None,
    stress_key: Annotated[str | None, typer.Option(help="Name of the stress.")] = None,
) -> None:
    """Compare a model with labelled structures: errors in all, by element and by tag."""
    from atomml.training.evaluation_command import evaluate_files

    keys = {"energy_key": energy_key, "forces_key": forces_key, "stress_key": stress_key}
    evaluate_files(
        model,
        data,
        out=out,
        json_file=json,
        device=device,
        dtype=dtype,
        max_atoms=max_atoms,
        keys={name: key for name, key in keys.items() if key is not None},
    )
