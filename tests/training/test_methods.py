"""Every method of uncertainty from one configuration to a model file with calibrated deviations."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase.io import read
from safetensors.torch import load_file

import atomml
from atomml.potentials import read_header
from atomml.training import train
from atomml.uncertainty.bayesian import BayesianPotential
from tests.training.helpers import MODEL, configured, draw_nothing, tiny_settings, write_frames

NOISY = MODEL | {"noise": {"forces": "isotropic", "hidden": 4}}
NLL = {"kind": "nll", "stress": 1.0, "mean": {"stress": 1.0}, "refit": False}  # which takes seconds
METHODS = {
    "heads": {"model": NOISY, "loss": NLL | {"refit": True}, "uncertainty": {"kind": "heads"}},
    "outer": {
        "model": MODEL | {"noise": {"forces": "outer", "energy": "mean", "vectors": 2}},
        "loss": NLL | {"balance": "likelihood", "feedback": 1.0},
        "uncertainty": {"kind": "heads", "calibrate": "crps"},
    },
    "shallow ensemble": {
        "model": MODEL | {"heads": 4},
        "loss": {"kind": "nll"},
        "uncertainty": {"kind": "heads", "calibrate": "affine", "by_element": True},
    },
    "ensemble": {"model": NOISY, "loss": NLL, "uncertainty": {"kind": "ensemble", "members": 2}},
    "ensemble without noise": {"uncertainty": {"kind": "ensemble", "members": 4}, "epochs": 1},
    "swag": {
        "model": NOISY,
        "loss": NLL,
        "uncertainty": {"kind": "swag", "epochs": 3, "samples": 4, "rank": 2, "rate": "cyclic"},
    },
    "ivon": {
        "model": NOISY,
        "loss": NLL | {"normalization": "structure", "balance": "likelihood", "beta": 0.0, "feedback": 1.0},
        "uncertainty": {"kind": "ivon", "samples": 4},
        "ema": 0,
    },
    "llpr": {"uncertainty": {"kind": "llpr", "force_frames": 5}},
    "llpr of energies": {"uncertainty": {"kind": "llpr", "force_frames": 0, "calibrate": "robust"}},
    "laplace": {"uncertainty": {"kind": "laplace_diagonal", "samples": 5}},
}
KINDS = {name: changes["uncertainty"]["kind"] for name, changes in METHODS.items()}


@pytest.fixture(scope="module")
def more_frames(tmp_path_factory):
    """Enough to calibrate on 20 of them."""
    return write_frames(tmp_path_factory.mktemp("data") / "frames.xyz", 44)


def settings_for(frames, run_dir, **changes):
    plain = tiny_settings(frames, run_dir) | {"epochs": 2, "batch": {"batch_size": 12}}
    return plain | {"data": {"train": str(frames), "valid": 20}} | changes


@pytest.fixture(scope="module", params=METHODS)
def trained(request, more_frames, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    settings = settings_for(more_frames, run_dir, **METHODS[request.param])
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        return request.param, train(configured(settings), quiet=True)


def predictions(model, frames, **options):
    return model.predict(read(frames, ":3"), **options)


def test_the_model_file_gives_what_the_training_returned(trained, more_frames):
    name, result = trained
    model = atomml.load(result.run_dir / "model.safetensors")
    assert isinstance(model, BayesianPotential)
    assert model.method == result.potential.method == KINDS[name]
    for one, other in zip(
        predictions(model, more_frames), predictions(result.potential, more_frames), strict=True
    ):
        for key in ("energy", "forces", "energy_std", "forces_cov", "stress_std"):
            # single precision rounds differently in other memory
            np.testing.assert_allclose(getattr(one, key), getattr(other, key), rtol=1e-2, atol=1e-6)


def test_deviations_are_finite_and_positive(trained, more_frames):
    for exact in (False, True):
        for p in predictions(trained[1].potential, more_frames, exact=exact):
            each = [p.energy_std, p.energies_std, p.forces_std, p.stress_std]
            values = np.concatenate([np.ravel(x) for x in each])
            assert np.isfinite(values).all()
            assert values.min() > 0


def test_deviations_are_calibrated_on_the_validation_frames(trained):
    name, result = trained
    calibration = result.potential.calibration
    entry = read_header(result.run_dir / "model.safetensors")["uncertainty"]
    assert entry["calibration"]["id"] == calibration.id
    assert calibration.quantities["energy"].frames == 20
    assert calibration.method == METHODS[name]["uncertainty"].get("calibrate", "nll")


def test_metrics_say_what_the_deviations_are_worth(trained):
    result = trained[1]
    measured = json.loads((result.run_dir / "metrics.json").read_text())["valid"]["deviations"]
    for quantity in ("energy", "forces"):
        assert all(
            np.isfinite(measured[quantity][key]) for key in ("rmse", "sharpness", "nll", "coverage_95")
        )


def test_scaled_errors_are_as_large_as_expected(trained):
    """The calibration by likelihood makes (E − μ)²/σ² 1 on average over the frames that it was fitted on."""
    name, result = trained
    if METHODS[name]["uncertainty"].get("calibrate", "nll") != "nll":
        pytest.skip("another measure was fitted")
    for quantity in ("energy", "forces"):
        after = result.potential.calibration.quantities[quantity].after
        assert after["z_rms"] == pytest.approx(1.0, rel=1e-3)


def test_the_training_frames_are_remembered(trained):
    assert len(load_file(trained[1].run_dir / "model.safetensors")["frames"]) == 24
