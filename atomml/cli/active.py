"""`atomml active run` and `status`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from atomml.cli.train import Config, Quiet, Set, parse_settings

__all__ = ["register"]

Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the result here.")]


def register(app: typer.Typer) -> None:
    """Add the ``active`` commands to ``app``."""
    active = typer.Typer(
        help="Active learning: explore, choose, label, learn, until the model is certain.",
        no_args_is_help=True,
    )
    active.command("run")(_run)
    active.command("status")(_status)
    app.add_typer(active, name="active")


def _run(
    config: Config,
    set_: Set = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what is in the run folder.")] = False,
    forget_failures: Annotated[
        bool, typer.Option("--forget-failures", help="Ask again for structures that could not be labelled.")
    ] = False,
    quiet: Quiet = False,
    json: Json = None,
) -> None:
    """Explore, gate, select, label, learn, calibrate, and again until a limit is reached.

    Every finished step is a line of journal.jsonl in the run folder. However it is ended, it goes on with --resume
    from the last finished step, with the same result, and no label is asked for twice. `atomml template active`
    prints a configuration with every key.
    """
    from rich.console import Console

    from atomml.active.config import load_active_config
    from atomml.active.loop import run_active

    loaded = load_active_config(config, parse_settings(set_ or []))
    console = Console(stderr=True)
    result = run_active(
        loaded,
        resume=resume,
        forget_failures=forget_failures,
        progress=not quiet,
        say=(lambda line: None) if quiet else lambda line: console.print(line, highlight=False, markup=False),
    )
    _write_json(json, result)


def _status(
    folder: Annotated[Path, typer.Argument(help="Run folder.", metavar="DIR")], json: Json = None
) -> None:
    """Print one row for each round, and where the loop is; at any time, also while it runs."""
    from rich.console import Console

    from atomml.active.status import print_status, status

    found = status(folder)
    console = Console()
    print_status(found, console if console.is_terminal else Console(width=160))
    _write_json(json, found)


def _write_json(path: Path | None, content: dict[str, Any]) -> None:
    if path is not None:
        from json import dumps

        path.write_text(dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
