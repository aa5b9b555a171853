import numpy as np
import pytest
from pydantic import ValidationError
from scipy.optimize import isotonic_regression
from scipy.stats import chi2, norm

from atomml.errors import DataError
from atomml.uncertainty.calibration import (
    IsotonicMap,
    calibrated_interval,
    calibrated_quantile,
    calibrated_radius,
    fit_isotonic,
)
from atomml.uncertainty.metrics import ellipsoid_probability, pit, squared_calibration_error
from tests.uncertainty.metrics.samples import scalars, vectors


@pytest.mark.parametrize("factor", [0.4, 2.5])
def test_calibrated_probabilities_of_others_are_uniform(rng, factor):
    isotonic = fit_isotonic(pit(*scalars(rng, 5000, factor)))
    p = pit(*scalars(rng, 5000, factor))
    assert squared_calibration_error(p) > 0.01
    assert squared_calibration_error(isotonic.to_observed(p)) < 3e-4


@pytest.mark.parametrize("level", [0.05, 0.5, 0.9])
def test_biased_skewed_errors_get_the_right_quantiles(rng, level):
    def skewed(n):
        std = scalars(rng, n)[1]
        return std * (rng.gamma(2.0, size=n) - 1.0), std

    isotonic = fit_isotonic(pit(*skewed(20_000)))
    error, std = skewed(20_000)
    assert np.isclose(np.mean(error <= calibrated_quantile(isotonic, std, level)), level, atol=0.012)
    assert abs(np.mean(error <= std * norm.ppf(level)) - level) > 0.02  # as the Gaussian says
    low, high = calibrated_interval(isotonic, std, level)
    assert np.isclose(np.mean((low <= error) & (error <= high)), level, atol=0.015)


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_ellipsoids_hold_their_fraction_of_vectors(rng, level):
    isotonic = fit_isotonic(ellipsoid_probability(*vectors(rng, 10_000, 1.6)))
    p = ellipsoid_probability(*vectors(rng, 10_000, 1.6))
    inside = np.mean(p <= chi2(3).cdf(calibrated_radius(isotonic, level) ** 2))
    assert np.isclose(inside, level, atol=0.015)


def test_right_deviations_give_the_identity(rng):
    isotonic = fit_isotonic(pit(*scalars(rng, 50_000)))
    assert np.allclose(isotonic.to_observed(np.linspace(0, 1, 50)), np.linspace(0, 1, 50), atol=0.015)


@pytest.mark.parametrize("n", [1, 5, 101, 102, 5000])
def test_knots_are_few_and_ascend(rng, n):
    isotonic = fit_isotonic(rng.uniform(size=n))
    assert len(isotonic.expected) == min(n, 101) + 2
    assert np.all(np.diff(isotonic.expected) >= 0)
    assert np.all(np.diff(isotonic.observed) > 0)


def test_isotonic_regression_of_the_fractions_changes_nothing(rng):
    p = np.sort(rng.beta(2, 3, size=60))
    isotonic = fit_isotonic(p)
    fraction = np.searchsorted(p, p, side="right") / 61
    assert np.allclose(isotonic.to_observed(p), isotonic_regression(fraction).x)


def test_both_directions_are_inverse(rng):
    isotonic = fit_isotonic(rng.beta(2, 3, size=60))
    for p in (0.0, 0.1, 0.77, 1.0):
        assert np.isclose(isotonic.to_observed(np.array([isotonic.to_expected(p)]))[0], p)


def test_complete_overconfidence_asks_for_an_infinite_interval():
    isotonic = fit_isotonic(np.repeat([0.0, 1.0], 30))
    low, high = calibrated_interval(isotonic, np.ones(1), 0.9)
    assert (low[0], high[0]) == (-np.inf, np.inf)


@pytest.mark.parametrize("values", [[], [0.5, np.nan], [-0.1, 0.5], [0.5, 1.1]])
def test_unusable_probabilities_are_refused(values):
    with pytest.raises(DataError):
        fit_isotonic(np.array(values, dtype=float))


def test_impossible_levels_are_refused():
    with pytest.raises(DataError, match="between 0 and 1"):
        fit_isotonic(np.array([0.5])).to_expected(1.5)


@pytest.mark.parametrize(
    ("expected", "observed"),
    [
        ([0, 1], [0, 0.5, 1]),
        ([0], [0]),
        ([0, 0.6, 0.5, 1], [0, 0.1, 0.2, 1]),
        ([0, 0.5, 1], [0, 0.0, 1]),
        ([0.1, 1], [0, 1]),
        ([0, 2], [0, 1]),
    ],
)
def test_maps_that_are_not_monotone_are_refused(expected, observed):
    with pytest.raises(ValidationError):
        IsotonicMap(expected=tuple(expected), observed=tuple(observed))
