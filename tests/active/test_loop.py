"""Whole loops on copper: what they leave, what may change between their pieces, and bad input."""

import csv
import errno
import json
import os

import numpy as np
import pytest

from atomml.active.history import stores
from atomml.active.journal import read_journal
from atomml.active.labels import CACHE
from atomml.active.status import status
from atomml.datasets import frame_fingerprints
from atomml.datasets.store import FrameStore
from atomml.errors import AtommlError, ConfigError, SimulationError
from atomml.labelling.cache import LabelCache
from atomml.records import line_of, record_of
from atomml.uncertainty.bayesian import BayesianPotential
from atomml.uncertainty.model_file import load_model
from tests.active.helpers import MODEL, again, completed_calls, facts, loop, of_step, settings, steps

ROUND = ["explore", "gate", "select", "label", "store", "train", "calibrate", "report"]
SLOW = pytest.mark.slow
TRAINING = {"model": MODEL, "batch": {"batch_size": 12}, "max_steps": 3, "threads": 1}


def fingerprints(run_dir, part):
    paths = stores(read_journal(run_dir), part)
    return np.concatenate([frame_fingerprints(FrameStore.open(run_dir / path)) for path in paths])


def test_the_steps_are_in_order(finished):
    first = [(0, step) for step in ("start", "train", "calibrate", "report")]
    assert steps(finished / "run") == [*first, *((1, step) for step in ROUND), (1, "stop")]


def test_every_label_is_computed_once(finished):
    label = of_step(finished / "run", 1, "label")
    calls = completed_calls(finished / "run.calls")
    assert label["asked"] == label["labelled"] == len(calls) == calls.total() == 4
    with LabelCache(finished / "run" / CACHE) as cache:
        assert sorted(cache.keys()) == sorted(label["keys"])


def test_calibration_and_test_frames_are_never_trained_on(finished):
    run_dir = finished / "run"
    train, held_out, test = (fingerprints(run_dir, part) for part in ("train", "calibration", "test"))
    assert len(train) + len(held_out) == 44 + 4
    assert not set(train) & set(held_out)
    assert not set(test) & (set(train) | set(held_out))
    trained_on = of_step(run_dir, 1, "train")["frames"]
    assert trained_on == len(train)


def test_the_model_is_calibrated_on_the_held_out_frames(finished):
    run_dir = finished / "run"
    found = of_step(run_dir, 1, "calibrate")
    model = load_model(run_dir / found["model"]["path"])
    assert isinstance(model, BayesianPotential)
    assert model.calibration_id == found["calibration"]
    assert found["frames"] == len(fingerprints(run_dir, "calibration"))
    assert found["errors"]["calibration"]["z_rms"] == pytest.approx(1.0, abs=0.3)
    assert found["errors"]["test"]["forces_rmse"] > 0


def test_fresh_errors_are_those_of_the_model_before(finished):
    run_dir = finished / "run"
    before = load_model(run_dir / of_step(run_dir, 0, "calibrate")["model"]["path"])
    new = [FrameStore.open(run_dir / p) for p in stores(read_journal(run_dir), "train")[1:]]
    new += [FrameStore.open(run_dir / p) for p in stores(read_journal(run_dir), "calibration")[1:]]
    errors = [
        p.forces - np.asarray(store.forces[store.atoms_of(k)])
        for store in new
        for k in range(len(store))
        for p in before.predict([store[k]])
    ]
    expected = float(np.sqrt(np.mean(np.square(np.concatenate(errors)))))
    assert of_step(run_dir, 1, "store")["fresh"]["forces_rmse"] == pytest.approx(expected, rel=1e-4)


def test_labelled_frames_know_where_they_come_from(finished):
    run_dir = finished / "run"
    store = FrameStore.open(run_dir / stores(read_journal(run_dir), "train")[1])
    assert set(store.tags["round"]) == {1}
    assert set(store.tags["kind"]) <= {"md", "rattle"}
    assert store.ids[0] in of_step(run_dir, 1, "select")["ids"]


def test_the_report_has_a_row_for_each_round(finished):
    run_dir = finished / "run"
    with (run_dir / "rounds.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["round"] for row in rows] == ["0", "1"]
    assert json.loads((run_dir / "rounds.json").read_text())[1]["labelled"] == 4
    text = (run_dir / "report.md").read_text()
    assert "stop.max_rounds" in text
    assert "The gate" in text


def test_the_status_says_how_it_ended(finished):
    found = status(finished / "run")
    assert found["stopped"] == "stop.max_rounds: 1 rounds are done"
    assert not found["running"]
    assert found["labels"] == {"asked": 4, "labelled": 4}
    assert [row["round"] for row in found["rounds"]] == [0, 1]


def test_going_on_with_a_finished_loop_does_nothing(copied):
    before = (copied / "run" / "journal.jsonl").read_bytes()
    with pytest.raises(ConfigError, match="--resume"):
        loop(copied)
    assert "max_rounds" in again(copied)["reason"]
    assert (copied / "run" / "journal.jsonl").read_bytes() == before


@SLOW
def test_limits_can_be_raised_and_the_past_stays(copied):
    before = facts(copied / "run")
    result = again(copied, stop={"max_rounds": 2})
    after = facts(copied / "run")
    assert after[: len(before)] == before
    assert [row["round"] for row in result["rounds"]] == [0, 1, 2]
    assert read_journal(copied / "run")[len(before) + 1]["facts"]["changed"] == {"stop.max_rounds": [1, 2]}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 2}, "seed"),
        ({"calibrate": {"share": 0.3}}, "calibrate.share"),
        ({"learn": {"training": TRAINING | {"max_steps": 9}}}, "learn.training.max_steps"),
        ({"label": {"calculator": {"kind": "emt"}}}, "label.calculator"),
    ],
)
def test_what_the_past_was_made_with_must_not_change(copied, changes, named):
    before = (copied / "run" / "journal.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=named):
        again(copied, **changes)
    assert (copied / "run" / "journal.jsonl").read_bytes() == before


def test_another_folder_is_not_touched(folder):
    (folder / "run").mkdir()
    (folder / "run" / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match="something else"):
        loop(folder, resume=True)
    assert [path.name for path in (folder / "run").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("fails", "kind"), [("broken", "error"), pytest.param("nan", "not_finite", marks=SLOW)]
)
def test_an_oracle_that_always_fails_stops_the_loop_which_then_goes_on(copied, fails, kind):
    changes = {"select": {"n": 3}, "stop": {"max_rounds": 2}}
    (copied / "fails").write_text(f"{fails} 1")
    with pytest.raises(SimulationError, match=f"None of 3 structures could be labelled: {kind}"):
        again(copied, **changes)
    assert steps(copied / "run")[-1] == (2, "select")
    assert not status(copied / "run")["running"]
    (copied / "fails").unlink()
    result = again(copied, forget_failures=True, **changes)
    assert result["rounds"][2]["labelled"] == 3


def test_too_many_failures_stop_the_loop(copied):
    (copied / "fails").write_text("broken 1")
    with pytest.raises(SimulationError, match="Labelling stopped: 5 of 5 structures failed"):
        again(copied, select={"n": 6, "diversity": 1}, stop={"max_rounds": 2})


@SLOW
def test_some_failures_are_counted(copied):
    (copied / "fails").write_text("broken 3")
    label = settings(copied)["label"] | {"max_failures": 0.9, "retries": 0}
    again(copied, label=label, select={"n": 3}, stop={"max_rounds": 2})
    found = of_step(copied / "run", 2, "label")
    assert (found["asked"], found["labelled"], found["failed"]) == (3, 2, {"error": 1})
    assert len(found["failed_fingerprints"]) == 1


def test_confident_rounds_end_the_loop_without_labels(copied):
    result = again(copied, gate={"force_std_min": 1e6, "force_std_max": None}, stop={"max_rounds": 5})
    assert "every frame is confident" in result["reason"]
    assert result["labels"] == 4
    assert len(result["rounds"]) == 4
    assert steps(copied / "run")[-2:] == [(3, "gate"), (3, "stop")]


def test_rounds_with_nothing_to_label_end_with_a_plain_message(copied):
    said = []
    stop = {"max_rounds": 5, "confident_share": None, "empty_rounds": 1}
    gate = {"force_std_min": 1e6, "force_std_max": None}
    result = again(copied, gate=gate, stop=stop, say=said.append)
    assert "nothing was left to label in 1 rounds" in result["reason"]
    assert any("candidates are confident" in line for line in said)
    assert result["rounds"][2]["selected"] == 0


@pytest.mark.parametrize(
    ("gate", "named"),
    [
        pytest.param({"force_std_min": 1e-9, "force_std_max": 1e-8}, "gate.force_std_max 1e-08", marks=SLOW),
        ({"max_force": 1e-6}, "gate.max_force 1e-06"),
        pytest.param({"min_distance": 0.99}, "gate.min_distance 0.99", marks=SLOW),
    ],
)
def test_if_everything_has_exploded_the_limit_is_named_and_can_be_raised(copied, gate, named):
    rattle = [{"kind": "rattle", "n": 4, "displacement": [0.1, 0.2]}]
    with pytest.raises(SimulationError, match="beyond") as error:
        again(copied, gate=gate, explore=rattle, stop={"max_rounds": 2})
    assert named in str(error.value)
    assert steps(copied / "run")[-1] == (2, "explore")
    if "max_force" in gate:
        result = again(copied, explore=rattle, select={"n": 2}, stop={"max_rounds": 2})
        assert result["rounds"][2]["labelled"] == 2


def test_figures_are_drawn_where_they_are_wanted_also_from_now_on(copied, monkeypatch):
    drawn = []
    for module in ("active", "training"):
        monkeypatch.setattr(
            f"atomml.{module}.report.save_figure", lambda figure, path: drawn.append(path.name)
        )
    assert not list((copied / "run").rglob("*.png"))
    assert "learning_curve" not in (copied / "run" / "report.md").read_text()
    again(copied, stop={"max_rounds": 2}, figures=True)
    assert drawn.count("learning_curve.png") >= 3  # of the training, of the round, of the end
    assert "learning_curve.png" in (copied / "run" / "report.md").read_text()
    assert "learning_curve.png" in (copied / "run" / "rounds" / "02" / "train" / "report.md").read_text()


def test_journals_of_versions_without_a_switch_for_figures_go_on(copied):
    path = copied / "run" / "journal.jsonl"
    first, *rest = path.read_bytes().splitlines(keepends=True)
    record = record_of(first)
    del record["facts"]["settings"]["figures"]
    del record["facts"]["settings"]["learn"]["training"]["figures"]
    path.write_bytes(b"".join([line_of(record), *rest]))
    again(copied)
    changes = [r["facts"].get("changed") for r in read_journal(copied / "run") if r["step"] == "settings"]
    assert changes == [None, {"figures": [True, False]}]


@SLOW
def test_a_full_disk_is_an_error_and_not_the_end(copied, monkeypatch):
    original, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) > 25:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(AtommlError, match=r"full|could not be written|[Cc]annot be written|No space"):
            again(copied, stop={"max_rounds": 2})
    assert again(copied, stop={"max_rounds": 2})["rounds"][2]["labelled"] == 4
    assert set(completed_calls("run.calls").values()) == {1}
