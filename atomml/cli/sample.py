"""`atomml data sample`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atomml.cli.train import parse_settings

if TYPE_CHECKING:
    from atomml.simulate.sampling.config import SampleConfig

__all__ = ["register"]


def register(data: typer.Typer) -> None:
    """Add ``sample`` to the ``data`` commands."""
    data.command("sample")(_sample)


def _sample(
    config: Annotated[Path, typer.Argument(help="Configuration (YAML).", metavar="CONFIG")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a value: dynamics.sampling=500."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes, one thread each.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what is in the run folder.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Discard what is in the run folder.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say how many structures, runs and steps it would be.")
    ] = False,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the result here.")
    ] = None,
) -> None:
    """Make training data: substitution, strain, hot dynamics, decorrelated frames, labels.

    Structures get other elements of the same charge, are repeated, relaxed and strained, run at several
    temperatures with any calculator, and frames far enough apart are labelled by the same or another one.
    The run folder gets frames (a native data folder), report.md, summary.json. A killed run goes on with
    --resume and ends with the same frames, whatever the number of workers. `atomml template sample` prints a
    configuration with every key.
    """
    from atomml.simulate.sampling.run import load_sample_config, run_sampling

    loaded, base = load_sample_config(config, parse_settings(set_ or []))
    if plan:
        _write_json(json, _plan(loaded, base))
        return
    result = run_sampling(
        loaded, base=base, workers=workers, resume=resume, overwrite=overwrite, progress=True
    )
    _print_summary(result.summary)
    typer.echo(f"wrote {result.folder / 'frames'} and {result.folder / 'report.md'}")
    _write_json(json, result.summary)


def _plan(config: SampleConfig, base: Path) -> dict[str, Any]:
    from atomml.simulate.sampling.plan import plan_sampling

    plan = plan_sampling(config, base)
    for row in plan.structures:
        made = f", {row['substitution']}" if row["substitution"] else ""
        typer.echo(f"{row['name']}: {row['formula']}, {row['provenance']}{made}")
    for name, reason in plan.dropped:
        typer.echo(f"! left out: {name} {reason}")
    typer.echo(
        f"{len(plan.structures)} structures, {plan.runs} runs, {plan.steps} steps "
        f"({plan.atom_steps:.3g} atom steps), at most {plan.recorded} frames recorded"
    )
    return plan._asdict()


def _print_summary(summary: dict[str, Any]) -> None:
    for row in summary["temperatures"]:
        reached = f"reached {row['temperature_mean']:.0f} K, " if "temperature_mean" in row else ""
        typer.echo(
            f"{row['T']:g} K: {row['runs']} runs, {reached}{row['exploded']} exploded, {row['frames']} frames"
        )
    for warning in summary["warnings"]:
        typer.echo(f"! {warning}")
    counts = summary["counts"]
    typer.echo(
        f"{counts['recorded']} frames recorded, {counts['decorrelated']} decorrelated, "
        f"{counts['different']} different, {counts['chosen']} chosen, "
        f"{counts['relaxed']} relaxed structures added"
    )
    typer.echo(f"{summary['frames']} frames, {summary['atoms']} atoms: {summary['label_summary']}")


def _write_json(path: Path | None, data: dict[str, Any]) -> None:
    if path is not None:
        from json import dumps

        path.write_text(dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
