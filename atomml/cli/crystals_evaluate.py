"""`atomml crystals evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["register"]


def register(crystals: typer.Typer) -> None:
    """Add ``evaluate`` to the ``crystals`` commands."""
    crystals.command("evaluate")(_evaluate)


def _evaluate(
    generated: Annotated[
        Path, typer.Argument(help="Folder of generated crystals, or any file with crystals.", metavar="OUT")
    ],
    reference: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Test set; of predictions the true crystals.")
    ] = None,
    training: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What is not novel; by default the reference.")
    ] = None,
    task: Annotated[
        str,
        typer.Option(help="generation, or prediction: of given compositions, each with a true structure."),
    ] = "generation",
    relaxed: Annotated[bool, typer.Option("--relaxed", help="Take the relaxed structures.")] = False,
    potential: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help='For energies: chgnet, a model file, or "given" for those there.'),
    ] = None,
    hull: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Phases of the hull: CSV with formula and energy_per_atom."),
    ] = None,
    coverage: Annotated[
        bool, typer.Option("--coverage/--no-coverage", help="COV-R and COV-P, the slowest part.")
    ] = True,
    cutoffs: Annotated[str, typer.Option(help="Of the coverage: mp_20, carbon_24 or perov_5.")] = "mp_20",
    reference_limit: Annotated[
        int | None, typer.Option(help="Crystals of the reference, drawn at random, for distributions.")
    ] = None,
    fingerprint_cache: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keeps fingerprints for the next evaluation.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    timeout: Annotated[float, typer.Option(help="Seconds for one structure or pair; 0: no limit.")] = 60.0,
    device: Annotated[str, typer.Option(help="Of the potential.")] = "cpu",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="By default OUT/evaluation.")
    ] = None,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the metrics here.")
    ] = None,
) -> None:
    """Say what generated crystals are worth: valid, unique, novel, stable, and spread as real ones are.

    The folder of the report gets report.md, metrics.json, structures.csv (a row for each crystal) and figures.
    """
    from atomml.crystals.evaluate.command import evaluate_crystals
    from atomml.crystals.evaluate.report import report_text

    settings: dict[str, Any] = {
        "reference": reference,
        "training": training,
        "task": task,
        "relaxed": relaxed,
        "potential": potential,
        "hull": hull,
        "coverage": coverage,
        "cutoffs": cutoffs,
        "reference_limit": reference_limit,
        "fingerprint_cache": fingerprint_cache,
        "seed": seed,
        "workers": workers,
        "timeout": timeout or None,
        "device": device,
    }
    metrics = evaluate_crystals(
        generated, out=out, notify=lambda line: typer.echo(line, err=True), **settings
    )
    typer.echo(report_text(metrics))
    if json is not None:
        from json import dumps

        json.write_text(dumps(metrics, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
