"""`atomml train` and `atomml finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from atomml.errors import ConfigError

__all__ = ["register"]

Config = Annotated[Path, typer.Argument(help="Configuration (YAML).", metavar="CONFIG")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Replace a value of the configuration: optimizer.lr=1e-3."
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint of the run folder.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Discard what is in the run folder.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing.")]
Json = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Also write the final metrics here.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command("train")(_train)
    app.command("finetune")(_finetune)


def _train(
    config: Config,
    set_: Set = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: Json = None,
) -> None:
    """Train a potential on labelled structures.

    Everything goes to the run folder: model.safetensors, report.md, metrics.csv, log.jsonl, checkpoint.
    Several processes: torchrun --nproc-per-node 2 -m atomml.cli.main train CONFIG.
    """
    from atomml.training import train

    result = train(config, parse_settings(set_ or []), resume=resume, overwrite=overwrite, quiet=quiet)
    _write_json(json, result.metrics)


def _finetune(
    model: Annotated[str, typer.Argument(help="Model file to start from.", metavar="MODEL")],
    config: Config,
    set_: Set = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: Json = None,
) -> None:
    """Train an existing model further on new data, with its reference energies fitted anew."""
    from atomml.training import finetune

    settings = parse_settings(set_ or [])
    result = finetune(model, config, settings, resume=resume, overwrite=overwrite, quiet=quiet)
    _write_json(json, result.metrics)


def parse_settings(items: list[str]) -> dict[str, Any]:
    """``["optimizer.lr=1e-3"]`` as ``{"optimizer.lr": "1e-3"}``.

    Raises:
        ConfigError: an item without ``=``.
    """
    settings = {}
    for item in items:
        key, sign, value = item.partition("=")
        if not sign or not key:
            raise ConfigError(
                f"--set {item!r} is not KEY=VALUE.", fix="write for example --set optimizer.lr=1e-3"
            )
        settings[key.strip()] = value
    return settings


def _write_json(path: Path | None, metrics: dict[str, Any]) -> None:
    import json

    if path is not None and metrics:  # only the main process has metrics
        path.write_text(json.dumps(metrics, indent=1), encoding="utf-8")
