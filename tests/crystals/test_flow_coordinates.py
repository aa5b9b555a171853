"""Bayesian flows of coordinates: beliefs, their laws and their losses."""

import math

import numpy as np
import pytest
import torch

from atomml.crystals.circle import bessel_ratio, mean_length, wrap
from atomml.crystals.flow_coordinates import (
    AdditiveFlow,
    Belief,
    TrajectoryBanks,
    VonMisesFlow,
    cosine_loss,
    fit_at_any_origin,
    mean_target,
    square_loss,
    update,
)
from atomml.errors import ConfigError

DTYPES = [torch.float32, torch.float64]
FLOWS = [VonMisesFlow(), AdditiveFlow()]
both_flows = pytest.mark.parametrize("flow", FLOWS, ids=["von mises", "additive"])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def angles(*shape, seed=9, dtype=torch.float64):
    return wrap(7 * torch.randn(shape, generator=generator(seed), dtype=dtype))


def circular_std(offset):
    """Fraction of a turn."""
    return math.sqrt(-2 * math.log(torch.cos(offset).mean())) / (2 * math.pi)


def stepwise(flow, x, steps, seed=3):
    """Beliefs after 0..n samples, one by one."""
    g = generator(seed)
    beliefs = [flow.prior(x.shape, generator=g, dtype=x.dtype)]
    for i in range(1, steps + 1):
        beliefs.append(flow.add(beliefs[-1], x, i, steps, generator=g))
    return beliefs


@both_flows
@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_is_known_before_the_first_sample(flow, dtype):
    x = torch.full((4000,), 0.7, dtype=dtype)
    for belief in (
        flow.prior((4000,), generator=generator(), dtype=dtype),
        flow.after(x, torch.tensor(0), 10, generator=generator()),
    ):
        assert belief.mean.dtype == belief.concentration.dtype == dtype
        assert (belief.concentration == 0).all()
        for k in (1, 2):
            assert torch.cos(k * belief.mean).mean().abs() < 0.05
            assert torch.sin(k * belief.mean).mean().abs() < 0.05
        assert (flow.feature(belief.concentration) == 0).all()


def test_updates_in_turn_are_one_sum_of_vectors():
    y, accuracy = angles(50, 7), torch.rand(50, generator=generator(), dtype=torch.float64) * 100
    belief = Belief(angles(7, seed=1), torch.zeros(7, dtype=torch.float64))
    for k in range(50):
        belief = update(belief, y[k], accuracy[k])
    total = (accuracy[:, None] * torch.exp(1j * y)).sum(0)
    z = belief.concentration * torch.exp(1j * belief.mean)
    assert (z - total).abs().max() / total.abs().max() < 1e-12


def test_the_belief_is_the_posterior_of_the_samples():
    y, accuracy = angles(6), torch.tensor([0.3, 1, 2, 5, 1, 0.1], dtype=torch.float64)
    belief = Belief(torch.tensor(1.0).double(), torch.tensor(0.0).double())
    for k in range(6):
        belief = update(belief, y[k], accuracy[k])
    x = torch.linspace(-3, 3, 50, dtype=torch.float64)
    likelihood = (accuracy * torch.cos(y - x[:, None])).sum(1)
    ours = belief.concentration * torch.cos(belief.mean - x)
    torch.testing.assert_close(ours, likelihood, atol=1e-12, rtol=0)


@both_flows
@pytest.mark.parametrize("steps", [10, 25])
@pytest.mark.parametrize("dtype", DTYPES)
def test_samples_of_the_truth_end_at_the_truth(flow, steps, dtype):
    x = angles(4000, dtype=dtype)
    end = stepwise(flow, x, steps)[-1]
    assert end.mean.dtype == dtype
    assert circular_std(wrap(end.mean - x)) == pytest.approx(0.00503, rel=0.05)
    assert end.concentration.mean().item() == pytest.approx(flow.beta1, rel=0.01)
    assert wrap(end.mean - x).abs().max() / (2 * math.pi) < 0.025


@both_flows
@pytest.mark.parametrize("done", [1, 4, 8, 10])
def test_the_law_after_some_samples_is_that_of_one_sample_after_the_other(flow, done):
    x, steps = angles(8000), 10
    simulated = stepwise(flow, x, steps)[done]
    drawn = flow.after(x, torch.tensor(done), steps, generator=generator())
    for statistic in (
        lambda b: torch.cos(b.mean - x),
        lambda b: torch.sin(b.mean - x),
        lambda b: b.concentration,
        lambda b: b.concentration * torch.cos(b.mean - x),
        lambda b: b.concentration**2,
    ):
        a, b = statistic(simulated), statistic(drawn)
        error = math.sqrt((a.var() + b.var()) / len(x))
        assert abs(a.mean() - b.mean()) < 5 * error + 1e-7


def test_a_flow_without_a_bank_simulates_the_same_law():
    x, done = angles(3000), torch.arange(3000) % 11
    direct = VonMisesFlow(banks=None).after(x, done, 10, generator=generator())
    banked = VonMisesFlow().after(x, done, 10, generator=generator())
    assert (direct.concentration[done == 0] == 0).all()
    for k in range(11):
        a, b = direct.concentration[done == k], banked.concentration[done == k]
        assert abs(a.mean() - b.mean()) < 5 * math.sqrt((a.var() + b.var()) / len(a)) + 1e-7


@both_flows
def test_the_mean_vector_after_some_samples_is_known(flow):
    x, steps = angles(20000), 12
    alpha = flow.accuracies(steps).numpy()
    length = bessel_ratio(alpha) if isinstance(flow, VonMisesFlow) else 1
    known = np.concatenate([[0], np.cumsum(alpha * length)])
    for done in (1, 3, 6, 12):
        belief = flow.after(x, torch.tensor(done), steps, generator=generator())
        projection = belief.concentration * torch.cos(belief.mean - x)
        assert abs(projection.mean() - known[done]) < 5 * projection.std() / math.sqrt(8192)


@pytest.mark.parametrize(("steps", "share"), [(10, 0.02), (50, 0.10), (100, 0.13)])
def test_the_concentration_of_the_von_mises_flow_can_fall(steps, share):
    bank = TrajectoryBanks(size=1000).get(VonMisesFlow(), steps, torch.device("cpu"))
    concentration = bank.belief.concentration
    falls = (concentration[:, 1:] < concentration[:, :-1]).float().mean().item()
    assert falls == pytest.approx(share, abs=0.012)


def test_a_bank_spreads_as_the_flow_does():
    mean = TrajectoryBanks(size=4000).get(VonMisesFlow(), 10, torch.device("cpu")).belief.mean
    assert mean.shape == (4000, 11)
    for step, spread in [(1, 0.163), (3, 0.087), (6, 0.024), (8, 0.011), (10, 0.0051)]:
        assert circular_std(mean[:, step]) == pytest.approx(spread, rel=0.06)


def test_a_bank_is_kept_until_it_is_refreshed():
    banks, flow, cpu = TrajectoryBanks(size=50), VonMisesFlow(), torch.device("cpu")
    first = banks.get(flow, 5, cpu)
    assert banks.get(flow, 5, cpu) is first
    assert banks.get(flow, 6, cpu) is not first
    banks.refresh(7)
    assert not torch.equal(banks.get(flow, 5, cpu).belief.mean, first.belief.mean)
    banks.refresh(0)
    assert torch.equal(banks.get(flow, 5, cpu).belief.mean, first.belief.mean)


def test_flows_are_equal_by_their_accuracy_and_hold_banks_of_their_own():
    assert VonMisesFlow() == VonMisesFlow(1000.0, banks=None)
    assert hash(VonMisesFlow()) == hash(VonMisesFlow())
    assert VonMisesFlow().banks is not VonMisesFlow().banks
    assert VonMisesFlow(10.0) != VonMisesFlow()


@both_flows
def test_coordinates_are_independent_and_keep_their_number_of_samples(flow):
    x = torch.zeros(400, 20, 3)
    done = (torch.arange(400) % 11)[:, None, None]
    belief = flow.after(x, done, 10, generator=generator())
    assert belief.mean.shape == belief.concentration.shape == x.shape
    mean_c = belief.concentration.reshape(400, -1).mean(1)
    later = [mean_c[done.flatten() == k].mean().item() for k in range(11)]
    assert later == sorted(later)
    offsets = belief.mean[done.flatten() == 10].reshape(-1, 60)
    correlation = np.corrcoef(offsets.numpy())
    assert np.abs(correlation - np.eye(len(offsets))).max() < 0.6


@both_flows
def test_turning_the_truth_turns_the_law_of_the_belief(flow):
    def turned_back(x, seed):
        x = torch.full((20000,), x, dtype=torch.float64)
        g = generator(seed)
        belief = flow.add(flow.after(x, torch.tensor(3), 10, generator=g), x, 4, 10, generator=g)
        z = belief.concentration * torch.exp(1j * (belief.mean - x))
        return torch.stack([z.real, z.imag, z.real**2, z.imag**2, z.real * z.imag])

    one, two = turned_back(0.3, 1), turned_back(-2.9, 2)
    error = torch.sqrt((one.var(1) + two.var(1)) / 8192)
    assert ((one.mean(1) - two.mean(1)).abs() < 5 * error).all()


@both_flows
def test_draws_are_those_of_the_generator(flow):
    x, done = angles(30), torch.tensor(4)
    first, again, other = (flow.after(x, done, 10, generator=generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.mean, again.mean)
    assert not torch.equal(first.mean, other.mean)
    beliefs = [flow.add(first, x, 5, 10, generator=generator(seed)) for seed in (1, 1, 2)]
    assert torch.equal(beliefs[0].mean, beliefs[1].mean)
    assert not torch.equal(beliefs[0].mean, beliefs[2].mean)


@both_flows
def test_beliefs_and_weights_are_calibrated(flow):
    """A belief is a posterior: the truth is where it says, as often as it says."""
    x, done = angles(60000), torch.arange(60000) % 5 * 2 + 1
    belief = flow.after(x, done, 10, generator=generator())
    c = belief.concentration
    for low, high in [(0, 2), (2, 10), (10, 100), (100, 2000)]:
        inside = (c >= low) & (c < high)
        said = mean_length(c[inside])
        found = torch.cos(belief.mean - x)[inside]
        assert abs((said - found).mean()) < 5 * found.std() / math.sqrt(inside.sum())


@pytest.mark.parametrize("steps", [1, 10, 50])
def test_weights_are_steps_times_the_factor_of_the_divergence(steps):
    von_mises, additive = (flow.accuracies(steps) for flow in FLOWS)
    torch.testing.assert_close(FLOWS[0].loss_weights(steps), steps * von_mises * mean_length(von_mises))
    torch.testing.assert_close(FLOWS[1].loss_weights(steps), steps * additive)
    assert FLOWS[1].loss_weights(steps).mean().item() == pytest.approx(999)
    x, x_hat = angles(5), angles(5, seed=2)
    plane = (torch.cos(x) - torch.cos(x_hat)) ** 2 + (torch.sin(x) - torch.sin(x_hat)) ** 2
    torch.testing.assert_close(cosine_loss(x, x_hat), plane / 2)


@both_flows
def test_the_feature_grows_from_nothing_to_one(flow):
    c = torch.tensor([0.0, 1e-7, 1.0, flow.beta1, 2 * flow.beta1], dtype=torch.float64)
    span = math.log(flow.beta1) - math.log(1e-7)
    expected = [0, math.log(2) / span, -math.log(1e-7) / span, 1, 1]
    np.testing.assert_allclose(flow.feature(c), expected, atol=1e-7)


def test_square_loss_is_twice_the_cosine_loss_for_small_distances_and_periodic():
    x = torch.tensor([3.1, -3.1, 0.5], dtype=torch.float64)
    x_hat = torch.tensor([-3.1, -3.11, 0.5 + 2 * math.pi], dtype=torch.float64)
    torch.testing.assert_close(square_loss(x, x_hat), 2 * cosine_loss(x, x_hat), rtol=1e-3, atol=1e-12)
    assert square_loss(x, x_hat)[0].item() == pytest.approx((2 * math.pi - 6.2) ** 2)


def test_the_mean_target_is_the_posterior_mean_over_translations():
    x = angles(3, 4, 3)
    mask = torch.tensor([[True] * 4, [True, True, False, False], [True, False, False, False]])
    belief = Belief(angles(3, 4, 3, seed=5), 3 * torch.rand(3, 4, 3, generator=generator()).double())
    angle, length = mean_target(belief, x, mask)
    tau = torch.arange(2000, dtype=torch.float64) * 2 * math.pi / 2000
    log_p = (belief.concentration * mask[..., None])[..., None] * torch.cos(
        (belief.mean - x)[..., None] - tau
    )
    p = torch.softmax(log_p.sum(1, keepdim=True), dim=-1)
    expected = (p * torch.exp(1j * (x[..., None] + tau))).sum(-1)
    torch.testing.assert_close(length * torch.exp(1j * angle), expected, atol=1e-12, rtol=0)
    x_hat = angles(3, 4, 3, seed=6)
    average = (p * cosine_loss(x[..., None] + tau, x_hat[..., None].expand(-1, -1, -1, 2000))).sum(-1)
    torch.testing.assert_close(cosine_loss(angle, x_hat, length), average)


def test_padding_has_no_part_in_the_mean_target():
    x, mask = angles(2, 3, 3), torch.tensor([[True, True, False]] * 2)
    belief = Belief(angles(2, 3, 3, seed=5), torch.ones(2, 3, 3).double())
    moved = Belief(belief.mean + ~mask[..., None], belief.concentration * (1 + 9 * ~mask[..., None]))
    for a, b in zip(mean_target(belief, x, mask), mean_target(moved, x, mask), strict=True):
        torch.testing.assert_close(a[:, :2], b[:, :2])


@both_flows
def test_on_average_the_mean_target_has_the_gradient_of_the_truth(flow):
    """Over random positions of the crystal, e^{ix} and its posterior mean agree where the network sees the same."""
    x = torch.tensor([0.3, 1.5, -2.0]).double().reshape(1, 3, 1).expand(20000, 3, 3)
    x = wrap(x + angles(20000, 1, 3))
    belief = flow.after(x, torch.tensor(2), 10, generator=generator())
    angle, length = mean_target(belief, x, torch.ones(20000, 3, dtype=torch.bool))
    turned_back = torch.exp(1j * (x - belief.mean))
    mean = length * torch.exp(1j * (angle - belief.mean))
    assert (turned_back.mean() - mean.mean()).abs() < 5 / math.sqrt(180000)
    assert mean.real.var() < turned_back.real.var()


@pytest.mark.parametrize("beta1", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize("make", [VonMisesFlow, AdditiveFlow])
def test_a_flow_must_end_somewhere(make, beta1):
    with pytest.raises(ConfigError):
        make(beta1)


@both_flows
def test_a_flow_has_at_least_one_step(flow):
    with pytest.raises(ConfigError):
        flow.accuracies(0)


def test_a_crystal_fits_itself_at_any_origin_and_no_other():
    x, other, shift = angles(4, 5, 3), angles(4, 5, 3, seed=1), angles(4, 1, 3, seed=2)
    mask = torch.arange(5) < torch.tensor([5, 3, 1, 4])[:, None]
    moved = torch.where(mask[..., None], x + shift, other)
    torch.testing.assert_close(fit_at_any_origin(x, moved, mask), torch.ones_like(shift))
    away = (other - x)[1, :3, 0]
    best = max(torch.cos(away - tau).mean().item() for tau in torch.linspace(-3.2, 3.2, 2001))
    assert fit_at_any_origin(x, other, mask)[1, 0, 0].item() == pytest.approx(best, abs=1e-5)


def test_a_fit_that_is_nothing_has_a_finite_gradient():
    x_hat = torch.tensor([0.0, math.pi]).double()[None, :, None].expand(1, 2, 3).clone().requires_grad_()
    mask = torch.ones(1, 2, dtype=torch.bool)
    fit_at_any_origin(torch.zeros(1, 2, 3).double(), x_hat, mask).sum().backward()
    assert x_hat.grad.isfinite().all()
