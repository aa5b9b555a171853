import numpy as np
import pytest
from scipy.stats import spearmanr

from atomml.errors import DataError
from atomml.uncertainty.metrics import (
    binned_deviations,
    dispersion,
    expected_normalized_error,
    gaussian_nll,
    log_log_slope,
    relative_log_likelihood,
    sharpness,
    spearman,
    vector_magnitudes,
)
from tests.uncertainty.metrics.samples import scalars, vectors


def test_sharpness_is_that_of_the_toolbox(rng):
    uct = pytest.importorskip("uncertainty_toolbox", reason="uncertainty-toolbox is not installed")
    std = scalars(rng)[1]
    assert np.isclose(sharpness(std), uct.sharpness(std))


def test_dispersion_is_the_coefficient_of_variation():
    assert np.isclose(dispersion(np.array([1.0, 3.0])), np.sqrt(2) / 2)
    assert dispersion(np.ones(5)) == 0.0
    assert np.isnan(dispersion(np.ones(1)))


def test_bins_hold_equally_many_values_in_ascending_order():
    std = np.repeat([3.0, 1.0, 2.0], 10)
    deviation, rmse = binned_deviations(2 * std, std)
    assert np.allclose(deviation, [1, 2, 3])
    assert np.allclose(rmse, [2, 4, 6])


@pytest.mark.parametrize(("n", "bins"), [(5, 1), (39, 3), (1000, 20)])
def test_few_values_get_few_bins(rng, n, bins):
    assert len(binned_deviations(*scalars(rng, n))[0]) == bins


@pytest.mark.parametrize("factor", [0.5, 1.5, 2.0])
def test_normalized_error_is_the_relative_lack_of_the_deviation(factor):
    std = np.linspace(1, 2, 100)
    assert np.isclose(expected_normalized_error(factor * std, std), abs(1 - factor))


def test_normalized_error_of_right_deviations_is_what_chance_gives(rng):
    n = 4000
    errors = [expected_normalized_error(*scalars(rng, n)) for _ in range(20)]
    assert np.isclose(np.mean(errors), np.sqrt(20 / (np.pi * n)), rtol=0.2)


@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0, 2.0])
def test_slope_is_the_power_of_the_errors(rng, slope):
    std = scalars(rng, 20_000)[1]
    assert np.isclose(log_log_slope(std**slope * rng.normal(size=20_000), std), slope, atol=0.05)


def test_rank_correlation_is_that_of_scipy(rng):
    error, std = scalars(rng, 300)
    std = np.round(std, 2)  # ties
    assert np.isclose(spearman(error, std), spearmanr(np.abs(error), std).statistic)


def test_equal_deviations_leave_ranks_and_slopes_undefined(rng):
    error, std = rng.normal(size=100), np.ones(100)
    assert np.isnan(spearman(error, std))
    assert np.isnan(log_log_slope(error, std))


def test_relative_likelihood_is_zero_for_a_constant_and_one_for_the_errors_themselves(rng):
    error = rng.normal(size=500)
    rmse = np.full(500, np.sqrt(np.mean(error**2)))
    assert np.isclose(relative_log_likelihood(error, rmse), 0.0, atol=1e-12)
    assert np.isclose(relative_log_likelihood(error, np.abs(error)), 1.0)
    assert relative_log_likelihood(error, 5 * rmse) < 0


def test_relative_likelihood_compares_likelihoods(rng):
    error, std = scalars(rng, 300)
    rmse = np.full(300, np.sqrt(np.mean(error**2)))
    given, constant, best = (gaussian_nll(error, s).mean() for s in (std, rmse, np.abs(error)))
    assert np.isclose(relative_log_likelihood(error, std), (given - constant) / (best - constant))
    error[0] = 0.0
    assert np.isnan(relative_log_likelihood(error, std))


def test_magnitudes_keep_the_rms_of_the_components(rng):
    error, cov = vectors(rng, 50)
    magnitude, std = vector_magnitudes(error, cov)
    assert np.isclose(np.mean(magnitude**2), np.mean(error**2))
    assert np.isclose(np.mean(std**2), np.mean(np.diagonal(cov, axis1=1, axis2=2)))


@pytest.mark.parametrize(
    "measure",
    [binned_deviations, expected_normalized_error, log_log_slope, spearman, relative_log_likelihood],
)
def test_unusable_values_are_refused(measure):
    with pytest.raises(DataError, match="std"):
        measure(np.ones(3), np.array([1.0, 0.0, 1.0]))
    with pytest.raises(DataError, match="error holds"):
        measure(np.array([1.0, np.nan]), np.ones(2))
