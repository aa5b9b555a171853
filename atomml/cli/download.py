"""`atomml data download`: where a public data set is, and fetching it where it is open."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atomml.errors import DataError

if TYPE_CHECKING:
    from atomml.datasets.catalog import CatalogEntry, Source

__all__ = ["register"]


def register(data: typer.Typer) -> None:
    """Add ``download`` to the ``data`` commands."""
    data.command("download")(_download)


def _download(
    name: Annotated[
        str | None, typer.Argument(help="Data set; without it all are listed.", metavar="NAME")
    ] = None,
    part: Annotated[
        list[str] | None, typer.Option("--part", metavar="PART", help="Only this file; may be repeated.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the files (default: NAME).")] = None,
    run: Annotated[bool, typer.Option("--run", help="Fetch the files here and now.")] = False,
) -> None:
    """Print the official source, licence and commands of a public data set; --run fetches what is open.

    Interrupted downloads go on where they stopped. Checksums are verified where they are published.
    """
    from atomml.datasets.catalog import catalog_entry, catalog_names, select_sources

    if name is None:
        for known in catalog_names():
            typer.echo(f"{known:14s} {catalog_entry(known).description}")
        return
    entry = catalog_entry(name)
    sources = select_sources(entry, part or [])
    folder = out or Path(name)
    if not run:
        _print_entry(entry)
        for source in sources:
            _print_source(source, folder)
        return
    if len(sources) > 1 and not part:
        raise DataError(
            f"{name} has {len(sources)} files: {', '.join(s.part for s in sources)}.",
            fix="choose with --part; `atomml data download` without --run shows their sizes",
        )
    _print_terms(entry)
    closed = [source.part for source in sources if source.how != "open"]
    if closed:
        raise DataError(
            f"{', '.join(closed)} of {name} cannot be fetched without you.",
            where=entry.home,
            fix=f"`atomml data download {name}` prints the commands",
        )
    for source in sources:
        _fetch(source, folder)


def _print_entry(entry: CatalogEntry) -> None:
    typer.echo(f"{entry.name}: {entry.description}\n")
    for key in ("home", "frames", "level_of_theory", "units", "stress_sign", "citation"):
        value = getattr(entry, key)
        text = "; ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        typer.echo(f"{key.replace('_', ' '):16s} {text}")
    _print_terms(entry)


def _print_terms(entry: CatalogEntry) -> None:
    typer.echo(f"{'licence':16s} {entry.licence}")
    if entry.non_commercial:
        typer.echo("! Commercial use is excluded or may be: read the licence before you train on this.")
    if entry.gated:
        typer.echo(f"! Conditions have to be accepted first: {entry.home}")


def _print_source(source: Source, folder: Path) -> None:
    from atomml.datasets.catalog import commands

    size = f", {source.size}" if source.size else ", size not published"
    unpacked = f" ({source.unpacked} unpacked)" if source.unpacked else ""
    typer.echo(f"\n# {source.part}: {source.file}{size}{unpacked}; {source.how}")
    if source.note:
        typer.echo(f"# {source.note}")
    if source.md5 is None and source.sha256 is None:
        typer.echo("# no checksum is published")
    for line in commands(source, folder.as_posix()):
        typer.echo(line)


def _fetch(source: Source, folder: Path) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    from atomml.datasets.catalog import commands, published_bytes
    from atomml.datasets.download import download_file

    columns = (
        "{task.description}",
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(source.file, total=source.bytes)
        path = download_file(
            source.url or "",
            folder / source.file,
            md5=source.md5,
            sha256=source.sha256,
            size=source.bytes or published_bytes(source.size),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    known = source.md5 is not None or source.sha256 is not None
    typer.echo(
        f"wrote {path}" + (", checksum verified" if known else f", not verified; sha256 {_sha256(path)}")
    )
    typer.echo("next:")
    for line in commands(source, folder.as_posix())[1 + known :]:
        typer.echo(f"  {line}")


def _sha256(path: Path) -> str:
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
