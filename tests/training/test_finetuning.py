"""Finetuning: reference energies for new labels, frozen weights, the same run folder."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from ase.io import read, write

from atomml.config import parse_config
from atomml.datasets import load_frames
from atomml.errors import ConfigError, UnsupportedError
from atomml.potentials import load_model, read_header
from atomml.training import finetune, loop, train
from atomml.training.config import FinetuneConfig
from atomml.training.data import Part
from atomml.training.finetuning import refit_references
from tests.training.helpers import KILLED, configured, in_child, kill_on_call, tiny_settings

pytestmark = pytest.mark.usefixtures("no_figures")
SHIFT = {"Cu": 3.0, "Au": -7.0}


@pytest.fixture(scope="module")
def base_model(frames_file, tmp_path_factory):
    settings = tiny_settings(frames_file, tmp_path_factory.mktemp("base") / "run")
    settings |= {"optimizer": {"lr": 0.01}, "epochs": 4}
    return train(configured(settings), quiet=True).run_dir / "model.safetensors"


@pytest.fixture
def shifted(frames_file, tmp_path):
    """The same frames at another level of theory: another energy for each element alone."""
    frames = read(frames_file, ":")
    for atoms in frames:
        atoms.calc.results["energy"] += sum(SHIFT[s] for s in atoms.get_chemical_symbols())
        atoms.calc.results.pop("free_energy", None)
    path = tmp_path / "shifted.xyz"
    write(path, frames, format="extxyz")
    return path


def finetuning(settings, shifted, **changes):
    keys = ("run_dir", "batch", "threads", "log_every", "checkpoint_minutes")
    data = {"train": str(shifted), "valid": 4}
    settings = {k: settings[k] for k in keys} | {"data": data, "epochs": 1} | changes
    return parse_config(FinetuneConfig, settings, where="test")


def test_refitted_references_follow_the_labels(shifted, frames_file, base_model):
    potential = load_model(base_model)
    stores = [load_frames(path) for path in (frames_file, shifted)]
    old, new = (refit_references(potential, Part(store, np.arange(24))) for store in stores)
    assert new[29] - old[29] == pytest.approx(SHIFT["Cu"], abs=1e-6)
    assert new[79] - old[79] == pytest.approx(SHIFT["Au"], abs=1e-6)


def test_refitting_removes_the_shift(settings, shifted, base_model):
    result = finetune(base_model, finetuning(settings, shifted, optimizer={"lr": 1e-9}), quiet=True)
    assert result.metrics["valid"]["energy_per_atom_mae"] < 0.1


def test_kept_references_keep_the_shift(settings, shifted, base_model):
    result = finetune(
        base_model, finetuning(settings, shifted, e0="keep", optimizer={"lr": 1e-9}), quiet=True
    )
    assert result.potential.e0 == load_model(base_model).e0
    assert result.metrics["valid"]["energy_per_atom_mae"] > 0.2


def test_frozen_weights_do_not_move_and_the_others_do(settings, shifted, base_model):
    before = dict(load_model(base_model).named_parameters())
    config = finetuning(settings, shifted, freeze=["body.embed*"], optimizer={"lr": 1e-2}, ema=0)
    after = dict(finetune(base_model, config, quiet=True).potential.named_parameters())
    moved = {name for name, p in before.items() if not torch.equal(p, after[name])}
    assert "body.embedding" not in moved
    assert len(moved) > len(before) / 2


def test_the_first_weights_are_those_of_the_model(settings, shifted, base_model):
    result = finetune(base_model, finetuning(settings, shifted, optimizer={"lr": 1e-12}), quiet=True)
    frames = read(shifted, ":3")
    for old, new in zip(
        load_model(base_model).predict(frames), result.potential.predict(frames), strict=True
    ):
        np.testing.assert_allclose(old.forces, new.forces, atol=1e-5)


def test_the_origin_is_recorded(settings, shifted, base_model):
    result = finetune(base_model, finetuning(settings, shifted), quiet=True)
    origin = read_header(result.run_dir / "model.safetensors")["training"]["origin"]
    assert origin["model"] == str(base_model)
    assert "train files" in origin["model_data"]


def test_a_killed_finetuning_resumes(settings, shifted, base_model, tmp_path):
    config = finetuning(settings, shifted, checkpoint_steps=2)
    whole = finetune(base_model, finetuning(settings, shifted, run_dir=str(tmp_path / "w")), quiet=True)

    def die():
        kill_on_call(loop, "training_step", 4)
        finetune(base_model, config, quiet=True)

    assert in_child(die) == KILLED
    resumed = finetune(base_model, config, resume=True, quiet=True)
    for a, b in zip(whole.potential.parameters(), resumed.potential.parameters(), strict=True):
        assert torch.equal(a, b)
    assert json.loads((resumed.run_dir / "metrics.json").read_text())["valid"] == whole.metrics["valid"]


def test_a_pattern_without_a_parameter_is_an_error(settings, shifted, base_model):
    with pytest.raises(ConfigError, match=r"'embeding\.\*' matches no parameter"):
        finetune(base_model, finetuning(settings, shifted, freeze=["embeding.*"]), quiet=True)


def test_everything_frozen_is_an_error(settings, shifted, base_model):
    with pytest.raises(ConfigError, match="Every parameter is frozen"):
        finetune(base_model, finetuning(settings, shifted, freeze=["*"]), quiet=True)


def test_an_unknown_element_is_an_error(settings, base_model, shifted, tmp_path):
    frames = read(shifted, ":")
    for atoms in frames:
        atoms.numbers[0] = 47
    write(tmp_path / "silver.xyz", frames, format="extxyz")
    with pytest.raises(UnsupportedError, match="does not know Ag"):
        finetune(base_model, finetuning(settings, tmp_path / "silver.xyz"), quiet=True)
