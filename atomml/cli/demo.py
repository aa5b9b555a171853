"""`atomml demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(demo)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything that is made.")] = Path("demo"),
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training frames.")] = 15,
    steps: Annotated[int, typer.Option(min=1, help="Steps of molecular dynamics.")] = 300,
    overwrite: Annotated[bool, typer.Option(help="Replace what is in the folder.")] = False,
) -> None:
    """Train on bundled lithium halides, test on held-out temperatures, run MD, write a report (about 3 minutes)."""
    from atomml.demo import run_demo

    run_demo(out, epochs=epochs, md_steps=steps, overwrite=overwrite)
