import numpy as np
import pytest
from ase.units import GPa, Hartree
from pydantic import ValidationError

from atomml.datasets import load_frames, split_random
from atomml.errors import DataError
from atomml.training.config import DataConfig, LossConfig
from atomml.training.data import load_training_data


def loaded(**keys):
    return load_training_data(DataConfig(**keys), LossConfig())


def test_units_and_signs_of_the_files_are_converted(frames_file):
    plain = loaded(train=str(frames_file), valid=None).train.store
    other = loaded(
        train=str(frames_file), valid=None, energy_unit="Hartree", stress_unit="GPa", stress_sign="pressure"
    ).train.store
    np.testing.assert_allclose(other.energy, plain.energy * Hartree)
    np.testing.assert_allclose(other.forces, plain.forces * Hartree)
    np.testing.assert_allclose(other.stress, -plain.stress * GPa)


def test_a_saved_division_is_used_as_it_is(frames_file, tmp_path):
    store = load_frames(frames_file)
    split = split_random(len(store), valid=5, test=3, seed=7)
    split.save(tmp_path / "split.json", store)
    data = loaded(train=str(frames_file), split=str(tmp_path / "split.json"))
    for part, rows in (("train", split.train), ("valid", split.valid), ("test", split.test)):
        np.testing.assert_array_equal(getattr(data, part).rows, rows)


def test_a_division_of_other_data_is_refused(frames_file, tmp_path):
    store = load_frames(frames_file)
    half = store.subset(np.arange(len(store) // 2))
    split_random(len(half), valid=2, seed=0).save(tmp_path / "split.json", half)
    with pytest.raises(DataError):
        loaded(train=str(frames_file), split=str(tmp_path / "split.json"))


def test_a_saved_division_excludes_other_ways_of_dividing(frames_file):
    with pytest.raises(ValidationError, match="already divides"):
        DataConfig(train=str(frames_file), split="split.json", group="traj")
