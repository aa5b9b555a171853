"""SWAG as the last part of a run: its epochs, snapshots and samples, and going on after a kill."""

from __future__ import annotations

import json
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file

from atomml.errors import ConfigError
from atomml.training import loop, swag, train
from atomml.uncertainty.swag import SwagMoments
from tests.training.helpers import configured, draw_nothing, killed, tiny_settings
from tests.training.test_methods import NLL, NOISY
from tests.training.test_resume import assert_same_run

pytestmark = pytest.mark.usefixtures("no_figures")
SWAG = {"kind": "swag", "epochs": 4, "samples": 3, "rank": 2}


def settings_for(frames, run_dir, **changes):
    """3 steps an epoch: 3 of the training, 12 of SWAG."""
    plain = tiny_settings(frames, run_dir) | {"epochs": 1, "batch": {"batch_size": 7}}
    return plain | {"schedule": {"kind": "constant"}, "uncertainty": SWAG} | changes


@pytest.fixture(scope="module")
def whole(frames_file, tmp_path_factory):
    settings = settings_for(frames_file, tmp_path_factory.mktemp("swag") / "whole")
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        return settings, train(configured(settings), quiet=True)


def records(run_dir, kind="epoch"):
    lines = map(json.loads, (run_dir / "log.jsonl").read_text().splitlines())
    return [r for r in lines if r["kind"] == kind]


def snapshots(run_dir):
    paths = sorted((run_dir / "swag" / "snapshots").iterdir(), key=lambda path: int(path.stem))
    return [load_file(path) for path in paths]


def test_weights_are_collected_after_each_epoch(whole):
    _, result = whole
    assert [r["epoch"] for r in records(result.run_dir / "swag")] == [1, 2, 3, 4]
    assert [r["epoch"] for r in records(result.run_dir)] == [1]
    each = snapshots(result.run_dir)
    assert len(each) == 4
    assert not torch.equal(each[0]["body.bias"], each[1]["body.bias"])


def test_members_are_samples_of_the_moments_of_the_snapshots(whole):
    settings, result = whole
    moments = SwagMoments(SWAG["rank"])
    for snapshot in snapshots(result.run_dir):
        moments.add(snapshot)
    generator = torch.Generator().manual_seed(configured(settings).seed)
    assert len(result.potential.posterior.members) == 3
    for member in result.potential.posterior.members:
        expected = moments.sample(generator)
        for name, p in member.named_parameters():
            torch.testing.assert_close(p, expected[name].to(p), rtol=0, atol=0)


@pytest.mark.parametrize(("rate", "last"), [("constant", 1.0), ("cyclic", 0.26)])
def test_the_rate_is_constant_or_falls_within_every_epoch(frames_file, tmp_path, rate, last):
    settings = settings_for(
        frames_file, tmp_path / "run", uncertainty=SWAG | {"rate": rate, "lr": 1e-4, "epochs": 2}
    )
    result = train(configured(settings | {"log_every": 1}), quiet=True)
    rates = [r["lr"] / 1e-4 for r in records(result.run_dir / "swag", "step")]
    assert rates[0] == rates[3] == pytest.approx(1.0)
    assert rates[2] == rates[5] == pytest.approx(last, abs=0.01)


def test_the_training_itself_is_not_touched(whole, frames_file, tmp_path):
    """Weights, log and checkpoint of the run are those without SWAG."""
    settings, result = whole
    plain = train(configured(settings, uncertainty=None, run_dir=str(tmp_path / "run")), quiet=True)
    a, b = (load_file(r.run_dir / "checkpoint" / "state.safetensors") for r in (plain, result))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_epochs_of_swag_have_neither_average_nor_limits_of_the_training(whole, frames_file, tmp_path):
    settings = settings_for(
        frames_file,
        tmp_path / "run",
        model=NOISY,
        loss=NLL | {"warmup": 0.5},
        max_steps=2,
        early_stop=1,
        ema=0.9,
    )
    result = train(configured(settings), quiet=True)
    used = yaml.safe_load((result.run_dir / "swag" / "config.yaml").read_text())
    expected = {"ema": 0.0, "max_steps": None, "early_stop": None, "epochs": 4, "uncertainty": None}
    assert {key: used[key] for key in expected} == expected
    assert used["optimizer"]["lr"] == pytest.approx(1e-3)  # half of that of the training
    assert used["loss"]["warmup"] == 0.0
    assert len(snapshots(result.run_dir)) == 4


POINTS = {
    "in the training": (loop, "training_step", 2),
    "before the first epoch of swag": (swag, "started", 1),
    "inside an epoch of swag": (loop, "training_step", 8),
    "between a snapshot and its checkpoint": (swag, "_save_snapshot", 3),
    "after the last epoch": (swag, "load_file", 2),
    "before the model is written": (sys.modules["atomml.training.finish"], "save_model", 1),
}


@pytest.mark.parametrize("point", POINTS)
def test_killed_and_resumed_equals_uninterrupted(whole, tmp_path, point):
    settings, result = whole
    config = configured(settings, run_dir=str(tmp_path / "run"))

    killed(config, *POINTS[point])
    train(config, resume=True, quiet=True)
    assert_same_run(result.run_dir, tmp_path / "run")
    for one, other in zip(snapshots(result.run_dir), snapshots(tmp_path / "run"), strict=True):
        assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_more_epochs_of_the_training_begin_swag_anew(whole, frames_file, tmp_path):
    """Snapshots around the weights of a shorter training say nothing about those of the longer one."""
    settings, _ = whole
    config = configured(settings, run_dir=str(tmp_path / "run"))
    train(config, quiet=True)
    longer = train(configured(settings, run_dir=str(tmp_path / "run"), epochs=2), resume=True, quiet=True)
    straight = train(configured(settings, run_dir=str(tmp_path / "straight"), epochs=2), quiet=True)
    for one, other in zip(snapshots(longer.run_dir), snapshots(straight.run_dir), strict=True):
        assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_more_epochs_of_swag_go_on_from_the_last(whole, frames_file, tmp_path):
    settings, result = whole
    run_dir = str(tmp_path / "run")
    train(configured(settings, run_dir=run_dir, uncertainty=SWAG | {"epochs": 2}), quiet=True)
    train(configured(settings, run_dir=run_dir), resume=True, quiet=True)
    for one, other in zip(snapshots(result.run_dir), snapshots(tmp_path / "run"), strict=True):
        assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_another_rate_cannot_continue_the_epochs_of_swag(whole, frames_file, tmp_path):
    settings, _ = whole
    run_dir = str(tmp_path / "run")
    train(configured(settings, run_dir=run_dir), quiet=True)
    with pytest.raises(ConfigError, match=r"optimizer\.lr") as caught:
        train(configured(settings, run_dir=run_dir, uncertainty=SWAG | {"lr": 0.1}), resume=True, quiet=True)
    assert "swag" in str(caught.value)
