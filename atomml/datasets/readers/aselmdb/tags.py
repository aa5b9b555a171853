"""Scalars in ``data`` and ``key_value_pairs`` of an ASE database's row, as tags of its frame."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from atomml.datasets.frame import Tag
from atomml.datasets.labels import LABELS
from atomml.datasets.readers.aselmdb.account import RowAccount, RowRules
from atomml.errors import DataError

__all__ = ["LONGEST_TEXT", "MOST_TAGS", "row_tags"]

DEPTH = 3  # of the dictionaries whose values become tags
LONGEST_TEXT = 1_000  # characters of a tag
MOST_TAGS = 256  # names of tags in one piece; more are no longer columns of a table


def row_tags(
    data: Mapping[str, Any], pairs: Mapping[str, Any], rules: RowRules, account: RowAccount, where: str
) -> dict[str, Tag]:
    """Numbers, flags and short texts; nested ones are named with dots, ``metadata.temperature``.

    A key that both dictionaries have with different values is kept twice, that of the pairs as
    ``key_value_pairs.NAME``. Labels are no tags. All else is counted in ``account.unread``.

    Raises:
        DataError: more different names than a table has columns.
    """
    tags: dict[str, Tag] = {}
    _collect(data, "data.", "", DEPTH, tags, rules, account.unread)
    if pairs:
        second: dict[str, Tag] = {}
        _collect(pairs, "key_value_pairs.", "", DEPTH, second, rules, account.unread)
        for key, value in second.items():
            tags[key if tags.get(key, value) == value else f"key_value_pairs.{key}"] = value
    if not tags.keys() <= account.names:
        account.names |= tags.keys()
        if len(account.names) > MOST_TAGS:
            raise DataError(
                f"The rows have more than {MOST_TAGS} different scalar keys.",
                where=where,
                fix="name those to keep in the option `tags`",
            )
    return tags


def _collect(
    values: Mapping[str, Any],
    origin: str,
    prefix: str,
    depth: int,
    tags: dict[str, Tag],
    rules: RowRules,
    unread: Counter[str],
) -> None:
    for key, value in values.items():
        if value is None or (key in LABELS and not prefix):
            continue
        name = prefix + key
        kind = type(value)
        if kind is dict and "__ndarray__" in value:
            value = _scalar(value["__ndarray__"])
            kind = type(value)
        if kind is dict and depth > 1 and not any(k.startswith("__") for k in value):
            _collect(value, origin, name + ".", depth - 1, tags, rules, unread)
        elif (rules.tags is not None and name not in rules.tags) or not _is_tag(value, kind):
            unread[origin + name] += 1
        else:
            tags[name] = str(value) if name in rules.text_tags else value


def _scalar(parts: Any) -> Any:
    """The number in an array without axes; None for any other array."""
    if type(parts) is list and len(parts) == 3 and parts[0] == [] and type(parts[2]) is list and parts[2]:
        return parts[2][0]
    return None


def _is_tag(value: Any, kind: type) -> bool:
    if kind is str:
        return len(value) <= LONGEST_TEXT
    return kind is bool or kind is float or (kind is int and -(2**63) <= value < 2**63)
