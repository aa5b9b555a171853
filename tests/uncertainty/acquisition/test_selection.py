import numpy as np
import pytest
from scipy.spatial.distance import cdist

from atomml.errors import DataError
from atomml.uncertainty.acquisition import PoolFeatures, farthest_point, top_k

NOTHING = np.zeros((0, 2))


def test_largest_scores_come_first_and_ties_in_order():
    chosen = top_k(np.array([1.0, 3.0, 2.0, 3.0, -1.0]), 4, method="energy_std")
    assert chosen.rows.tolist() == [1, 3, 2, 0]
    assert chosen.scores.tolist() == [3.0, 3.0, 2.0, 1.0]
    assert chosen.method == "energy_std"


def test_a_score_that_is_not_finite_is_refused():
    with pytest.raises(DataError, match="score of structure 1 is not finite"):
        top_k(np.array([1.0, np.nan]), 1)


@pytest.mark.parametrize("n", [0, -1, 5])
def test_numbers_that_the_pool_does_not_have_are_refused(n):
    with pytest.raises(DataError, match=f"{n} of 4 structures cannot be chosen"):
        top_k(np.ones(4), n)
    with pytest.raises(DataError, match=f"{n} of 4 structures cannot be chosen"):
        farthest_point(PoolFeatures(pool=np.ones((4, 2)), labelled=NOTHING), n)


def test_each_choice_is_the_farthest_from_labelled_and_chosen(rng):
    features = PoolFeatures(pool=rng.normal(size=(60, 3)), labelled=rng.normal(size=(1500, 3)) * 0.3)
    chosen = farthest_point(features, 12)
    for k in range(12):
        known = np.concatenate([features.labelled, features.pool[chosen.rows[:k]]])
        distance = cdist(features.pool, known).min(axis=1)
        assert chosen.rows[k] == distance.argmax()
        assert chosen.scores[k] == pytest.approx(distance.max(), rel=1e-12)
    assert (np.diff(chosen.scores) <= 0).all()


def test_without_labelled_structures_the_most_central_is_the_start():
    pool = np.array([[0.0, 0.0], [4.0, 0.0], [9.0, 0.0], [5.0, 1.0]])
    chosen = farthest_point(PoolFeatures(pool=pool, labelled=NOTHING), 3)
    assert chosen.rows.tolist() == [1, 2, 0]
    assert chosen.scores.tolist() == [np.inf, 5.0, 4.0]


def test_labelled_structures_are_not_chosen_again(rng):
    pool = rng.normal(size=(6, 2))
    chosen = farthest_point(PoolFeatures(pool=pool, labelled=pool[:4]), 2)
    assert set(chosen.rows.tolist()) == {4, 5}


def test_every_structure_is_chosen_once_even_if_all_are_the_same():
    chosen = farthest_point(PoolFeatures(pool=np.ones((5, 2)), labelled=NOTHING), 5)
    assert sorted(chosen.rows.tolist()) == [0, 1, 2, 3, 4]
