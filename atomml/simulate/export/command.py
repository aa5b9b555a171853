"""What `atomml export` does: export, verify, print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

from ase import Atoms
from rich.console import Console
from rich.table import Table

from atomml.errors import ConfigError
from atomml.files import write_atomically
from atomml.simulate.export.metatomic import export_metatomic
from atomml.simulate.export.verify import UNITS

__all__ = ["FORMATS", "export_command"]

FORMATS = ("metatomic",)


def export_command(
    model: str,
    out: Path,
    structures: Sequence[Atoms] | None,
    *,
    format: str,
    dtype: str | None,
    tolerance: float | None,
    authors: Sequence[str],
    json_file: Path | None,
) -> None:
    """Export a model file and print what is in the new file and how far it is from the model.

    Raises:
        ConfigError: an unknown format or precision, or a name of the output that does not fit.
        AtommlError: whatever `export_metatomic` raises.
    """
    if format not in FORMATS:
        raise ConfigError(
            f"There is no format {format!r}.", where="--format", fix=f"use {' or '.join(FORMATS)}"
        )
    if dtype not in (None, "float32", "float64"):
        raise ConfigError(f"{dtype!r} is not a precision.", where="--dtype", fix="use float32 or float64")
    if out.suffix != ".pt":
        raise ConfigError(
            "Programs know models of metatomic by the ending .pt.", where=str(out), fix="give NAME.pt"
        )
    facts = export_metatomic(
        model,
        out,
        dtype=cast(Literal["float32", "float64"] | None, dtype),
        structures=structures,
        tolerance=tolerance,
        authors=authors,
    )
    _show(facts)
    if json_file is not None:
        write_atomically(json_file, json.dumps(facts, indent=2).encode())


def _show(facts: dict[str, Any]) -> None:
    console = Console()
    title = "{number} structures, {origin}".format(**facts["structures"])
    table = Table(
        "largest difference", facts["dtype"], "unit", f"scaled (≤ {facts['tolerance']:g})", title=title
    )
    for name, value in facts["difference"].items():
        table.add_row(name, f"{value['absolute']:.1e}", UNITS[name], f"{value['scaled']:.1e}")
    console.print(table)
    console.print(
        f"{facts['file']}, {facts['bytes'] / 1e6:.1f} MB; outputs: {', '.join(facts['outputs'])}; cutoff "
        f"{facts['cutoff']:g} Å, interaction range {facts['interaction_range']:g} Å",
        soft_wrap=True,
    )
    for what in facts["left_out"]:
        console.print(f"not in the file: {what}", soft_wrap=True)
