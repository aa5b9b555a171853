"""`atomml compile`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("compile")(_compile)


def _compile(
    model: Annotated[str, typer.Argument(help='Model file, or "demo".', metavar="MODEL")],
    out: Annotated[Path, typer.Argument(help="File of the compiled model, .safetensors.", metavar="OUT")],
    structures: Annotated[
        str | None,
        typer.Option("--structures", metavar="FILE", help="Where errors are measured; made up by default."),
    ] = None,
    tolerance_energy: Annotated[float, typer.Option(help="Largest difference, eV per atom.")] = 1e-5,
    tolerance_forces: Annotated[float, typer.Option(help="Largest difference, eV/Å.")] = 1e-4,
    knots: Annotated[
        int | None, typer.Option(help="Of each table; by default as many as the tolerances need.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the result here.")
    ] = None,
) -> None:
    """Make a model faster for simulations; the result cannot be trained.

    Tabulates the radial functions, measures what that changes against the model in float64, and writes a model
    file that md, relax, check, evaluate and the calculator use like any other. Differences count relative to
    the binding energy above 1 eV per atom and to the RMS force above 1 eV/Å. Exit code 1, and no file, when
    they are above a tolerance.
    """
    from atomml.potentials.compile_command import compile_command
    from atomml.simulate.commands import read_structures

    compile_command(
        model,
        out,
        None if structures is None else read_structures(structures),
        tolerance_energy=tolerance_energy,
        tolerance_forces=tolerance_forces,
        knots=knots,
        dtype=dtype,
        json_file=json,
    )
