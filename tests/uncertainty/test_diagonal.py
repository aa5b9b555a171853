"""The diagonal Laplace approximation on linear models, where its ingredients have closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import nn

from atomml.errors import DataError
from atomml.uncertainty.diagonal import (
    fit_evidence,
    laplace_std,
    log_evidence,
    sample_diagonal,
    squared_gradients,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


@pytest.mark.parametrize("size", [1, 4, 12])
def test_squares_of_a_linear_model_are_sums_of_squared_inputs(size):
    x, w, b = normal(12, 3), normal(3, seed=1).requires_grad_(), torch.zeros(1).requires_grad_()
    squares = squared_gradients((part @ w + b.double() for part in x.split(size)), {"w": w, "b": b})
    assert torch.allclose(squares["w"], (x**2).sum(0), rtol=1e-12)
    assert squares["b"].tolist() == [12.0]
    assert squares["b"].dtype == torch.float64


def test_squares_of_a_network_are_those_of_its_jacobian():
    torch.manual_seed(0)
    module, x = nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 1)).double(), normal(6, 3)
    weights = dict(module.named_parameters())
    unused = {"unused": torch.ones(2, requires_grad=True)}
    squares = squared_gradients((module(row[None])[:, 0] for row in x), weights | unused)
    jacobian = torch.func.jacrev(lambda w: torch.func.functional_call(module, w, (x,))[:, 0])(weights)
    for name, rows in jacobian.items():
        assert torch.allclose(squares[name], (rows**2).sum(0), rtol=1e-12)
    assert squares["unused"].tolist() == [0.0, 0.0]


def test_known_noise_of_each_output_is_divided_out_before():
    x, w = normal(5, 2), normal(2, seed=1).requires_grad_()
    noise_std = torch.tensor([0.1, 0.2, 0.5, 1.0, 2.0], dtype=torch.float64)
    squares = squared_gradients([(x @ w) / noise_std], {"w": w})
    expected = ((x / noise_std[:, None]) ** 2).sum(0) + 3.0
    assert torch.allclose(laplace_std(squares, 3.0, 1.0)["w"], expected.rsqrt(), rtol=1e-12)


def test_deviations_are_the_diagonal_of_the_precision():
    x = normal(20, 4)
    squares = {"w": (x**2).sum(0)}
    precision = x.T @ x / 0.3**2 + 5.0 * torch.eye(4, dtype=torch.float64)
    assert torch.allclose(laplace_std(squares, 5.0, 0.3)["w"], precision.diagonal().rsqrt(), rtol=1e-12)


def orthogonal_problem(n=60, p=8, noise_std=0.4):
    """Inputs whose Gram matrix is diagonal, so that the diagonal approximation is exact."""
    x = torch.linalg.qr(normal(n, p)).Q * torch.linspace(1.0, 8.0, p, dtype=torch.float64)
    return x, x @ (1.5 * normal(p, seed=1)) + noise_std * normal(n, seed=2)


def map_weights(x, y, precision, noise_std):
    gram = x.T @ x + noise_std**2 * precision * torch.eye(x.shape[1], dtype=torch.float64)
    return torch.linalg.solve(gram, x.T @ y)


@pytest.mark.parametrize(("precision", "noise_std"), [(0.5, 0.4), (3.0, 1.0)])
def test_the_evidence_is_exact_for_an_orthogonal_linear_model(precision, noise_std):
    x, y = orthogonal_problem()
    w = map_weights(x, y, precision, noise_std)
    value, _, _ = log_evidence(
        (x**2).sum(0).numpy(),
        float(w @ w),
        float(((x @ w - y) ** 2).sum()),
        len(y),
        math.log(precision),
        2 * math.log(noise_std),
    )
    cov = (x @ x.T / precision + noise_std**2 * torch.eye(len(y), dtype=torch.float64)).numpy()
    assert value == pytest.approx(multivariate_normal(cov=cov).logpdf(y.numpy()), rel=1e-10)


def test_the_slopes_of_the_evidence_are_its_derivatives():
    squares, h = np.array([0.0, 0.3, 5.0, 80.0]), 1e-5
    at = lambda a, b: log_evidence(squares, 2.0, 7.0, 11, a, b)  # noqa: E731
    _, by_precision, by_noise = at(0.3, -0.7)
    assert by_precision == pytest.approx((at(0.3 + h, -0.7)[0] - at(0.3 - h, -0.7)[0]) / (2 * h), rel=1e-7)
    assert by_noise == pytest.approx((at(0.3, -0.7 + h)[0] - at(0.3, -0.7 - h)[0]) / (2 * h), rel=1e-7)


@pytest.mark.parametrize("noise_std", [None, 0.9])
def test_the_fit_is_a_fixed_point_of_mackays_iteration(noise_std):
    x, y = orthogonal_problem()
    w = map_weights(x, y, 0.5, 0.4)
    squares = (x**2).sum(0)
    found = fit_evidence({"w": squares}, {"w": w}, x @ w - y, noise_std=noise_std)
    s2, delta = found.noise_std**2, found.prior_precision
    effective = (squares / (squares + s2 * delta)).sum().item()
    assert delta == pytest.approx(effective / float(w @ w), rel=1e-5)
    if noise_std is None:
        assert s2 == pytest.approx(float(((x @ w - y) ** 2).sum()) / (len(y) - effective), rel=1e-5)
    else:
        assert found.noise_std == pytest.approx(0.9)


def test_the_noise_of_the_data_is_found():
    x, y = orthogonal_problem(n=2000)
    w = map_weights(x, y, 0.5, 0.4)
    found = fit_evidence({"w": (x**2).sum(0)}, {"w": w}, x @ w - y)
    assert found.noise_std == pytest.approx(0.4, rel=0.05)


def test_many_more_weights_than_outputs_still_have_a_maximum():
    squares, w = {"w": normal(50000).abs()}, {"w": 0.3 * normal(50000, seed=1)}
    found = fit_evidence(squares, w, 0.01 * normal(30, seed=2))
    assert 0.0 < found.prior_precision < math.inf
    assert 0.0 < found.noise_std < math.inf


def test_samples_have_the_given_moments_and_seeds_decide_them():
    mean = {"a": torch.full((30000,), 2.0), "b": torch.ones(2)}
    std = {"a": torch.full((30000,), 0.5, dtype=torch.float64)}
    sample = sample_diagonal(mean, std, generator(1))
    assert sample["a"].mean().item() == pytest.approx(2.0, abs=0.02)
    assert sample["a"].std().item() == pytest.approx(0.5, rel=0.02)
    assert sample["a"].dtype == torch.float32
    assert torch.equal(sample["b"], mean["b"])
    assert torch.equal(sample["a"], sample_diagonal(mean, std, generator(1))["a"])
    assert not torch.equal(sample["a"], sample_diagonal(mean, std, generator(2))["a"])


def test_what_cannot_be_used_is_explained():
    w = torch.ones(2, requires_grad=True)
    with pytest.raises(DataError, match="do not depend"):
        squared_gradients([torch.ones(2)], {"w": w})
    with pytest.raises(DataError, match="output 1"):
        squared_gradients([w[:1] * 2.0, w[:1] * torch.inf], {"w": w})
    squares, values = {"w": torch.ones(2)}, {"w": torch.ones(2)}
    with pytest.raises(DataError, match="residuals"):
        fit_evidence(squares, values, torch.zeros(3))
    with pytest.raises(DataError, match="weights"):
        fit_evidence(squares, {"w": torch.full((2,), torch.nan)}, torch.ones(3))
    with pytest.raises(DataError, match="noise_std"):
        fit_evidence(squares, values, torch.ones(3), noise_std=0.0)
    with pytest.raises(DataError, match="prior_precision"):
        laplace_std(squares, 0.0, 1.0)
