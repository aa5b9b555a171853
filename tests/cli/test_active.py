"""`atomml active` as a user types it."""

import json

import pytest
from typer.testing import CliRunner

from atomml.active.journal import Journal
from atomml.cli.main import app
from atomml.errors import ConfigError, DataError


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture
def begun(tmp_path):
    """A loop that was killed in its first gate."""
    with Journal(tmp_path) as journal:
        journal.append(0, "settings", {"settings": {}})
        stores = {"train": {"path": "labels/a", "frames": 3}}
        journal.append(0, "start", {"stores": stores, "model": None, "notes": ["2 come twice"]})
        model = {"path": "rounds/00/model.safetensors", "fingerprint": "f"}
        errors = {"test": {"forces_rmse": 0.1234, "z_rms": 1.5}}
        journal.append(0, "train", {"frames": 3, "model": model}, {"seconds": 12.0})
        journal.append(0, "calibrate", {"model": model, "errors": errors, "notes": []})
        journal.append(0, "report", {})
        journal.append(1, "explore", {"candidates": 40, "notes": ["3 explorations ended early: hot"]})
    return tmp_path


def test_status_of_a_killed_loop(begun, tmp_path):
    shown = run("active", "status", begun, "--json", tmp_path / "s.json")
    assert shown.exit_code == 0
    assert "123.4" in shown.output
    assert "2 come twice" in shown.output
    assert "--resume goes on with round 1, gate" in shown.output
    found = json.loads((tmp_path / "s.json").read_text())
    assert found["next"] == {"round": 1, "step": "gate"}
    assert found["rounds"][1]["candidates"] == 40
    assert found["stopped"] is None
    assert not found["running"]


def test_status_while_it_runs_and_after_its_end(begun):
    with Journal(begun) as journal:
        assert "Running: round 1, gate" in run("active", "status", begun).output
        (begun / "now.json").write_text('{"round": 1, "step": "gate", "done": 2, "of": 9, "at": 0}')
        assert "Running: round 1, gate, 2 of 9" in run("active", "status", begun).output
        journal.append(1, "stop", {"reason": "enough"})
    assert "Ended: enough" in run("active", "status", begun).output


def test_status_survives_a_torn_line(begun):
    with (begun / "journal.jsonl").open("ab") as file:
        file.write(b'{"check": "ab')
    assert "round 1, gate" in run("active", "status", begun).output


def test_a_folder_without_a_loop_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no active learning"):
        run("active", "status", tmp_path)


def test_a_configuration_that_cannot_work_is_refused_before_anything_is_made(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(f"run_dir: {tmp_path / 'run'}\nexplore: []\n")
    with pytest.raises(ConfigError, match="explore"):
        run("active", "run", path, "--set", "stop.max_rounds=1")
    assert not (tmp_path / "run").exists()
