import numpy as np
import pytest
from pydantic import ValidationError
from scipy.optimize import minimize

from atomml.errors import DataError
from atomml.uncertainty.calibration import (
    Scale,
    affine_scale,
    coverage_scale,
    crps_scale,
    fit_scale,
    group_scales,
    nll_scale,
    robust_scale,
    scaled_cov,
    scaled_std,
)
from atomml.uncertainty.metrics import (
    central_probability,
    energy_score,
    gaussian_crps,
    gaussian_nll,
    squared_calibration_error,
    vector_nll,
)
from tests.uncertainty.metrics.samples import rotated, scalars, vectors

METHODS = ["nll", "crps", "robust", "coverage", "affine"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factor", [0.3, 1.0, 40.0])
def test_a_common_factor_of_scalars_is_found(rng, method, factor):
    scale = fit_scale(*scalars(rng, 20_000, factor), method)
    assert np.isclose(scale.alpha, factor, rtol=0.03)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factor", [0.3, 1.0, 40.0])
def test_a_common_factor_of_vectors_is_found(rng, method, factor):
    scale = fit_scale(*vectors(rng, 5000, factor), method)
    assert np.isclose(scale.alpha, factor, rtol=0.04)


def test_closed_forms():
    error, std = np.array([1.0, -6.0]), np.array([1.0, 2.0])  # z = 1, −3
    assert np.isclose(nll_scale(error, std).alpha, np.sqrt(5))
    assert np.isclose(robust_scale(error, std).alpha, np.sqrt(np.pi / 2) * 2)
    vector = np.array([[1.0, 0, 0], [0, 2.0, 0], [0, 0, 9.0]])
    cov = np.tile(np.eye(3), (3, 1, 1))
    assert np.isclose(nll_scale(vector, cov).alpha, np.sqrt((1 + 4 + 81) / 9))
    assert np.isclose(robust_scale(vector, cov).alpha, np.sqrt(4 / 2.365974), rtol=1e-6)


@pytest.mark.parametrize("step", [0.98, 1.02])
@pytest.mark.parametrize(
    ("fit", "score"),
    [(nll_scale, gaussian_nll), (crps_scale, gaussian_crps)],
)
def test_scalar_optima_are_optima(rng, fit, score, step):
    error, std = scalars(rng, 500, 1.7)
    alpha = fit(error, std).alpha
    assert score(error, alpha * std).mean() < score(error, step * alpha * std).mean()


@pytest.mark.parametrize("step", [0.98, 1.02])
@pytest.mark.parametrize(("fit", "score"), [(nll_scale, vector_nll), (crps_scale, energy_score)])
def test_vector_optima_are_optima(rng, fit, score, step):
    error, cov = vectors(rng, 500, 1.7)
    alpha = fit(error, cov).alpha
    assert score(error, alpha**2 * cov).mean() < score(error, (step * alpha) ** 2 * cov).mean()


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_crps_scale_is_found_far_from_one(rng, factor):
    assert np.isclose(crps_scale(*scalars(rng, 5000, factor)).alpha, factor, rtol=0.05)
    assert np.isclose(crps_scale(*vectors(rng, 1000, factor)).alpha, factor, rtol=0.08)


def test_crps_scale_survives_one_huge_error(rng):
    error, std = scalars(rng, 1000)
    error[0] = 1e6 * std[0]
    assert np.isclose(crps_scale(error, std).alpha, 1, atol=0.15)
    assert np.isclose(robust_scale(*vectors(rng, 1000)).alpha, 1, atol=0.15)
    assert nll_scale(error, std).alpha > 1000


def test_affine_scale_finds_both_parameters(rng):
    std = scalars(rng, 50_000)[1]
    error = np.sqrt((1.5 * std) ** 2 + 0.03**2) * rng.normal(size=50_000)
    scale = affine_scale(error, std)
    assert np.isclose(scale.alpha, 1.5, rtol=0.03)
    assert np.isclose(scale.beta, 0.03, rtol=0.03)


def test_affine_scale_of_vectors_finds_both_parameters(rng):
    _, cov = vectors(rng, 20_000)
    error = np.einsum(
        "nij,nj->ni", np.linalg.cholesky(scaled_cov(cov, 0.5, 2.0)), rng.normal(size=(20_000, 3))
    )
    scale = affine_scale(error, cov)
    assert np.isclose(scale.alpha, 0.5, rtol=0.03)
    assert np.isclose(scale.beta, 2.0, rtol=0.03)


def test_affine_scale_is_the_optimum_of_a_general_optimiser(rng):
    std = scalars(rng, 400)[1]
    error = rng.standard_t(4, size=400) * np.hypot(2 * std, 0.05)
    scale = affine_scale(error, std)

    def cost(x):
        return gaussian_nll(error, scaled_std(std, *np.exp(x))).mean()

    best = minimize(cost, np.log([1.0, 0.1]), method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12})
    assert np.allclose([scale.alpha, scale.beta], np.exp(best.x), rtol=1e-3)


def test_affine_scale_is_plain_where_no_floor_helps(rng):
    std = scalars(rng, 5000)[1]
    error = std**1.5 * rng.normal(size=5000)  # small deviations are too large already
    scale = affine_scale(error, std)
    assert scale.beta == 0
    assert np.isclose(scale.alpha, nll_scale(error, std).alpha)
    assert affine_scale(error, np.full(5000, 0.2)).beta == 0


def test_affine_scale_of_deviations_that_say_nothing_is_constant(rng):
    std = scalars(rng, 5000)[1]
    error = rng.normal(size=5000) / std  # the larger the deviation, the smaller the error
    scale = affine_scale(error, std)
    assert scale.alpha == 0
    assert np.isclose(scale.beta, np.sqrt(np.mean(error**2)))
    assert affine_scale(error, np.zeros(5000)) == scale


def test_affine_scale_covers_members_that_agree(rng):
    error, cov = vectors(rng, 500)
    cov[:50] = 0
    scale = affine_scale(error, cov)
    assert scale.beta > 0
    assert np.isfinite(vector_nll(error, scaled_cov(cov, scale.alpha, scale.beta))).all()


def test_components_that_vanish_by_symmetry_do_not_decide(rng):
    std = scalars(rng, 2000)[1]
    error = np.hypot(std, 0.05) * rng.normal(size=2000)
    with_zeros = affine_scale(np.append(error, np.zeros(3000)), np.append(std, np.zeros(3000)))
    assert np.isclose(with_zeros.beta, affine_scale(error, std).beta, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_scales_do_not_change_under_rotation(rng, method):
    error, cov = vectors(rng, 400, 2.0)
    one, other = fit_scale(error, cov, method), fit_scale(*rotated(error, cov), method)
    assert np.allclose([one.alpha, one.beta], [other.alpha, other.beta], rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_scales_do_not_depend_on_the_unit(rng, method):
    error, std = scalars(rng, 400, 2.0)
    one, other = fit_scale(error, std, method), fit_scale(1e3 * error, 1e3 * std, method)
    assert np.isclose(one.alpha, other.alpha, rtol=1e-6)
    assert np.isclose(1e3 * one.beta, other.beta, rtol=1e-6)


def test_groups_get_their_own_scale_if_large_enough(rng):
    groups = np.repeat([3, 17, 35], [2000, 2000, 99])
    error, std = scalars(rng, 4099)
    error[groups == 17] *= 3
    scales = group_scales(error, std, groups, "nll")
    assert set(scales) == {3, 17}
    assert np.isclose(scales[3].alpha, 1, rtol=0.06)
    assert np.isclose(scales[17].alpha, 3, rtol=0.06)
    assert set(group_scales(error, std, groups, "nll", fewest=50)) == {3, 17, 35}


def test_scaling_applies_one_factor_or_one_each(rng):
    _, cov = vectors(rng, 4)
    a, b = np.array([1.0, 2, 3, 4]), np.array([0.0, 0, 1, 1])
    scaled = scaled_cov(cov, a, b)
    assert np.allclose(scaled[2], 9 * cov[2] + np.eye(3))
    assert np.allclose(scaled_cov(cov, 2.0, 0.5), 4 * cov + 0.25 * np.eye(3))
    assert np.allclose(scaled_std(np.full(4, 3.0), a, 4 * b), [3, 6, np.hypot(9, 4), np.hypot(12, 4)])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("error", "std"), [(np.nan, 1.0), (1.0, np.nan), (1.0, -1.0)])
def test_unusable_values_are_refused(method, error, std):
    with pytest.raises(DataError):
        fit_scale(np.array([1.0, error]), np.array([1.0, std]), method)
    with pytest.raises(DataError):
        fit_scale(np.full((2, 3), error), std * np.tile(np.eye(3), (2, 1, 1)), method)


@pytest.mark.parametrize("method", METHODS)
def test_errors_that_are_all_zero_are_refused(method):
    with pytest.raises(DataError, match="exactly zero"):
        fit_scale(np.zeros(5), np.ones(5), method)


@pytest.mark.parametrize("method", ["crps", "robust"])
@pytest.mark.parametrize("dim", [0, 3])
def test_mostly_exact_predictions_are_refused(rng, method, dim):
    error, spread = scalars(rng, 10) if dim == 0 else vectors(rng, 10)
    error[:7] = 0
    with pytest.raises(DataError, match="More than half"):
        fit_scale(error, spread, method)
    assert nll_scale(error, spread).alpha > 0


@pytest.mark.parametrize("method", METHODS)
def test_two_members_in_single_precision_do_not_make_a_covariance(rng, method):
    forces = rng.normal(size=(200, 2, 3)).astype(np.float32)
    forces -= forces.mean(axis=1, keepdims=True)
    cov = np.einsum("nki,nkj->nij", forces, forces).astype(np.float64)  # of rank one
    error = rng.normal(size=(200, 3))
    if method == "affine":
        scale = affine_scale(error, cov)
        assert np.isfinite(vector_nll(error, scaled_cov(cov, scale.alpha, scale.beta))).all()
    else:
        with pytest.raises(DataError, match="zero or negative"):
            fit_scale(error, cov, method)


@pytest.mark.parametrize("method", ["nll", "crps", "robust", "affine"])
def test_one_value_gives_its_own_ratio(method):
    scale = fit_scale(np.array([3.0]), np.array([2.0]), method)
    given = scaled_std(np.array([2.0]), scale.alpha, scale.beta)[0]
    wanted = {"robust": 3 * np.sqrt(np.pi / 2), "crps": 3 / np.sqrt(np.log(2))}.get(method, 3.0)
    assert np.isclose(given, wanted, rtol=1e-6)


@pytest.mark.parametrize("method", ["nll", "crps", "robust"])
def test_zero_deviations_need_the_affine_method(method):
    with pytest.raises(DataError, match="affine"):
        fit_scale(np.ones(3), np.array([1.0, 0.0, 1.0]), method)


@pytest.mark.parametrize(
    "values", [{"alpha": -1}, {"alpha": np.nan}, {"alpha": 0, "beta": 0}, {"beta": np.inf}]
)
def test_a_scale_leaves_a_deviation(values):
    with pytest.raises(ValidationError):
        Scale(**values)


def test_the_scale_by_coverage_has_the_least_calibration_error():
    rng = np.random.default_rng(3)
    std = rng.uniform(0.5, 2.0, 4000)
    error = std * rng.standard_t(3, 4000)
    alpha = coverage_scale(error, std).alpha

    def measured(factor):
        return squared_calibration_error(central_probability(error, factor * std))

    assert measured(alpha) < 1e-3 < measured(nll_scale(error, std).alpha)
    assert measured(alpha) <= min(measured(alpha * factor) for factor in (0.9, 0.97, 1.03, 1.1))


def test_the_scale_by_coverage_recovers_that_of_gaussian_vectors():
    error, cov = vectors(np.random.default_rng(4), 4000)
    assert np.isclose(coverage_scale(3 * error, cov).alpha, 3, rtol=0.05)
