"""`atomml acquire`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("acquire")(_acquire)


def _acquire(
    model: Annotated[str, typer.Argument(help="Model file.", metavar="MODEL")],
    pool: Annotated[list[str], typer.Argument(help="Structures to choose from.", metavar="POOL...")],
    n: Annotated[int, typer.Option("--n", min=1, help="How many structures.")],
    method: Annotated[
        str,
        typer.Option(
            help="random, energy_std, force_std, bald_energy, bald_force, bald_joint, batch_bald, farthest_point "
            "or llpr_maxdet."
        ),
    ] = "bald_force",
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Chosen structures.")] = Path(
        "chosen.extxyz"
    ),
    labelled: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Structures with labels: farthest_point, llpr_maxdet."),
    ] = None,
    aggregate: Annotated[
        str, typer.Option(help="force_std, bald_force: max, mean, sum or top_k over the atoms.")
    ] = "max",
    force_std_min: Annotated[
        float, typer.Option(help="Leave out structures without an atom above this deviation, eV/Å.")
    ] = 0.0,
    force_std_max: Annotated[
        float | None, typer.Option(help="Leave out structures with an atom above it: exploded.")
    ] = None,
    noise_energy: Annotated[
        float | None, typer.Option(help="BALD: noise of labels, eV/atom; by default from the model.")
    ] = None,
    noise_forces: Annotated[float | None, typer.Option(help="BALD: noise of labels, eV/Å.")] = None,
    seed: Annotated[int, typer.Option(help="Of the method random.")] = 0,
    max_atoms: Annotated[int, typer.Option(help="Atoms in one batch.")] = 2000,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")] = "cpu",
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write rows, ids and scores here.")
    ] = None,
) -> None:
    """Choose the structures of a pool that are worth labelling.

    Structures that the model was trained on and copies are left out. Members must be able to disagree: an ensemble,
    swag, ivon, llpr or several heads; farthest_point and llpr_maxdet work with any model.
    """
    from atomml.config import parse_config
    from atomml.training.acquisition_command import AcquireOptions, acquire_files
    from atomml.uncertainty.acquisition import AcquisitionSettings

    chosen: dict[str, Any] = {
        "aggregate": aggregate,
        "force_std_min": force_std_min,
        "force_std_max": force_std_max,
    }
    if noise_energy is not None or noise_forces is not None:
        chosen["noise"] = {"energy_std_per_atom": noise_energy or 0.0, "force_std": noise_forces or 0.0}
    settings = parse_config(
        AcquisitionSettings,
        chosen,
        where="atomml acquire",
        fix="`atomml acquire --help` explains the options",
    )
    options = AcquireOptions(
        method=method, n=n, labelled=labelled or (), settings=settings, seed=seed, max_atoms=max_atoms
    )
    acquire_files(model, pool, options, out=out, device=device, json_file=json)
