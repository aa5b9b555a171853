"""Loops that begin or learn in other ways; most of them are slow."""

import pytest

from atomml.errors import DataError, SimulationError
from atomml.uncertainty.model_file import load_model
from tests.active.helpers import MODEL, loop, of_step, settings, steps

TRAINING = {"model": MODEL, "batch": {"batch_size": 12}, "max_steps": 3, "threads": 1}
slow = pytest.mark.slow


def test_no_structure_that_can_be_explored_is_an_error(folder):
    start = settings(folder)["start"] | {"structures": {"prototypes": ["rocksalt"]}}
    with pytest.raises(SimulationError, match="No candidate was found") as error:
        loop(folder, start=start, explore=[{"kind": "md", "steps": 20}])
    assert "does not know" in str(error.value)


@slow
def test_unknown_elements_are_counted_and_the_others_go_on(folder):
    start = settings(folder)["start"] | {"structures": {"files": ["cu.cif"], "prototypes": ["rocksalt"]}}
    explore = [*settings(folder)["explore"], {"kind": "relax", "steps": 2}]
    result = loop(folder, start=start, explore=explore, select={"n": 2})
    assert result["rounds"][1]["dropped"]["unknown_elements"] == 5
    assert "the model does not know" in result["rounds"][1]["note"]
    assert result["rounds"][1]["labelled"] == 2


@slow
def test_uncalibrated_deviations_put_no_limit_on_anything(folder):
    result = loop(folder, calibrate={"share": 0.1}, gate={"force_std_min": 1e6, "force_std_max": None})
    assert result["rounds"][1]["labelled"] == 4
    assert "not calibrated yet" in result["rounds"][1]["note"]
    assert result["rounds"][1]["confident_share"] is None


def test_test_frames_among_the_labelled_ones_are_left_out(folder):
    start = settings(folder)["start"] | {"labelled": ["train.extxyz", "test.extxyz", "train.extxyz"]}
    result = loop(folder, start=start, stop={"max_rounds": 0})
    assert "6 labelled frames are in the test set" in result["rounds"][0]["note"]
    assert "44 labelled frames come twice" in result["rounds"][0]["note"]


@slow
def test_random_choice_by_a_plain_model_works_without_a_gate(folder):
    gate = {"force_std_min": None, "force_std_max": None}
    plain = TRAINING | {"model": MODEL | {"heads": 1}}
    result = loop(folder, gate=gate, select={"method": "random", "n": 3}, learn={"training": plain})
    assert result["rounds"][1]["labelled"] == 3


@pytest.mark.parametrize("replay", [pytest.param(0.0, marks=slow), 0.5, pytest.param(5, marks=slow)])
def test_a_warm_start_goes_on_from_the_model_before(folder, replay):
    learn = {"training": TRAINING, "mode": "warm", "replay": replay, "warm_steps": 2, "warm_lr": 1e-5}
    loop(folder, learn=learn)
    first, second = (of_step(folder / "run", k, "train") for k in (0, 1))
    new = of_step(folder / "run", 1, "store")["stores"]["train"]["frames"]
    assert not first["warm"]
    assert second["warm"]
    assert second["frames"] == new + {0.0: 0, 0.5: 11, 5: 5}[replay]
    one, two = (load_model(folder / "run" / f["model"]["path"]).potential for f in (first, second))
    change = max((a - b).abs().max().item() for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert 0 < change < 1e-3


@slow
def test_an_ensemble_is_warm_started_member_by_member(folder):
    training = TRAINING | {"model": MODEL | {"heads": 1}, "uncertainty": {"kind": "ensemble", "members": 2}}
    learn = {"training": training, "mode": "warm", "warm_steps": 1, "warm_lr": 1e-5}
    loop(folder, learn=learn)
    for k in (0, 1):
        one, two = (
            load_model(folder / "run" / "rounds" / n / "train" / "members" / str(k) / "model.safetensors")
            for n in ("00", "01")
        )
        change = max(
            (a - b).abs().max().item() for a, b in zip(one.parameters(), two.parameters(), strict=True)
        )
        assert 0 < change < 1e-3


@slow
def test_a_loop_can_begin_without_any_label(folder):
    start = settings(folder)["start"] | {"labelled": []}
    explore = [
        {"kind": "rattle", "n": 12},
        {"kind": "md", "steps": 4, "record_every": 2, "temperatures": [300]},
    ]
    result = loop(folder, start=start, explore=explore, select={"n": 8})
    assert [row["labelled"] for row in result["rounds"]] == [8, 8]
    assert "no model yet" in result["rounds"][0]["note"]
    assert steps(folder / "run")[:6] == [
        (0, s) for s in ("start", "explore", "gate", "select", "label", "store")
    ]


def test_a_loop_can_begin_with_a_model(copied):
    model = copied / "run" / of_step(copied / "run", 1, "calibrate")["model"]["path"]
    start = {
        "structures": {"files": ["cu.cif"]},
        "cell": {"min_length": 0, "min_atoms": 1},
        "model": str(model),
    }
    result = loop(copied, name="second", start=start)
    assert steps(copied / "second")[:3] == [(0, "start"), (0, "report"), (1, "explore")]
    assert result["rounds"][1]["train_frames"] == 2
    assert result["rounds"][1]["fresh_forces_rmse"] > 0


def test_labelled_files_need_labels(folder):
    start = settings(folder)["start"] | {"labelled": ["cu.cif"]}
    with pytest.raises(DataError, match="has an energy"):
        loop(folder, start=start)
