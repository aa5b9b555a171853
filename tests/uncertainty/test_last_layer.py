"""The posterior of the last layer is exact Bayesian linear regression, with derivatives as observations too."""

from __future__ import annotations

import pytest
import torch

from atomml.errors import DataError
from atomml.uncertainty.last_layer import (
    GramAccumulator,
    linear_var,
    posterior_factor,
    sample_heads,
    spread_factor,
)

P = 6


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def gram_of(rows, weights=1.0):
    accumulator = GramAccumulator(rows.shape[1])
    accumulator.add(rows, weights)
    return accumulator.gram


def dual_var(tests, rows, noise_var, prior_precision):
    """Predictive variance of Bayesian linear regression in its kernel form (no P × P matrix)."""
    kernel = rows @ rows.T / prior_precision + torch.diag(noise_var)
    cross = tests @ rows.T / prior_precision
    prior = (tests**2).sum(1) / prior_precision
    return prior - (cross * torch.linalg.solve(kernel, cross.T).T).sum(1)


@pytest.mark.parametrize("prior_precision", [1e-3, 1.0, 50.0])
def test_the_variance_is_that_of_bayesian_linear_regression(prior_precision):
    rows, tests = normal(20, P), normal(7, P, seed=1)
    factor, used = posterior_factor(gram_of(rows), prior_precision)
    assert used == prior_precision
    precision = rows.T @ rows + prior_precision * torch.eye(P, dtype=torch.float64)
    assert torch.allclose(factor @ factor.T, torch.linalg.inv(precision), rtol=1e-9, atol=1e-12)
    expected = dual_var(tests, rows, torch.ones(20, dtype=torch.float64), prior_precision)
    assert torch.allclose(linear_var(tests, factor), expected, rtol=1e-8)


def test_energies_and_forces_together_are_exact_too():
    def features(x):  # [n, P] of "structures" of 3 atoms on a line; summed over the atoms
        k = torch.arange(1, P + 1, dtype=torch.float64)
        return (torch.sin(x[:, :, None] * k) + x[:, :, None] ** 2 / k).sum(1)

    positions, n_atoms = normal(5, 3), torch.full((5,), 3)
    jacobian = torch.autograd.functional.jacobian(lambda x: features(x).sum(0), positions)  # [P, 5, 3]
    force_rows = -jacobian.reshape(P, 15).T
    energy_std, force_std, prior_precision = 0.02, 0.3, 0.7

    accumulator = GramAccumulator(P)
    accumulator.add_energies(features(positions), n_atoms, energy_std**-2)
    accumulator.add(force_rows[:8], force_std**-2)
    accumulator.add(force_rows[8:], torch.full((7,), force_std**-2, dtype=torch.float64))
    assert accumulator.rows == 20
    factor, _ = posterior_factor(accumulator.gram, prior_precision)

    rows = torch.cat([features(positions) / 3, force_rows])
    noise_var = torch.tensor([energy_std**2] * 5 + [force_std**2] * 15, dtype=torch.float64)
    tests = features(normal(9, 3, seed=3))
    assert torch.allclose(
        linear_var(tests, factor), dual_var(tests, rows, noise_var, prior_precision), rtol=1e-7
    )


def test_observing_forces_makes_them_more_certain():
    energies, forces = normal(3, P), normal(30, P, seed=1)
    alone, _ = posterior_factor(gram_of(energies), 0.1)
    both, _ = posterior_factor(gram_of(torch.cat([energies, forces])), 0.1)
    assert (linear_var(forces, both) < 0.5 * linear_var(forces, alone)).all()


def test_an_ensemble_of_linear_models_has_the_posterior_spread():
    """Least squares on perturbed labels and perturbed priors draws from the posterior exactly."""
    rows, labels, tests, members = normal(12, P), normal(12, seed=1), normal(5, P, seed=2), 40000
    prior_precision = 0.8
    precision = rows.T @ rows + prior_precision * torch.eye(P, dtype=torch.float64)
    noisy = labels[:, None] + normal(12, members, seed=3)
    priors = normal(P, members, seed=4) / prior_precision**0.5
    heads = torch.linalg.solve(precision, rows.T @ noisy + prior_precision * priors)
    factor, _ = posterior_factor(gram_of(rows), prior_precision)
    assert torch.allclose(linear_var(tests, spread_factor(heads)), linear_var(tests, factor), rtol=0.03)


def test_spread_is_the_variance_over_the_heads():
    heads, tests = normal(P, 5), normal(4, P, seed=1)
    expected = (tests @ heads).var(dim=1, correction=0)
    assert torch.allclose(linear_var(tests, spread_factor(heads)), expected, rtol=1e-12)


def test_sampled_heads_have_the_given_mean_and_variance():
    factor, _ = posterior_factor(gram_of(normal(12, P)), 1.0)
    weights, tests = normal(P, seed=5), normal(4, P, seed=6)
    few = torch.stack(
        [
            linear_var(tests, spread_factor(sample_heads(weights, factor, 4, alpha=2.0, generator=g)))
            for g in [generator()]
            for _ in range(4000)
        ]
    ).mean(0)
    assert torch.allclose(few, 4.0 * linear_var(tests, factor), rtol=0.06)
    heads = sample_heads(weights, factor, 16, generator=generator())
    assert torch.allclose(heads.mean(1), weights, rtol=0, atol=1e-13)
    assert torch.equal(heads, sample_heads(weights, factor, 16, generator=generator()))
    assert not torch.equal(heads, sample_heads(weights, factor, 16, generator=generator(1)))


def test_batches_add_up():
    rows, accumulator = normal(11, P), GramAccumulator(P)
    for part in rows.split(4):
        accumulator.add(part, 0.5)
    assert torch.allclose(accumulator.gram, 0.5 * rows.T @ rows, rtol=1e-13)


def test_float32_features_are_summed_in_float64():
    rows = (1.0 + 1e-3 * normal(1000, 2)).float()
    gram = gram_of(rows)
    assert torch.equal(gram, rows.double().T @ rows.double())


def test_features_of_full_rank_need_no_regularizer_to_speak_of():
    rows = normal(30, P)
    factor, used = posterior_factor(gram_of(rows))
    assert used < 1e-15 * (rows**2).sum()
    assert torch.allclose(factor @ factor.T, torch.linalg.inv(rows.T @ rows), rtol=1e-8, atol=1e-12)


def test_a_regularizer_is_found_for_features_without_full_rank():
    rows = normal(4, P)
    gram = gram_of(torch.cat([rows, rows[:, [0]] @ torch.zeros(1, P, dtype=torch.float64)]))
    factor, used = posterior_factor(gram)
    assert torch.finfo(torch.float64).eps < used / gram.diagonal().mean() < 1e-12
    assert (linear_var(rows, factor) < 1.01).all()  # seen directions: at most the noise of one observation
    unseen = torch.linalg.svd(rows).Vh[-1:]
    assert linear_var(unseen, factor).item() == pytest.approx(1.0 / used, rel=0.2)


def test_scales_of_features_do_not_change_the_variance():
    rows, tests, scale = normal(20, P), normal(3, P, seed=1), 10.0 ** torch.arange(0, -P, -1).double()
    one, _ = posterior_factor(gram_of(rows))
    two, _ = posterior_factor(gram_of(rows * scale))
    assert torch.allclose(linear_var(tests, one), linear_var(tests * scale, two), rtol=1e-6)


def test_a_feature_that_is_always_zero_is_allowed():
    rows = normal(20, P)
    rows[:, 2] = 0.0
    factor, _ = posterior_factor(gram_of(rows))
    assert (linear_var(rows, factor) < 1.01).all()


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_features_without_information_are_an_error(value):
    with pytest.raises(DataError, match="zero or not finite"):
        posterior_factor(torch.full((P, P), value, dtype=torch.float64))


def test_what_cannot_be_used_is_explained():
    rows = normal(5, P)
    with pytest.raises(DataError, match="positive definite"):
        posterior_factor(gram_of(rows[:2]), -1.0)
    indefinite = torch.diag(torch.tensor([9.0, 9.0, -4.0], dtype=torch.float64))
    with pytest.raises(DataError, match="negative eigenvalues"):
        posterior_factor(indefinite)
    rows[3, 1] = torch.nan
    accumulator = GramAccumulator(P)
    accumulator.add(normal(2, P))
    with pytest.raises(DataError, match="row 5"):
        accumulator.add(rows)
    with pytest.raises(DataError, match="weight"):
        accumulator.add(normal(2, P), -1.0)
    with pytest.raises(DataError, match="at least 2"):
        sample_heads(normal(P), torch.eye(P, dtype=torch.float64), 1)
