"""How many of the crystals are in no reference set, as a rule the training set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
from ase import Atoms

from atomml.crystals.evaluate.equality import (
    EQUALITY,
    FormulaKey,
    Reduced,
    Tolerances,
    Work,
    equal_pairs,
    formula_key,
    reduce_structures,
)
from atomml.crystals.evaluate.shares import reasons, share
from atomml.datasets.store import FrameStore
from atomml.shapes import Int64, ndarray

__all__ = ["Novelty", "novelty"]


@dataclass(frozen=True)
class Novelty:
    """What is known of each crystal.

    Attributes:
        novel: None where it is unknown.
        match: row of a reference that is the same crystal; −1: none.
        errors: why it is unknown, or why some comparison failed; None otherwise.
        references: number of crystals compared with.
        unread: references that could not be reduced, with the error of each: nothing can match them.
    """

    novel: tuple[bool | None, ...]
    match: Int64[ndarray, " crystals"]
    errors: tuple[str | None, ...]
    references: int
    unread: dict[int, str]

    def metrics(self) -> dict[str, Any]:
        """Shares of novel and unknown ones among all crystals."""
        n = len(self.novel)
        return {
            "novel": share(self.novel.count(True), n),
            "unknown": share(self.novel.count(None), n),
            "references": self.references,
            "references_that_fail": {"count": len(self.unread), "reasons": reasons(self.unread.values())},
            "errors": reasons(self.errors),
        }


def novelty(
    structures: Sequence[Atoms | None],
    references: FrameStore | Sequence[Atoms],
    *,
    tolerances: Tolerances = EQUALITY,
    **work: Unpack[Work],
) -> Novelty:
    """Whether a crystal matches one of the references (`StructureMatcher.fit`), for each crystal.

    Compared are crystals with the same reduced formula and the same number of sites in the primitive cell; no
    others match. A crystal that matches none while a comparison fails (or one of its formula in the reference
    cannot be reduced) is unknown: neither novel nor known.

    Args:
        structures: None: unknown.
        references: any set, for example of `load_frames`.
        tolerances: of the match.
        **work: ``workers``, ``timeout`` (seconds of a structure or pair), ``executor``.
    """
    outcomes = reduce_structures(structures, **work)
    errors = [outcome.error for outcome in outcomes]
    reduced = {k: outcome.value for k, outcome in enumerate(outcomes) if outcome.value is not None}
    known, unread = _known(references, {one.bucket[0] for one in reduced.values()}, **work)
    buckets = defaultdict(list)
    for r, one in known.items():
        buckets[one.bucket].append(r)
    pairs = [(k, r) for k, one in reduced.items() for r in buckets.get(one.bucket, [])]
    answers: dict[int, dict[int, bool | str]] = defaultdict(dict)
    for (k, r), answer in equal_pairs(pairs, reduced, known, tolerances=tolerances, **work).items():
        answers[k][r] = answer
    doubtful = {formula_key(references[r].numbers): f"reference {r}: {why}" for r, why in unread.items()}
    match = np.full(len(structures), -1, dtype=np.int64)
    novel: list[bool | None] = [None] * len(structures)
    for k, one in reduced.items():
        match[k] = min((r for r, answer in answers[k].items() if answer is True), default=-1)
        failed = [answer for answer in answers[k].values() if isinstance(answer, str)]
        errors[k] = next(iter(failed), doubtful.get(one.bucket[0]))
        if match[k] >= 0:
            novel[k] = False
        elif errors[k] is None:
            novel[k] = True
    return Novelty(tuple(novel), match, tuple(errors), len(references), unread)


def _known(
    references: FrameStore | Sequence[Atoms], formulas: set[FormulaKey], **work: Unpack[Work]
) -> tuple[dict[int, Reduced], dict[int, str]]:
    """References with one of the formulas, reduced, and the errors of those that cannot be, by row."""

    def numbers(r: int) -> ndarray:
        return references.frame(r).numbers if isinstance(references, FrameStore) else references[r].numbers

    rows = [r for r in range(len(references)) if formula_key(numbers(r)) in formulas]
    outcomes = dict(zip(rows, reduce_structures([references[r] for r in rows], **work), strict=True))
    known = {r: outcome.value for r, outcome in outcomes.items() if outcome.value is not None}
    return known, {r: outcome.error for r, outcome in outcomes.items() if outcome.error is not None}
