"""Monotone map from expected to observed probability (Kuleshov, Fenner and Ermon, ICML 2018)."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field, model_validator
from scipy.special import gammaincinv, ndtri

from atomml.config import Config
from atomml.errors import DataError
from atomml.shapes import Float64, ndarray
from atomml.uncertainty.metrics.values import check_finite

__all__ = ["IsotonicMap", "calibrated_interval", "calibrated_quantile", "calibrated_radius", "fit_isotonic"]

Probability = Annotated[float, Field(ge=0, le=1)]
KNOTS = 101


class IsotonicMap(Config):
    """Piecewise linear, from (0, 0) to (1, 1)."""

    expected: tuple[Probability, ...]
    """Probabilities that the Gaussian states, ascending."""
    observed: tuple[Probability, ...]
    """Fractions of labels found there, strictly ascending."""

    @model_validator(mode="after")
    def _is_monotone(self) -> IsotonicMap:
        if len(self.expected) != len(self.observed) or len(self.expected) < 2:
            raise ValueError("expected and observed need the same number of knots, at least two")
        if np.any(np.diff(self.expected) < 0) or np.any(np.diff(self.observed) <= 0):
            raise ValueError("the knots must ascend")
        if (self.expected[0], self.observed[0], self.expected[-1], self.observed[-1]) != (0, 0, 1, 1):
            raise ValueError("the knots must begin at (0, 0) and end at (1, 1)")
        return self

    def to_observed(self, expected: Float64[ndarray, " n"]) -> Float64[ndarray, " n"]:
        """R(p): fraction of labels to be expected at a stated probability; calibrates a `pit`."""
        return np.interp(expected, self.expected, self.observed)

    def to_expected(self, observed: float) -> float:
        """R⁻¹(p): the probability to ask the Gaussian for, so that the fraction p is found.

        Raises:
            DataError: not a probability.
        """
        if not 0 <= observed <= 1:
            raise DataError(f"A probability lies between 0 and 1, not at {observed}.")
        return float(np.interp(observed, self.observed, self.expected))


def fit_isotonic(probability: Float64[ndarray, " n"], knots: int = KNOTS) -> IsotonicMap:
    """Map each stated probability to the fraction of values at or below it, i/(n + 1) for the i-th of n.

    ``probability`` is `pit` for scalars (this corrects a bias and skewness as well) and `ellipsoid_probability` for
    vectors. The fractions ascend with the probabilities by construction, so the isotonic regression of the original
    method is the identity on them; at most ``knots`` of them, evenly spaced, are kept.

    The map cannot cure complete overconfidence: probabilities that are all 0 or 1 carry no more information.

    Raises:
        DataError: no values, or one that is not a probability.
    """
    check_finite(probability, "probability")
    if probability.min() < 0 or probability.max() > 1:
        raise DataError("Probabilities lie between 0 and 1.")
    n = len(probability)
    fraction = np.arange(1, n + 1) / (n + 1)
    observed = fraction if n <= knots else np.linspace(fraction[0], fraction[-1], knots)
    expected = np.interp(observed, fraction, np.sort(probability))
    return IsotonicMap(expected=(0.0, *expected.tolist(), 1.0), observed=(0.0, *observed.tolist(), 1.0))


def calibrated_quantile(
    isotonic: IsotonicMap, std: Float64[ndarray, " n"], level: float
) -> Float64[ndarray, " n"]:
    """σ Φ⁻¹(R⁻¹(p)): what must be added to a prediction so that the label is below with probability p.

    Infinite where the map gives 0 or 1.

    Raises:
        DataError: not a probability.
    """
    return std * ndtri(isotonic.to_expected(level))


def calibrated_interval(
    isotonic: IsotonicMap, std: Float64[ndarray, " n"], level: float
) -> tuple[Float64[ndarray, " n"], Float64[ndarray, " n"]]:
    """Lower and upper end of the central interval of probability ``level``, to be added to the prediction.

    Raises:
        DataError: not a probability.
    """
    ends = ((1 - level) / 2, (1 + level) / 2)
    low, high = (calibrated_quantile(isotonic, std, p) for p in ends)
    return low, high


def calibrated_radius(isotonic: IsotonicMap, level: float, dim: int = 3) -> float:
    """Mahalanobis radius of the ellipsoid that holds vectors with probability ``level``.

    Raises:
        DataError: not a probability.
    """
    return float(np.sqrt(2 * gammaincinv(dim / 2, isotonic.to_expected(level))))
