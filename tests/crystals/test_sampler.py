"""Sampling: a perfect network returns the crystal, wishes are kept exactly, seeds repeat."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from atomml.crystals.circle import angle_of, wrap
from atomml.crystals.network import NetworkOutput
from atomml.crystals.requests import Request, Site
from atomml.crystals.sampler import sample
from atomml.errors import ConfigError, UnsupportedError
from tests.crystals.models import batch_of, small_model


class Oracle(nn.Module):
    """A network that knows the crystals."""

    def __init__(self, model, batch):
        super().__init__()
        self.embedding = model.network.embedding
        self.target = model.target(batch)

    def forward(self, x):
        return NetworkOutput(self.target.angles, self.target.lattice, 50 * self.target.types)


def requests_of(batch, **options):
    return [
        Request(n_atoms=n, numbers=tuple(z[:n]), **options)
        for n, z in zip(batch.n_atoms.tolist(), batch.numbers.tolist(), strict=True)
    ]


@pytest.mark.parametrize("strategy", ["end_back", "vanilla", "mix"])
@pytest.mark.parametrize("flow", ["von_mises", "additive"])
def test_a_perfect_network_returns_the_crystal(flow, strategy):
    model, batch = small_model(flow={"coordinates": flow}), batch_of()
    model.network = Oracle(model, batch)
    found = sample(model, requests_of(batch), steps=7, strategy=strategy).crystals
    away = wrap(angle_of(found.fractional) - angle_of(batch.fractional.double()))
    assert away[batch.mask].abs().max() < 1e-5
    torch.testing.assert_close(found.lattice.float(), batch.lattice, rtol=0, atol=1e-5)
    assert torch.equal(found.numbers, batch.numbers)
    assert torch.equal(found.n_atoms, batch.n_atoms)


def test_a_perfect_network_chooses_the_elements():
    model, batch = small_model(given_types=0.0), batch_of()
    model.network = Oracle(model, batch)
    sampled = sample(model, [Request(n_atoms=n) for n in batch.n_atoms.tolist()], steps=4)
    assert torch.equal(sampled.crystals.numbers, batch.numbers)
    assert sampled.log_probabilities.abs().max() < 1e-9


@pytest.mark.parametrize("strategy", ["end_back", "vanilla"])
def test_beliefs_grow_with_the_steps(strategy):
    """What the network is shown at step i is as certain as i − 1 samples make it."""
    model, batch = small_model(), batch_of()
    oracle, seen = Oracle(model, batch), []
    oracle.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model.network = oracle
    sample(model, requests_of(batch), steps=20, strategy=strategy)
    assert [round(20 * float(x.time[0])) for x in seen] == list(range(20))
    feature = [x.feature[batch.mask].mean().item() for x in seen]
    assert feature[0] == 0
    assert feature[1] > 0.6
    assert feature[-1] > 0.95
    assert all(b > a - 0.02 for a, b in pairwise(feature))
    assert seen[0].lattice.abs().max() == 0


def test_the_same_seed_gives_the_same_crystals_and_another_does_not():
    model = small_model(given_types=0.5)
    requests = [Request(n_atoms=3), Request(n_atoms=5)]
    one, same, other = (sample(model, requests, steps=5, seed=s).crystals for s in ((1, 2), (1, 2), (1, 3)))
    assert torch.equal(one.fractional, same.fractional)
    assert torch.equal(one.numbers, same.numbers)
    assert not torch.equal(one.fractional, other.fractional)


def test_global_random_numbers_are_left_alone():
    model = small_model()
    before = torch.get_rng_state()
    sample(model, [Request(n_atoms=2, numbers=(3, 17))], steps=3)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("steps", [1, 6])
def test_a_chemical_system_is_never_left(steps):
    model = small_model(given_types=0.0)
    allowed = frozenset({3, 8})
    sampled = sample(model, [Request(n_atoms=5, allowed=allowed)] * 40, steps=steps)
    assert set(sampled.crystals.numbers.flatten().tolist()) == allowed
    assert (sampled.log_probabilities < 0).all()


@pytest.mark.parametrize("strategy", ["end_back", "vanilla"])
def test_given_sites_and_lattice_are_kept_exactly(strategy):
    model = small_model(given_types=0.5)
    lattice = ((4.0, 0.0, 0.0), (0.0, 4.0, 0.0), (0.5, 0.0, 5.0))
    sites = (Site(22, (0.25, 0.5, 0.75)), Site(8, (0.0, 0.1, 0.9)))
    request = Request(n_atoms=5, sites=sites, lattice=lattice)
    free = Request(n_atoms=4)
    found = sample(model, [request, free], steps=6, strategy=strategy).crystals
    assert found.numbers[0, :2].tolist() == [22, 8]
    expected = torch.tensor([site.fractional for site in sites], dtype=torch.float64)
    away = (found.fractional[0, :2] - expected + 0.5) % 1 - 0.5
    assert away.abs().max() < 1e-6
    torch.testing.assert_close(found.lattice[0], torch.tensor(lattice).double(), rtol=0, atol=1e-5)
    assert found.n_atoms.tolist() == [5, 4]


def test_what_is_shown_of_given_sites_is_as_vague_as_of_the_others():
    model, seen = small_model(given_types=0.5), []
    model.network.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    sites = (Site(22, (0.25, 0.5, 0.75)),)
    sample(model, [Request(n_atoms=2, sites=sites)] * 200, steps=10)
    angle = 2 * math.pi * torch.tensor(sites[0].fractional) - math.pi
    spread = [(1 - torch.cos(x.mean[:, 0] - angle)).mean().item() for x in seen]
    assert spread[0] > 0.8
    assert spread[-1] < 0.01


def test_guidance_moves_beyond_the_condition():
    model = small_model(properties={"density": (3.0, 1.0)}, given_types=0.5)
    torch.nn.init.normal_(model.properties.unknown, std=3.0)
    asked = [Request(n_atoms=3, numbers=(3, 3, 8), properties={"density": 5.0})]
    plain, more, free = (
        sample(model, requests, steps=1, guidance=g).crystals.lattice
        for requests, g in ((asked, 0.0), (asked, 1.0), ([Request(n_atoms=3, numbers=(3, 3, 8))], 0.0))
    )
    assert plain.abs().max() == 0  # at the first step nothing is known of the lattice
    seen = []
    model.network.register_forward_hook(lambda module, args, out: seen.append(out))
    sample(model, asked, steps=2, guidance=1.0)
    assert len(seen) == 4
    assert (seen[0].angles - seen[1].angles).abs().max() > 0
    assert more.shape == free.shape


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 0}, ConfigError, "0 steps"),
        ({"steps": 3, "strategy": "forwards"}, ConfigError, "no strategy 'forwards'"),
        ({"steps": 3, "guidance": 1.0}, ConfigError, "Guidance without a property"),
    ],
)
def test_bad_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        sample(small_model(), [Request(n_atoms=2, numbers=(3, 17))], **options)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(n_atoms=2), "cannot choose them"),
        (Request(n_atoms=1, numbers=(29,)), r"Z = \[29\]"),
        (Request(n_atoms=1, numbers=(3,), properties={"gap": 1.0}), "guided by gap"),
    ],
)
def test_what_the_model_cannot_do_is_refused(request_, message):
    with pytest.raises(UnsupportedError, match=message):
        sample(small_model(), [request_], steps=3)


def test_one_crystal_that_is_not_finite_does_not_spoil_the_others():
    model = small_model(given_types=0.0)
    model.network.register_forward_hook(
        lambda module, args, out: NetworkOutput(
            *(torch.cat([torch.full_like(x[:1], torch.nan), x[1:]]) for x in out)
        )
    )
    sampled = sample(model, [Request(n_atoms=3)] * 4, steps=3)
    assert sampled.crystals.fractional[0].isnan().all()
    assert sampled.log_probabilities[0].isnan()
    assert sampled.crystals.fractional[1:].isfinite().all()
    assert sampled.log_probabilities[1:].isfinite().all()
