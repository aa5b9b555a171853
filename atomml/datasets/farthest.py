"""Points that are far from each other: the greedy choice of a diverse subset."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

from atomml.shapes import Float64, Int64, ndarray

__all__ = ["farthest_points"]

BLOCK = 1024  # points of the start whose distances from all others are held at once


def farthest_points(
    points: Float64[ndarray, "n features"],
    *,
    start: Float64[ndarray, "known features"] | None = None,
    most: int | None = None,
    least_distance: float = 0.0,
) -> tuple[Int64[ndarray, " chosen"], Float64[ndarray, " chosen"]]:
    """Points in the order in which each is the farthest from all before it (Gonzalez' greedy choice).

    Without a ``start`` the first is the point nearest to the mean. Ends after ``most`` points, or when no point is at
    least ``least_distance`` from all chosen ones. Ties go to the first.

    Args:
        points: to choose from.
        start: points that are there already.
        most: how many at most; all by default.
        least_distance: Euclidean.

    Returns:
        indices, and the distance of each from those before it (infinity for a first one without ``start``); never
        increasing.
    """
    n = len(points)
    nearest = np.full(n, np.inf)
    known = points[:0] if start is None else start
    for first in range(0, len(known), BLOCK):
        nearest = np.minimum(nearest, cdist(points, known[first : first + BLOCK]).min(axis=1))
    chosen: list[int] = []
    distances: list[float] = []
    while len(chosen) < min(n, n if most is None else most):
        alone = not chosen and not len(known)
        k = int(np.argmin(cdist(points, points.mean(axis=0)[None])) if alone else np.argmax(nearest))
        if nearest[k] < least_distance:
            break
        chosen.append(k)
        distances.append(float(nearest[k]))
        nearest = np.minimum(nearest, cdist(points, points[k : k + 1])[:, 0])
        nearest[k] = -np.inf
    return np.array(chosen, dtype=np.int64), np.array(distances)
