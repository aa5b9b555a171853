import numpy as np
import pytest
from scipy.linalg import block_diag
from scipy.spatial.transform import Rotation

from atomml.errors import ConfigError, DataError
from atomml.uncertainty.acquisition import (
    MemberPredictions,
    NoiseFloor,
    aggregate_atoms,
    bald_energy,
    bald_force,
    bald_joint,
    energy_std_per_atom,
    force_std,
)
from tests.uncertainty.acquisition.committee import N_ATOMS, committee, constant_noise, spd

FLOOR = NoiseFloor(energy_std_per_atom=0.2, force_std=0.3)
ALL_BALD = [bald_energy, lambda p, floor=None: bald_force(p, "max", floor), bald_joint]


def per_member(array, lead, members):
    return np.broadcast_to(array, (members, *array.shape)) if array.ndim == lead else array


def blocks(predictions, row):
    """Means [M, 1+3N] and noise covariances [M, 1+3N, 1+3N] of one structure."""
    one = predictions.take(np.array([row]))
    energy_var = per_member(one.energy_var, 1, one.members)[:, 0]
    forces_cov = per_member(one.forces_cov, 3, one.members)
    noise = [block_diag(e, *f) for e, f in zip(energy_var, forces_cov, strict=True)]
    return np.concatenate([one.energy, one.forces.reshape(one.members, -1)], axis=1), np.array(noise)


def moment_matched(means, noise):
    """½ [log det(mean S + C) − mean log det S] by the stacked matrices."""
    total = noise.mean(axis=0) + np.cov(means.T, bias=True)
    return 0.5 * (np.linalg.slogdet(total)[1] - np.linalg.slogdet(noise)[1].mean())


@pytest.mark.parametrize("noise", ["each", "all"])
@pytest.mark.parametrize("members", [2, 5, 30])
def test_joint_information_is_that_of_the_stacked_covariance(rng, noise, members):
    predictions = committee(rng, members=members, noise=noise)
    expected = [moment_matched(*blocks(predictions, row)) for row in range(len(predictions))]
    np.testing.assert_allclose(bald_joint(predictions), expected, rtol=1e-10)


@pytest.mark.parametrize("noise", ["each", "all"])
def test_information_of_single_quantities_is_that_of_their_blocks(rng, noise):
    predictions = committee(rng, noise=noise)
    for row in range(len(predictions)):
        means, covariances = blocks(predictions, row)
        places = [slice(1 + 3 * k, 4 + 3 * k) for k in range(N_ATOMS[row])]
        atoms = [moment_matched(means[:, at], covariances[:, at, at]) for at in places]
        assert bald_force(predictions, "max")[row] == pytest.approx(max(atoms), rel=1e-10)
        assert bald_force(predictions, "sum")[row] == pytest.approx(sum(atoms), rel=1e-10)
        total = covariances[:, 0, 0].mean() + means[:, 0].var()
        closed = 0.5 * (np.log(total) - np.log(covariances[:, 0, 0]).mean())
        assert bald_energy(predictions)[row] == pytest.approx(closed, rel=1e-10)


def test_information_of_one_energy_has_the_closed_form():
    score = bald_energy(constant_noise(np.array([[-1.0], [1.0]]), 1.0 / 3.0))
    np.testing.assert_allclose(score, 0.5 * np.log(4.0))


def test_a_disagreement_far_below_the_noise_is_not_lost_in_rounding():
    score = bald_energy(constant_noise(np.array([[-1e-9], [1e-9]]), 1.0))
    np.testing.assert_allclose(score, 0.5e-18, rtol=1e-12)


@pytest.mark.parametrize("score", ALL_BALD)
@pytest.mark.parametrize("noise", ["each", "all"])
def test_information_is_never_negative_and_zero_where_members_agree(rng, score, noise):
    assert (score(committee(rng, noise=noise)) > 0).all()
    agreed = committee(rng, noise="all")
    same = MemberPredictions(
        energy=np.repeat(agreed.energy[:1], 5, axis=0),
        forces=np.repeat(agreed.forces[:1], 5, axis=0),
        n_atoms=agreed.n_atoms,
        energy_var=agreed.energy_var,
        forces_cov=agreed.forces_cov,
    )
    np.testing.assert_allclose(score(same), 0.0, atol=1e-20)


@pytest.mark.parametrize("members", [2, 10])
def test_moment_matching_bounds_the_information_of_the_mixture(members):
    rng = np.random.default_rng(5)
    means = np.array([[-2.0], [2.0]]) if members == 2 else rng.normal(size=(members, 1)) * 2.0
    bound = bald_energy(constant_noise(means, 1.0))[0]
    samples = means[rng.integers(members, size=200_000), 0] + rng.normal(size=200_000)
    densities = np.exp(-0.5 * (samples[:, None] - means[:, 0]) ** 2).mean(axis=1) / np.sqrt(2 * np.pi)
    log_density = np.log(densities)
    exact = -log_density.mean() - 0.5 * np.log(2 * np.pi * np.e)
    error = log_density.std() / np.sqrt(len(samples))
    assert 0 < exact < np.log(members) + 3 * error
    assert bound > exact + 3 * error
    assert bound < exact + 0.2


def test_scores_do_not_change_when_structure_and_noise_turn(rng):
    predictions, turn = committee(rng), Rotation.random(random_state=3).as_matrix()
    turned = MemberPredictions(
        energy=predictions.energy,
        forces=predictions.forces @ turn.T,
        n_atoms=predictions.n_atoms,
        energy_var=predictions.energy_var,
        forces_cov=turn @ predictions.forces_cov @ turn.T,
    )
    for score in (*ALL_BALD, lambda p: force_std(p, "mean")):
        np.testing.assert_allclose(score(turned), score(predictions), rtol=1e-10)


def test_isotropic_floor_is_invariant_and_noise_fixed_to_the_axes_is_not(rng):
    plain, turn = committee(rng, noise="none"), Rotation.random(random_state=3).as_matrix()
    fixed = spd(rng, int(N_ATOMS.sum()))

    def scores(forces, forces_cov=None):
        given = MemberPredictions(
            energy=plain.energy, forces=forces, n_atoms=plain.n_atoms, forces_cov=forces_cov
        )
        return bald_joint(given, FLOOR)

    np.testing.assert_allclose(scores(plain.forces @ turn.T), scores(plain.forces), rtol=1e-10)
    assert np.abs(scores(plain.forces @ turn.T, fixed) / scores(plain.forces, fixed) - 1).max() > 1e-3


def test_scores_follow_the_structures_and_ignore_the_order_of_members(rng):
    predictions, order = committee(rng), rng.permutation(len(N_ATOMS))
    mixed = rng.permutation(predictions.members)
    members = MemberPredictions(
        energy=predictions.energy[mixed],
        forces=predictions.forces[mixed],
        n_atoms=predictions.n_atoms,
        energy_var=predictions.energy_var[mixed],
        forces_cov=predictions.forces_cov[mixed],
    )
    for score in (*ALL_BALD, energy_std_per_atom, lambda p: force_std(p, "top_k", top=2)):
        np.testing.assert_allclose(score(predictions.take(order)), score(predictions)[order], rtol=1e-12)
        np.testing.assert_allclose(score(members), score(predictions), rtol=1e-10)


def test_floor_is_added_to_the_noise_of_the_heads(rng):
    heads = committee(rng, noise="all")
    added = MemberPredictions(
        energy=heads.energy,
        forces=heads.forces,
        n_atoms=heads.n_atoms,
        energy_var=heads.energy_var + (0.2 * heads.n_atoms) ** 2,
        forces_cov=heads.forces_cov + 0.3**2 * np.eye(3),
    )
    np.testing.assert_allclose(bald_joint(heads, FLOOR), bald_joint(added), rtol=1e-12)


@pytest.mark.parametrize("score", ALL_BALD)
@pytest.mark.parametrize("floor", [None, NoiseFloor()])
def test_information_without_any_noise_is_refused(rng, score, floor):
    with pytest.raises(ConfigError, match="depends on the noise of their labels"):
        score(committee(rng, noise="none"), floor)


def test_noise_that_is_not_positive_definite_is_named(rng):
    predictions = committee(rng)
    predictions.forces_cov[2, 6] = np.diag([1.0, 1.0, -1.0])
    with pytest.raises(DataError, match="noise of the force of atom 6 is not positive"):
        bald_joint(predictions)


def test_deviations_are_those_of_the_committee_by_definition(rng):
    predictions = committee(rng, noise="none")
    np.testing.assert_allclose(
        energy_std_per_atom(predictions),
        [np.std(e, ddof=0) / n for e, n in zip(predictions.energy.T, N_ATOMS, strict=True)],
    )
    atoms = [np.sqrt(np.trace(np.cov(f.T, bias=True)) / 3) for f in predictions.forces.swapaxes(0, 1)]
    parts = np.split(np.array(atoms), np.cumsum(N_ATOMS)[:-1])
    np.testing.assert_allclose(force_std(predictions, "max"), [part.max() for part in parts])
    np.testing.assert_allclose(force_std(predictions, "mean"), [part.mean() for part in parts])


@pytest.mark.parametrize(
    ("aggregate", "top", "expected"),
    [
        ("max", 9, [5.0, -3.0, 8.0]),
        ("mean", 9, [3.0, -3.0, 6.0]),
        ("sum", 9, [9.0, -3.0, 12.0]),
        ("top_k", 1, [5.0, -3.0, 8.0]),
        ("top_k", 2, [4.5, -3.0, 6.0]),
        ("top_k", 9, [3.0, -3.0, 6.0]),
    ],
)
def test_atoms_are_aggregated_as_the_word_says(aggregate, top, expected):
    values, n_atoms = np.array([5.0, 0.0, 4.0, -3.0, 4.0, 8.0]), np.array([3, 1, 2])
    np.testing.assert_allclose(aggregate_atoms(values, n_atoms, aggregate, top=top), expected)


def test_no_atoms_cannot_be_the_largest():
    with pytest.raises(ConfigError, match="at least one atom"):
        aggregate_atoms(np.ones(2), np.array([2]), "top_k", top=0)
