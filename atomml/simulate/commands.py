"""What `atomml md`, `relax` and `check` do: read files, run, print a table, write results."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

from ase import Atoms
from ase.io import read
from rich.console import Console
from rich.table import Table

from atomml.errors import CheckError, ConfigError, DataError
from atomml.files import write_atomically
from atomml.simulate.batched import relax_batched
from atomml.simulate.check_report import CheckReport
from atomml.simulate.checks import run_checks
from atomml.simulate.interface import PotentialLike, fingerprint_of
from atomml.simulate.md import run_md
from atomml.simulate.md_guard import UncertaintyWarning
from atomml.simulate.relax import RelaxResult, relax
from atomml.simulate.relax_files import RelaxJournal
from atomml.simulate.sampling.units import digest_of
from atomml.uncertainty.model_file import load_model

__all__ = ["check_command", "md_command", "read_structures", "relax_command"]


def read_structures(path: str | Path) -> list[Atoms]:
    """All frames of any file that ASE reads; ``file.xyz@0`` picks one, as everywhere in ASE.

    Raises:
        DataError: no such file, a format ASE does not know, no frames.
    """
    try:
        frames = read(path) if "@" in str(path) else read(path, index=":")
    except Exception as error:  # ASE readers raise whatever their parser meets
        raise DataError(
            f"Cannot read structures ({type(error).__name__}: {error}).",
            where=str(path),
            fix="give a file that ASE reads (extxyz, cif, POSCAR, ...); `ase info --formats` lists them",
        ) from error
    frames = [frames] if isinstance(frames, Atoms) else list(frames)
    if not frames:
        raise DataError("There is no structure in this file.", where=str(path))
    return frames


def md_command(
    model: str,
    structure: str,
    *,
    out: Path,
    resume: bool,
    overwrite: bool,
    repeat: tuple[int, int, int],
    device: str,
    dtype: str | None,
    json_file: Path | None,
    settings: dict[str, Any],
) -> None:
    """Run molecular dynamics of the last frame of a file and print its summary, warnings as they come.

    Raises:
        ConfigError: the folder already holds a run and neither ``resume`` nor ``overwrite`` is given.
        AtommlError: whatever `run_md` raises.
    """
    if (out / "state.npz").exists() and not (resume or overwrite):
        raise ConfigError(
            "There is already a run in this folder.",
            where=str(out),
            fix="--resume continues it, --overwrite discards it, --out DIR writes elsewhere",
        )
    atoms = read_structures(structure)[-1].repeat(repeat)
    potential = _load(model, device, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("always", UncertaintyWarning)
        warnings.showwarning = _show_warning
        result = run_md(atoms, potential, out_dir=out, resume=resume, progress=True, **settings)
    summary = result.summary
    table = Table("quantity", "mean", "deviation", title=f"{summary['formula']}, {summary['time_ps']:g} ps")
    for name, values in summary["second_half"].items():
        if values["mean"] is not None:
            table.add_row(name, f"{values['mean']:.5g}", f"{values['std']:.2g}")
    console = Console()
    console.print(table)
    drift = summary["conserved_drift_meV_per_atom_per_ps"]
    if drift is not None:
        console.print(f"drift of the conserved energy: {drift:.3g} meV/atom/ps")
    _print_uncertainty(console, summary)
    console.print(f"means over the second half; files in {out}", soft_wrap=True)
    _write_json(json_file, summary)


def relax_command(
    model: str,
    structures: str,
    *,
    out: Path,
    resume: bool,
    overwrite: bool,
    fmax: float,
    steps: int,
    cell: bool | None,
    optimizer: str,
    batched: bool | None,
    max_atoms: int,
    device: str,
    dtype: str | None,
    json_file: Path | None,
) -> bool:
    """Relax every frame of a file, print a table, write the results; True when all converged.

    With ``batched`` None several frames are relaxed in one graph, unless by lbfgs. Each structure that is done is at
    once in a journal beside ``out``; ``resume`` goes on with the rest.

    Raises:
        ConfigError: an unknown optimiser, or lbfgs in a batch; see also `RelaxJournal`.
        DataError: the structures cannot be read, or a file cannot be written.
        ModelFileError: the model cannot be read.
    """
    if optimizer not in ("fire", "lbfgs"):
        raise ConfigError(f"There is no optimizer {optimizer!r}.", fix="use fire or lbfgs")
    if batched and optimizer == "lbfgs":
        raise ConfigError("Batches are relaxed by fire.", fix="leave --batched or --optimizer lbfgs out")
    frames, potential = read_structures(structures), _load(model, device, dtype)
    settings: dict[str, Any] = {"fmax": fmax, "steps": steps, "cell": cell}
    decisive = settings | {"optimizer": optimizer, "model": fingerprint_of(potential)}
    decisive |= {"structures": digest_of(*frames)}
    if batched is None:
        batched = len(frames) > 1 and optimizer == "fire"
    how: dict[str, Any] = {"max_atoms": max_atoms} if batched else {"optimizer": optimizer}
    journal_file, console = out.with_name(out.name + ".journal"), Console()
    with RelaxJournal(journal_file, decisive, resume=resume, overwrite=overwrite) as journal:
        rest = [index for index in range(len(frames)) if index not in journal.done]
        if journal.done:
            console.print(f"{len(journal.done)} of {len(frames)} structures were relaxed before")

        def keep(result: RelaxResult) -> None:
            journal.append(replace(result, index=rest[result.index]))

        if rest:
            relaxation: Any = relax_batched if batched else relax
            left = [frames[index] for index in rest]
            relaxation(left, potential, on_result=keep, progress=True, **how, **settings)
        paths = journal.write(out)
        rows = [journal.done[index].row for index in range(len(frames))]
    console.print(_relax_table(rows))
    good = sum(row["converged"] for row in rows)
    names = ", ".join(str(path) for path in paths)
    console.print(f"{good} of {len(rows)} converged; written: {names}", soft_wrap=True)
    _write_json(json_file, rows)
    return good == len(rows)


def check_command(
    model: str,
    structure: str | None,
    *,
    out: Path | None,
    quick: bool,
    device: str,
    dtype: str | None,
    json_file: Path | None,
) -> None:
    """Check a model and print the table.

    Raises:
        CheckError: a check failed; names them.
        DataError: the structures cannot be read.
        ModelFileError: the model cannot be read.
    """
    frames = None if structure is None else read_structures(structure)
    report = run_checks(_load(model, device, dtype), frames, out, quick=quick, progress=True)
    console = Console()
    console.print(_check_table(report))
    if out is not None:
        console.print(f"report in {out / 'check.md'}", soft_wrap=True)
    _write_json(json_file, report.to_json())
    if not report.passed:
        names = "; ".join(row.name for row in report.failed)
        raise CheckError(
            f"{len(report.failed)} of {len(report.rows)} checks failed: {names}.",
            where=model,
            fix="read the comments of the failed rows" + ("" if out else "; --out DIR writes a report"),
        )


def _load(model: str, device: str, dtype: str | None) -> PotentialLike:
    if dtype not in (None, "float32", "float64"):
        raise ConfigError(f"There is no dtype {dtype!r}.", fix="use float32 or float64")
    chosen = cast(Literal["float32", "float64"] | None, dtype)
    potential: PotentialLike = load_model(model, device=device, dtype=chosen)
    return potential


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """One line on stderr, above a progress bar, without the place in the code that Python would add."""
    Console(stderr=True).print(f"warning: {message}", style="yellow", markup=False, soft_wrap=True)


def _print_uncertainty(console: Console, summary: dict[str, Any]) -> None:
    """Largest deviations of a run, and why it ended early if it did."""
    found, stop = summary["uncertainty"], summary["stopped_by"]
    if found is not None:
        largest = found["max_force_std_eV_A"]
        above = [
            f"{found[key]} above the limit of {summary['settings']['limits'][limit]:g} ({name})"
            for limit, name in (("warn_above", "--warn-above"), ("stop_above", "--stop-above"))
            if (key := f"frames_{limit}") in found
        ]
        text = f"largest deviation of a force: {largest['mean']:.3g} eV/Å on average, at most {largest['max']:.3g}; "
        console.print(text + ", ".join([f"{found['frames']} frames", *above]), soft_wrap=True)
    if stop is not None:
        console.print(
            f"[bold]stopped at step {stop['step']}[/]: the deviation of the force on {stop['element']} "
            f"{stop['atom']} is {stop['force_std_eV_A']:.3g} eV/Å (limit {stop['limit_eV_A']:g}); the frame is the "
            "last of the trajectory, --resume with a larger --stop-above goes on",
            soft_wrap=True,
        )


def _relax_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    uncertain = any(row["max_force_std"] is not None for row in rows)
    extra = ("σ(E) (meV/atom)", "largest σ(F) (eV/Å)") if uncertain else ()
    table = Table("#", "structure", "result", "steps", "ΔE (eV)", "fmax (eV/Å)", "volume change", *extra)
    for row in rows:
        state = "converged" if row["converged"] else "not converged"
        if row["error"] is not None:
            state = "failed: " + row["error"].splitlines()[0]
        number = {key: math.nan if value is None else value for key, value in row.items()}
        figures = [
            (number["energy_last"] - number["energy_first"], ".4f"),
            (number["fmax"], ".2g"),
            (number["volume_last"] / number["volume_first"] - 1, "+.2%"),
        ]
        if uncertain:
            figures += [(1000 * number["energy_std_per_atom"], ".2g"), (number["max_force_std"], ".2g")]
        shown = [format(value, spec) if math.isfinite(value) else "–" for value, spec in figures]
        table.add_row(str(row["index"]), row["formula"], state, str(row["steps"]), *shown)
    return table


def _check_table(report: CheckReport) -> Table:
    about = report.about
    table = Table(
        "check", "value", "limit", "unit", "result", title=f"{about['elements']}: {about['structures']}"
    )
    for row in report.rows:
        result = {True: "[green]pass[/]", False: "[bold red]FAIL[/]", None: "info"}[row.passed]
        value = f"{row.value:.3g}" if math.isfinite(row.value) else "–"
        table.add_row(row.name, value, "" if row.limit is None else f"{row.limit:g}", row.unit, result)
    return table


def _write_json(path: Path | None, content: Any) -> None:
    if path is not None:
        write_atomically(path, json.dumps(content, indent=2).encode())
