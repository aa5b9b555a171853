"""`atomml check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("check")(_check)


def _check(
    model: Annotated[str, typer.Argument(help='Model file, or "demo".', metavar="MODEL")],
    structure: Annotated[
        str | None,
        typer.Option("--structure", metavar="FILE", help="Structures to check on; made up by default."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write check.md, .json, .png here.")
    ] = None,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the result here.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="One structure, short dynamics, no timing.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")] = "cpu",
    dtype: Annotated[
        str | None, typer.Option(help="float32 or float64; that of the model by default.")
    ] = None,
) -> None:
    """Test what one should know before trusting a potential.

    Forces and stress against finite differences, rotation, reflection, permutation, extensivity, the cutoff,
    energy conservation, equation of state, dimers, deviations (of models that have them), precision, speed.
    Exit code 1 when a check fails.
    """
    from atomml.simulate.commands import check_command

    check_command(model, structure, out=out, quick=quick, device=device, dtype=dtype, json_file=json)
