"""Training of crystal models: what is learnt, what is written, and a killed run that goes on."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.io import write

from atomml import files
from atomml.config import parse_config
from atomml.crystals.config import CrystalBatchConfig, CrystalTrainConfig
from atomml.crystals.data import similar_sizes
from atomml.crystals.model_file import load_crystal_model
from atomml.crystals.task import TERMS, tempered
from atomml.crystals.train import train_crystals
from atomml.errors import ConfigError, DataError
from atomml.training import loop
from tests.crystals.models import NETWORK, perovskite
from tests.training.helpers import KILLED, in_child, kill_on_call
from tests.training.test_resume import assert_same_run


@pytest.fixture(scope="module")
def crystals_file(tmp_path_factory):
    rng = np.random.default_rng(0)
    structures = []
    for k in range(36):
        atoms = [bulk("LiCl", "rocksalt", 5.1), bulk("NaCl", "rocksalt", 5.6), perovskite()][k % 3]
        atoms.set_cell(atoms.cell * rng.uniform(0.97, 1.03), scale_atoms=True)
        atoms.info |= {"gap": float(rng.normal()), "family": ("salt", "salt", "oxide")[k % 3]}
        structures.append(atoms)
    path = tmp_path_factory.mktemp("crystals") / "crystals.extxyz"
    write(path, structures)
    return path


def settings_for(crystals_file, run_dir, **changes):
    settings = {
        "run_dir": str(run_dir),
        "data": {"train": str(crystals_file), "valid": 6, "test": 3},
        "model": {"network": NETWORK, "flow": {"steps": [4, 9]}, "given_types": 0.5},
        "epochs": 3,
        "batch": {"batch_size": 8},
        "schedule": {"kind": "cosine", "warmup_steps": 2},
        "threads": 1,
        "log_every": 2,
    }
    return parse_config(CrystalTrainConfig, settings | changes, where="test")


@pytest.fixture(scope="module")
def whole(crystals_file, tmp_path_factory):
    config = settings_for(crystals_file, tmp_path_factory.mktemp("runs") / "whole", checkpoint_steps=2)
    return config, train_crystals(config, quiet=True)


def test_a_run_leaves_a_model_its_history_and_a_report(whole):
    config, result = whole
    files_left = {p.name for p in result.run_dir.iterdir()}
    assert files_left >= {
        "config.yaml",
        "split.json",
        "log.jsonl",
        "metrics.csv",
        "metrics.json",
        "report.md",
    }
    model = load_crystal_model(result.run_dir / "model.safetensors")
    assert model.elements == (3, 8, 11, 17, 22)
    assert model.atom_counts == pytest.approx({2: 18 / 27, 5: 9 / 27}, abs=0.2)
    assert model.metadata["training"]["config"] == config.resolved()
    assert model.metadata["data"]["train files"]
    assert result.metrics["training"]["crystals"] == {"train": 27, "valid": 6, "test": 3}
    rows = list(csv.DictReader((result.run_dir / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    columns = [f"{part}_{term}" for part in ("train", "valid") for term in TERMS]
    assert all(float(rows[-1][column]) > 0 for column in columns)
    assert (result.run_dir / "figures" / "learning_curve.png").stat().st_size > 1000


def test_the_model_has_the_weights_of_the_best_validation(whole):
    _, result = whole
    epochs = [r for r in map(json.loads, (result.run_dir / "log.jsonl").open()) if r["kind"] == "epoch"]
    best = min(epochs, key=lambda r: r["valid_loss"])
    assert result.metrics["validation"]["valid_loss"] == pytest.approx(best["valid_loss"], rel=1e-6)


@pytest.mark.parametrize(
    "point",
    [(loop, "training_step", 5), (files.os, "replace", 5), (loop, "append_csv", 2)],
    ids=lambda p: p[1],
)
def test_killed_and_resumed_equals_uninterrupted(whole, tmp_path, point):
    config, result = whole
    again = config.model_copy(update={"run_dir": str(tmp_path / "run")})

    def die():
        kill_on_call(*point)
        train_crystals(again, quiet=True)

    assert in_child(die) == KILLED
    train_crystals(again, resume=True, quiet=True)
    assert_same_run(result.run_dir, tmp_path / "run")


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": {"distance": "cosine"}},
        {"loss": {"distance": "cosine", "origin": "fitted"}},
        {"model": {"network": NETWORK, "flow": {"coordinates": "additive", "steps": [6]}}},
        {
            "model": {
                "network": NETWORK,
                "flow": {"steps": [6]},
                "given_types": 0,
                "properties": ["density", "gap"],
            }
        },
        {"dtype": "bfloat16"},
    ],
    ids=lambda c: str(next(iter(c.values()))),
)
def test_training_lowers_the_loss(crystals_file, tmp_path, changes):
    config = settings_for(
        crystals_file, tmp_path / "run", epochs=6, optimizer={"lr": 0.01}, ema=0.5, **changes
    )
    result = train_crystals(config, quiet=True)
    losses = [float(row["valid_loss"]) for row in csv.DictReader((result.run_dir / "metrics.csv").open())]
    assert losses[-1] < 0.75 * losses[0]


def test_an_average_over_origins_has_the_loss_of_the_plain_one_up_to_noise(crystals_file, tmp_path):
    """Both have the same expectation: the mean over the origins is taken by sampling, or exactly."""
    found = []
    for k, origin in enumerate(("given", "mean")):
        loss = {"distance": "cosine", "origin": origin}
        options = {"optimizer": {"lr": 1e-12}, "epochs": 1, "ema": 0.0, "loss": loss}
        config = settings_for(crystals_file, tmp_path / str(k), **options)
        found.append(train_crystals(config, quiet=True).metrics["validation"]["valid_coordinates"])
    assert found[0] == pytest.approx(found[1], rel=0.3)


def test_a_run_that_is_not_the_same_is_not_resumed(whole, tmp_path):
    config, result = whole
    other = config.model_copy(update={"seed": 4})
    with pytest.raises(ConfigError, match="seed: 0 then, 4 now"):
        train_crystals(other, resume=True, quiet=True)
    with pytest.raises(ConfigError, match="in use"):
        train_crystals(config, quiet=True)
    assert (result.run_dir / "model.safetensors").exists()


def test_large_crystals_are_left_out_and_counted(crystals_file, tmp_path):
    data = {"train": str(crystals_file), "valid": 6, "max_atoms": 4}
    result = train_crystals(settings_for(crystals_file, tmp_path / "run", epochs=1, data=data), quiet=True)
    assert any("crystals with more than 4 atoms are left out" in note for note in result.metrics["notes"])
    assert load_crystal_model(result.run_dir / "model.safetensors").atom_counts == {2: 1.0}
    with pytest.raises(DataError, match="No crystals are left"):
        train_crystals(
            settings_for(crystals_file, tmp_path / "none", data=data | {"max_atoms": 1}), quiet=True
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": {"origin": "mean"}}, "origin: mean needs distance: cosine"),
        ({"model": {"networks": {}}}, "did you mean 'network'"),
        (
            {"model": {"network": {"kind": "equivariant", "hiden": 3}}},
            "model.network.hiden: unknown key; did you mean 'hidden'",
        ),
        ({"model": {"network": {"kind": "cspnet", "lmax": 1}}}, "model.network.lmax: not a key of this kind"),
        (
            {"model": {"network": {"kind": "gnn"}}},
            "model.network.kind: choose one of 'cspnet', 'equivariant'",
        ),
        ({"data": {"train": "x.csv", "valid": None}, "early_stop": 3}, "need data.valid"),
        ({"epochs": None}, "at least one of epochs"),
    ],
)
def test_bad_configurations_say_what_is_wrong(crystals_file, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        settings_for(crystals_file, tmp_path, **changes)


@pytest.mark.parametrize("max_pairs", [None, 60])
def test_batches_hold_every_crystal_once_and_little_padding(max_pairs):
    rng = np.random.default_rng(0)
    n_atoms = rng.integers(1, 21, size=500)
    config = CrystalBatchConfig(batch_size=16, max_pairs=max_pairs)
    batches = similar_sizes(n_atoms, config, np.random.default_rng(1))
    assert sorted(row for batch in batches for row in batch) == list(range(500))
    assert max(map(len, batches)) <= 16
    padded = sum(len(b) * n_atoms[b].max() ** 2 for b in batches)
    assert padded < 1.6 * (n_atoms**2).sum()
    if max_pairs is not None:
        assert all(len(b) * n_atoms[b].max() ** 2 <= max_pairs or len(b) == 1 for b in batches)
    assert batches != similar_sizes(n_atoms, config, np.random.default_rng(2))


def test_the_global_generator_is_left_alone(crystals_file, tmp_path):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train_crystals(settings_for(crystals_file, tmp_path / "run", epochs=1), quiet=True)
    assert torch.equal(before, torch.get_rng_state())


def test_tempered_weights_have_the_same_mean_and_a_smaller_range():
    weights = torch.tensor([1.0, 10.0, 1000.0]).double()
    assert torch.equal(tempered(weights, 1.0), weights)
    half = tempered(weights, 0.5)
    assert half.mean() == pytest.approx(weights.mean().item())
    torch.testing.assert_close(half / half[0], weights.sqrt())
