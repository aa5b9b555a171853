import json

import numpy as np
import pytest

from atomml.errors import ConfigError, DataError
from atomml.uncertainty.acquisition import PoolSplit, split_pool
from atomml.uncertainty.acquisition.pool import PARTS

FRACTIONS = {"labelled": 0.1, "pool": 0.5, "calibration": 0.1, "test": 0.3}


def trajectories(rng, n=40):
    return [f"run-{k}" for k in rng.permutation(np.repeat(np.arange(n), rng.integers(1, 9, size=n)))]


def rows_of(split):
    return {part: getattr(split, part) for part in PARTS}


@pytest.mark.parametrize("seed", range(4))
def test_every_frame_is_in_one_part_and_no_trajectory_in_two(rng, seed):
    groups = trajectories(rng)
    split = split_pool(groups, FRACTIONS, seed=seed)
    parts = rows_of(split)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(groups)))
    names = [{groups[row] for row in rows} for rows in parts.values()]
    assert sum(map(len, names)) == len(set(groups)) == split.groups
    for part, rows in parts.items():
        assert abs(len(rows) - FRACTIONS[part] * len(groups)) <= 9
    split.check_groups(groups)


def test_the_split_depends_on_the_seed_only():
    first, again, other = (split_pool(range(50), FRACTIONS, seed=seed) for seed in (3, 3, 4))
    assert first.record() == again.record() != other.record()


def test_calibration_can_be_left_out():
    split = split_pool(range(20), FRACTIONS | {"pool": 0.6, "calibration": 0.0}, seed=0)
    assert [len(rows) for rows in rows_of(split).values()] == [2, 12, 0, 6]


def test_a_split_and_what_was_labelled_since_come_back_from_json():
    split = split_pool(range(30), FRACTIONS, seed=1)
    later = split.label(split.pool[[4, 2]]).label(split.pool[[7]])
    assert json.loads(json.dumps(later.record())) == later.record()
    again = PoolSplit.from_record(json.loads(json.dumps(later.record())))
    assert again.record() == later.record()
    assert again.rounds == ((split.pool[4], split.pool[2]), (split.pool[7],))
    assert set(again.labelled) == {*split.labelled, *split.pool[[4, 2, 7]]}
    assert set(again.pool) == set(split.pool) - set(again.labelled)


@pytest.mark.parametrize("part", ["labelled", "calibration", "test"])
def test_only_the_pool_can_be_labelled(part):
    split = split_pool(range(30), FRACTIONS, seed=1)
    row = getattr(split, part)[0]
    with pytest.raises(DataError, match=f"row {row} is not in the pool"):
        split.label(np.array([split.pool[0], row]))
    with pytest.raises(DataError, match="chosen twice"):
        split.label(split.pool[[0, 0]])


def test_a_row_in_two_parts_is_named():
    record = split_pool(range(30), FRACTIONS, seed=1).record()
    row = record["pool"][0]
    record["test"].append(row)
    with pytest.raises(DataError, match=f"Row {row} is negative or in two parts"):
        PoolSplit.from_record(record)


def test_a_trajectory_in_pool_and_test_is_named():
    groups = np.arange(30)
    split = split_pool(groups, FRACTIONS, seed=1)
    groups[split.pool[0]] = groups[split.test[0]] = 99
    with pytest.raises(DataError, match="Frames of 99 are in two parts"):
        split.check_groups(groups)
    groups[split.test[0]] = 98
    groups[split.labelled[0]] = 99
    split.check_groups(groups)
    with pytest.raises(DataError, match="rows beyond the 10 groups"):
        split.check_groups(groups[:10])


@pytest.mark.parametrize(
    ("groups", "fractions", "error", "message"),
    [
        (range(3), FRACTIONS, DataError, "3 groups, too few for 4 parts"),
        ([], FRACTIONS, DataError, "0 groups"),
        ([(0, 1)] * 5, FRACTIONS, DataError, "one name or number for each frame"),
        (range(30), FRACTIONS | {"test": 0.5}, ConfigError, "add up to 1.2"),
        (range(30), FRACTIONS | {"test": 0.0, "pool": 0.8}, ConfigError, "not one positive number"),
        (range(30), FRACTIONS | {"valid": 0.0}, ConfigError, "not one positive number"),
        (range(30), {"pool": 0.5, "test": 0.5}, ConfigError, "not one positive number"),
    ],
)
def test_splits_that_cannot_be_are_refused(groups, fractions, error, message):
    with pytest.raises(error, match=message):
        split_pool(groups, fractions, seed=0)


def test_a_foreign_record_is_refused():
    with pytest.raises(DataError, match="not the record of a split"):
        PoolSplit.from_record({"train": [1, 2]})
