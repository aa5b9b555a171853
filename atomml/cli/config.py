"""`atomml schema`, `atomml template` and `atomml validate`: configurations explained and checked."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from atomml.config import Config

__all__ = ["Kind", "kind_of", "model_of", "register"]


class Kind(StrEnum):
    """Configurations there are."""

    train = "train"
    finetune = "finetune"
    tdn = "tdn"
    tdn_paper = "tdn_paper"
    race = "race"
    sample = "sample"
    label = "label"
    active = "active"
    crystals = "crystals"


KindArgument = Annotated[Kind, typer.Argument(help="Which configuration.", metavar="KIND")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command("schema")(_schema)
    app.command("template")(_template)
    app.command("validate")(_validate)


def _schema(
    kind: KindArgument,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON schema instead of the table.")] = False,
) -> None:
    """Print every key of a configuration with its type, default and meaning.

    KIND: train, finetune, sample, label, active, crystals, or a network: tdn, race, tdn_paper.
    """
    model = model_of(kind)
    if json:
        from json import dumps

        typer.echo(dumps(model.model_json_schema(), indent=1, ensure_ascii=False))
        return
    _print_table(model, kind)


def _template(kind: KindArgument) -> None:
    """Print a configuration with every key, explained: atomml template train > my.yaml."""
    from atomml.config_manual import template_of

    typer.echo(template_of(model_of(kind)), nl=False)


def _validate(
    file: Annotated[Path, typer.Argument(help="Configuration (YAML).", metavar="FILE")],
    kind: Annotated[
        Kind | None, typer.Option("--kind", help="What it is meant to be; found by itself.", metavar="KIND")
    ] = None,
) -> None:
    """Check a configuration without running it."""
    from atomml.config import parse_config, read_yaml

    data = read_yaml(file)
    kind = kind or kind_of(data)
    parse_config(model_of(kind), data, where=str(file))
    typer.echo(f"OK: {file} is a valid {kind.value} configuration.")


def model_of(kind: Kind) -> type[Config]:
    """The pydantic model of a kind of configuration."""
    from atomml.potentials.config import PaperTDNConfig, RACEConfig, TDNConfig
    from atomml.training.config import FinetuneConfig, TrainConfig

    match kind:
        case Kind.train:
            return TrainConfig
        case Kind.finetune:
            return FinetuneConfig
        case Kind.tdn:
            return TDNConfig
        case Kind.race:
            return RACEConfig
        case Kind.tdn_paper:
            return PaperTDNConfig
        case Kind.sample:
            from atomml.simulate.sampling.config import SampleConfig

            return SampleConfig
        case Kind.label:
            from atomml.labelling.config import LabellerConfig

            return LabellerConfig
        case Kind.active:
            from atomml.active.config import ActiveConfig

            return ActiveConfig
        case Kind.crystals:
            from atomml.crystals.config import CrystalTrainConfig

            return CrystalTrainConfig


def kind_of(data: dict[str, Any]) -> Kind:
    """What a file is most likely meant to be."""
    model = data.get("model")
    if isinstance(model, dict) and "kind" not in model and {"network", "flow", "given_types"} & model.keys():
        return Kind.crystals
    if "kind" in data:
        return Kind(data["kind"]) if data["kind"] in ("tdn_paper", "race") else Kind.tdn
    if "explore" in data:
        return Kind.active
    if "calculator" in data:
        return Kind.sample if {"run_dir", "structures"} & data.keys() else Kind.label
    own = model_of(Kind.finetune).model_fields.keys() - model_of(Kind.train).model_fields.keys()
    without_model = "data" in data and "model" not in data  # a finetuning has its model from a file
    return Kind.finetune if own & data.keys() or without_model else Kind.train


def _print_table(model: type[Config], kind: Kind) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from atomml.config_manual import settings_of

    table = Table("key", "meaning, values and default", title=f"{kind.value} configuration")
    table.columns[0].no_wrap = True
    for row in settings_of(model):
        if row.group:
            table.add_section()
            table.add_row(Text(row.key, "bold"), Text(row.meaning, "bold"))
            continue
        default = "required" if row.required else f"default {_show(row.default)}"
        table.add_row(Text(row.key), Text.assemble(row.meaning, "\n", (f"{row.type}; {default}", "cyan")))
    # text for a file or a pipe need not fit a terminal
    console = Console()
    (console if console.is_terminal else Console(width=120)).print(table)


def _show(value: Any) -> str:
    from json import dumps

    return value if isinstance(value, str) else dumps(value, ensure_ascii=False)
