"""How many of the crystals are different from each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Unpack

import numpy as np
from ase import Atoms

from atomml.crystals.evaluate.equality import EQUALITY, Tolerances, Work, equal_pairs, reduce_structures
from atomml.crystals.evaluate.shares import reasons, share
from atomml.shapes import Bool, Int64, ndarray

__all__ = ["Uniqueness", "uniqueness"]

LARGEST = 5  # groups that are named


@dataclass(frozen=True)
class Uniqueness:
    """Groups of equal crystals.

    Attributes:
        group: row of the first member of each crystal's group; −1 where it is unknown.
        errors: why it is unknown, or why some comparison failed; None otherwise.
    """

    group: Int64[ndarray, " crystals"]
    errors: tuple[str | None, ...]

    @property
    def unique(self) -> Bool[ndarray, " crystals"]:
        """The first member of each group."""
        return self.group == np.arange(len(self.group))

    def metrics(self) -> dict[str, Any]:
        """Shares of unique and unknown ones among all crystals, and the largest groups (row: members)."""
        n = len(self.group)
        rows, sizes = np.unique(self.group[self.group >= 0], return_counts=True)
        largest = np.argsort(-sizes, kind="stable")[:LARGEST]
        return {
            "unique": share(int(self.unique.sum()), n),
            "unknown": share(int((self.group < 0).sum()), n),
            "largest_groups": {str(rows[k]): int(sizes[k]) for k in largest if sizes[k] > 1},
            "errors": reasons(self.errors),
        }


def uniqueness(
    structures: Sequence[Atoms | None], *, tolerances: Tolerances = EQUALITY, **work: Unpack[Work]
) -> Uniqueness:
    """Groups of equal crystals, as `StructureMatcher.group_structures` makes them.

    Each crystal joins the group of the first representative that it matches, or becomes a representative. Only
    crystals with the same reduced formula and the same number of sites in the primitive cell are compared; no
    others match. A crystal that cannot be reduced, or whose comparison with a representative fails while it
    matches none, is unknown.

    Args:
        structures: None: unknown.
        tolerances: of the match.
        **work: ``workers``, ``timeout`` (seconds of a structure or pair), ``executor``.
    """
    outcomes = reduce_structures(structures, **work)
    errors = [outcome.error for outcome in outcomes]
    reduced = {k: outcome.value for k, outcome in enumerate(outcomes) if outcome.value is not None}
    buckets = defaultdict(list)
    for k, one in reduced.items():
        buckets[one.bucket].append(k)
    pairs = [(later, first) for rows in buckets.values() for first, later in combinations(rows, 2)]
    same = equal_pairs(pairs, reduced, reduced, tolerances=tolerances, **work)
    group = np.full(len(structures), -1, dtype=np.int64)
    for rows in buckets.values():
        representatives: list[int] = []
        for k in rows:
            answers = {r: same[k, r] for r in representatives}
            match = next((r for r, answer in answers.items() if answer is True), None)
            errors[k] = next((a for a in answers.values() if isinstance(a, str)), None)
            if match is not None:
                group[k] = match
            elif errors[k] is None:
                group[k] = k
                representatives.append(k)
    return Uniqueness(group, tuple(errors))
