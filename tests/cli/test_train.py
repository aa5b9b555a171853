"""`atomml train`, `finetune` and `evaluate` on the command line."""

from __future__ import annotations

import json

import pytest
import typer
import yaml
from typer.testing import CliRunner

from atomml.cli import evaluate as evaluate_command
from atomml.cli import train as train_command
from atomml.cli.train import parse_settings
from atomml.errors import ConfigError
from tests.training.helpers import tiny_settings, write_frames


@pytest.fixture(scope="module")
def app():
    app = typer.Typer()
    train_command.register(app)
    evaluate_command.register(app)
    return app


def run(app, *arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_train_finetune_and_evaluate(app, tmp_path):
    write_frames(tmp_path / "frames.xyz")
    settings = tiny_settings("frames.xyz", tmp_path / "run")  # beside the configuration
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings))
    output = run(app, "train", tmp_path / "c.yaml", "--set", "epochs=1", "--json", tmp_path / "m.json")
    assert "energy 24/24, forces 24/24, stress 24/24" in output
    assert "train 20, valid 4" in output
    assert "E0" in output
    assert "parameters, 5 steps per epoch" in output
    assert output.count("epoch    1") == 1
    assert json.loads((tmp_path / "m.json").read_text())["training"]["epochs"] == 1
    model = tmp_path / "run" / "model.safetensors"

    del settings["model"]
    (tmp_path / "f.yaml").write_text(yaml.safe_dump(settings | {"run_dir": str(tmp_path / "tuned")}))
    output = run(app, "finetune", model, tmp_path / "f.yaml", "--set", "epochs=1")
    assert "Reference energies corrected by (eV): Cu" in output

    report = ["--out", tmp_path / "out", "--json", tmp_path / "e.json"]
    output = run(app, "evaluate", model, tmp_path / "frames.xyz", *report)
    assert "energy per atom" in output
    numbers = json.loads((tmp_path / "e.json").read_text())
    assert numbers["counts"]["frames"] == 24
    assert numbers["provenance"]["data_fingerprint"]
    assert (tmp_path / "out" / "evaluation_parity.png").exists()


def test_quiet_prints_nothing(app, tmp_path):
    settings = tiny_settings(write_frames(tmp_path / "frames.xyz"), tmp_path / "run")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings | {"epochs": 1}))
    assert run(app, "train", tmp_path / "c.yaml", "--quiet") == ""


def test_settings_are_key_and_value():
    assert parse_settings(["optimizer.lr=1e-3", "data.train=a=b.xyz"]) == {
        "optimizer.lr": "1e-3",
        "data.train": "a=b.xyz",
    }
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        parse_settings(["epochs"])


def test_an_unknown_key_is_suggested(app, tmp_path):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(tiny_settings("x.xyz", tmp_path / "run")))
    with pytest.raises(ConfigError, match="did you mean 'epochs'"):
        run(app, "train", tmp_path / "c.yaml", "--set", "epoch=3")


def test_a_missing_configuration_is_an_error(app, tmp_path):
    with pytest.raises(ConfigError, match="Cannot read"):
        run(app, "train", tmp_path / "absent.yaml")
