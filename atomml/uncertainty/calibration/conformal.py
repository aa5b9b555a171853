"""Split conformal prediction: factors of σ with guaranteed coverage, whatever the distribution of the errors.

Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World (2005); Lei et al., J. Am. Stat. Assoc. 113, 1094
(2018). The guarantee holds on average over calibration sets and new values drawn alike (exchangeable): for whole
structures from the same source, not for structures from elsewhere; and for atoms only as far as the atoms of one
structure are not alike.
"""

from __future__ import annotations

import math

import numpy as np

from atomml.errors import DataError
from atomml.shapes import Float64, Int64, ndarray
from atomml.uncertainty.calibration.scale import Errors, Spread, principal_errors
from atomml.uncertainty.metrics.values import check_finite

__all__ = ["conformal_quantile", "conformal_scores", "fewest_values", "group_quantiles"]


def conformal_scores(error: Errors, spread: Spread) -> Float64[ndarray, " n"]:
    """|error|/σ, for vectors the Mahalanobis distance √(errorᵀΣ⁻¹error).

    Raises:
        DataError: values that cannot be used.
    """
    return np.sqrt(principal_errors(error, spread).squared_distance())


def conformal_quantile(score: Float64[ndarray, " n"], level: float) -> float:
    """The ⌈(n + 1)·level⌉-th smallest score q: |error| ≤ qσ holds for a new value with probability ≥ ``level``.

    Infinite if n < `fewest_values`: no finite factor can be guaranteed from so few values.

    Raises:
        DataError: no values, one that is not finite, or a level outside (0, 1).
    """
    check_finite(score, "score")
    rank = _rank(len(score), level)
    return float(np.sort(score)[rank - 1]) if rank <= len(score) else math.inf


def group_quantiles(
    score: Float64[ndarray, " n"], groups: Int64[ndarray, " n"], level: float
) -> dict[int, float]:
    """Mondrian: `conformal_quantile` of each group (element) alone, so that the coverage holds in each.

    Raises:
        DataError: see `conformal_quantile`.
    """
    return {int(g): conformal_quantile(score[groups == g], level) for g in np.unique(groups)}


def fewest_values(level: float) -> int:
    """Smallest n with a finite `conformal_quantile`, ⌈level/(1 − level)⌉: 19 for 95 %.

    Raises:
        DataError: a level outside (0, 1).
    """
    _rank(1, level)
    return math.ceil(level / (1 - level) - 1e-9)


def _rank(n: int, level: float) -> int:
    if not 0 < level < 1:
        raise DataError(f"The level of an interval lies between 0 and 1, not at {level}.")
    return math.ceil((n + 1) * level - 1e-9)  # 100 · 0.07 is 7.000…01 in binary
