"""Bayesian flow of lattices."""

import math

import numpy as np
import pytest
import torch

from atomml.crystals.flow_lattice import GaussianFlow
from atomml.errors import ConfigError

DTYPES = [torch.float32, torch.float64]
FLOW = GaussianFlow()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def lattices(n, dtype=torch.float64):
    one = torch.tensor([[1.0, 0.0, 0.2], [-0.4, 1.1, 0.0], [0.0, 0.0, 1.3]], dtype=dtype)
    return one.expand(n, 3, 3)


def stepwise(flow, x, steps, done):
    mean, g = torch.zeros_like(x), generator(4)
    for i in range(1, done + 1):
        mean = flow.add(mean, x, i, steps, generator=g)
    return mean


@pytest.mark.parametrize("done", [1, 4, 10])
def test_the_law_at_a_time_is_that_of_samples_in_turn(done):
    n = 20000
    x = lattices(n)
    t = torch.full((n, 1, 1), done / 10, dtype=torch.float64)
    gamma = 1 - 10 ** (-3 * done / 10)
    for mean in (FLOW.after(x, t, generator=generator()), stepwise(FLOW, x, 10, done)):
        spread = math.sqrt(gamma * (1 - gamma))
        np.testing.assert_allclose(mean.mean(0), gamma * x[0], atol=5 * spread / math.sqrt(n))
        np.testing.assert_allclose(mean.std(0), np.full((3, 3), spread), rtol=0.03)


@pytest.mark.parametrize("dtype", DTYPES)
def test_samples_of_the_truth_go_from_nothing_to_the_truth(dtype):
    x = lattices(500, dtype)
    t = torch.tensor([0.0, 1.0], dtype=dtype)
    assert (FLOW.after(x, t[0], generator=generator()) == 0).all()
    for end in (FLOW.after(x, t[1], generator=generator()), stepwise(FLOW, x, 20, 20)):
        assert end.dtype == dtype
        assert (end - x).std().item() == pytest.approx(FLOW.sigma1, rel=0.05)


def test_one_step_knows_the_precision_of_the_belief():
    mean, x_hat = torch.full((1000,), 2.0).double(), torch.full((1000,), 3.0).double()
    rho = FLOW.precisions(10)
    after = FLOW.add(mean, x_hat, 4, 10, generator=generator())
    share = ((rho[4] - rho[3]) / rho[4]).item()
    assert after.mean().item() == pytest.approx(2 + share, abs=0.02)
    assert after.std().item() == pytest.approx(math.sqrt(rho[4] - rho[3]) / rho[4].item(), rel=0.1)


@pytest.mark.parametrize("steps", [1, 10, 1000])
def test_weights_are_those_of_the_formula_and_average_to_the_gain_of_precision(steps):
    weights = FLOW.loss_weights(steps)
    i = torch.arange(1, steps + 1, dtype=torch.float64)
    sigma = FLOW.sigma1
    torch.testing.assert_close(weights, steps * (1 - sigma ** (2 / steps)) / (2 * sigma ** (2 * i / steps)))
    assert weights.mean().item() == pytest.approx(499.5, rel=1e-12)


def test_turning_the_lattice_turns_the_mean_law():
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator(), dtype=torch.float64)).Q
    x = lattices(40000)
    mean = FLOW.after(x @ turn, torch.tensor(0.3).double(), generator=generator())
    gamma = 1 - 10**-0.9
    np.testing.assert_allclose(mean.mean(0), gamma * x[0] @ turn, atol=0.012)
    covariance = np.cov(mean.reshape(-1, 9).T)
    np.testing.assert_allclose(covariance, gamma * (1 - gamma) * np.eye(9), atol=0.005)


def test_draws_are_those_of_the_generator():
    x, t = lattices(2), torch.tensor(0.5).double()
    first, again, other = (FLOW.after(x, t, generator=generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("sigma1", [0.0, 1.0, -0.1, math.nan])
def test_the_end_must_be_sharper_than_the_start(sigma1):
    with pytest.raises(ConfigError):
        GaussianFlow(sigma1)


def test_a_flow_has_at_least_one_step():
    with pytest.raises(ConfigError):
        FLOW.loss_weights(0)
