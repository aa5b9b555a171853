import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import molecule
from safetensors.torch import save_file

import atomml
from atomml.errors import ModelFileError
from atomml.potentials import model_file
from atomml.potentials.model_file import load_model, read_header, save_model
from tests.potentials.conftest import make_paper_potential, make_potential

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def saved(tmp_path):
    potential = make_potential()
    return potential, save_model(potential, tmp_path / "model.safetensors", metrics={"forces_rmse": 0.1})


@pytest.mark.parametrize("make", [make_potential, make_paper_potential])
def test_a_saved_model_predicts_the_same_to_the_last_bit(make, tmp_path):
    potential, atoms = make(), molecule("CH3CH2OH")
    loaded = load_model(save_model(potential, tmp_path / "m.safetensors"))
    before, after = potential.predict(atoms)[0], loaded.predict(atoms)[0]
    assert before.energy == after.energy
    np.testing.assert_array_equal(before.forces, after.forces)
    assert loaded.elements == potential.elements
    assert loaded.e0 == potential.e0


def test_a_model_trained_in_single_precision_is_equivariant_in_double(saved):
    potential = load_model(saved[1], dtype="float64")
    atoms = molecule("CH3CH2OH")
    turned = atoms.copy()
    turned.rotate(77, (1, 2, 3))
    before, after = potential.predict([atoms, turned])
    assert potential.dtype == torch.float64
    assert after.energy == pytest.approx(before.energy, abs=1e-9)


def test_header_tells_what_the_model_is(saved):
    header = read_header(saved[1])
    assert header["config"]["kind"] == "tdn"
    assert header["config"]["channels"] == 8
    assert header["elements"] == [1, 6, 8, 3, 17]
    assert header["e0"]["6"] == -1029.5
    assert header["units"]["stress"].startswith("eV/Å³ (ASE sign")
    assert header["metrics"] == {"forces_rmse": 0.1}
    assert header["factors"]["convolution"]["rank"] <= 20
    assert header["atomml"] == atomml.__version__


def test_reading_a_header_does_not_import_torch(saved):
    script = (
        f"import sys; from atomml.potentials import read_header; read_header({str(saved[1])!r});"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("keep", [0, 5, 100, 2000, -1])
def test_a_truncated_file_is_refused(saved, keep):
    content = saved[1].read_bytes()
    saved[1].write_bytes(content[:keep])
    with pytest.raises(ModelFileError, match=r"truncated|not a model"):
        load_model(saved[1])


def test_foreign_files_are_refused(tmp_path):
    text = tmp_path / "notes.safetensors"
    text.write_text("these are not the weights you are looking for, they are far too short")
    other = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(3)}, other)
    pickled = tmp_path / "model.pt"
    torch.save({"x": torch.zeros(3)}, pickled)
    for path in (text, other, pickled):
        with pytest.raises(ModelFileError, match="not"):
            load_model(path)
    with pytest.raises(ModelFileError, match="no such model"):
        load_model(tmp_path / "absent.safetensors")


def test_a_file_of_a_newer_version_asks_for_an_update(saved, monkeypatch):
    monkeypatch.setattr(model_file, "FORMAT_VERSION", 0)
    with pytest.raises(ModelFileError, match="format version 1") as error:
        load_model(saved[1])
    assert "update atomml" in str(error.value)


def test_an_older_file_is_upgraded_step_by_step(saved, monkeypatch):
    monkeypatch.setattr(model_file, "FORMAT_VERSION", 3)
    calls = []

    def step(n):
        return lambda header, tensors: (calls.append(n), (header, tensors))[1]

    monkeypatch.setattr(model_file, "UPGRADES", {1: step(1), 2: step(2)})
    load_model(saved[1])
    assert calls == [1, 2]


def test_missing_weights_are_an_error_not_random_numbers(saved):
    content = saved[1].read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    table = json.loads(content[8 : 8 + length])
    name = "weights.body.embedding"
    table["weights.something_else"] = table.pop(name)
    text = json.dumps(table).encode()
    saved[1].write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    with pytest.raises(ModelFileError, match="inconsistent"):
        load_model(saved[1])


def test_a_full_disk_leaves_the_previous_model_intact(saved, monkeypatch):
    before = saved[1].read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ModelFileError, match="No space left"):
        save_model(make_potential(seed=3), saved[1])
    assert saved[1].read_bytes() == before
    assert os.listdir(saved[1].parent) == [saved[1].name]


def test_a_model_file_from_the_past_gives_the_numbers_recorded_with_it():
    recorded = json.loads((GOLDEN / "tdn_v1.json").read_text())
    prediction = load_model(GOLDEN / "tdn_v1.safetensors").predict(molecule("CH3CH2OH"))[0]
    assert prediction.energy == pytest.approx(recorded["energy"], abs=1e-5)
    np.testing.assert_allclose(prediction.forces, recorded["forces"], atol=1e-5)
