import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atomml.datasets import (
    Split,
    rows_where,
    split_by_condition,
    split_by_file,
    split_by_group,
    split_random,
)
from atomml.errors import DataError


def is_partition(split, n):
    rows = np.concatenate(split.parts())
    return len(rows) == n and len(np.unique(rows)) == n


@given(st.integers(10, 200), st.floats(0.1, 0.4), st.integers(0, 4), st.integers(0, 99))
def test_random_split_is_a_partition_of_the_stated_sizes(n, valid, test, seed):
    split = split_random(n, valid=valid, test=test, seed=seed)
    assert is_partition(split, n)
    assert len(split.valid) == round(valid * n)
    assert len(split.test) == test


def test_random_split_depends_on_the_seed_only():
    a, b, c = (split_random(50, valid=0.2, seed=s) for s in (1, 1, 2))
    assert (a.valid == b.valid).all()
    assert not (a.valid == c.valid).all()


def test_training_size_can_be_limited():
    split = split_random(100, train=20, valid=0.1, test=5, seed=0)
    assert [len(p) for p in split.parts()] == [20, 10, 5]


@given(st.lists(st.integers(1, 12), min_size=6, max_size=30), st.integers(0, 99), st.sampled_from([0.0, 0.2]))
def test_no_group_is_in_two_parts(sizes, seed, test):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    split = split_by_group(groups, valid=0.2, test=test, seed=seed)
    assert is_partition(split, len(groups))
    parts = [set(groups[rows]) for rows in split.parts()]
    assert sum(len(part) for part in parts) == len(sizes)
    assert [len(part) > 0 for part in parts] == [True, True, test > 0]


def test_group_sizes_are_met_up_to_one_group():
    groups = np.repeat([f"run{k}" for k in range(50)], 7)
    split = split_by_group(groups, valid=0.1, test=0.2, seed=3)
    assert abs(len(split.valid) - 35) <= 7
    assert abs(len(split.test) - 70) <= 7


@pytest.mark.parametrize(
    "sizes", [{"valid": 10}, {"valid": 1.5}, {"valid": -1}, {"valid": 0.01}, {"valid": 5, "test": 5}]
)
def test_sizes_that_do_not_fit_are_refused(sizes):
    with pytest.raises(DataError):
        split_random(10, seed=0, **sizes)


def test_too_few_groups_are_refused():
    with pytest.raises(DataError, match="too few"):
        split_by_group(["a"] * 5 + ["b"] * 5, valid=0.2, test=0.2, seed=0)


def test_files_become_parts():
    split = split_by_file(["a", "b", "a", "c"], valid=["b"], test=["c"])
    assert [p.tolist() for p in split.parts()] == [[0, 2], [1], [3]]
    with pytest.raises(DataError, match="not among"):
        split_by_file(["a", "b"], valid=["z"])
    with pytest.raises(DataError, match="both"):
        split_by_file(["a", "b"], valid=["b"], test=["b"])


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ("T >= 1200", [3, 4, 5]),
        ("T == 300 ", [0]),
        ("T>300 and T < 1200", [1, 2, 7]),
        ("T == 300|600", [0, 1]),
        ("traj == gas", [6]),
        ("traj == 'run 0 Å'", [0, 1, 2]),
        ("T != 300|600 and traj != gas and T < 1300", [2, 3, 7]),
        ("strain < 0.15", [0, 1]),
    ],
)
def test_conditions_select_rows_and_absent_tags_never_match_an_order(store, condition, rows):
    assert rows_where(store, condition).tolist() == rows


@pytest.mark.parametrize(
    "condition",
    ["", "T", "T = 3", "speed > 3", "T > hot", "T > 1|2", "__import__('os') == 1", "T >= 1 or T < 0"],
)
def test_wrong_conditions_are_refused(store, condition):
    with pytest.raises(DataError):
        rows_where(store, condition)


def test_condition_split_keeps_groups_together(store):
    split = split_by_condition(store, "T >= 1800", valid=3, group="traj", seed=1)
    assert split.test.tolist() == [5]
    assert is_partition(split, len(store))
    assert not set(store.tags["traj"][split.train]) & set(store.tags["traj"][split.valid])
    with pytest.raises(DataError, match="met by 0"):
        split_by_condition(store, "T > 99999")


def test_saved_split_belongs_to_its_data_set(store, tmp_path):
    split = split_random(len(store), valid=2, test=1, seed=5)
    path = split.save(tmp_path / "split.json", store)
    back = Split.load(path, store)
    assert all((a == b).all() for a, b in zip(split.parts(), back.parts(), strict=True))
    assert back.how["seed"] == 5
    with pytest.raises(DataError, match="another data set") as caught:
        Split.load(path, store.subset(range(8)))
    assert caught.value.where == str(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "atomml-split", "version": 9}'])
def test_foreign_split_files_are_refused(tmp_path, text):
    path = tmp_path / "split.json"
    path.write_text(text)
    with pytest.raises(DataError, match="not a split file"):
        Split.load(path)


@pytest.mark.parametrize(("part", "rows"), [("valid", [0]), ("valid", [-1])])
def test_edited_split_with_a_row_twice_is_refused(store, tmp_path, part, rows):
    path = split_random(len(store), valid=2, seed=0).save(tmp_path / "split.json")
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"train": [0, 1], part: rows}))
    with pytest.raises(DataError, match="in two parts"):
        Split.load(path)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("n_atoms >= 8", lambda a: len(a) >= 8),
        ("has_Cl == false", lambda a: 17 not in a.numbers),
        ("has_Li == true and n_atoms < 7", lambda a: 3 in a.numbers and len(a) < 7),
        ("fmax > 2.5", lambda a: a.calc is not None and _largest(a) > 2.5),
        ("energy_per_atom < 0", lambda a: a.calc is not None and a.calc.results.get("energy", 1) < 0),
        ("volume_per_atom > 20", lambda a: a.pbc.all() and a.get_volume() / len(a) > 20),
    ],
)
def test_conditions_on_what_every_store_has(store, frames, condition, expected):
    assert rows_where(store, condition).tolist() == [i for i, a in enumerate(frames) if expected(a)]


def _largest(atoms):
    forces = atoms.calc.results.get("forces")
    return -1 if forces is None else np.linalg.norm(forces, axis=1).max()
