import numpy as np
import pytest

from atomml.errors import DataError
from atomml.uncertainty.calibration import (
    conformal_quantile,
    conformal_scores,
    fewest_values,
    group_quantiles,
)
from tests.uncertainty.metrics.samples import rotated, scalars, vectors


@pytest.mark.parametrize(("level", "wanted"), [(0.5, 5.0), (0.68, 7.0), (0.9, 9.0), (0.95, np.inf)])
def test_quantile_is_the_value_of_its_rank(rng, level, wanted):
    assert conformal_quantile(rng.permutation(np.arange(1.0, 10.0)), level) == wanted  # n = 9


def test_ranks_survive_binary_fractions():
    assert conformal_quantile(np.arange(1.0, 100.0), 0.07) == 7.0


@pytest.mark.parametrize("level", [0.5, 0.68, 0.9, 0.95, 0.99])
def test_fewest_values_are_the_fewest(level):
    n = fewest_values(level)
    assert np.isfinite(conformal_quantile(np.ones(n), level))
    assert n == 1 or np.isinf(conformal_quantile(np.ones(n - 1), level))
    assert fewest_values(0.95) == 19


@pytest.mark.parametrize("n", [20, 57])
@pytest.mark.parametrize("level", [0.5, 0.9])
def test_coverage_is_guaranteed_for_any_distribution(rng, n, level):
    held = []
    for _ in range(4000):
        score = np.abs(rng.standard_t(1.5, size=n + 1))  # heavy tails, not Gaussian at all
        held.append(score[-1] <= conformal_quantile(score[:-1], level))
    error = np.sqrt(0.25 / 4000)
    assert level - 3 * error <= np.mean(held) <= level + 1 / (n + 1) + 3 * error


def test_groups_are_covered_one_by_one(rng):
    groups = np.repeat([1, 8], 2000)
    score = np.abs(rng.normal(size=4000)) * np.where(groups == 8, 5.0, 1.0)
    new = np.abs(rng.normal(size=4000)) * np.where(groups == 8, 5.0, 1.0)
    q = group_quantiles(score, groups, 0.9)
    common = conformal_quantile(score, 0.9)
    for z in (1, 8):
        assert np.isclose(np.mean(new[groups == z] <= q[z]), 0.9, atol=0.02)
        assert abs(np.mean(new[groups == z] <= common) - 0.9) > 0.05


def test_small_groups_get_infinity():
    q = group_quantiles(np.arange(30.0), np.repeat([1, 2], [25, 5]), 0.95)
    assert np.isfinite(q[1])
    assert np.isinf(q[2])


def test_scores_of_vectors_are_distances_that_no_rotation_changes(rng):
    error, cov = vectors(rng, 50)
    distance = np.sqrt(np.einsum("ni,nij,nj->n", error, np.linalg.inv(cov), error))
    assert np.allclose(conformal_scores(error, cov), distance)
    assert np.allclose(conformal_scores(*rotated(error, cov)), distance)


def test_scores_of_scalars_are_relative_errors(rng):
    error, std = scalars(rng, 50)
    assert np.allclose(conformal_scores(error, std), np.abs(error) / std)


@pytest.mark.parametrize("level", [0.0, 1.0, -1.0])
def test_impossible_levels_are_refused(level):
    with pytest.raises(DataError, match="between 0 and 1"):
        conformal_quantile(np.ones(3), level)
    with pytest.raises(DataError, match="between 0 and 1"):
        fewest_values(level)


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [1.0, np.inf]])
def test_unusable_scores_are_refused(values):
    with pytest.raises(DataError, match="score"):
        conformal_quantile(np.array(values), 0.5)
