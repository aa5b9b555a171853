"""Deep ensembles: members are ordinary runs, finished ones are kept, a killed ensemble goes on bit for bit."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from ase.io import read
from safetensors.torch import load_file

import atomml
from atomml.config import parse_config
from atomml.errors import ConfigError, TrainingError
from atomml.potentials import load_model, read_header
from atomml.training import finetune, loop, members, train
from atomml.training.config import FinetuneConfig
from atomml.training.members import member_configs
from tests.training.helpers import (
    KILLED,
    configured,
    draw_nothing,
    in_child,
    kill_on_call,
    killed,
    tiny_settings,
)
from tests.training.test_resume import assert_same_run, log_of

pytestmark = pytest.mark.usefixtures("no_figures")
ENSEMBLE = {"kind": "ensemble", "members": 3}


def settings_for(frames, run_dir, **changes):
    """3 steps an epoch, 2 epochs a member."""
    plain = tiny_settings(frames, run_dir) | {"epochs": 2, "batch": {"batch_size": 7}, "seed": 11}
    return plain | {"schedule": {"kind": "constant"}, "uncertainty": ENSEMBLE} | changes


@pytest.fixture(scope="module")
def whole(frames_file, tmp_path_factory):
    settings = settings_for(frames_file, tmp_path_factory.mktemp("ensemble") / "whole")
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        return settings, train(configured(settings), quiet=True)


def file_of(result, k):
    return result.run_dir / "members" / str(k) / "model.safetensors"


def assert_same_ensemble(one, other):
    a, b = (load_file(run / "model.safetensors") for run in (one, other))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    for k in range(3):
        assert_same_run(one / "members" / str(k), other / "members" / str(k))


def test_members_differ_in_their_seed_alone(whole):
    settings, result = whole
    headers = [read_header(file_of(result, k)) for k in range(3)]
    assert [h["training"]["seed"] for h in headers] == [11, 12, 13]
    assert {h["data"]["split"] for h in headers} == {headers[0]["data"]["split"]}
    assert all("uncertainty" not in h for h in headers)
    lone = train(
        configured(settings, uncertainty=None, seed=12, run_dir=str(result.run_dir.parent / "lone")),
        quiet=True,
    )
    member = dict(load_model(file_of(result, 1)).named_parameters())
    for name, p in lone.potential.named_parameters():
        assert torch.equal(p, member[name])


def test_the_model_is_the_mean_of_its_members(whole, frames_file):
    _, result = whole
    model, frames = atomml.load(result.run_dir / "model.safetensors"), read(frames_file, ":3")
    each = [load_model(file_of(result, k)).predict(frames) for k in range(3)]
    for j, p in enumerate(model.predict(frames)):
        energies = np.array([one[j].energy for one in each])
        assert p.energy == pytest.approx(energies.mean(), abs=1e-6)
        assert p.energy_std == pytest.approx(energies.std(), rel=1e-3)
        np.testing.assert_allclose(p.forces, np.mean([one[j].forces for one in each], 0), atol=1e-6)


def test_the_ensemble_has_its_own_report(whole):
    _, result = whole
    assert {"members", "model.safetensors", "report.md", "metrics.json", "config.yaml", "split.json"} <= {
        p.name for p in result.run_dir.iterdir()
    }
    facts = read_header(result.run_dir / "model.safetensors")["training"]
    assert facts["seeds"] == [11, 12, 13]
    assert facts["steps"] == [6, 6, 6]
    assert facts["config"]["uncertainty"]["members"] == 3
    valid = json.loads((result.run_dir / "metrics.json").read_text())["valid"]
    assert valid["deviations"]["energy"]["sharpness"] > 0


POINTS = {
    "inside a member": (loop, "training_step", 9),
    "while a member is finished": (loop, "end_epoch", 4),
    "between two members": (sys.modules["atomml.training.run"], "prepare_run_dir", 3),
    "after the last member": (members, "provenance_of", 1),
}


@pytest.mark.parametrize("point", POINTS)
def test_killed_and_resumed_equals_uninterrupted(whole, tmp_path, point):
    settings, result = whole
    config = configured(settings, run_dir=str(tmp_path / "run"))

    killed(config, *POINTS[point])
    finished = list((tmp_path / "run" / "members").glob("*/model.safetensors"))
    before = {path: path.stat().st_mtime_ns for path in finished}
    train(config, resume=True, quiet=True)
    assert {path: path.stat().st_mtime_ns for path in finished} == before
    assert_same_ensemble(result.run_dir, tmp_path / "run")


def test_members_can_be_added(whole, tmp_path):
    settings, result = whole
    config = configured(settings, run_dir=str(tmp_path / "run"), uncertainty=ENSEMBLE | {"members": 2})
    two = train(config, quiet=True)
    assert two.potential.method == "ensemble"
    times = [file_of(two, k).stat().st_mtime_ns for k in range(2)]
    train(configured(settings, run_dir=str(tmp_path / "run")), resume=True, quiet=True)
    assert [file_of(two, k).stat().st_mtime_ns for k in range(2)] == times
    assert_same_ensemble(result.run_dir, tmp_path / "run")


def test_finished_members_of_another_configuration_are_not_mixed_in(whole, tmp_path):
    settings, _ = whole
    config = configured(settings, run_dir=str(tmp_path / "run"))

    def die():
        kill_on_call(loop, "training_step", 9)
        train(config, quiet=True)

    assert in_child(die) == KILLED
    other = configured(settings, run_dir=str(tmp_path / "run"), optimizer={"lr": 0.5})
    with pytest.raises(ConfigError, match=r"optimizer\.lr: 0\.002 then, 0\.5 now") as caught:
        train(other, resume=True, quiet=True)
    assert "members/0" in str(caught.value)


def test_every_member_goes_on_for_more_epochs(whole, tmp_path):
    settings, result = whole
    config = configured(settings, run_dir=str(tmp_path / "run"), epochs=1)
    train(config, quiet=True)
    train(configured(settings, run_dir=str(tmp_path / "run")), resume=True, quiet=True)
    for k in range(3):
        logs = [log_of(run / "members" / str(k)) for run in (result.run_dir, tmp_path / "run")]
        epochs = [[r["valid_loss"] for r in log if r["kind"] == "epoch"] for log in logs]
        assert epochs[0] == epochs[1]


def test_a_folder_in_use_is_refused(whole):
    settings, result = whole
    before = (result.run_dir / "model.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="in use"):
        train(configured(settings), quiet=True)
    assert (result.run_dir / "model.safetensors").read_bytes() == before


def test_a_finetuned_ensemble_starts_every_member_from_the_same_model(whole, frames_file, tmp_path):
    _, result = whole
    config = parse_config(
        FinetuneConfig,
        {
            "run_dir": str(tmp_path / "run"),
            "data": {"train": str(frames_file), "valid": 4},
            "epochs": 1,
            "threads": 1,
            "uncertainty": ENSEMBLE | {"members": 2},
            "freeze": ["body.embedding"],
        },
        where="test",
    )
    tuned = finetune(file_of(result, 0), config, quiet=True)
    one, other = (dict(p.named_parameters()) for p in tuned.potential.posterior.members)
    base = dict(load_model(file_of(result, 0)).named_parameters())
    assert torch.equal(one["body.embedding"], base["body.embedding"])
    assert not torch.equal(one["body.bias"], other["body.bias"])


def test_only_an_ensemble_has_members(whole):
    settings, _ = whole
    with pytest.raises(TrainingError, match="not the configuration of an ensemble"):
        member_configs(configured(settings, uncertainty=None))
