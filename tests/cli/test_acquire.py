"""`atomml acquire` as a user types it."""

import json

import pytest
from ase.io import read
from typer.testing import CliRunner

from atomml.cli.main import app
from atomml.datasets import frame_fingerprints
from atomml.errors import ConfigError, DataError, UnsupportedError
from atomml.potentials import save_model as save_potential
from atomml.uncertainty.acquisition import METHODS
from atomml.uncertainty.model_file import save_model
from tests.training.uncertain import ensemble, potential, scattered, structures


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """An ensemble, the frames it was "trained" on, and a pool of 24 of which six are those and one comes twice."""
    folder = tmp_path_factory.mktemp("files")
    trained = scattered(ensemble(), structures(6, seed=9))
    pool = scattered(ensemble(), [*structures(6, seed=9), *structures(17, seed=3), structures(17, seed=3)[0]])
    trained.save(folder / "trained")
    pool.save(folder / "pool")
    save_model(ensemble(), folder / "m.safetensors", frames=frame_fingerprints(trained))
    save_potential(potential(0), folder / "plain.safetensors")
    return folder


def run(files, *arguments, model="m"):
    words = ["acquire", files / f"{model}.safetensors", files / "pool", "--n", "4", *arguments]
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def failing(files, *arguments, model="m"):
    words = ["acquire", files / f"{model}.safetensors", files / "pool", *arguments]
    CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_chooses_new_structures(files, tmp_path, method):
    more = ["--labelled", files / "trained"] if method in ("farthest_point", "llpr_maxdet") else []
    noise = ["--noise-energy", "0.01", "--noise-forces", "0.1"] if "bald" in method else []
    out, result = tmp_path / "c.extxyz", tmp_path / "c.json"
    shown = run(files, "--method", method, "--out", out, "--json", result, *more, *noise)
    assert shown.exit_code == 0, shown.output
    content = json.loads(result.read_text())
    assert len(set(content["rows"])) == 4
    assert min(content["rows"]) >= 6  # the first six were trained on
    assert content["rows"].count(6) + content["rows"].count(23) <= 1  # the same structure
    assert len(read(out, index=":")) == 4
    assert any("6 left out that the model was trained on" in note for note in content["notes"])


def test_random_choice_works_without_members(files, tmp_path):
    shown = run(files, "--method", "random", "--out", tmp_path / "c.extxyz", model="plain")
    assert shown.exit_code == 0, shown.output
    assert "4 structures in" in shown.output


def test_what_cannot_be_chosen_is_an_error(files, tmp_path):
    out = ["--out", tmp_path / "c.extxyz"]
    with pytest.raises(UnsupportedError, match="no members"):
        failing(files, "--n", "4", *out, model="plain")
    with pytest.raises(ConfigError, match="no method 'best'"):
        failing(files, "--n", "4", "--method", "best", *out)
    with pytest.raises(ConfigError, match="compares the pool with what is labelled"):
        failing(files, "--n", "4", "--method", "farthest_point", *out)
    with pytest.raises(DataError, match="40"):
        failing(files, "--n", "40", "--method", "force_std", *out)
    assert not (tmp_path / "c.extxyz").exists()
