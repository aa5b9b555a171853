import math

import numpy as np
import pytest
import scipy.stats
import torch
from e3nn import o3
from torch.distributions import MultivariateNormal

from atomml.nn.covariance import exponential_noise, traceless_basis
from atomml.uncertainty.likelihood import (
    energy_nll,
    force_nll,
    stress_nll,
    stress_parts,
    tempered,
    voigt_var,
)


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def draw_noise(n=8):
    return exponential_noise(draw(n, seed=1), draw(n, 5, seed=2))


def symmetric(n=8, seed=0):
    x = draw(n, 3, 3, seed=seed)
    return x + x.transpose(1, 2)


def energy_case(d, **options):
    return energy_nll(d[:, 0, 0], draw(8, seed=1).exp(), **options)


def forces_case(d, **options):
    noise = draw_noise()
    return force_nll(d[:, 0], noise.precision, noise.log_det, **options)


def stress_case(d, **options):
    return stress_nll(d, draw(8, 2, seed=1).exp(), **options)


CASES = pytest.mark.parametrize("case", [energy_case, forces_case, stress_case])


def test_energies_have_the_density_of_a_normal_distribution():
    d, var = draw(8), draw(8, seed=1).exp()
    expected = -scipy.stats.norm(scale=var.sqrt().numpy()).logpdf(d.numpy())
    np.testing.assert_allclose(energy_nll(d, var, constant=True), expected, rtol=1e-12)
    np.testing.assert_allclose(energy_nll(d, var), expected - 0.5 * math.log(2 * math.pi), rtol=1e-10)


def test_forces_have_the_density_of_a_multivariate_normal_distribution():
    d, noise = draw(8, 3), draw_noise()
    expected = -MultivariateNormal(torch.zeros(3, dtype=torch.float64), noise.covariance).log_prob(d)
    torch.testing.assert_close(force_nll(d, noise.precision, noise.log_det, constant=True), expected)
    bare = force_nll(d, noise.precision, noise.log_det)
    torch.testing.assert_close(bare, expected - 1.5 * math.log(2 * math.pi))


def test_stress_has_the_density_of_its_mandel_vector():
    d, var = symmetric(), draw(8, 2, seed=1).exp()
    i, j = [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]
    factor = torch.tensor([1, 1, 1, math.sqrt(2), math.sqrt(2), math.sqrt(2)], dtype=torch.float64)
    one = torch.cat([torch.ones(3), torch.zeros(3)]).double() / math.sqrt(3)
    hydrostatic = torch.outer(one, one)
    covariance = var[:, :1, None] * hydrostatic + var[:, 1:, None] * (torch.eye(6).double() - hydrostatic)
    expected = -MultivariateNormal(torch.zeros(6).double(), covariance).log_prob(d[:, i, j] * factor)
    torch.testing.assert_close(stress_nll(d, var, constant=True), expected)
    torch.testing.assert_close(voigt_var(var), covariance.diagonal(dim1=1, dim2=2) / factor**2)


def test_parts_of_the_stress_are_orthonormal_and_complete():
    stress = symmetric()
    hydrostatic, deviatoric = stress_parts(stress)
    basis = torch.cat([torch.eye(3)[None].double() / math.sqrt(3), torch.tensor(traceless_basis())])
    parts = torch.cat([hydrostatic[:, None], deviatoric], 1)
    torch.testing.assert_close(torch.einsum("bm,mij->bij", parts, basis), stress)
    torch.testing.assert_close(parts.square().sum(1), stress.square().sum((1, 2)))


def test_likelihood_of_the_stress_does_not_depend_on_the_orientation():
    torch.manual_seed(3)
    rotation = o3.rand_matrix(dtype=torch.float64)
    d, var = symmetric(), draw(8, 2, seed=1).exp()
    turned = rotation @ d @ rotation.T
    torch.testing.assert_close(stress_nll(turned, var), stress_nll(d, var), rtol=1e-12, atol=1e-12)
    components = stress_parts(turned)[1] - stress_parts(d)[1]
    assert components.abs().max() > 0.1


def fitted(loss, n):
    """The n numbers that minimise a loss."""
    x = torch.zeros(n, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [x], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        value = loss(x)
        value.backward()
        return value

    for _ in range(3):
        optimizer.step(closure)
    return x.detach()


def fitted_covariance(d, weight=1.0, lambda_=1.0):
    def noise(x):
        return exponential_noise(x[:1], x[None, 1:])

    def loss(x):
        fit = noise(x)
        n = len(d)
        nll = force_nll(d, fit.precision.expand(n, 3, 3), fit.log_det.expand(n), lambda_=lambda_)
        return weight * nll.mean()

    return noise(fitted(loss, 6))


@pytest.mark.parametrize("weight", [0.1, 1.0, 30.0])
def test_weights_do_not_move_the_best_covariance(weight):
    d = draw(500, 3) @ torch.diag(torch.tensor([0.1, 0.3, 1.0], dtype=torch.float64))
    torch.testing.assert_close(
        fitted_covariance(d, weight).covariance[0], d.T @ d / 500, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("lambda_", [0.1, 100.0])
def test_a_factor_of_the_quadratic_part_scales_the_best_covariance(lambda_):
    d = draw(500, 3)
    exact, fit = fitted_covariance(d), fitted_covariance(d, lambda_=lambda_)
    torch.testing.assert_close(fit.covariance, lambda_ * exact.covariance, rtol=1e-4, atol=1e-5 * lambda_)


def test_a_factor_of_the_quadratic_part_scales_the_best_variances_of_energy_and_stress():
    d, stress = draw(500), symmetric(500)
    var = fitted(lambda x: energy_nll(d, x.exp().expand(500), lambda_=7.0).mean(), 1).exp()
    torch.testing.assert_close(var, 7 * d.square().mean().expand(1), rtol=1e-5, atol=0)
    pair = fitted(lambda x: stress_nll(stress, x.exp().expand(500, 2), lambda_=3.0).mean(), 2).exp()
    h, q = stress_parts(stress)
    torch.testing.assert_close(
        pair, 3 * torch.stack([h.square().mean(), q.square().mean()]), rtol=1e-5, atol=0
    )


def test_tempered_is_the_likelihood_for_a_factor_of_one():
    quadratic, log_det = draw(4).exp(), draw(4, seed=1)
    torch.testing.assert_close(tempered(quadratic, log_det, 1.0), (quadratic + log_det) / 2)
    scaled = tempered(quadratic, log_det, 5.0) - (quadratic / (1 / 5) + (log_det - 3 * math.log(5))) / 2
    torch.testing.assert_close(scaled, torch.full((4,), 1.5 * math.log(5)).double())


def test_with_beta_one_the_mean_learns_as_from_squared_errors():
    d = draw(8, seed=4).requires_grad_()
    var = draw(8, seed=1).exp()
    (gradient,) = torch.autograd.grad(energy_nll(d, var, beta=1.0).sum(), d)
    torch.testing.assert_close(gradient, d.detach() / var.mean())
    f, log_var = draw(8, 3).requires_grad_(), draw(8, seed=1)
    noise = exponential_noise(log_var, torch.zeros(8, 5, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(force_nll(f, noise.precision, noise.log_det, beta=1.0).sum(), f)
    torch.testing.assert_close(gradient, f.detach() / log_var.exp().mean())


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_beta_weights_each_bracket_by_its_mean_variance_relative_to_the_others(beta):
    d, noise, mask = draw(8, 3), draw_noise(), torch.arange(8) % 3 > 0
    mean_var = noise.covariance.diagonal(dim1=1, dim2=2).mean(1) ** beta
    plain = force_nll(d, noise.precision, noise.log_det)
    weighted = force_nll(d, noise.precision, noise.log_det, beta=beta, mask=mask)
    torch.testing.assert_close(weighted[mask], (plain * mean_var / mean_var[mask].mean())[mask])
    stress, var = symmetric(), draw(8, 2, seed=1).exp()
    mean_var = (var @ torch.tensor([1 / 6, 5 / 6], dtype=torch.float64)) ** beta
    torch.testing.assert_close(
        stress_nll(stress, var, beta=beta), stress_nll(stress, var) * mean_var / mean_var.mean()
    )


def test_beta_weights_carry_no_gradient():
    d = draw(3)
    var = draw(3, seed=1).exp().requires_grad_()
    (gradient,) = torch.autograd.grad(energy_nll(d, var, beta=0.5).sum(), var)
    v = var.detach()
    weight = v.sqrt() / v.sqrt().mean()
    torch.testing.assert_close(gradient, weight * (1 / v - d.square() / v.square()) / 2)


@CASES
def test_a_detached_residual_gets_no_gradient_but_the_value_is_the_same(case):
    d = symmetric().requires_grad_()
    torch.testing.assert_close(case(d, detach=True), case(d))
    assert not case(d, detach=True).requires_grad
    assert case(d).requires_grad


def test_with_a_detached_residual_the_variance_still_learns():
    d, var = draw(3).requires_grad_(), draw(3, seed=1).exp().requires_grad_()
    kept, gone = torch.autograd.grad(energy_nll(d, var, detach=True).sum(), (var, d), allow_unused=True)
    assert kept.any()
    assert gone is None


@CASES
@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_masked_values_are_zero_without_gradient_whatever_they_are(case, beta):
    mask = torch.arange(8) % 2 == 0
    d = torch.where(mask[:, None, None], symmetric(), torch.nan).requires_grad_()
    value = case(d, mask=mask, beta=beta, constant=True)
    (gradient,) = torch.autograd.grad(value.sum(), d)
    assert not value[~mask].any()
    assert value[mask].isfinite().all()
    assert value[mask].any()
    assert not gradient[~mask].any()
    assert gradient[mask].isfinite().all()


@CASES
@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_without_any_label_value_and_gradient_are_zero(case, beta):
    d = torch.full((8, 3, 3), torch.nan, dtype=torch.float64).requires_grad_()
    value = case(d, mask=torch.zeros(8, dtype=torch.bool), beta=beta)
    (gradient,) = torch.autograd.grad(value.sum(), d)
    assert not value.any()
    assert not gradient.any()


@CASES
def test_an_absent_label_without_a_mask_stays_visible(case):
    d = symmetric()
    d[3] = torch.nan
    assert case(d).isnan().nonzero().flatten().tolist() == [3]


def test_masked_covariances_get_no_gradient():
    mask = torch.tensor([True, False])
    s, t = draw(2).requires_grad_(), draw(2, 5, seed=1).requires_grad_()
    noise = exponential_noise(s, t)
    value = force_nll(draw(2, 3), noise.precision, noise.log_det, mask=mask)
    for gradient in torch.autograd.grad(value.sum(), (s, t)):
        assert gradient[0].any()
        assert not gradient[1].any()


def test_derivatives_are_right():
    s, t = draw(4).requires_grad_(), draw(4, 5, seed=1).requires_grad_()
    d, var = draw(4, 3, seed=2).requires_grad_(), draw(4, 2).exp().requires_grad_()

    def forces(d, s, t):
        noise = exponential_noise(s, t)
        return force_nll(d, noise.precision, noise.log_det)

    assert torch.autograd.gradcheck(forces, (d, s, t))
    assert torch.autograd.gradcheck(lambda d, v: energy_nll(d[:, 0], v[:, 0]), (d, var))
    assert torch.autograd.gradcheck(stress_nll, (symmetric(4).requires_grad_(), var))
