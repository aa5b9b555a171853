"""A training that was killed and resumed is the uninterrupted one, bit for bit."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from atomml import files
from atomml.errors import ConfigError, ModelFileError
from atomml.potentials import read_header
from atomml.training import loop, train
from atomml.training.data import reference_energies
from tests.training.helpers import KILLED, configured, in_child, kill_on_call, killed, tiny_settings

pytestmark = pytest.mark.usefixtures("no_figures")


def log_of(run_dir):
    """Lines of the log without what depends on the clock."""
    lines = map(json.loads, (run_dir / "log.jsonl").read_text().splitlines())
    return [
        {k: v for k, v in r.items() if k not in ("seconds", "loading")}
        for r in lines
        if r["kind"] != "resume"
    ]


def csv_of(run_dir):
    return [line.rsplit(",", 1)[0] for line in (run_dir / "metrics.csv").read_text().splitlines()]


def assert_same_run(one, two):
    a, b = (load_file(run / "model.safetensors") for run in (one, two))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    a, b = (load_file(run / "checkpoint" / "state.safetensors") for run in (one, two))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert log_of(one) == log_of(two)
    assert csv_of(one) == csv_of(two)


POINTS = {
    "between two steps": (loop, "training_step", 7),
    "while a checkpoint is written": (files.os, "replace", 6),
    "after the log and before the checkpoint": (loop, "append_csv", 2),
    "before the first checkpoint is complete": (files.os, "replace", 2),
}


@pytest.fixture(scope="module")
def uninterrupted(frames_file, tmp_path_factory):
    settings = tiny_settings(frames_file, tmp_path_factory.mktemp("runs") / "whole")
    settings |= {"schedule": {"kind": "plateau", "warmup_steps": 3, "patience": 1}, "checkpoint_steps": 3}
    return settings, train(configured(settings), quiet=True)


@pytest.mark.parametrize("point", POINTS)
def test_killed_and_resumed_equals_uninterrupted(uninterrupted, tmp_path, point):
    settings, whole = uninterrupted
    config = configured(settings, run_dir=str(tmp_path / "run"))

    killed(config, *POINTS[point])
    train(config, resume=True, quiet=True)
    assert_same_run(whole.run_dir, tmp_path / "run")


def test_killed_twice(uninterrupted, tmp_path):
    settings, whole = uninterrupted
    config = configured(settings, run_dir=str(tmp_path / "run"))

    def die(number, resume):
        kill_on_call(loop, "training_step", number)
        train(config, resume=resume, quiet=True)

    assert in_child(die, 5, False) == KILLED
    assert in_child(die, 4, True) == KILLED
    train(config, resume=True, quiet=True)
    assert_same_run(whole.run_dir, tmp_path / "run")


def test_random_numbers_go_on_where_they_were(settings, tmp_path):
    """Dropout draws from torch's generator at every step."""
    model = {"kind": "tdn_paper", "lmax": 1, "channels": 4, "layers": 1, "gaussians": 4, "cutoff": 3.0}
    model |= {"heads": 2, "radial_hidden": [4], "dropout": 0.5}
    common = {"model": model, "loss": {"stress": 0.0}, "epochs": 2, "checkpoint_steps": 3}
    config = configured(settings, **common)
    whole = train(configured(settings, **common, run_dir=str(tmp_path / "whole")), quiet=True)

    def die():
        kill_on_call(loop, "training_step", 7)
        train(config, quiet=True)

    assert in_child(die) == KILLED
    result = train(config, resume=True, quiet=True)
    assert_same_run(whole.run_dir, result.run_dir)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": {"lr": 0.5}}, r"optimizer.lr: 0.002 then, 0.5 now"),
        ({"model": {"kind": "tdn", "lmax": 1, "channels": 8}}, "model.channels: 4 then, 8 now"),
        ({"seed": 3}, "seed: 0 then, 3 now"),
        ({"data": {"split_seed": 4}}, "content of data: split"),
    ],
)
def test_a_changed_configuration_is_named(uninterrupted, changes, message):
    settings, whole = uninterrupted
    if "data" in changes:
        changes = {"data": settings["data"] | changes["data"]}
    with pytest.raises(ConfigError, match=message):
        train(configured(settings, **changes), resume=True, quiet=True)
    assert (whole.run_dir / "model.safetensors").exists()


def test_changed_data_is_named(settings, tmp_path, frames_file):
    copy = tmp_path / "frames.xyz"
    copy.write_text(frames_file.read_text())
    data = {"train": str(copy), "valid": 4}
    train(configured(settings, data=data, epochs=1), quiet=True)
    lines = copy.read_text().splitlines(keepends=True)
    copy.write_text("".join(lines[: 6 * 23]))
    with pytest.raises(ConfigError, match="content of data: train files"):
        train(configured(settings, data=data, epochs=1), resume=True, quiet=True)


def test_more_epochs_may_be_added_to_a_schedule_that_does_not_know_its_end(uninterrupted, settings, tmp_path):
    constant = {"schedule": {"kind": "constant"}}
    train(configured(settings, **constant, epochs=1), quiet=True)
    more = train(configured(settings, **constant, epochs=2), resume=True, quiet=True)
    whole = train(configured(settings, **constant, epochs=2, run_dir=str(tmp_path / "w")), quiet=True)
    for a, b in zip(more.potential.parameters(), whole.potential.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_truncated_checkpoint_is_refused(settings, tmp_path):
    train(configured(settings, epochs=1), quiet=True)
    path = tmp_path / "run" / "checkpoint" / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ModelFileError, match="truncated"):
        train(configured(settings, epochs=1), resume=True, quiet=True)


def test_energies_of_reference_are_not_fitted_again(uninterrupted, tmp_path, monkeypatch):
    """A second fit in another process may differ in its last bits; that must not reach the result."""
    settings, whole = uninterrupted
    config = configured(settings, run_dir=str(tmp_path / "run"))

    def die():
        kill_on_call(*POINTS["between two steps"])
        train(config, quiet=True)

    def slightly_different(*args, **kwargs):
        references = reference_energies(*args, **kwargs)
        return replace(references, energies={z: e + 1e-9 for z, e in references.energies.items()})

    assert in_child(die) == KILLED
    monkeypatch.setattr("atomml.training.run.reference_energies", slightly_different)
    train(config, resume=True, quiet=True)
    assert_same_run(whole.run_dir, tmp_path / "run")
    e0 = [read_header(run / "model.safetensors")["e0"] for run in (whole.run_dir, tmp_path / "run")]
    assert e0[0] == e0[1]
