"""Options of reading rows of ASE databases, and the account of what was found, used and left out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from atomml.datasets.labels import LABELS, LabelKeys

__all__ = ["RowAccount", "RowRules"]

USED = frozenset(
    ("numbers", "positions", "pbc", "cell", "tags", "constraints", "data", "key_value_pairs", *LABELS)
)


class RowRules(NamedTuple):
    """How rows are read.

    Attributes:
        keys: units and stress sign.
        data_first: a label in ``data`` is used in place of the calculator's, as fairchem does.
        tags: names to keep; None for every scalar.
        text_tags: names whose values are kept as text.
        nan_is_absent: a label that is NaN is one that the row lacks.
        check: call `check_frame`, so that a row that is to be skipped is not counted.
    """

    keys: LabelKeys = LabelKeys()
    data_first: bool = False
    tags: frozenset[str] | None = None
    text_tags: frozenset[str] = frozenset()
    nan_is_absent: bool = False
    check: bool = False


@dataclass
class RowAccount:
    """What was found, used and left out in the rows of a piece.

    Attributes:
        seen: rows by their keys, whether they gave energy, forces and stress, and which of these `data` gave.
        differs: of each label, rows in which calculator and ``data`` state different values.
        flat_stress: rows whose stress was left out because the cell is not periodic in three directions.
        unread: names of what was left out inside of rows, and how often.
        names: of the tags.
    """

    seen: Counter[tuple[tuple[str, ...], tuple[bool, ...], tuple[str, ...]]] = field(default_factory=Counter)
    differs: Counter[str] = field(default_factory=Counter)
    flat_stress: int = 0
    unread: Counter[str] = field(default_factory=Counter)
    names: set[str] = field(default_factory=set)

    def labels(self) -> dict[str, dict[str, Any]]:
        """``info["labels"]``."""
        total = sum(self.seen.values())
        result: dict[str, dict[str, Any]] = {}
        for k, label in enumerate(LABELS):
            keys: Counter[str] = Counter()
            for (_, found, from_data), n in self.seen.items():
                if found[k]:
                    keys[f"data.{label}" if label in from_data else label] += n
            result[label] = {"key": ", ".join(sorted(keys)) or None, "found": sum(keys.values()), "of": total}
            if self.differs[label]:
                result[label]["calculator_and_data_differ"] = self.differs[label]
        if self.flat_stress:
            result["stress"]["ignored_without_3d_cell"] = self.flat_stress
        return result

    def not_read(self) -> dict[str, int]:
        """``info["not_read"]``: keys of rows, of ``data`` and names of constraints that nothing was read from."""
        counts = Counter(self.unread)
        for (keys, _, _), n in self.seen.items():
            for key in keys:
                if key not in USED:
                    counts[key] += n
        return dict(sorted(counts.items()))
