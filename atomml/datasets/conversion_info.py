"""The ``info`` of many pieces as one: counts are summed, what differs is listed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from atomml.datasets.packing import merge_skipped
from atomml.errors import DataError

__all__ = ["merge_info"]

LISTED = 5  # differing values that are named


def merge_info(infos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One info for all frames.

    ``labels`` and ``not_read`` are summed, ``skipped`` is merged, ``warnings`` are joined; other keys stay as
    they are where all agree, else the first values are listed under ``varies``.

    Raises:
        DataError: pieces that take a label from different keys.
    """
    merged: dict[str, Any] = {}
    summed = ("labels", "not_read", "skipped", "warnings", "source", "varies")
    if infos and all(info.get("source") == infos[0].get("source") for info in infos):
        merged |= {key: infos[0][key] for key in ("source",) if key in infos[0]}
    for key in dict.fromkeys(key for info in infos for key in (*info, *info.get("varies", {}))):
        if key in summed:
            continue
        found = (v for info in infos for v in info.get("varies", {}).get(key, [info.get(key)]))
        values = _distinct(found, LISTED)
        if len(values) == 1:
            merged[key] = values[0]
        else:
            merged.setdefault("varies", {})[key] = values
    labels = [info["labels"] for info in infos if "labels" in info]
    if labels:
        merged["labels"] = _labels(
            labels, [str(info.get("source", "")) for info in infos if "labels" in info]
        )
    not_read: Counter[str] = Counter()
    for info in infos:
        not_read.update(info.get("not_read", {}))
    if not_read:
        merged["not_read"] = dict(sorted(not_read.items()))
    skipped = merge_skipped([info["skipped"] for info in infos if "skipped" in info])
    if skipped:
        merged["skipped"] = skipped
    warnings = _distinct([text for info in infos for text in info.get("warnings", [])])
    if warnings:
        merged["warnings"] = warnings
    return merged


def _distinct(values: Iterable[Any], most: int | None = None) -> list[Any]:
    """Different values in order of appearance, at most so many of them."""
    found: list[Any] = []
    for value in values:
        if len(found) == most:
            break
        if value not in found:
            found.append(value)
    return found


def _labels(parts: Sequence[Mapping[str, Any]], sources: Sequence[str]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for label in dict.fromkeys(label for part in parts for label in part):
        entries = [
            (part[label], source) for part, source in zip(parts, sources, strict=True) if label in part
        ]
        keys: dict[str, str] = {}
        for entry, source in entries:
            if entry.get("key"):
                keys.setdefault(entry["key"], source)
        if len(keys) > 1:
            (one, first), (other, second) = list(keys.items())[:2]
            raise DataError(
                f"Files keep the {label} under different keys: {one} in {first}, {other} in {second}.",
                fix=f"state the key to use ({label}_key), or convert the files separately",
            )
        also = _distinct([name for entry, _ in entries for name in entry.get("also", [])])
        merged[label] = {
            **entries[0][0],
            "key": next(iter(keys), None),
            "found": sum(entry.get("found", 0) for entry, _ in entries),
            "of": sum(entry.get("of", 0) for entry, _ in entries),
            "also": also,
        }
        for name in {name for entry, _ in entries for name in entry} - {"key", "found", "of", "also"}:
            values = [entry.get(name, 0) for entry, _ in entries]
            if all(isinstance(v, int) and not isinstance(v, bool) for v in values):
                merged[label][name] = sum(values)
    return merged
