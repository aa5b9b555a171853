import numpy as np
import pytest
from pydantic import ValidationError

from atomml.errors import ConfigError, DataError
from atomml.uncertainty.acquisition import (
    METHODS,
    AcquisitionSettings,
    PoolFeatures,
    acquire,
    bald_force,
    batch_bald,
    farthest_point,
    force_std,
    top_k,
)
from tests.uncertainty.acquisition.committee import committee


@pytest.fixture
def inputs(rng):
    features = PoolFeatures(pool=rng.normal(size=(7, 4)), labelled=rng.normal(size=(9, 4)))
    return {"predictions": committee(rng), "features": features, "rng": rng}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_chooses_different_structures_and_names_itself(inputs, method):
    chosen = acquire(method, 5, **inputs)
    assert chosen.method == method
    assert len(set(chosen.rows.tolist())) == len(chosen.scores) == 5
    assert set(chosen.rows.tolist()) <= set(range(7))


def test_the_entry_chooses_as_the_functions_do(inputs):
    predictions, features = inputs["predictions"], inputs["features"]
    settings = AcquisitionSettings(aggregate="top_k", top=2)
    expected = {
        "bald_force": top_k(bald_force(predictions, "top_k", top=2), 3),
        "force_std": top_k(force_std(predictions, "top_k", top=2), 3),
        "batch_bald": batch_bald(predictions, 3),
        "farthest_point": farthest_point(features, 3),
    }
    for method, by_function in expected.items():
        chosen = acquire(method, 3, **inputs, settings=settings)
        assert chosen.rows.tolist() == by_function.rows.tolist()
        assert chosen.scores.tolist() == by_function.scores.tolist()


def test_random_choice_is_that_of_its_generator(inputs):
    features = inputs["features"]
    first, again = (
        acquire("random", 6, features=features, rng=np.random.default_rng(3)).rows.tolist() for _ in range(2)
    )
    other = acquire("random", 6, features=features, rng=np.random.default_rng(4)).rows.tolist()
    assert first == again != other


@pytest.mark.parametrize("method", METHODS)
def test_structures_beyond_the_limits_are_left_out_and_counted(inputs, method):
    deviation = force_std(inputs["predictions"], "max")
    order = np.argsort(deviation)
    low, high = deviation[order[[2, 5]]] - 1e-9
    settings = AcquisitionSettings(force_std_min=low, force_std_max=high)
    chosen = acquire(method, 3, **inputs, settings=settings)
    assert set(chosen.rows.tolist()) == set(order[2:5].tolist())
    assert chosen.notes[0].startswith("2 of 7 structures are below")
    assert chosen.notes[1].startswith("2 of 7 structures are above")


@pytest.mark.parametrize(("minimum", "left"), [(0.0, 7), (1e3, 0)])
def test_limits_that_leave_fewer_structures_give_those(inputs, minimum, left):
    chosen = acquire("bald_joint", 7, **inputs, settings=AcquisitionSettings(force_std_min=minimum))
    assert len(chosen.rows) == len(chosen.scores) == left
    assert bool(chosen.notes) == (left == 0)


@pytest.mark.parametrize(
    ("method", "missing", "message"),
    [
        ("random", "rng", "random needs a random generator"),
        ("bald_joint", "predictions", "bald_joint needs predictions"),
        ("batch_bald", "predictions", "batch_bald needs predictions"),
        ("llpr_maxdet", "features", "llpr_maxdet needs features"),
        ("farthest_point", "features", "farthest_point needs features"),
    ],
)
def test_what_a_method_needs_is_named(inputs, method, missing, message):
    with pytest.raises(ConfigError, match=message):
        acquire(method, 2, **inputs | {missing: None})


def test_limits_need_predictions(inputs):
    with pytest.raises(ConfigError, match="limit of the deviation needs predictions"):
        acquire(
            "farthest_point", 2, features=inputs["features"], settings=AcquisitionSettings(force_std_max=1.0)
        )


def test_a_pool_is_needed_and_must_be_one(inputs, rng):
    with pytest.raises(ConfigError, match="Neither predictions nor features"):
        acquire("random", 2, rng=rng)
    other = PoolFeatures(pool=np.ones((6, 2)), labelled=np.ones((1, 2)))
    with pytest.raises(DataError, match="pools of 6 and 7 structures"):
        acquire("random", 2, **inputs | {"features": other})


@pytest.mark.parametrize("n", [0, 8])
@pytest.mark.parametrize("method", METHODS)
def test_numbers_that_the_pool_does_not_have_are_refused(inputs, method, n):
    with pytest.raises(DataError, match=f"{n} of 7 structures cannot be chosen"):
        acquire(method, n, **inputs)


def test_limits_in_the_wrong_order_are_refused():
    with pytest.raises(ValidationError, match="must be larger than force_std_min"):
        AcquisitionSettings(force_std_min=2.0, force_std_max=1.0)
