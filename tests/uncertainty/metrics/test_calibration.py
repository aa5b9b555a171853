import numpy as np
import pytest
from scipy.stats import chi2, kstest, norm

from atomml.errors import DataError
from atomml.uncertainty.metrics import (
    absolute_calibration_error,
    central_probability,
    coverage,
    ellipsoid_probability,
    miscalibration_area,
    observed_fractions,
    pit,
    root_calibration_error,
    squared_calibration_error,
)
from tests.uncertainty.metrics.samples import rotated, scalars, vectors


def test_probabilities_of_scalars_are_those_of_scipy(rng):
    error, std = scalars(rng)
    assert np.allclose(pit(error, std), norm(scale=std).cdf(error))
    assert np.allclose(central_probability(error, std), 2 * norm.cdf(np.abs(error / std)) - 1)


def test_probability_of_vectors_is_chi_square_of_the_distance(rng):
    error, cov = vectors(rng, 100)
    distance = np.einsum("ni,nij,nj->n", error, np.linalg.inv(cov), error)
    assert np.allclose(ellipsoid_probability(error, cov), chi2(3).cdf(distance))


@pytest.mark.parametrize("kind", ["pit", "central", "ellipsoid"])
def test_right_deviations_give_uniform_probabilities(rng, kind):
    if kind == "ellipsoid":
        p = ellipsoid_probability(*vectors(rng))
    else:
        p = (pit if kind == "pit" else central_probability)(*scalars(rng))
    assert kstest(p, "uniform").pvalue > 0.01


def test_probability_of_vectors_does_not_change_under_rotation(rng):
    error, cov = vectors(rng, 500)
    assert np.allclose(ellipsoid_probability(error, cov), ellipsoid_probability(*rotated(error, cov)))


@pytest.mark.parametrize("kind", ["scalars", "vectors"])
def test_right_deviations_have_a_calibration_error_of_one_over_six_n(rng, kind):
    n, errors = 400, []
    for _ in range(100):
        p = (
            central_probability(*scalars(rng, n))
            if kind == "scalars"
            else ellipsoid_probability(*vectors(rng, n))
        )
        errors.append(squared_calibration_error(p))
    assert np.isclose(np.mean(errors), 1 / (6 * n), rtol=0.4)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_complete_miscalibration_is_one_third(probability):
    p = np.full(100, probability)
    assert np.isclose(squared_calibration_error(p), 1 / 3, atol=3e-4)
    assert np.isclose(root_calibration_error(p), np.sqrt(1 / 3), atol=3e-4)
    assert np.isclose(absolute_calibration_error(p), 0.5)
    assert np.isclose(miscalibration_area(p), 0.5)


def test_calibration_errors_of_four_values_by_hand():
    p = np.array([0.1, 0.2, 0.3, 0.9])
    levels = np.array([0.25, 0.5, 0.75])
    assert observed_fractions(p, levels).tolist() == [0.5, 0.75, 0.75]
    assert np.isclose(squared_calibration_error(p, levels), (0.25**2 + 0.25**2) / 3)
    assert np.isclose(absolute_calibration_error(p, levels), 0.5 / 3)
    assert np.isclose(root_calibration_error(p, levels), np.sqrt(0.125 / 3))
    assert coverage(p, 0.9) == 1.0
    assert coverage(p, 0.89) == 0.75


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.7])
def test_calibration_errors_are_those_of_the_toolbox(rng, factor):
    uct = pytest.importorskip("uncertainty_toolbox", reason="uncertainty-toolbox is not installed")
    error, std = scalars(rng, 2000, factor)
    p, levels = central_probability(error, std), np.linspace(0, 1, 100)
    given = (np.zeros_like(error), std, error)
    kind = {"num_bins": 100, "prop_type": "interval"}
    assert np.isclose(
        root_calibration_error(p, levels), uct.root_mean_squared_calibration_error(*given, **kind), atol=1e-3
    )
    assert np.isclose(
        absolute_calibration_error(p, levels), uct.mean_absolute_calibration_error(*given, **kind), atol=1e-3
    )
    assert np.isclose(miscalibration_area(p), uct.miscalibration_area(*given, num_bins=500), atol=5e-3)


def test_miscalibration_area_is_the_integral(rng):
    p = rng.beta(0.6, 1.4, size=37)
    grid = (np.arange(200_000) + 0.5) / 200_000
    assert np.isclose(miscalibration_area(p), np.abs(grid - observed_fractions(p, grid)).mean(), atol=1e-5)


def test_coverage_of_right_deviations_is_the_level(rng):
    p = ellipsoid_probability(*vectors(rng, 20_000))
    assert np.isclose(coverage(p, 0.68), 0.68, atol=0.01)
    assert np.isclose(coverage(p, 0.95), 0.95, atol=0.006)


@pytest.mark.parametrize("measure", [squared_calibration_error, miscalibration_area])
@pytest.mark.parametrize("values", [[], [0.5, np.nan]])
def test_unusable_probabilities_are_refused(measure, values):
    with pytest.raises(DataError, match="probability"):
        measure(np.array(values, dtype=float))
