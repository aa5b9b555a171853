"""`atomml calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("calibrate")(_calibrate)


def _calibrate(
    model: Annotated[str, typer.Argument(help="Model file with deviations.", metavar="MODEL")],
    data: Annotated[
        list[str], typer.Argument(help="Labelled structures that were not trained on.", metavar="DATA...")
    ],
    method: Annotated[
        str,
        typer.Option(help="nll, crps, robust (medians), coverage or affine (with a floor).", metavar="NAME"),
    ] = "nll",
    by_element: Annotated[
        bool, typer.Option("--by-element", help="One scale of the force deviations for each element.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Model file to write; MODEL with -calibrated by default."),
    ] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Write to MODEL itself.")] = False,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the calibration here, too.")
    ] = None,
    allow_overlap: Annotated[
        bool, typer.Option("--allow-overlap", help="Take frames of the training set, too; it is recorded.")
    ] = False,
    exact: Annotated[
        bool, typer.Option("--exact", help="Derive deviations of forces that are estimated by default; slow.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")] = "cpu",
    max_atoms: Annotated[int, typer.Option(help="Atoms in one batch.")] = 2000,
    energy_key: Annotated[str | None, typer.Option(help="Name of the energy, if it is not found.")] = None,
    forces_key: Annotated[str | None, typer.Option(help="Name of the forces.")] = None,
    stress_key: Annotated[str | None, typer.Option(help="Name of the stress.")] = None,
) -> None:
    """Scale the deviations of a model to its errors on held-out structures.

    Prints how right they were before and are after, and writes a new model file with the scales. Frames that the
    model was trained on are refused: on them errors are too small. Calibrated deviations are right on average for
    structures like these, not for others: see `atomml evaluate --ood`.
    """
    from atomml.training.calibration_command import calibrate_file

    keys = {"energy_key": energy_key, "forces_key": forces_key, "stress_key": stress_key}
    calibrate_file(
        model,
        data,
        method=method,
        by_element=by_element,
        exact=exact,
        out=out,
        in_place=in_place,
        json_file=json,
        allow_overlap=allow_overlap,
        device=device,
        max_atoms=max_atoms,
        keys={name: key for name, key in keys.items() if key is not None},
    )
