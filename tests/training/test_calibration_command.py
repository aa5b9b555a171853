"""Calibration of model files: what is refused, what is kept, what comes back."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from rich.console import Console

import atomml
from atomml.datasets import frame_fingerprints
from atomml.errors import ConfigError, DataError, UnsupportedError
from atomml.potentials.model_file import read_model
from atomml.training.calibration_command import calibrate_file
from atomml.training.evaluation import evaluate
from atomml.training.evaluation_command import evaluate_files
from atomml.uncertainty.bayesian import BayesianPotential
from atomml.uncertainty.model_file import load_model, save_model
from atomml.uncertainty.posterior import LastLayer
from tests.training.uncertain import ensemble, potential, scattered, structures

FACTS = {
    "training": {"epochs": 3},
    "data": {"train": "abc"},
    "metrics": {"valid": {"energy_mae": 0.5}},
    "licence": "CC0",
}


@pytest.fixture(scope="module")
def store():
    """Labels twice as far from the predictions as the deviations say."""
    return scattered(ensemble(), structures(), 2.0)


@pytest.fixture(scope="module")
def data(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "held_out"
    store.save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def training_frames():
    return frame_fingerprints(scattered(ensemble(), structures(10, seed=9)))


@pytest.fixture
def model(tmp_path, training_frames):
    return save_model(ensemble(), tmp_path / "model.safetensors", frames=training_frames, **FACTS)


def calibrate(model, data, **options):
    """The command; returns the written file and what was printed."""
    text = io.StringIO()
    console = Console(file=text, width=200)
    return calibrate_file(str(model), [data], console=console, **options), text.getvalue()


def test_the_new_file_predicts_wider_and_keeps_what_the_old_one_said(model, data, store, training_frames):
    before = model.read_bytes()
    out, shown = calibrate(model, data)
    assert out == model.with_name("model-calibrated.safetensors")
    assert model.read_bytes() == before
    header, tensors = read_model(out)
    assert {name: header[name] for name in FACTS} == FACTS
    assert np.array_equal(tensors["frames"].numpy(), training_frames)
    new = load_model(out)
    alpha = new.calibration.quantities["energy"].scale.alpha
    assert alpha == pytest.approx(2.0, rel=0.2)
    old, wider = evaluate(ensemble(), store), evaluate(new, store)
    np.testing.assert_allclose(wider.energy, old.energy)
    np.testing.assert_allclose(wider.energy_std, alpha * old.energy_std)
    assert wider.calibration == new.calibration_id
    for text in ("before", "after", "in 68 %", new.calibration_id):
        assert text in shown
    record = new.calibration.data
    assert record["source"] == [data]
    assert record["training_frames"] == 0
    assert record["frames"] == 60
    assert record["fingerprint"] == store.fingerprint()
    assert record["version"] == atomml.__version__


def test_frames_of_the_training_are_refused_unless_allowed(data, store, tmp_path):
    model = save_model(ensemble(), tmp_path / "m.safetensors", frames=frame_fingerprints(store, range(5, 12)))
    with pytest.raises(DataError, match="7 of 60 frames are in the training set") as caught:
        calibrate(model, data)
    assert caught.value.where.startswith(store.ids[5])
    assert "--allow-overlap" in caught.value.fix
    assert not (tmp_path / "m-calibrated.safetensors").exists()
    out, shown = calibrate(model, data, allow_overlap=True)
    assert "7 frames are in the training set" in shown
    assert load_model(out).calibration.data["training_frames"] == 7


def test_a_model_that_does_not_know_its_training_frames_says_so(data, tmp_path):
    model = save_model(ensemble(), tmp_path / "m.safetensors")
    out, shown = calibrate(model, data)
    assert "no fingerprints" in shown
    assert load_model(out).calibration.data["training_frames"] is None


def test_in_place_and_again(model, data):
    out, shown = calibrate(model, data, in_place=True)
    assert out == model
    first = load_model(model).calibration_id
    assert "replaced" not in shown
    _, shown = calibrate(model, data, in_place=True)
    assert f"calibration {first} of the model is replaced" in shown
    assert load_model(model).calibration_id == first


def test_the_calibration_as_json(model, data, tmp_path):
    out, shown = calibrate(
        model,
        data,
        method="affine",
        by_element=True,
        json_file=tmp_path / "c.json",
        out=tmp_path / "new.safetensors",
    )
    content = json.loads((tmp_path / "c.json").read_text())
    assert content == load_model(out).calibration.to_dict()
    assert content["method"] == "affine"
    assert "Z = 29" in shown.replace("\n", " ")


def test_exact_deviations_of_a_last_layer_are_fitted_if_asked_for(data, tmp_path):
    mean = potential()
    rng = np.random.default_rng(0)
    factor = 0.1 * rng.normal(size=(mean.body.last_layer().shape[0], 5))
    model = save_model(BayesianPotential(LastLayer(mean, factor, "llpr")), tmp_path / "m.safetensors")
    scales = {}
    for exact in (False, True):
        out, _ = calibrate(model, data, exact=exact)
        calibration = load_model(out).calibration
        assert calibration.data["exact"] is exact
        scales[exact] = calibration.quantities["forces"].scale.alpha
    assert scales[True] != pytest.approx(scales[False], rel=1e-3)


def test_what_cannot_be_calibrated(model, data, tmp_path):
    plain = save_model(potential(), tmp_path / "plain.safetensors")
    with pytest.raises(UnsupportedError, match="no deviations"):
        calibrate(plain, data)
    with pytest.raises(ConfigError, match="not a method"):
        calibrate(model, data, method="magic")
    with pytest.raises(ConfigError, match="exclude"):
        calibrate(model, data, out=tmp_path / "x.safetensors", in_place=True)


def test_evaluation_of_a_calibrated_model_with_structures_from_elsewhere(model, data, store, tmp_path):
    strange = tmp_path / "strange"
    scattered(ensemble(), structures(30, seed=5, lattice=2.6), labels=()).save(strange)
    out, _ = calibrate(model, data)
    text = io.StringIO()
    evaluate_files(
        str(out),
        [data],
        ood=[str(strange)],
        json_file=tmp_path / "e.json",
        console=Console(file=text, width=200),
    )
    numbers = json.loads((tmp_path / "e.json").read_text())
    assert 0.5 < numbers["ood"]["detection"]["energy_std_per_atom"]["auroc"] <= 1
    assert numbers["ood"]["deviations"] == {}
    assert numbers["deviations"]["energy"]["coverage_68"] == pytest.approx(0.68, abs=0.15)
    assert numbers["calibration"] == numbers["provenance"]["calibration"] == load_model(out).calibration_id
    for shown in ("AUROC", "in 95 %", "rank ρ"):
        assert shown in text.getvalue()
    assert "atomml calibrate" not in text.getvalue()


@pytest.mark.parametrize("options", [{"ood": ["x"]}, {"exact": True}])
def test_what_needs_deviations_is_refused_without(options, data, tmp_path):
    plain = save_model(potential(), tmp_path / "plain.safetensors")
    with pytest.raises(UnsupportedError, match="no deviations"):
        evaluate_files(str(plain), [data], **options)
