"""What the commands of `atomml bench` do: measure, print, write."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from atomml.bench.data_files import measure_data
from atomml.bench.environments import PEERS, default_folder
from atomml.bench.figures import draw_kernels, draw_potentials, draw_scaling
from atomml.bench.kernels import measure_kernels
from atomml.bench.potentials import measure_potentials
from atomml.bench.settings import KernelSettings, PotentialSettings
from atomml.bench.structures import structure
from atomml.bench.tables import as_csv, data_tables, kernel_tables, missing_table, potential_tables
from atomml.errors import ConfigError
from atomml.files import write_atomically
from atomml.potentials.devices import find_device

__all__ = ["data_command", "kernels_command", "potential_command"]


def kernels_command(
    settings: KernelSettings, *, folder: Path | None, out: Path | None, json_file: Path | None
) -> None:
    """Measure convolutions, print tables, write JSON, CSV and a figure.

    Raises:
        ConfigError: a number that is not positive, an unknown degree, device, precision or peer.
    """
    _check_counts(settings.rounds, settings.threads, settings.channels, settings.edges, settings.degree)
    _check_peers(settings.peers)
    if not settings.lmax or not all(1 <= degree <= 4 for degree in settings.lmax):
        raise ConfigError("L is one or more of 1, 2, 3, 4.", where="--lmax", fix="for example --lmax 1,2,3")
    if not isinstance(getattr(torch, settings.dtype, None), torch.dtype):
        raise ConfigError(f"{settings.dtype!r} is not a precision.", where="--dtype", fix="use float32")
    find_device(settings.device)
    result = _with_status(lambda say: measure_kernels(settings, folder or default_folder(), say))
    _print(kernel_tables(result), result)
    files = _write(result, "kernels", out, json_file)
    if out is not None:
        draw_kernels(out / "kernels.png", result)
        files.append(out / "kernels.png")
    _say_where(files)


def potential_command(
    settings: PotentialSettings, *, folder: Path | None, out: Path | None, json_file: Path | None
) -> None:
    """Measure potentials, print tables, write JSON, CSV and figures.

    Raises:
        ConfigError: a number that is not positive, an unknown structure or peer, no such model file.
    """
    _check_counts(settings.rounds, settings.threads, min(settings.sizes, default=0))
    _check_peers(settings.peers)
    for name in settings.structures:
        structure(name)
    if settings.model is not None and not settings.model.exists():
        raise ConfigError("There is no such model file.", where=str(settings.model))
    result = _with_status(lambda say: measure_potentials(settings, folder or default_folder(), say))
    _print(potential_tables(result), result)
    files = _write(result, "potential", out, json_file)
    if out is not None:
        draw_potentials(out / "potential.png", result)
        files.append(out / "potential.png")
        if "scaling" in result:
            draw_scaling(out / "scaling.png", result["scaling"])
            files.append(out / "scaling.png")
    _say_where(files)


def data_command(
    source: Path | None, *, rounds: int, slot: float, out: Path | None, json_file: Path | None
) -> None:
    """Measure reading of frames, print a table, write JSON and CSV.

    Raises:
        ConfigError: rounds below 1.
        DataError: the source cannot be read.
    """
    _check_counts(rounds)
    result = _with_status(lambda say: measure_data(source, rounds=rounds, slot=slot, say=say))
    _print(data_tables(result), result)
    _say_where(_write(result, "data", out, json_file))


def _check_counts(*counts: int) -> None:
    if min(counts) < 1:
        raise ConfigError("Rounds, threads and sizes are at least 1.")


def _check_peers(peers: Sequence[str]) -> None:
    unknown = sorted(set(peers) - PEERS.keys())
    if unknown:
        raise ConfigError(
            f"There is no peer {', '.join(unknown)}.", where="--peers", fix=f"choose among {', '.join(PEERS)}"
        )


def _with_status(measure: Callable[[Callable[[str], object]], dict[str, Any]]) -> dict[str, Any]:
    """Run with a line that says what is going on, on the error stream and only on a terminal."""
    console = Console(stderr=True)
    with console.status("") as status:
        return measure(lambda text: status.update(text))


def _print(tables: Sequence[Table], result: dict[str, Any]) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    missing = missing_table(result["missing"])
    for table in [*tables, *([missing] if missing else [])]:
        console.print(table)
    facts = result["machine"]
    console.print(
        f"{facts['processor']}, {facts['threads']} threads, load {facts['load_average']:.1f} at the start, torch"
        f" {facts['torch']}; ratios are medians over rounds (quartiles) of interleaved runs",
        soft_wrap=True,
    )


def _write(result: dict[str, Any], name: str, out: Path | None, json_file: Path | None) -> list[Path]:
    """JSON where asked for; JSON and CSV in the folder."""
    text = json.dumps(result, indent=1, ensure_ascii=False).encode()
    contents = {} if json_file is None else {json_file: text}
    if out is not None:
        contents |= {out / f"{name}.json": text, out / f"{name}.csv": as_csv(result["rows"])}
        for sweep, found in result.get("scaling", {}).items():
            contents[out / f"scaling_{sweep}.csv"] = as_csv(found["rows"])
    for path, data in contents.items():
        write_atomically(path, data)
    return list(contents)


def _say_where(files: Sequence[Path]) -> None:
    if files:
        Console().print("written: " + ", ".join(map(str, files)), soft_wrap=True)
