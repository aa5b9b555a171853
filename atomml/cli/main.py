"""The `atomml` command: one light module per command, so that help and completion are instant."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from atomml._version import __version__
from atomml.cli import (
    acquire,
    active,
    bench,
    calibrate,
    check,
    compile,
    config,
    crystals,
    data,
    demo,
    evaluate,
    export,
    info,
    label,
    property,
    simulate,
    train,
)
from atomml.errors import AtommlError, CheckError

__all__ = ["app", "main"]

app = typer.Typer(
    name="atomml",
    help="Machine-learned interatomic potentials: from data to a checked potential and simulations.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _command in (
    demo,
    data,
    train,
    evaluate,
    calibrate,
    acquire,
    check,
    compile,
    export,
    simulate,
    label,
    active,
    property,
    crystals,
    info,
    config,
    bench,
):
    _command.register(app)


def _print_version(value: bool) -> bool:
    if value:
        typer.echo(f"atomml {__version__}")
        raise typer.Exit
    return value


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line.

    Exit codes: 0 done, 1 a check failed, 2 an error that the user can cure, 130 interrupted by Ctrl-C.
    """
    try:
        app(prog_name="atomml")
    except AtommlError as error:
        show_error(error)
        sys.exit(1 if isinstance(error, CheckError) else 2)
    except KeyboardInterrupt:
        sys.exit(130)


def show_error(error: AtommlError) -> None:
    """Print what happened, where and what to do as a panel on stderr."""
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    parts = [Text(error.what, "bold")]
    if error.where is not None:
        parts.append(Text(f"where: {error.where}"))
    if error.fix is not None:
        parts.append(Text(f"to do: {error.fix}", "green"))
    body = Text("\n").join(parts)
    title = "Check failed" if isinstance(error, CheckError) else "Error"
    panel = Panel(body, title=title, title_align="left", border_style="red")
    console = Console(stderr=True)
    if not console.is_terminal:  # in a log file a path must not be broken into two lines
        console = Console(stderr=True, width=min(200, max(len(line) for line in body.plain.splitlines()) + 4))
    console.print(panel)


if __name__ == "__main__":
    main()
