"""Configuration files: pydantic models that refuse unknown keys and suggest the nearest one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from atomml.errors import ConfigError

__all__ = ["Config", "load_config", "parse_config", "read_yaml", "set_by_path"]


class Config(BaseModel):
    """Base of every configuration model: unknown keys are errors and field docstrings are the manual."""

    model_config = ConfigDict(
        extra="forbid", use_attribute_docstrings=True, frozen=True, validate_default=True
    )


C = TypeVar("C", bound=Config)
_MANUAL = "`atomml schema KIND` prints every key with its meaning and default"


def load_config(model: type[C], path: str | Path, overrides: Mapping[str, Any] | None = None) -> C:
    """Read a YAML file into ``model``, after setting ``overrides`` ({"optimizer.lr": 0.01}).

    Raises:
        ConfigError: no such file, broken YAML, an unknown key, a value of the wrong kind.
    """
    data = read_yaml(path)
    for key, value in (overrides or {}).items():
        set_by_path(data, key, value)
    return parse_config(model, data, where=str(path))


def parse_config(model: type[C], data: Mapping[str, Any], *, where: str, fix: str = _MANUAL) -> C:
    """Validate ``data`` as ``model``; ``fix`` says where the keys are explained.

    Raises:
        ConfigError: every problem on its own line, with the key's path and the nearest known key.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = [_describe(model, item) for item in error.errors()]
        raise ConfigError(
            "This configuration cannot be used:\n" + "\n".join(f"    - {p}" for p in problems),
            where=where,
            fix=f"correct the keys above; {fix}",
        ) from error


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML mapping from a file.

    Raises:
        ConfigError: the file is absent, is not YAML, or is not a mapping.
    """
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration ({error.strerror}).", where=str(path)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"This is not valid YAML: {error}", where=str(path)) from error
    if not isinstance(data, dict):
        raise ConfigError("A configuration is a mapping of keys to values.", where=str(path))
    return data


def set_by_path(data: dict[str, Any], key: str, value: Any) -> None:
    """Set ``data["a"]["b"] = value`` for ``key = "a.b"``; text is read as YAML, so "1e-3" is a number."""
    *parents, last = key.split(".")
    for parent in parents:
        child = data.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"{key!r} cannot be set: {parent!r} is not a group of keys.")
        data = child
    data[last] = _scalar(value) if isinstance(value, str) else value


def _scalar(text: str) -> Any:
    value = yaml.safe_load(text)
    if isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _describe(model: type[BaseModel], item: Any) -> str:
    path = ".".join(_without_tags(model, item["loc"]))
    if item["type"] in ("union_tag_not_found", "union_tag_invalid"):
        choices = item["ctx"].get("expected_tags") or ", ".join(_kinds(model, item["loc"]))
        return f"{path}.kind: choose one of {choices}"
    if item["type"] != "extra_forbidden":
        message = item["msg"].removeprefix("Value error, ")
        got = "" if isinstance(item["input"], dict) else f" (got {item['input']!r})"
        return f"{path or 'the whole'}: {message}{got}"
    key = str(item["loc"][-1])
    known = sorted(_field_names(model, item["loc"][:-1]))
    if key in known:
        return f"{path}: not a key of this kind"
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
    return f"{path}: unknown key; {hint}"


def _without_tags(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    """A location as it is written in a file: without the names that choose between models."""
    kept: list[str] = []
    for k, part in enumerate(loc):
        tag = k > 0 and len(_choices_at(model, loc[:k])) > 1 and str(part) not in _field_names(model, loc[:k])
        if not tag:
            kept.append(str(part))
    return kept


def _field_names(model: type[BaseModel], loc: tuple[Any, ...]) -> set[str]:
    """Names allowed at ``loc``; union members and discriminator tags are searched together."""
    return {name for m in _models_at(model, loc) for name in m.model_fields}


def _models_at(model: type[BaseModel], loc: tuple[Any, ...]) -> list[type[BaseModel]]:
    """Models that ``loc`` may lead into; the name of one of several leads nowhere else."""
    models = [model]
    for k in range(len(loc)):
        models = _choices_at(model, loc[: k + 1]) or models
    return models


def _choices_at(model: type[BaseModel], loc: tuple[Any, ...]) -> list[type[BaseModel]]:
    """Models that the key at the end of ``loc`` may hold; none where it is no key."""
    key = str(loc[-1])
    holders = [parent for parent in _models_at(model, loc[:-1]) if key in parent.model_fields]
    found = (m for parent in holders for m in _models_in(parent.model_fields[key].annotation))
    return list(dict.fromkeys(found))


def _kinds(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    """Values of ``kind`` that choose between the models at ``loc``."""
    return [repr(m.model_fields["kind"].default) for m in _choices_at(model, loc) if "kind" in m.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for argument in get_args(annotation) for m in _models_in(argument)]
