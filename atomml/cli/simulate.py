"""`atomml md` and `atomml relax`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["register"]

Model = Annotated[str, typer.Argument(help='Model file, or "demo".', metavar="MODEL")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")]
Dtype = Annotated[str | None, typer.Option(help="float32 or float64; that of the model by default.")]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the result here.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command("md")(_md)
    app.command("relax")(_relax)


def _md(
    model: Model,
    structure: Annotated[
        str, typer.Argument(help="Structure file; its last frame, or FILE@N.", metavar="STRUCTURE")
    ],
    temperature: Annotated[float, typer.Option(help="Temperature in K.")],
    steps: Annotated[int, typer.Option(help="Steps in all; a resumed part counts.")],
    timestep: Annotated[float | None, typer.Option(help="In fs; by default from the lightest atom.")] = None,
    ensemble: Annotated[str, typer.Option(help="nve, nvt or npt.")] = "nvt",
    thermostat: Annotated[str, typer.Option(help="Of nvt: langevin or nose-hoover.")] = "langevin",
    pressure: Annotated[float, typer.Option(help="Of npt, in GPa.")] = 0.0,
    flexible_cell: Annotated[
        bool, typer.Option("--flexible-cell", help="npt: lengths and angles change too.")
    ] = False,
    friction: Annotated[float, typer.Option(help="Langevin friction in 1/fs.")] = 0.01,
    repeat: Annotated[tuple[int, int, int], typer.Option(help="Repeat the cell.")] = (1, 1, 1),
    log_every: Annotated[int, typer.Option(help="Steps between rows and frames.")] = 10,
    state_every: Annotated[int, typer.Option(help="Steps between restart states.")] = 100,
    stop_above: Annotated[
        float | None,
        typer.Option(metavar="FORCE_STD", help="End when the deviation of a force is larger, eV/Å."),
    ] = None,
    warn_above: Annotated[
        float | None, typer.Option(metavar="FORCE_STD", help="Warn of such atoms, eV/Å.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the run.")] = Path("md"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last restart state.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Discard the run in the folder.")] = False,
    seed: Annotated[int, typer.Option(help="Of the first velocities and the noise.")] = 0,
    keep_velocities: Annotated[
        bool, typer.Option("--keep-velocities", help="Start from the velocities in the file.")
    ] = False,
    device: Device = "cpu",
    dtype: Dtype = None,
    json: Json = None,
) -> None:
    """Run molecular dynamics.

    The folder gets log.csv, trajectory.extxyz, state.npz, summary.json and md.png. A run that was killed
    continues with --resume as if nothing had happened; one that explodes stops with the last good frame. Another
    model, other settings or atoms than the run began with are refused, and so is a second process in the folder.
    npt is the Martyna-Tobias-Klein scheme: it samples the exact ensemble, unlike rescaling barostats.
    A run that ends at --stop-above has exit code 0; "stopped_by" in summary.json names the atom, and --resume with
    another limit goes on. Deviations need a model with an uncertainty.
    """
    from atomml.simulate.commands import md_command

    settings: dict[str, Any] = {
        "temperature": temperature,
        "steps": steps,
        "timestep": timestep,
        "ensemble": ensemble,
        "thermostat": thermostat,
        "pressure": pressure,
        "flexible_cell": flexible_cell,
        "friction": friction,
        "log_every": log_every,
        "state_every": state_every,
        "seed": seed,
        "keep_velocities": keep_velocities,
        "limits": {"stop_above": stop_above, "warn_above": warn_above},
    }
    md_command(
        model,
        structure,
        out=out,
        resume=resume,
        overwrite=overwrite,
        repeat=repeat,
        device=device,
        dtype=dtype,
        json_file=json,
        settings=settings,
    )


def _relax(
    model: Model,
    structures: Annotated[str, typer.Argument(help="Structure file, all frames.", metavar="STRUCTURES")],
    fmax: Annotated[float, typer.Option(help="Largest force at the end, eV/Å.")] = 0.01,
    steps: Annotated[int, typer.Option(help="Most optimiser steps for each structure.")] = 500,
    cell: Annotated[
        bool | None, typer.Option("--cell/--no-cell", help="Relax the cell; by default where there is one.")
    ] = None,
    optimizer: Annotated[str, typer.Option(help="fire or lbfgs.")] = "fire",
    batched: Annotated[
        bool | None,
        typer.Option(
            "--batched/--one-by-one",
            help="Structures together in one graph; by default, if several, by fire.",
        ),
    ] = None,
    max_atoms: Annotated[int, typer.Option(help="Atoms in a batch; less if memory runs out.")] = 2000,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Relaxed structures.")] = Path("relaxed.extxyz"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the structures that are left.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Discard an unfinished relaxation.")] = False,
    device: Device = "cpu",
    dtype: Dtype = None,
    json: Json = None,
) -> None:
    """Relax structures; one that fails does not stop the others.

    Writes the structures, and a table beside them as .csv and .json. Exit code 1 unless all converged. Each structure
    that is done is in FILE.journal at once: after a kill or on a full disk nothing of it is lost, --resume goes on.
    """
    from atomml.simulate.commands import relax_command

    converged = relax_command(
        model,
        structures,
        out=out,
        resume=resume,
        overwrite=overwrite,
        fmax=fmax,
        steps=steps,
        cell=cell,
        optimizer=optimizer,
        batched=batched,
        max_atoms=max_atoms,
        device=device,
        dtype=dtype,
        json_file=json,
    )
    if not converged:
        raise typer.Exit(1)
