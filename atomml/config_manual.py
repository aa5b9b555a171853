"""The manual of a configuration model: every key with type, default and meaning, and a commented template."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

__all__ = ["Setting", "settings_of", "template_of"]

FIRST = ("kind", "run_dir", "data", "model", "loss", "uncertainty", "batch")
"""Keys that come before the others of a configuration: what decides about a training, before how it is done."""
_SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One key of a configuration.

    Attributes:
        key: path from the top, ``optimizer.lr``; in one of several models, ``model[tdn].cutoff``.
        type: allowed values, in words.
        default: value if the key is absent, as plain data; None and required if it must be given.
        required: whether the key must be given.
        example: value to show in a template.
        meaning: docstring of the field.
        group: whether the key holds further keys.
        variant: name of the model this belongs to, where a choice of models starts.
        optional: whether the group may be absent and is by default.
    """

    key: str
    type: str
    default: Any
    required: bool
    example: Any
    meaning: str
    group: bool = False
    variant: str | None = None
    optional: bool = False


def settings_of(model: type[BaseModel]) -> list[Setting]:
    """Every key of ``model``, groups before their members."""
    return list(_walk(model, "", None))


def template_of(model: type[BaseModel]) -> str:
    """A YAML text with every key, its meaning as a comment and its default or example as the value.

    Where one of several models can be chosen, the first is shown.
    """
    lines = [*_comment(inspect.getdoc(model) or "", 0), ""]
    skipped: str | None = None
    seen: set[str] = set()
    for setting in settings_of(model):
        if skipped is not None and setting.key.startswith(skipped):
            continue
        skipped = None
        if setting.optional:
            skipped = f"{setting.key}."
            continue
        seen.add(setting.key)
        path = setting.key.split(".")
        indent = 2 * (len(path) - 1)
        name, _, _ = path[-1].partition("[")
        if setting.variant is not None:
            plain = setting.key.partition("[")[0]
            if plain in seen:
                skipped = f"{setting.key}."
                continue
            seen.add(plain)
        lines += _comment(setting.meaning if setting.group else f"{setting.meaning} [{setting.type}]", indent)
        lines.append(" " * indent + (f"{name}:" if setting.group else f"{name}: {_yaml(setting.example)}"))
    return "\n".join(lines) + "\n"


def _walk(model: type[BaseModel], prefix: str, values: BaseModel | None) -> Iterator[Setting]:
    """Settings of ``model``; a default instance of the group, ``values``, overrides the defaults."""
    for name, field in sorted(model.model_fields.items(), key=lambda item: item[0] not in FIRST):
        required = values is None and field.is_required()
        own = field.get_default(call_default_factory=True)
        default = own if values is None else getattr(values, name)
        members = _group_members(field.annotation)
        meaning = _one_line(field.description)
        optional = bool(members) and not required and default is None
        if not members or optional:
            plain = None if required else _plain(default)
            yield Setting(
                key=prefix + name,
                type=_type_text(field.annotation, field.metadata),
                default=plain,
                required=required,
                example=_example(field, plain, required),
                meaning=meaning,
            )
        listed = _list_members(field.annotation)  # each of them is one item of the list
        for member in members or listed:
            variant = _variant(member) if listed or len(members) > 1 else None
            key = f"{prefix}{name}[{variant}]" if variant else prefix + name
            yield Setting(
                key=key,
                type="group",
                default=None,
                required=required,
                example=None,
                meaning=_one_line(inspect.getdoc(member)) or meaning,
                group=True,
                variant=variant,
                optional=optional,
            )
            inner = default if isinstance(default, member) else None
            yield from _walk(member, f"{key}.", inner)


def _one_line(text: str | None) -> str:
    return " ".join((text or "").replace("``", "").split())


def _group_members(annotation: Any) -> list[type[BaseModel]]:
    """The models a key can hold, if it holds nothing else."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) is Annotated:
        return _group_members(get_args(annotation)[0])
    parts = [_group_members(part) for part in get_args(annotation) if part is not NoneType]
    if get_origin(annotation) in (Literal, list, dict, tuple) or not parts or not all(parts):
        return []
    return [member for part in parts for member in part]


def _list_members(annotation: Any) -> list[type[BaseModel]]:
    """The models that a list can hold."""
    return _group_members(get_args(annotation)[0]) if get_origin(annotation) is list else []


def _variant(model: type[BaseModel]) -> str:
    """Value of ``kind`` that chooses ``model``."""
    kind = model.model_fields.get("kind")
    return str(kind.default) if kind is not None else model.__name__


def _plain(value: Any) -> Any:
    """Configuration values as what YAML and JSON can write."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _example(field: FieldInfo, default: Any, required: bool) -> Any:
    """The first declared example; else the default; else something of the right type."""
    if field.examples:
        return field.examples[0]
    if not required:
        return default
    for kind in _leaf_types(field.annotation):
        if get_origin(kind) is Literal:
            return get_args(kind)[0]
        if kind is str:
            return "FILL_IN"
        if kind in (int, float):
            return 1
    return None


def _leaf_types(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Annotated:
        yield from _leaf_types(get_args(annotation)[0])
    elif get_origin(annotation) in (None, Literal, list, dict, tuple):
        yield annotation
    else:
        for part in get_args(annotation):
            yield from _leaf_types(part)


def _type_text(annotation: Any, metadata: list[Any] | None = None) -> str:
    """``Annotated[float, Gt(0)] | None`` as "number > 0 | null"."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        text = _type_text(parts[0], list(parts[1:]))
    elif origin is Literal:
        text = " | ".join(str(part) for part in parts)
    elif origin is list:
        text = f"list of {_type_text(parts[0])}"
    elif origin is tuple:
        text = f"[{'; '.join(_type_text(part) for part in parts)}]"
    elif origin is dict:
        text = f"{{{_type_text(parts[0])}: {_type_text(parts[1])}}}"
    elif parts:
        text = " | ".join(dict.fromkeys(_type_text(part) for part in parts))
    else:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return "group"
        names = {str: "text", int: "integer", float: "number", bool: "true | false", NoneType: "null"}
        text = names.get(annotation, getattr(annotation, "__name__", str(annotation)))
    return text + _limits(metadata or [])


def _limits(metadata: list[Any]) -> str:
    inner = [item for entry in metadata for item in getattr(entry, "metadata", [entry])]
    found = [
        f"{sign} {getattr(item, name):g}"
        for item in inner
        for name, sign in _SIGNS.items()
        if getattr(item, name, None) is not None
    ]
    return " " + ", ".join(found) if found else ""


def _comment(text: str, indent: int) -> list[str]:
    margin = " " * indent + "# "
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    return [
        line
        for part in paragraphs
        for line in textwrap.wrap(part, 96, initial_indent=margin, subsequent_indent=margin)
    ]


def _yaml(value: Any) -> str:
    """``value`` on one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.removesuffix("...\n").strip()
