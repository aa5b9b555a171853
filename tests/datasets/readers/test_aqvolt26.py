from dataclasses import replace

import numpy as np
import pytest

from atomml.datasets import load_frames
from atomml.datasets.aqvolt26 import (
    EvaluationProtocol,
    dataset_facts,
    evaluation_conditions,
    evaluation_parts,
    with_max_force,
)
from atomml.datasets.conditions import rows_where
from atomml.errors import DataError
from tests.conftest import ROOT

HALIDES = EvaluationProtocol(temperature_tag="T", near_fmax=1.0)


@pytest.fixture(scope="module")
def sample():
    return load_frames(ROOT / "data" / "li_halide" / "sample" / "li_halide.extxyz.gz")


def test_the_parts_are_the_frames_that_their_numbers_say(sample):
    parts = evaluation_parts(sample, HALIDES)
    largest = np.array([np.linalg.norm(sample[i].get_forces(), axis=1).max() for i in range(len(sample))])
    assert parts["near_equilibrium"].tolist() == np.flatnonzero(largest <= 1.0).tolist()
    assert parts["low_temperature"].tolist() == np.flatnonzero(sample.tags["T"] == 300).tolist()
    assert parts["high_temperature"].tolist() == np.flatnonzero(sample.tags["T"] >= 1000).tolist()
    assert parts["compressed"].tolist() == np.flatnonzero(sample.tags["strain"] <= -0.02).tolist()
    assert parts["expanded"].tolist() == np.flatnonzero(sample.tags["strain"] >= 0.02).tolist()
    assert all(len(rows) for rows in parts.values())


def test_hot_frames_of_the_whole_set_have_larger_forces_than_cold_ones(shared_data):
    store = load_frames(shared_data / "li_halide" / "li_halide_umlip.extxyz.gz")
    parts = evaluation_parts(store, HALIDES)
    assert len(parts["high_temperature"]) == 680
    assert len(parts["low_temperature"]) == 260
    hot, cold = (np.median(store.index.max_force[parts[f"{name}_temperature"]]) for name in ("high", "low"))
    assert hot > 1.5 * cold
    near = store.tags["T"][parts["near_equilibrium"]]
    assert near.size == 0 or near.mean() < store.tags["T"].mean()


def test_conditions_are_text_for_any_place_that_takes_conditions(sample):
    conditions = evaluation_conditions(HALIDES)
    assert conditions["high_temperature"] == "T >= 1000.0"
    assert conditions["compressed"] == "strain <= -0.02"
    store = with_max_force(sample)
    parts = evaluation_parts(sample, HALIDES)
    for name, condition in conditions.items():
        assert rows_where(store, condition).tolist() == parts[name].tolist()


def test_parts_without_their_tag_are_left_out_unless_asked_for(sample):
    plain = replace(sample, tags={})
    assert list(evaluation_parts(plain)) == ["near_equilibrium"]
    with pytest.raises(DataError, match="temperature"):
        evaluation_parts(plain, parts=["high_temperature"])
    with pytest.raises(DataError, match="no part 'hot'"):
        evaluation_parts(plain, parts=["hot"])


def test_the_largest_force_of_the_source_is_kept_and_gaps_are_filled(sample):
    few = sample.subset([0, 1, 2])
    assert np.array_equal(with_max_force(few).tags["fmax"], few.index.max_force)
    stated = replace(few, tags={"fmax": np.array([0.5, np.nan, 7.0])})
    assert with_max_force(stated).tags["fmax"].tolist() == [0.5, few.index.max_force[1], 7.0]
    whole = replace(few, tags={"fmax": np.array([1, 2, 3])})
    assert with_max_force(whole) is whole
    with pytest.raises(DataError, match="not a number"):
        with_max_force(replace(few, tags={"fmax": np.array(["a", "b", "c"])}))


def test_the_licence_of_aqvolt26_is_not_for_commerce():
    assert "NON-COMMERCIAL" in dataset_facts("aqvolt26")["licence"]
    assert dataset_facts("other") == {}
