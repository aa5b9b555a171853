"""`atomml export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("export")(_export)


def _export(
    model: Annotated[str, typer.Argument(help='Model file, or "demo".', metavar="MODEL")],
    out: Annotated[Path, typer.Argument(help="File for the other programs, .pt.", metavar="OUT")],
    format: Annotated[str, typer.Option(help="metatomic: LAMMPS, i-PI, ASE and others.")] = "metatomic",
    dtype: Annotated[
        str | None, typer.Option(help="float32 or float64; that of the model by default.")
    ] = None,
    structures: Annotated[
        str | None,
        typer.Option("--structures", metavar="FILE", help="Where it is compared; made up by default."),
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="Largest scaled difference; 1e-4 in float32, 1e-10 in float64.")
    ] = None,
    author: Annotated[
        list[str] | None, typer.Option("--author", metavar="NAME", help="Kept in the file; can be repeated.")
    ] = None,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the result here.")
    ] = None,
) -> None:
    """Write a model for other simulation programs.

    The file is loaded again and compared with the model: energy, forces, stress and deviations. Exit code 1, and no
    file, when they differ by more than the tolerance.
    """
    from atomml.simulate.commands import read_structures
    from atomml.simulate.export.command import export_command

    export_command(
        model,
        out,
        None if structures is None else read_structures(structures),
        format=format,
        dtype=dtype,
        tolerance=tolerance,
        authors=author or [],
        json_file=json,
    )
