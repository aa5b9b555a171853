"""Per-frame tags of a mapped store: text that repeats is kept as codes, and decoded when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from atomml.datasets.strings import PackedStrings
from atomml.shapes import ndarray

__all__ = ["MappedTags", "TextColumn", "tag_text", "tags_at", "text_words"]


@dataclass(frozen=True)
class TextColumn:
    """One text per frame: ``words[codes[i]]``, or ``words[i]`` without codes."""

    words: PackedStrings
    codes: ndarray | None = None

    def at(self, i: int) -> str:
        """The text of frame i."""
        return self.words[i if self.codes is None else int(self.codes[i])]

    def decode(self) -> ndarray:
        """All of it as a numpy unicode array [frames]."""
        words = self.words.to_array()
        return words if self.codes is None else words[self.codes]


class MappedTags(Mapping[str, ndarray]):
    """Tags of a store on disk: columns of numbers are mapped, text is decoded at first use."""

    def __init__(self, columns: Mapping[str, ndarray | TextColumn]) -> None:
        self.columns = dict(columns)
        self._decoded: dict[str, ndarray] = {}

    def __getitem__(self, name: str) -> ndarray:
        column = self.columns[name]
        if not isinstance(column, TextColumn):
            return column
        if name not in self._decoded:
            self._decoded[name] = column.decode()
        return self._decoded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)


def tags_at(tags: Mapping[str, ndarray], i: int) -> dict[str, Any]:
    """Tags of frame i as Python values; absent ones (empty text, NaN) are left out."""
    columns = tags.columns if isinstance(tags, MappedTags) else tags
    values = {
        name: column.at(i) if isinstance(column, TextColumn) else column[i].item()
        for name, column in columns.items()
    }
    return {name: value for name, value in values.items() if value != "" and value == value}


def text_words(column: ndarray) -> tuple[list[str], ndarray]:
    """Distinct texts in order of first appearance, and the code of every frame."""
    unique, first, inverse = np.unique(column, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return [str(word) for word in unique[order]], rank[inverse.reshape(-1)]


def tag_text(column: ndarray | None, n: int) -> ndarray:
    """A tag of n frames as text; empty where it is absent (no column, NaN)."""
    if column is None:
        return np.full(n, "")
    if column.dtype.kind == "U":
        return column
    return np.array(["" if value != value else str(value) for value in column.tolist()], dtype=np.str_)
