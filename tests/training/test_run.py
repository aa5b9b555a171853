"""A whole training: what it writes, what it refuses, and that it learns."""

from __future__ import annotations

import csv
import errno
import itertools
import json
import re

import numpy as np
import pytest
import torch
import yaml
from ase.io import read, write

from atomml.errors import ConfigError, DataError, TrainingError
from atomml.potentials import load_model, read_header
from atomml.training import loop, potential_task, train
from tests.training.helpers import configured, tiny_settings


def records(run_dir, kind="epoch"):
    lines = (run_dir / "log.jsonl").read_text().splitlines()
    return [r for r in map(json.loads, lines) if r["kind"] == kind]


pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.fixture(scope="module")
def finished(frames_file, tmp_path_factory):
    """One finished run."""
    settings = tiny_settings(frames_file, tmp_path_factory.mktemp("runs") / "run")
    settings["data"]["test_where"] = "T >= 600"
    settings |= {"loss": {"stress": 1.0}, "optimizer": {"lr": 0.01}, "epochs": 5}
    return train(configured(settings), quiet=True)


def test_the_run_folder_is_complete(finished):
    names = {p.name for p in finished.run_dir.iterdir()}
    expected = {"config.yaml", "log.jsonl", "metrics.csv", "split.json", "checkpoint", "model.safetensors"}
    assert expected | {"report.md", "metrics.json", "figures"} == names
    figures = {p.name for p in (finished.run_dir / "figures").iterdir()}
    each = {f"{part}{end}" for part in ("valid", "test") for end in ("_parity.png", ".npz", "_frames.csv")}
    assert figures == each | {"learning_curve.png"}


def test_training_lowers_the_loss(finished):
    loss = [r["valid_loss"] for r in records(finished.run_dir)]
    assert loss[-1] < 0.8 * loss[0]


def test_every_epoch_is_one_line_of_the_table(finished):
    with (finished.run_dir / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5]
    assert [int(r["step"]) for r in records(finished.run_dir, "step")] == list(range(2, 21, 2))


def test_metrics_are_those_of_the_model_file(finished):
    model = load_model(finished.run_dir / "model.safetensors")
    frames = read(yaml.safe_load((finished.run_dir / "config.yaml").read_text())["data"]["train"], ":")
    rows = json.loads((finished.run_dir / "split.json").read_text())["test"]
    assert rows == [20, 21, 22, 23]
    predictions = model.predict([frames[i] for i in rows])
    error = np.concatenate(
        [p.forces - frames[i].get_forces() for p, i in zip(predictions, rows, strict=True)]
    )
    assert finished.metrics["test"]["forces_rmse"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-4)
    assert finished.metrics["test"]["by_element"].keys() == {"Cu", "Au"}
    assert finished.metrics["valid"]["counts"]["stress"] == 4 * 9


def test_every_artefact_says_where_it_comes_from(finished):
    fingerprint = finished.metrics["provenance"]["data"]["train files"]
    header = read_header(finished.run_dir / "model.safetensors")
    assert header["data"]["train files"] == fingerprint
    assert header["training"]["config"]["epochs"] == 5
    assert fingerprint in (finished.run_dir / "report.md").read_text()
    assert records(finished.run_dir, "start")[0]["data"]["train files"] == fingerprint


def test_the_kept_model_is_the_best_validated_one(finished):
    best = min(records(finished.run_dir), key=lambda r: r["valid_loss"])
    assert finished.metrics["training"]["best epoch"] == best["epoch"]
    assert finished.metrics["valid"]["forces_rmse"] == pytest.approx(best["forces_rmse"], rel=1e-5)


def test_a_run_folder_in_use_is_refused_and_overwrite_empties_it(settings, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="not a run folder"):
        train(configured(settings, epochs=1), quiet=True, overwrite=True)
    (run / "thesis.tex").rename(run / "config.yaml")
    with pytest.raises(ConfigError, match="in use"):
        train(configured(settings, epochs=1), quiet=True)
    train(configured(settings, epochs=1), quiet=True, overwrite=True)
    assert "epochs: 1" in (run / "config.yaml").read_text()


def test_a_loss_term_without_labels_is_an_error_before_training(settings, tmp_path, frames_file):
    frames = read(frames_file, ":")
    for atoms in frames:
        atoms.calc.results.pop("stress")
    write(tmp_path / "x.xyz", frames, format="extxyz")
    data = {"train": str(tmp_path / "x.xyz"), "valid": 4}
    with pytest.raises(TrainingError, match=re.escape("loss.stress has weight 1")) as caught:
        train(configured(settings, data=data), quiet=True)
    assert "stress 0/20" in str(caught.value)


def test_an_element_only_in_validation_is_an_error(settings, tmp_path, frames_file):
    frames = read(frames_file, ":4")
    for atoms in frames:
        atoms.numbers[:] = 47
    write(tmp_path / "v.xyz", frames, format="extxyz")
    data = settings["data"] | {"valid": str(tmp_path / "v.xyz")}
    with pytest.raises(DataError, match="valid set has Ag"):
        train(configured(settings, data=data), quiet=True)


def test_no_group_is_in_two_parts(settings):
    data = {"train": settings["data"]["train"], "valid": 4, "test": 0.2, "group": "traj"}
    result = train(configured(settings, data=data, epochs=1), quiet=True)
    split = json.loads((result.run_dir / "split.json").read_text())
    groups = [{i // 4 for i in split[part]} for part in ("train", "valid", "test")]
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(groups, 2))


def test_learning_starts_from_what_reference_energies_leave(settings, capsys):
    data = settings["data"] | {"references": {"Cu": -3.5, "Au": -3.5}}
    result = train(configured(settings, data=data, max_steps=1))
    assert "Energies less E0 are 3.6" in capsys.readouterr().err
    assert result.metrics["valid"]["energy_per_atom_rmse"] < 0.5


def test_a_table_of_reference_energies_must_be_complete(settings):
    with pytest.raises(DataError, match="Au"):
        train(configured(settings, data=settings["data"] | {"references": {"Cu": 1.0}}), quiet=True)


@pytest.mark.parametrize(
    ("changes", "reason", "steps"),
    [
        ({"max_steps": 6}, "max_steps", 6),
        ({"max_minutes": 1e-6}, "max_minutes", 1),
        ({"epochs": 50, "early_stop": 1, "optimizer": {"lr": 1e-12}, "ema": 0.0}, "early_stop", None),
    ],
)
def test_limits_end_with_a_validation_and_a_model(settings, changes, reason, steps):
    result = train(configured(settings, **changes), quiet=True)
    assert result.metrics["training"]["ended by"] == reason
    assert steps is None or result.metrics["training"]["steps"] == steps
    assert "valid_loss" in records(result.run_dir)[-1]
    assert (result.run_dir / "model.safetensors").exists()


def test_a_gradient_that_is_not_finite_names_the_frames(settings, monkeypatch):
    original = potential_task.loss_sums

    def broken(*args):
        sums, counts = original(*args)
        return sums * float("nan"), counts

    monkeypatch.setattr(potential_task, "loss_sums", broken)
    with pytest.raises(TrainingError, match="not finite at step 1") as caught:
        train(configured(settings), quiet=True)
    assert "frames.xyz" in str(caught.value)
    assert "checkpoint" in str(caught.value)


def test_exhausted_memory_names_the_batch_and_the_setting(settings, monkeypatch):
    def exhausted(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(potential_task, "loss_sums", exhausted)
    with pytest.raises(TrainingError, match=r"4 structures, 16 atoms, \d+ edges") as caught:
        train(configured(settings), quiet=True)
    assert "batch.max_edges" in str(caught.value)


def test_a_full_disk_while_logging_says_so(settings, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(loop, "append_csv", full)
    with pytest.raises(TrainingError, match="disk is full"):
        train(configured(settings), quiet=True)


def test_global_state_is_as_before(settings):
    torch.manual_seed(5)
    rng, dtype, threads = torch.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads()
    train(configured(settings, max_steps=1, dtype="float64", threads=2), quiet=True)
    assert torch.equal(torch.get_rng_state(), rng)
    assert (torch.get_default_dtype(), torch.get_num_threads()) == (dtype, threads)


def test_float64_weights_are_float64_in_the_file(settings):
    result = train(configured(settings, epochs=1, dtype="float64"), quiet=True)
    assert load_model(result.run_dir / "model.safetensors").dtype == torch.float64


def test_without_validation_the_average_is_kept_and_training_frames_are_reported(settings):
    data = {"train": settings["data"]["train"], "valid": None}
    result = train(configured(settings, data=data, epochs=1), quiet=True)
    assert result.metrics["train"]["counts"]["frames"] == 24
    assert "valid_loss" not in records(result.run_dir)[0]


def test_molecules_and_crystals_train_together_with_stress(settings, tmp_path, frames_file):
    frames = read(frames_file, ":")
    for atoms in frames[::2]:
        atoms.calc.results.pop("stress")
        atoms.set_cell(None)
        atoms.pbc = False
    write(tmp_path / "mixed.xyz", frames, format="extxyz")
    data = {"train": str(tmp_path / "mixed.xyz"), "valid": 4}
    result = train(configured(settings, data=data, epochs=1), quiet=True)
    assert result.metrics["training"]["labels of the training set"]["stress"] < 20
    assert np.isfinite(records(result.run_dir)[0]["train_stress"])


def test_bfloat16_stays_close_to_float32(settings, tmp_path):
    one = train(configured(settings, max_steps=3), quiet=True)
    two = train(configured(settings, max_steps=3, dtype="bfloat16", run_dir=str(tmp_path / "b")), quiet=True)
    a, b = (records(result.run_dir)[0]["valid_loss"] for result in (one, two))
    assert a != b
    assert a == pytest.approx(b, rel=0.05)
    assert two.potential.dtype == torch.float32


def test_workers_give_the_same_training(settings, tmp_path):
    one = train(configured(settings, epochs=1), quiet=True)
    data = settings["data"] | {"workers": 1}
    two = train(configured(settings, epochs=1, data=data, run_dir=str(tmp_path / "two")), quiet=True)
    for a, b in zip(one.potential.parameters(), two.potential.parameters(), strict=True):
        assert torch.equal(a, b)
