"""Whether as many labels lie inside predicted intervals as should: probabilities, levels, coverage.

Everything here works on one probability per value, uniform between 0 and 1 if the deviations are right: `pit`
(the label's place in its distribution), `central_probability` (the smallest central interval that holds the label)
and `ellipsoid_probability` (the same for vectors: the smallest ellipsoid).
"""

from __future__ import annotations

import numpy as np
from scipy.special import erf, gammainc, ndtr

from atomml.shapes import Float64, ndarray
from atomml.uncertainty.metrics.values import check_finite, check_scalars, principal_axes

__all__ = [
    "absolute_calibration_error",
    "central_probability",
    "coverage",
    "ellipsoid_probability",
    "miscalibration_area",
    "observed_fractions",
    "pit",
    "root_calibration_error",
    "squared_calibration_error",
]

LEVELS = (np.arange(21) + 0.5) / 21


def pit(error: Float64[ndarray, " n"], std: Float64[ndarray, " n"]) -> Float64[ndarray, " n"]:
    """Probability integral transform Φ(error/σ), error = label − prediction.

    Raises:
        DataError: values that cannot be used, see `check_scalars`.
    """
    check_scalars(error, std)
    return ndtr(error / std)


def central_probability(error: Float64[ndarray, " n"], std: Float64[ndarray, " n"]) -> Float64[ndarray, " n"]:
    """Probability of the central interval that ends at the label: erf(|error|/(√2 σ)).

    Raises:
        DataError: values that cannot be used, see `check_scalars`.
    """
    check_scalars(error, std)
    return erf(np.abs(error) / (np.sqrt(2) * std))


def ellipsoid_probability(
    error: Float64[ndarray, "n d"], cov: Float64[ndarray, "n d d"]
) -> Float64[ndarray, " n"]:
    """Probability of the ellipsoid that ends at the label: distribution function of χ²_d at errorᵀΣ⁻¹error.

    It does not change when error and Σ are rotated.

    Raises:
        DataError: values that cannot be used, see `principal_axes`.
    """
    return gammainc(error.shape[1] / 2, principal_axes(error, cov).squared_distance() / 2)


def observed_fractions(
    probability: Float64[ndarray, " n"], levels: Float64[ndarray, " levels"]
) -> Float64[ndarray, " levels"]:
    """Fraction p̂_j of values whose ``probability`` is at most each level p_j.

    Raises:
        DataError: no values, or one that is not finite.
    """
    check_finite(probability, "probability")
    return np.searchsorted(np.sort(probability), levels, side="right") / len(probability)


def squared_calibration_error(
    probability: Float64[ndarray, " n"], levels: Float64[ndarray, " levels"] = LEVELS
) -> float:
    """Mean (p_j − p̂_j)² over levels p_j (Kuleshov, Fenner and Ermon, ICML 2018).

    The 21 default levels are the middles of 21 equal parts of [0, 1]: p = 0 and p = 1 hold for any deviation and
    would only dilute the mean. Values: 1/3 if no label lies in any interval (p̂ = 0), 1/3 again if all lie in every
    one (p̂ = 1), 1/(6n) by chance for n independent values with the right deviations. It is a square: 0.01 means
    that levels are missed by 0.1.

    Raises:
        DataError: no values, or one that is not finite.
    """
    return float(np.mean((levels - observed_fractions(probability, levels)) ** 2))


def root_calibration_error(
    probability: Float64[ndarray, " n"], levels: Float64[ndarray, " levels"] = LEVELS
) -> float:
    """Square root of `squared_calibration_error`.

    Raises:
        DataError: no values, or one that is not finite.
    """
    return float(np.sqrt(squared_calibration_error(probability, levels)))


def absolute_calibration_error(
    probability: Float64[ndarray, " n"], levels: Float64[ndarray, " levels"] = LEVELS
) -> float:
    """Mean |p_j − p̂_j| over levels; see `squared_calibration_error` for the levels. At most 1/2.

    Raises:
        DataError: no values, or one that is not finite.
    """
    return float(np.mean(np.abs(levels - observed_fractions(probability, levels))))


def miscalibration_area(probability: Float64[ndarray, " n"]) -> float:
    """Area ∫₀¹ |p − p̂(p)| dp between the curve of `observed_fractions` and the diagonal, exactly.

    p̂ is constant between the sorted probabilities, where the integral of |p − p̂| is that of |x|, ½ x|x|.

    Raises:
        DataError: no values, or one that is not finite.
    """
    check_finite(probability, "probability")
    edges = np.concatenate([[0.0], np.sort(probability), [1.0]])
    height = np.arange(len(probability) + 1) / len(probability)
    right, left = edges[1:] - height, edges[:-1] - height
    return float(0.5 * np.sum(right * np.abs(right) - left * np.abs(left)))


def coverage(probability: Float64[ndarray, " n"], level: float) -> float:
    """Fraction of labels inside their interval or ellipsoid of probability ``level``.

    Raises:
        DataError: no values, or one that is not finite.
    """
    return float(observed_fractions(probability, np.array([level]))[0])
