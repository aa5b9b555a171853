from itertools import combinations

import numpy as np
import pytest

from atomml.errors import ConfigError, DataError
from atomml.uncertainty.acquisition import (
    NoiseFloor,
    bald_joint,
    batch_bald,
    llpr_maxdet,
    top_k,
    training_precision,
)
from atomml.uncertainty.acquisition.batch import greedy_information
from tests.uncertainty.acquisition.committee import committee, constant_noise


def information(grams):
    return 0.5 * np.linalg.slogdet(np.eye(grams.shape[-1]) + grams.sum(axis=0))[1]


def random_grams(rng, n, k, rank):
    factors = rng.normal(size=(n, k, rank)) * rng.lognormal(size=(n, 1, 1))
    return factors @ factors.swapaxes(1, 2)


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_lazy_greedy_choice_is_the_direct_one(rng, rank):
    grams = random_grams(rng, 40, 5, rank)
    rows, gains, _ = greedy_information(grams, 15)
    for k in range(15):
        known = information(grams[rows[:k]])
        direct = np.array([information(grams[[*rows[:k], j]]) - known for j in range(40)])
        direct[rows[:k]] = -np.inf
        assert rows[k] == direct.argmax()
        assert gains[k] == pytest.approx(direct.max(), rel=1e-8)
    assert (np.diff(gains) <= 1e-12).all()


@pytest.mark.parametrize("seed", range(8))
def test_greedy_batch_is_within_the_bound_of_the_best(seed):
    grams = random_grams(np.random.default_rng(seed), 9, 4, 1)
    rows, gains, _ = greedy_information(grams, 4)
    best = max(information(grams[list(batch)]) for batch in combinations(range(9), 4))
    assert (1 - 1 / np.e) * best <= gains.sum() <= best + 1e-12
    assert gains.sum() == pytest.approx(information(grams[rows]), rel=1e-10)


def test_information_of_the_batch_is_that_of_all_its_labels_stacked(rng):
    predictions = committee(rng, noise="none", members=6)
    chosen = batch_bald(predictions, 3, NoiseFloor(energy_std_per_atom=0.4, force_std=0.9))
    batch = predictions.take(chosen.rows)
    labels = np.concatenate([batch.energy, batch.forces.reshape(6, -1)], axis=1)
    noise = np.concatenate([(0.4 * batch.n_atoms) ** 2, np.full(labels.shape[1] - 3, 0.9**2)])
    covariance = np.diag(noise) + np.cov(labels.T, bias=True)
    stacked = 0.5 * (np.linalg.slogdet(covariance)[1] - np.log(noise).sum())
    assert chosen.scores.sum() == pytest.approx(stacked, rel=1e-10)


def test_duplicates_are_not_taken_twice_where_the_best_scores_are(rng):
    means = np.diag([9.0, 8.0, 7.0, 6.0])
    twice = constant_noise(np.repeat(np.concatenate([means, -means]), 2, axis=1), 1.0)
    assert top_k(bald_joint(twice), 4).rows.tolist() == [0, 1, 2, 3]
    chosen = batch_bald(twice, 4)
    assert chosen.rows.tolist() == [0, 2, 4, 6]
    assert not chosen.notes


def test_a_committee_that_cannot_tell_more_structures_apart_says_so(rng):
    chosen = batch_bald(constant_noise(rng.normal(size=(3, 30)) * 10, 1.0), 30)
    assert sorted(chosen.rows.tolist()) == list(range(30))
    (note,) = chosen.notes
    assert "from choice 3 on" in note
    assert "3 members" in note


def test_batch_follows_the_structures(rng):
    predictions, order = committee(rng), rng.permutation(7)
    straight, mixed = batch_bald(predictions, 4), batch_bald(predictions.take(order), 4)
    assert order[mixed.rows].tolist() == straight.rows.tolist()
    features, precision = rng.normal(size=(20, 6)), training_precision(rng.normal(size=(9, 6)))
    order = rng.permutation(20)
    straight, mixed = (llpr_maxdet(x, precision, 8) for x in (features, features[order]))
    assert order[mixed.rows].tolist() == straight.rows.tolist()


@pytest.mark.parametrize(("noise_var", "n"), [(0.0, 6), (0.01, 12), (1.0, 12)])
def test_rank_one_updates_choose_by_the_determinant_of_the_kernel(rng, noise_var, n):
    features, precision = rng.normal(size=(40, 7)), training_precision(rng.normal(size=(5, 7)), 0.1)
    kernel = features @ np.linalg.solve(precision, features.T)

    def log_det(rows):
        return np.linalg.slogdet(kernel[np.ix_(rows, rows)] + noise_var * np.eye(len(rows)))[1]

    chosen = llpr_maxdet(features, precision, n, noise_var=noise_var)
    for k in range(n):
        before = chosen.rows[:k].tolist()
        direct = {j: log_det([*before, j]) for j in range(40) if j not in before}
        assert chosen.rows[k] == max(direct, key=direct.get)
        ratio = np.exp(direct[chosen.rows[k]] - (log_det(before) if before else 0.0))
        assert chosen.scores[k] ** 2 + noise_var == pytest.approx(ratio, rel=1e-6)


def test_the_batch_makes_the_next_precision_large(rng):
    features, precision = rng.normal(size=(30, 4)), training_precision(rng.normal(size=(8, 4)), 0.1)
    chosen = llpr_maxdet(features, precision, 6)
    batch = features[chosen.rows]
    grown = np.linalg.slogdet(precision + batch.T @ batch)[1] - np.linalg.slogdet(precision)[1]
    assert np.log1p(chosen.scores**2).sum() == pytest.approx(grown, rel=1e-10)


@pytest.mark.parametrize("noise_var", [0.0, 1.0])
def test_duplicates_are_not_taken_twice_where_the_largest_variances_are(noise_var):
    features = np.repeat(np.diag([9.0, 8.0, 7.0]), 2, axis=0)
    variance = np.einsum("bp,bp->b", features, features)
    assert top_k(variance, 3).rows.tolist() == [0, 1, 2]
    assert llpr_maxdet(features, np.eye(3), 3, noise_var=noise_var).rows.tolist() == [0, 2, 4]


def test_features_that_span_no_more_are_told_and_the_rest_is_taken_by_variance():
    features = np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0], [0.0, 2.5], [2.0, 0.0]])
    chosen = llpr_maxdet(features, np.eye(2), 4, noise_var=0.0)
    assert chosen.rows.tolist() == [1, 3, 2, 4]
    np.testing.assert_allclose(chosen.scores, [3.0, 2.5, 0.0, 0.0], atol=1e-12)
    assert "from choice 3 on" in chosen.notes[0]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: llpr_maxdet(x, np.eye(2), 5), DataError, "5 of 4 structures"),
        (lambda x: llpr_maxdet(x, np.eye(2), 1, noise_var=-1.0), ConfigError, "noise -1.0 is negative"),
        (lambda x: llpr_maxdet(x, np.zeros((2, 2)), 1), DataError, "not positive definite"),
        (lambda x: training_precision(x, 0.0), ConfigError, "regulariser 0.0 is not positive"),
        (lambda x: training_precision(0 * x), DataError, "no features from which"),
        (lambda x: training_precision(x[:0]), DataError, "no features from which"),
        (lambda x: batch_bald(constant_noise(x, 1.0), 3), DataError, "3 of 2 structures"),
    ],
)
def test_what_cannot_be_chosen_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(np.arange(8.0).reshape(4, 2))


def linear_toy(seed):
    """Features of a pool crowded around two of ten centres, of a test with all, and of three labelled structures."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(10, 12))
    crowded = np.array([12.0] * 2 + [1.0] * 8) / 32.0

    def draw(n, weights):
        return centres[rng.choice(10, size=n, p=weights)] + 0.3 * rng.normal(size=(n, 12))

    return rng, draw(3, crowded), draw(150, crowded), draw(100, None)


def test_determinants_beat_random_choice_in_bayesian_linear_regression():
    noise, errors = 0.3, {"random": [], "llpr_maxdet": [], "batch_bald": []}
    for seed in range(12):
        rng, labelled, pool, test = linear_toy(seed)
        truth = rng.normal(size=12)
        precision = training_precision(labelled / noise, 1.0)
        start = np.linalg.solve(precision, labelled.T @ (labelled @ truth) / noise**2)
        members = start + rng.normal(size=(16, 12)) @ np.linalg.inv(np.linalg.cholesky(precision))
        batches = {
            "random": rng.choice(150, 10, replace=False),
            "llpr_maxdet": llpr_maxdet(pool / noise, precision, 10).rows,
            "batch_bald": batch_bald(constant_noise(members @ pool.T, noise**2), 10).rows,
        }
        for name, rows in batches.items():
            seen = np.concatenate([labelled, pool[rows]])
            targets = seen @ truth + noise * np.random.default_rng(seed).normal(size=len(seen))
            weights = np.linalg.solve(training_precision(seen / noise, 1.0), seen.T @ targets / noise**2)
            errors[name].append(np.sqrt(np.mean((test @ (weights - truth)) ** 2)))
    mean = {name: np.mean(values) for name, values in errors.items()}
    assert mean["llpr_maxdet"] < 0.5 * mean["random"]
    assert mean["batch_bald"] < 0.5 * mean["random"]
