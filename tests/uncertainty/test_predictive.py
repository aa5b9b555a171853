"""Mixtures of Gaussian members: identities, invariances, and sums that do not lose digits."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal

from atomml.errors import AtommlError, DataError
from atomml.uncertainty.predictive import RunningMixture


def mix(means, noises=None, **options):
    """The mixture of stacked outputs."""
    running = RunningMixture(**options)
    for s, mean in enumerate(means):
        running.add(mean, None if noises is None else noises[s])
    return running.result()


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariances(*shape):
    a = normal(*shape, 3, 3, seed=9)
    return a @ a.transpose(-1, -2)


def test_the_total_variance_is_that_of_the_mixture_density():
    means, variances = normal(4), normal(4, seed=1) ** 2 + 0.1
    grid = torch.linspace(-15.0, 15.0, 200001, dtype=torch.float64)
    density = Normal(means[:, None], variances.sqrt()[:, None]).log_prob(grid).exp().mean(0)
    mean = torch.trapezoid(density * grid, grid)
    variance = torch.trapezoid(density * (grid - mean) ** 2, grid)
    found = mix(means, variances)
    assert found.mean.item() == pytest.approx(mean.item(), rel=1e-9)
    assert found.total.item() == pytest.approx(variance.item(), rel=1e-9)


def test_the_parts_are_those_of_the_law_of_total_variance():
    means, variances = normal(6, 2, 5), normal(6, 2, 5, seed=1) ** 2
    found = mix(means, variances)
    assert torch.allclose(found.aleatoric, variances.mean(0))
    assert torch.allclose(found.epistemic, (means**2).mean(0) - means.mean(0) ** 2)
    assert torch.allclose(found.total, (variances + means**2).mean(0) - means.mean(0) ** 2)


def test_matrices_project_onto_scalars_along_any_direction():
    means, cov = normal(5, 7, 3), covariances(5, 7)
    found = mix(means, cov, vectors=True)
    u = normal(3, seed=4)
    scalar = mix(means @ u, torch.einsum("i,snij,j->sn", u, cov, u))
    for part in ("aleatoric", "epistemic", "total"):
        assert torch.allclose(torch.einsum("i,nij,j->n", u, getattr(found, part), u), getattr(scalar, part))
    assert torch.equal(found.total, found.total.transpose(1, 2))


def test_rotated_members_give_a_rotated_covariance():
    means, cov, q = normal(5, 7, 3), covariances(5, 7), torch.linalg.qr(normal(3, 3, seed=2)).Q
    one, two = mix(means, cov, vectors=True), mix(means @ q.T, q @ cov @ q.T, vectors=True)
    assert torch.allclose(two.mean, one.mean @ q.T)
    assert torch.allclose(two.total, q @ one.total @ q.T)


def test_a_single_member_and_equal_members_have_no_epistemic_part():
    means, variances = normal(1, 4), normal(1, 4, seed=1) ** 2
    for copies in (1, 5):
        found = mix(means.expand(copies, -1), variances.expand(copies, -1))
        assert (found.epistemic < 1e-30).all()
        assert torch.allclose(found.total, variances[0])


def test_members_without_noise_have_no_aleatoric_part():
    assert not mix(normal(4, 2)).aleatoric.any()
    assert mix(normal(4, 2, 3), vectors=True).aleatoric.shape == (2, 3, 3)


@pytest.mark.parametrize("offset", [0.0, -1e5, 1e6])
def test_the_spread_of_large_numbers_is_kept(offset):
    spread = 1e-5 * normal(100)
    means = offset + spread
    exact = (means - means[0]).var(correction=0).item()
    assert mix(means).epistemic.item() == pytest.approx(exact, rel=1e-5)


def test_the_order_of_members_does_not_matter():
    means, variances = normal(9, 3), normal(9, 3, seed=1) ** 2
    one, two = mix(means, variances), mix(means.flip(0), variances.flip(0))
    assert torch.allclose(one.total, two.total, rtol=1e-12)


def test_float32_members_are_mixed_in_float64():
    found = mix(normal(3, 2).float(), normal(3, 2).float() ** 2)
    assert {t.dtype for t in (found.mean, found.aleatoric, found.epistemic)} == {torch.float64}


def test_the_mixture_can_be_differentiated():
    means, variances = normal(4, 2).requires_grad_(), (normal(4, 2, seed=1) ** 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda m, v: mix(m, v).total, (means, variances))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_member_that_is_not_finite_is_named(bad):
    means, variances = normal(4, 3), normal(4, 3) ** 2
    means[2, 1] = bad
    with pytest.raises(AtommlError, match="member 2"):
        mix(means)
    variances[3, 0] = bad
    with pytest.raises(AtommlError, match="member 3"):
        mix(normal(4, 3), variances)


@pytest.mark.parametrize("vectors", [False, True])
def test_undefined_entries_stay_undefined_and_others_are_exact(vectors):
    means, undefined = normal(4, 2, 3), torch.tensor([[False], [True]])
    noises = covariances(4, 2) if vectors else normal(4, 2, 3, seed=1) ** 2
    expected = mix(means, noises, vectors=vectors)
    means[:, 1] = torch.nan
    noises[1:, 1] = torch.nan
    found = mix(means, noises, vectors=vectors, undefined=undefined)
    for part in ("mean", "aleatoric", "epistemic", "total"):
        assert torch.equal(getattr(found, part)[0], getattr(expected, part)[0])
        assert torch.isnan(getattr(found, part)[1]).all()


def test_what_cannot_be_mixed_is_explained():
    with pytest.raises(DataError, match="no members"):
        RunningMixture().result()
    running = RunningMixture()
    running.add(normal(2), normal(2) ** 2)
    with pytest.raises(DataError, match="member 1"):
        running.add(normal(2))
