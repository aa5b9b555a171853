"""The commands about deviations as a user types them."""

import json
import sys

import pytest
from typer.testing import CliRunner

from atomml.cli.main import app, main
from atomml.datasets import frame_fingerprints
from atomml.uncertainty.model_file import load_model, save_model
from tests.training.uncertain import ensemble, scattered, structures


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model, the frames it was "trained" on, and others."""
    folder = tmp_path_factory.mktemp("files")
    store = scattered(ensemble(), structures(), 2.0)
    store.save(folder / "held_out")
    trained = scattered(ensemble(), structures(20, seed=9))
    trained.save(folder / "trained")
    save_model(ensemble(), folder / "m.safetensors", frames=frame_fingerprints(trained))
    return folder


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def test_calibrate_then_evaluate(files, tmp_path):
    out = tmp_path / "c.safetensors"
    result = run("calibrate", files / "m.safetensors", files / "held_out", "--out", out, "--method", "crps")
    assert result.exit_code == 0, result.output
    assert load_model(out).calibration.method == "crps"
    result = run(
        "evaluate",
        out,
        files / "held_out",
        "--ood",
        files / "trained",
        "--json",
        tmp_path / "e.json",
        "--exact",
    )
    assert result.exit_code == 0, result.output
    assert "AUROC" in result.output
    numbers = json.loads((tmp_path / "e.json").read_text())
    assert numbers["provenance"]["ood"] == [str(files / "trained")]
    assert set(numbers["ood"]["deviations"]) == {"energy", "forces", "stress"}


def test_training_frames_are_refused_on_the_terminal(files, monkeypatch, capsys):
    words = ["atomml", "calibrate", files / "m.safetensors", files / "trained"]
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert "20 of 20 frames are in the training set" in shown
    assert "--allow-overlap" in shown


def test_info_says_what_the_deviations_are(files, tmp_path):
    assert "ensemble of 6, not calibrated" in run("info", files / "m.safetensors").output.replace("\n", " ")
    run("calibrate", files / "m.safetensors", files / "held_out", "--out", tmp_path / "c.safetensors")
    shown = run("info", tmp_path / "c.safetensors").output
    assert "calibrated by nll on" in shown
    assert load_model(tmp_path / "c.safetensors").calibration_id in shown
