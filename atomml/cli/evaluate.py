"""`atomml evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


Exact = Annotated[
    bool | None,
    typer.Option(
        "--exact/--estimated",
        help="Derive deviations of forces (slow) or estimate them; by default as they were calibrated.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("evaluate")(_evaluate)


def _evaluate(
    model: Annotated[str, typer.Argument(help="Model file.", metavar="MODEL")],
    data: Annotated[list[str], typer.Argument(help="Labelled structures.", metavar="DATA...")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Write report, figure and per-frame tables here."),
    ] = None,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the metrics here.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")] = "cpu",
    dtype: Annotated[
        str | None, typer.Option(help="float32 or float64; that of the model by default.")
    ] = None,
    max_atoms: Annotated[int, typer.Option(help="Atoms in one batch.")] = 2000,
    energy_key: Annotated[str | None, typer.Option(help="Name of the energy, if it is not found.")] = None,
    forces_key: Annotated[str | None, typer.Option(help="Name of the forces.")] = None,
    stress_key: Annotated[str | None, typer.Option(help="Name of the stress.")] = None,
    ood: Annotated[
        list[str] | None,
        typer.Option(
            "--ood", metavar="FILE", help="Structures out of distribution: do deviations tell? Repeatable."
        ),
    ] = None,
    exact: Exact = None,
    protocol: Annotated[
        str | None, typer.Option(metavar="NAME", help="Errors as oc20, oc22 or pubchemqcr defines them.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="s2ef or is2re (oc20, oc22); told from the labels by default.")
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Add the predictions to this .npz for the leaderboard."),
    ] = None,
    split: Annotated[
        str, typer.Option(help="Split of these frames: id, ood_ads, ood_cat, ood_both; OC22: id, ood.")
    ] = "id",
    free_forces: Annotated[
        bool,
        typer.Option("--free-forces", help="Predictions: forces on free atoms only, as EvalAI took them."),
    ] = False,
) -> None:
    """Compare a model with labelled structures: errors in all, by element and by tag, and the deviations.

    A model with deviations is also told how right they are; with --ood whether they are larger for other structures,
    which need no labels.

    With --protocol also the numbers that a benchmark asks for; --predictions writes the file of its leaderboard,
    for frames without labels as well.
    """
    from atomml.errors import ConfigError
    from atomml.training.evaluation_command import ProtocolOptions, evaluate_files

    if protocol is None and (predictions is not None or task is not None or free_forces):
        raise ConfigError(
            "--predictions, --task and --free-forces belong to a protocol.", fix="add --protocol oc20 or oc22"
        )

    keys = {"energy_key": energy_key, "forces_key": forces_key, "stress_key": stress_key}
    evaluate_files(
        model,
        data,
        out=out,
        json_file=json,
        device=device,
        dtype=dtype,
        max_atoms=max_atoms,
        keys={name: key for name, key in keys.items() if key is not None},
        ood=ood or (),
        exact=exact,
        protocol=None
        if protocol is None
        else ProtocolOptions(protocol, task, predictions, split, free_forces),
    )
