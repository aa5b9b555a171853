"""The gate: every reason, in its order, and nothing lost."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from atomml.active.config import GateConfig
from atomml.active.explore.units import is_calibrated
from atomml.active.gate import judge
from atomml.active.history import ModelFile
from atomml.datasets import frame_fingerprints, from_ase
from atomml.training.deviations import calibrated
from atomml.uncertainty.model_file import save_model
from tests.training.uncertain import ensemble, scattered, structures

NONE = np.empty(0, dtype=np.int64)
OPEN = {"force_std_min": None, "force_std_max": None, "max_force": None, "min_difference": 0.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    save_model(calibrated(ensemble(), scattered(ensemble(), structures(30))), path)
    return ModelFile(path, "one")


def verdicts(frames, model, known=NONE, labelled=(), **limits):
    return judge(from_ase(frames), GateConfig(**(OPEN | limits)), model=model, known=known, labelled=labelled)


def test_without_limits_everything_passes(model):
    found = verdicts(structures(6), model)
    assert found.reason == ["passed"] * 6
    assert (found.force_std > 0).all()
    assert (found.force > 0).all()


def test_both_thresholds_are_those_of_the_largest_atom(model):
    frames = structures(8)
    free = verdicts(frames, model)
    low, high = np.quantile(free.force_std, [0.3, 0.7])
    found = verdicts(frames, model, force_std_min=low, force_std_max=high)
    expected = np.where(
        free.force_std > high, "too_uncertain", np.where(free.force_std < low, "confident", "passed")
    )
    assert found.reason == expected.tolist()
    assert {"too_uncertain", "confident", "passed"} == set(found.reason)


def test_the_largest_deviation_is_that_of_the_calibrated_covariance(model):
    from atomml.uncertainty.model_file import load_model

    frames = structures(4)
    (first, *_) = load_model(model.path).predict(frames)
    std = np.sqrt(np.trace(first.forces_cov, axis1=1, axis2=2) / 3)
    assert verdicts(frames, model).force_std[0] == pytest.approx(std.max(), rel=1e-6)


def test_geometry_comes_before_predictions(model):
    overlapping = bulk("Cu", cubic=True, a=3.8)
    overlapping.positions[1] = overlapping.positions[0] + [0.3, 0, 0]
    iron = bulk("Fe", cubic=True)
    found = verdicts([overlapping, iron, *structures(1)], model)
    assert found.reason == ["too_close", "unknown_elements", "passed"]
    assert np.isnan(found.force_std[:2]).all()


def test_copies_and_known_frames_are_dropped(model):
    frames = structures(3)
    known = frame_fingerprints(from_ase(frames[:1]))
    found = verdicts([*frames, frames[2]], model, known=known)
    assert found.reason == ["known", "passed", "passed", "duplicate"]


def test_near_duplicates_of_labelled_frames_and_of_each_other_are_dropped(model):
    rng = np.random.default_rng(0)
    one, two = structures(2, shake=0.2)

    def near(atoms):
        copy = atoms.copy()
        copy.positions += rng.normal(scale=1e-4, size=copy.positions.shape)
        return copy

    found = verdicts([near(one), two, near(two)], model, labelled=[from_ase([one])], min_difference=0.02)
    assert found.reason.count("near_duplicate") == 2
    assert found.reason[0] == "near_duplicate"


def test_too_large_forces_are_exploded(model):
    frames = structures(4)
    limit = float(np.median(verdicts(frames, model).force))
    assert verdicts(frames, model, max_force=limit).reason.count("max_force") == 2


def test_without_a_model_only_the_geometry_is_judged():
    found = verdicts(structures(2), None, force_std_min=1e9)
    assert found.reason == ["passed", "passed"]


def test_one_bad_structure_is_not_fatal(model, monkeypatch):
    import atomml.active.gate as module
    from atomml.errors import DataError

    original = module.predicted_arrays

    def ill(potential, part, *args):
        if (part.n_atoms == 1).any():
            raise DataError("A member predicts a NaN.")
        return original(potential, part, *args)

    monkeypatch.setattr(module, "predicted_arrays", ill)
    frames = [*structures(4)[1:4:2], Atoms("Cu", cell=[3, 3, 3], pbc=True)]
    assert verdicts(frames, model).reason == ["passed", "passed", "not_finite"]


def test_a_model_is_known_to_be_calibrated_or_not(model, tmp_path):
    save_model(ensemble(), tmp_path / "raw.safetensors")
    assert is_calibrated(model)
    assert not is_calibrated(ModelFile(tmp_path / "raw.safetensors", "raw"))
