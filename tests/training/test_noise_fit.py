"""The heads of predicted deviations fitted after a training."""

import numpy as np
import pytest
import torch
from ase.build import bulk

from atomml.datasets import from_ase
from atomml.training.batches import join
from atomml.training.noise_fit import refit_noise
from tests.potentials.conftest import make_potential, rock_salt


def frames(potential, n, noise, seed):
    """Structures whose forces miss the potential's by Gaussian noise of known size, and energies likewise."""
    rng = np.random.default_rng(seed)
    moved = [rock_salt() for _ in range(n)]
    for atoms in moved:
        atoms.positions += rng.normal(scale=0.1, size=atoms.positions.shape)
    store = from_ase(moved)
    batches = [join([store.graph(i, potential.cutoff) for i in range(k, k + 8)]) for k in range(0, n, 8)]
    for batch in batches:
        out = {name: value.detach() for name, value in potential(batch, forces=True).items()}
        batch.forces = out["forces"] + torch.from_numpy(rng.normal(scale=noise, size=out["forces"].shape))
        batch.energy = out["energy"] + torch.from_numpy(rng.normal(scale=2 * noise, size=out["energy"].shape))
    return batches


@pytest.fixture(name="potential", scope="module")
def _potential():
    return make_potential(noise={"forces": "expm", "hidden": 8}).double()


def run(potential, train, valid, **options):
    said = []
    refit_noise(potential, train, valid, stress=False, seed=3, say=said.append, steps=150, **options)
    return said


@pytest.mark.parametrize("noise", [0.02, 0.5])
def test_known_noise_is_found_and_everything_else_stays(potential, noise):
    body = {name: value.clone() for name, value in potential.body.state_dict().items()}
    train, valid = frames(potential, 32, noise, 0), frames(potential, 16, noise, 1)
    said = run(potential, train, valid)
    out = potential(valid[0], forces=True)
    std = out["forces_cov"].diagonal(dim1=1, dim2=2).mean().sqrt().item()
    assert std == pytest.approx(noise, rel=0.15)
    assert out["energy_var"].mean().sqrt().item() == pytest.approx(2 * noise, rel=0.4)
    assert all(torch.equal(value, body[name]) for name, value in potential.body.state_dict().items())
    assert "final errors" in said[0]


def test_ideal_crystals_do_not_count(potential):
    """Their forces are right whatever the weights are: σ of displaced atoms is found as without them."""
    train, valid = frames(potential, 32, 0.1, 0), frames(potential, 16, 0.1, 1)
    ideal = join([from_ase([bulk("LiCl", "rocksalt", 5.1)]).graph(0, potential.cutoff)] * 8)
    ideal.forces = torch.full_like(ideal.pos, 1e-3)
    ideal.energy = torch.full_like(ideal.energy, torch.nan)
    run(potential, [*train, *[ideal] * 4], valid)
    std = potential(valid[0], forces=True)["forces_cov"].diagonal(dim1=1, dim2=2).mean().sqrt().item()
    assert std == pytest.approx(0.1, rel=0.15)


def test_heads_that_are_better_as_they_are_stay(potential):
    valid = frames(potential, 16, 0.1, 1)
    run(potential, frames(potential, 32, 0.1, 0), valid)
    before = {name: value.clone() for name, value in potential.noise.state_dict().items()}
    said = run(potential, frames(potential, 32, 2.0, 2), valid)
    assert all(torch.equal(value, before[name]) for name, value in potential.noise.state_dict().items())
    assert "as learnt" in said[0]


def test_the_fit_does_not_touch_the_global_generator_and_repeats(potential):
    train = frames(potential, 16, 0.1, 0)
    state = torch.get_rng_state()
    results = []
    for _ in range(2):
        run(potential, train, [])
        results.append({name: value.clone() for name, value in potential.noise.state_dict().items()})
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())


def test_labels_that_are_absent_are_left_out(potential):
    train = frames(potential, 16, 0.1, 0)
    for batch in train:
        batch.energy[::2] = torch.nan
        batch.forces[::5] = torch.nan
    run(potential, train, [])
    assert all(torch.isfinite(value).all() for value in potential.noise.state_dict().values())
