import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from atomml.errors import DataError
from atomml.uncertainty.metrics import (
    energy_score,
    gaussian_crps,
    gaussian_nll,
    interval_score,
    vector_nll,
)
from tests.uncertainty.metrics.samples import rotated, scalars, vectors


def test_scalar_likelihood_is_that_of_scipy(rng):
    error, std = scalars(rng)
    assert np.allclose(gaussian_nll(error, std), -norm(scale=std).logpdf(error), rtol=1e-12)


def test_vector_likelihood_is_that_of_scipy(rng):
    error, cov = vectors(rng, 50)
    wanted = [-multivariate_normal(cov=c).logpdf(e) for e, c in zip(error, cov, strict=True)]
    assert np.allclose(vector_nll(error, cov), wanted)


def test_crps_is_that_of_the_oracles(rng):
    error, std = scalars(rng)
    sr = pytest.importorskip("scoringrules", reason="scoringrules is not installed")
    uct = pytest.importorskip("uncertainty_toolbox", reason="uncertainty-toolbox is not installed")
    assert np.allclose(gaussian_crps(error, std), sr.crps_normal(error, 0.0, std))
    zero = np.zeros_like(error)
    assert np.isclose(gaussian_crps(error, std).mean(), uct.crps_gaussian(zero, std, error))


def test_crps_of_an_exact_prediction_has_its_closed_form():
    value = gaussian_crps(np.zeros(1), np.ones(1))[0]
    assert np.isclose(value, (np.sqrt(2) - 1) / np.sqrt(np.pi))


@pytest.mark.parametrize("level", [0.1, 0.68, 0.95])
def test_interval_score_is_that_of_the_oracle(rng, level):
    sr = pytest.importorskip("scoringrules", reason="scoringrules is not installed")
    error, std = scalars(rng)
    half = norm.ppf((1 + level) / 2) * std
    assert np.allclose(interval_score(error, std, level), sr.interval_score(error, -half, half, 1 - level))


def test_mean_interval_score_over_levels_is_that_of_the_toolbox(rng):
    uct = pytest.importorskip("uncertainty_toolbox", reason="uncertainty-toolbox is not installed")
    error, std = scalars(rng)
    ours = np.mean([interval_score(error, std, p).mean() for p in np.linspace(0.01, 0.99, 99)])
    assert np.isclose(ours, uct.interval_score(np.zeros_like(error), std, error))


def test_energy_score_of_one_component_is_the_crps(rng):
    error, std = scalars(rng)
    score = energy_score(error[:, None], std[:, None, None] ** 2)
    assert np.allclose(score, gaussian_crps(error, std), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("sigma", [1e-3, 1.0, 50.0])
def test_energy_score_of_an_exact_isotropic_prediction_has_its_closed_form(sigma):
    score = energy_score(np.zeros((1, 3)), sigma**2 * np.eye(3)[None])[0]
    mean_length = 2 * np.sqrt(2 / np.pi) * sigma  # E|X| of the Maxwell distribution
    assert np.isclose(score, (1 - np.sqrt(2) / 2) * mean_length, rtol=1e-6)


def test_energy_score_is_that_of_many_samples(rng):
    error, cov = vectors(rng, 5)
    sr = pytest.importorskip("scoringrules", reason="scoringrules is not installed")
    members = np.einsum("nij,knj->nki", np.linalg.cholesky(cov), rng.normal(size=(2000, 5, 3)))
    assert np.allclose(energy_score(error, cov), sr.es_ensemble(error, members), rtol=0.05)


def test_energy_score_of_a_point_prediction_is_the_distance():
    error = np.array([[1.0, 2.0, -2.0]])
    assert np.isclose(energy_score(error, 1e-12 * np.eye(3)[None])[0], 3.0, atol=1e-5)


@pytest.mark.parametrize("score", [vector_nll, energy_score])
def test_scores_of_vectors_do_not_change_under_rotation(rng, score):
    error, cov = vectors(rng, 200)
    assert np.allclose(score(error, cov), score(*rotated(error, cov)), rtol=1e-8)


@pytest.mark.parametrize("score", [gaussian_nll, gaussian_crps, interval_score])
@pytest.mark.parametrize("factor", [0.5, 0.8, 1.25, 2.0])
def test_scores_of_scalars_are_least_for_the_true_deviation(rng, score, factor):
    error, std = scalars(rng, 20_000)
    assert score(error, std).mean() < score(error, factor * std).mean()


@pytest.mark.parametrize("score", [vector_nll, energy_score])
@pytest.mark.parametrize("factor", [0.5, 0.8, 1.25, 2.0])
def test_scores_of_vectors_are_least_for_the_true_covariance(rng, score, factor):
    error, cov = vectors(rng, 20_000)
    assert score(error, cov).mean() < score(error, factor**2 * cov).mean()


@pytest.mark.parametrize(
    ("error", "std", "says"),
    [
        ([0.1, np.nan], [1.0, 1.0], "error holds 1 values that are NaN"),
        ([0.1, np.inf], [1.0, 1.0], "error holds 1 values"),
        ([0.1, 0.2], [1.0, np.nan], "std holds 1 values"),
        ([0.1, 0.2], [1.0, 0.0], "zero or negative"),
        ([0.1, 0.2], [-1.0, 1.0], r"std\[0\]: -1"),
        ([], [], "no values of error"),
    ],
)
@pytest.mark.parametrize("score", [gaussian_nll, gaussian_crps, interval_score])
def test_unusable_scalars_are_named(score, error, std, says):
    with pytest.raises(DataError, match=says):
        score(np.array(error, dtype=float), np.array(std, dtype=float))


BAD = {
    "not symmetric": np.array([[1.0, 0.5, 0], [0, 1, 0], [0, 0, 1]]),
    "zero or negative": np.diag([1.0, 1.0, -1e-3]),
    r"cov\[1\]": np.diag([1.0, 1.0, 0.0]),
    r"cov\[1, 0, 0\] = nan": np.diag([np.nan, 1.0, 1.0]),
}


@pytest.mark.parametrize("says", BAD)
@pytest.mark.parametrize("score", [vector_nll, energy_score])
def test_unusable_covariances_are_named(score, says):
    with pytest.raises(DataError, match=says):
        score(np.ones((2, 3)), np.stack([np.eye(3), BAD[says]]))


@pytest.mark.parametrize("level", [0.0, 1.0, 2.0])
def test_impossible_levels_are_refused(level):
    with pytest.raises(DataError, match="between 0 and 1"):
        interval_score(np.ones(2), np.ones(2), level)
