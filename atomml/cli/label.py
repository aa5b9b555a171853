"""`atomml label`."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atomml.cli.train import parse_settings

if TYPE_CHECKING:
    from atomml.labelling import LabelCache, LabellerConfig

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("label")(_label)


def _label(
    labeller: Annotated[
        Path, typer.Argument(help="Labeller: calculator, time limit, workers (YAML).", metavar="LABELLER")
    ],
    structures: Annotated[
        list[Path], typer.Argument(help="Files or native data folders.", metavar="STRUCTURES...")
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="FILE", help="Labelled structures: extended XYZ, or a native data folder."
        ),
    ],
    cache: Annotated[
        Path | None,
        typer.Option("--cache", metavar="DIR", help="Where labels are kept for good; OUT.labels by default."),
    ] = None,
    dask: Annotated[
        str | None,
        typer.Option("--dask", metavar="ADDRESS", help="Scheduler of a Dask cluster that computes."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Local processes; those of the labeller by default."),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace a value: timeout=600.")
    ] = None,
    forget_failures: Annotated[
        bool, typer.Option("--forget-failures", help="Try again what failed for good before.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is at --out.")] = False,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the counts and failures here.")
    ] = None,
) -> None:
    """Compute energies, forces and stresses of structures with a reference calculator.

    Every label is in the cache as soon as it is computed: a killed command run again goes on where it was, and a
    structure that occurs twice is computed once. Structures that fail are counted and named.
    """
    from atomml.labelling.command import check_out, label_files, load_labeller

    settings = parse_settings(set_ or []) | ({} if workers is None else {"workers": workers})
    config = load_labeller(labeller, settings)
    check_out(out, overwrite)
    folder = cache or out.with_name(f"{out.name}.labels")
    with _cache(folder, forget_failures) as kept, _executor(dask, config) as executor:
        summary = label_files(structures, config, out, kept, executor=executor, overwrite=overwrite)
    _print(summary, out, kept)
    if json is not None:
        from json import dumps

        json.write_text(dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def _cache(folder: Path, forget_failures: bool) -> Iterator[LabelCache]:
    import warnings

    from atomml.labelling import LabelCache

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said below
        cache = LabelCache(folder)
    with cache:
        for problem in cache.problems:
            typer.echo(f"! {folder}: {problem}")
        if forget_failures:
            typer.echo(f"{cache.forget_failures()} failures forgotten")
        yield cache


@contextmanager
def _executor(address: str | None, config: LabellerConfig) -> Iterator[Executor | None]:
    if address is None:
        yield None
        return
    from atomml.labelling.executors import dask_executor

    with dask_executor(address, config) as executor:
        yield executor


def _print(summary: dict[str, Any], out: Path, cache: LabelCache) -> None:
    for kind, failure in summary["failures"].items():
        named = ", ".join(failure["structures"][:5]) + (", ..." if failure["count"] > 5 else "")
        typer.echo(f"! {failure['count']} {kind}: {named}: {failure['message']}")
        typer.echo(f"  to do: {failure['advice']}")
    typer.echo(
        f"{summary['labelled']} of {summary['structures']} structures labelled by {summary['labeller']}, "
        f"{summary['computed']} of them computed now"
    )
    typer.echo(f"wrote {out}; every label is kept in {cache.folder}")
