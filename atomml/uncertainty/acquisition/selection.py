"""Choices of structures by a score, or by their distance from each other."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from atomml.datasets.farthest import farthest_points
from atomml.errors import DataError
from atomml.shapes import Float64, Int64, ndarray
from atomml.uncertainty.acquisition.predictions import WHERE, PoolFeatures

__all__ = ["Selection", "check_count", "farthest_point", "top_k"]


class Selection(NamedTuple):
    """The structures to label.

    Attributes:
        rows: in the pool, in the order in which they were chosen.
        scores: of each when it was chosen, in the unit of the method.
        method: its name.
        notes: what a reader of the result should know.
    """

    rows: Int64[ndarray, " chosen"]
    scores: Float64[ndarray, " chosen"]
    method: str
    notes: tuple[str, ...] = ()


def check_count(n: int, available: int) -> None:
    """Check that ``n`` structures can be chosen.

    Raises:
        DataError: an empty pool, less than one, or more than there are.
    """
    if not 1 <= n <= available:
        raise DataError(
            f"{n} of {available} structures cannot be chosen.",
            where=WHERE,
            fix="choose at least one structure and no more than the pool has",
        )


def top_k(scores: Float64[ndarray, " graphs"], n: int, *, method: str = "top_k") -> Selection:
    """The ``n`` largest scores, largest first; ties go to the first. Takes near-duplicates together.

    Raises:
        DataError: ``n`` does not fit, or a score is not finite.
    """
    check_count(n, len(scores))
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        raise DataError(f"The score of structure {bad[0]} is not finite.", where=WHERE)
    rows = np.argsort(-scores, kind="stable")[:n]
    return Selection(rows, scores[rows], method)


def farthest_point(features: PoolFeatures, n: int) -> Selection:
    """Each structure is the farthest from the labelled ones and those chosen before it (Gonzalez' greedy choice).

    Without labelled ones it starts with the structure nearest to the mean. Scores are Euclidean distances
    (infinite for such a start), never increasing; ties go to the first.

    Raises:
        DataError: ``n`` does not fit.
    """
    check_count(n, len(features.pool))
    rows, scores = farthest_points(features.pool, start=features.labelled, most=n)
    return Selection(rows, scores, "farthest_point")
