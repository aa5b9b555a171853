"""SWAG against the moments of given snapshots and the stationary covariance of SGD on a quadratic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov

from atomml.errors import ConfigError, TrainingError
from atomml.uncertainty.swag import SwagMoments


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def snapshots(n, dtype=torch.float64):
    g = generator(5)
    return [
        {
            "a": torch.randn(2, 2, generator=g, dtype=dtype) + 3.0,
            "b": torch.randn(3, generator=g, dtype=dtype),
        }
        for _ in range(n)
    ]


def flat(weights):
    return torch.cat([value.reshape(-1) for value in weights.values()]).double()


def collected(n, rank, dtype=torch.float64):
    moments = SwagMoments(rank)
    for one in snapshots(n, dtype):
        moments.add(one)
    return moments


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("n", "rank"), [(2, 2), (5, 8), (9, 4)])
def test_moments_are_those_of_the_snapshots(n, rank, dtype):
    moments = collected(n, rank, dtype)
    rows = torch.stack([flat(one) for one in snapshots(n, dtype)])
    assert torch.allclose(flat(moments.mean), rows.mean(0), rtol=1e-13)
    assert torch.allclose(flat(moments.square) / n, (rows**2).mean(0) - rows.mean(0) ** 2, rtol=1e-9)
    running = torch.stack([rows[i] - rows[: i + 1].mean(0) for i in range(n)])[-rank:]
    columns = torch.cat([d.flatten(1) for d in moments.deviations.values()], dim=1)
    assert torch.allclose(columns, running, atol=1e-13)
    assert moments.mean["a"].dtype == torch.float64


def test_samples_have_the_mean_and_covariance_of_the_posterior():
    moments, g = collected(8, 5), generator()
    samples = torch.stack([flat(moments.sample(g)) for _ in range(8000)])
    d = torch.cat([x.flatten(1) for x in moments.deviations.values()], dim=1)
    expected = 0.5 * (torch.diag(flat(moments.square) / 8) + d.T @ d / 4)
    scale = expected.diagonal().sqrt()
    assert ((samples.mean(0) - flat(moments.mean)).abs() / scale).max() < 0.05
    assert ((samples.T.cov() - expected).abs() / torch.outer(scale, scale)).max() < 0.05


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_it_finds_the_stationary_covariance_of_sgd_on_a_quadratic(rate):
    hessian = np.array([[2.0, 0.8], [0.8, 1.0]])
    noise = np.array([[1.0, -0.3], [-0.3, 0.5]])  # covariance of the gradient
    expected = solve_discrete_lyapunov(np.eye(2) - rate * hessian, rate**2 * noise)
    h, root = torch.tensor(hessian), torch.linalg.cholesky(torch.tensor(noise))
    g, chains = generator(), 400
    w = torch.zeros(2, chains, dtype=torch.float64)  # independent trainings side by side
    moments = SwagMoments(300)
    for step in range(int(2400 / rate**0.5)):
        w = w - rate * (h @ w + root @ torch.randn(2, chains, generator=g, dtype=torch.float64))
        if step > 100 / rate and step % 10 == 0:
            moments.add({"w": w})
    variances = moments.square["w"].mean(1) / moments.count
    assert torch.allclose(variances, torch.tensor(np.diag(expected)), rtol=0.03)
    d = moments.deviations["w"]
    off_diagonal = (d[:, 0] * d[:, 1]).sum(0).mean() / (len(d) - 1)
    assert off_diagonal.item() == pytest.approx(expected[0, 1], rel=0.1)


def test_a_single_weight_has_the_textbook_variance():
    rate, h, noise_var, g = 0.3, 1.5, 0.4, generator()
    w, moments = torch.zeros(500, dtype=torch.float64), SwagMoments(2)
    for step in range(3000):
        w = w - rate * (h * w + noise_var**0.5 * torch.randn(500, generator=g, dtype=torch.float64))
        if step >= 100:
            moments.add({"w": w})
    expected = rate * noise_var / (h * (2.0 - rate * h))
    assert (moments.square["w"].mean() / moments.count).item() == pytest.approx(expected, rel=0.01)


def test_a_small_spread_around_large_weights_is_kept():
    moments = SwagMoments(2)
    for k in range(100):
        moments.add({"w": torch.tensor([1e6 + 1e-6 * (-1) ** k], dtype=torch.float64)})
    assert (moments.square["w"] / 100).sqrt().item() == pytest.approx(1e-6, rel=1e-3)


def test_seeds_decide_the_sample():
    moments = collected(4, 4)
    assert torch.equal(flat(moments.sample(generator(1))), flat(moments.sample(generator(1))))
    assert not torch.equal(flat(moments.sample(generator(1))), flat(moments.sample(generator(2))))


def test_snapshots_are_copied():
    moments, w = SwagMoments(2), torch.ones(2, dtype=torch.float64)
    moments.add({"w": w})
    w += 1.0
    assert moments.mean["w"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_snapshots_are_not_a_distribution(n):
    with pytest.raises(TrainingError, match="at least 2"):
        collected(n, 2).sample()


def test_bad_snapshots_are_refused_and_leave_no_trace():
    moments = collected(2, 2)
    with pytest.raises(TrainingError, match=r"snapshot 3, parameter b"):
        moments.add(snapshots(1)[0] | {"b": torch.tensor([0.0, float("nan"), 0.0])})
    with pytest.raises(TrainingError, match="other parameters"):
        moments.add({"a": torch.zeros(2, 2)})
    assert moments.count == 2
    with pytest.raises(ConfigError, match="rank"):
        SwagMoments(1)
