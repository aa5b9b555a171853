"""Bayesian flow of atom types."""

import math

import pytest
import torch

from atomml.crystals.flow_types import DiscreteFlow
from atomml.errors import ConfigError, DataError

DTYPES = [torch.float32, torch.float64]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def one_hot(index, classes, dtype=torch.float64):
    return torch.nn.functional.one_hot(torch.as_tensor(index), classes).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_beliefs_are_probabilities_and_uniform_at_first(dtype):
    p = one_hot([[0, 3], [4, 1]], 5, dtype)
    t = torch.tensor([[0.0], [1.0]], dtype=dtype)
    theta = DiscreteFlow(2.0).after(p, t, generator=generator())
    assert theta.dtype == dtype
    torch.testing.assert_close(theta.sum(-1), torch.ones(2, 2, dtype=dtype))
    torch.testing.assert_close(theta[0], torch.full((2, 5), 0.2, dtype=dtype))
    assert theta[1].std() > 0.05


@pytest.mark.parametrize("t", [0.3, 1.0])
def test_logits_have_their_mean_and_variance(t):
    flow, k, n = DiscreteFlow(0.5), 4, 40000
    p = one_hot(torch.full((n,), 2), k)
    theta = flow.after(p, torch.tensor(t, dtype=torch.float64), generator=generator())
    beta = 0.5 * t**2
    difference = torch.log(theta[:, 2] / theta[:, 0])
    assert difference.mean().item() == pytest.approx(beta * k, abs=5 * math.sqrt(2 * beta * k / n))
    assert difference.var().item() == pytest.approx(2 * beta * k, rel=0.05)


@pytest.mark.parametrize("restricted", [False, True])
def test_beliefs_are_posteriors(restricted):
    """A class that is given the probability θ is true in a share θ of cases."""
    n, k = 60000, 4
    truth = torch.randint(3, (n,), generator=generator(5)) if restricted else torch.arange(n) % k
    allowed = torch.tensor([True, True, True, not restricted]).expand(n, k)
    theta = DiscreteFlow(0.5).after(
        one_hot(truth, k), torch.tensor(0.9, dtype=torch.float64), generator=generator(), allowed=allowed
    )
    said, found = theta[:, 0], (truth == 0).double()
    for low, high in [(0.0, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 1.0)]:
        inside = (said >= low) & (said < high)
        assert abs((said - found)[inside].mean()) < 5 / math.sqrt(4 * inside.sum())


def test_what_is_not_allowed_has_no_probability_at_any_time():
    allowed = torch.tensor([[True, False, True, False]]).expand(3, 4)
    t = torch.tensor([0.0, 0.5, 1.0])
    theta = DiscreteFlow(3.0).after(
        one_hot([1, 1, 0], 4, torch.float32), t, generator=generator(), allowed=allowed
    )
    assert (theta[:, [1, 3]] == 0).all()
    assert theta[0].tolist() == [0.5, 0, 0.5, 0]
    torch.testing.assert_close(theta.sum(-1), torch.ones(3))


def test_an_atom_that_may_be_nothing_is_refused():
    allowed = torch.tensor([[True, True], [False, False]])
    with pytest.raises(DataError, match="none of the types"):
        DiscreteFlow().after(
            one_hot([0, 1], 2), torch.tensor(0.5).double(), generator=generator(), allowed=allowed
        )


def test_a_predicted_distribution_stands_in_for_a_class():
    uniform = torch.full((50000, 3), 1 / 3, dtype=torch.float64)
    theta = DiscreteFlow(1.0).after(uniform, torch.tensor(1.0).double(), generator=generator())
    torch.testing.assert_close(theta.mean(0), uniform[0], atol=0.01, rtol=0)


def test_one_class_is_always_that_class():
    p = torch.ones(5, 1)
    theta = DiscreteFlow().after(p, torch.linspace(0, 1, 5), generator=generator())
    assert (theta == 1).all()
    assert (DiscreteFlow().loss(p, theta, torch.linspace(0, 1, 5)) == 0).all()


def test_the_loss_is_the_limit_of_the_divergences_of_many_samples():
    """For a point-mass receiver of accuracy α, KL = ‖αK(e − p)‖²/(2αK), and the accuracies sum to β₁."""
    e, p = one_hot(1, 3), torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    flow, n = DiscreteFlow(0.7), 2000
    t = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    loss = flow.loss(e.expand(n, 3), p.expand(n, 3), t)
    alpha = 0.7 * 2 * t / n
    divergence = ((alpha[:, None] * 3 * (e - p)) ** 2).sum(-1) / (2 * alpha * 3)
    torch.testing.assert_close(loss.mean(), divergence.sum())
    assert loss.shape == (n,)


def test_draws_are_those_of_the_generator():
    p, t = one_hot([0, 1, 2], 4), torch.tensor(0.8).double()
    first, again, other = (DiscreteFlow().after(p, t, generator=generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("beta1", [0.0, -1.0, math.inf, math.nan])
def test_a_flow_must_end_somewhere(beta1):
    with pytest.raises(ConfigError):
        DiscreteFlow(beta1)
