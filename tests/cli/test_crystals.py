"""`atomml crystals` as a user meets it."""

import json
import warnings

import pytest
import torch
from ase.build import bulk
from typer.testing import CliRunner

from atomml.cli import main as cli
from atomml.crystals.config import CrystalModelConfig, CSPNetConfig
from atomml.crystals.model import CrystalModel
from atomml.crystals.model_file import save_crystal_model
from atomml.crystals.outputs import read_generated, read_records
from atomml.crystals.sampler import Sampled
from atomml.errors import ConfigError, ModelFileError
from tests.crystals.generators import Prototypes, perturbed

SAMPLER = "atomml.crystals.generate.sample"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A file of an untrained model that knows lithium and chlorine."""
    torch.manual_seed(0)
    network = CSPNetConfig(hidden=8, layers=1, frequencies=4, time_channels=4)
    untrained = CrystalModel(
        CrystalModelConfig(network=network, given_types=0.5),
        elements=(3, 17),
        lattice_scale=3.0,
        atom_counts=Prototypes.atom_counts,
        property_scales={},
    )
    path = tmp_path_factory.mktemp("model") / "crystals.safetensors"
    save_crystal_model(untrained, path)
    return path


@pytest.fixture(autouse=True)
def _prototypes_instead_of_noise(monkeypatch):
    """An untrained model makes no crystals; and pictures are seen elsewhere."""
    monkeypatch.setattr(SAMPLER, perturbed)
    monkeypatch.setattr("atomml.crystals.generate.write_sheet", lambda crystals, path: path.write_bytes(b""))


def run(*arguments):
    return CliRunner().invoke(cli.app, ["crystals", *map(str, arguments)])


def done(*arguments):
    result = run(*arguments)
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.mark.parametrize("command", ["train", "generate", "relax", "evaluate"])
def test_every_command_explains_itself(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_a_formula_becomes_a_folder_of_crystals(model, tmp_path):
    out = tmp_path / "out"
    text = done("generate", model, out, "--n", 5, "--formula", "LiCl", "--z", 2, "--batch", 2, "--symmetrize")
    assert "5 of 5 crystals" in text
    assert "space groups:" in text
    _, rows = read_generated(out)
    assert {row["formula"] for row in rows} == {"Li2 Cl2"}
    assert len(list((out / "cif").iterdir())) == 5
    assert json.loads((out / "settings.json").read_text())["model_file"] == str(model)


def test_generated_crystals_are_relaxed_on_request(model, tmp_path):
    arguments = ("generate", model, tmp_path / "out", "--n", 2, "--formula", "LiCl", "--max-atoms", 2)
    text = done(*arguments, "--relax", "demo", "--relax-steps", 3, "--json", tmp_path / "s.json")
    assert "2 of 2 relaxed" in text
    summary = json.loads((tmp_path / "s.json").read_text())
    assert summary["valid"] == summary["relaxation"]["relaxed"] == 2
    assert len(read_records(tmp_path / "out", "relaxed")) == 2
    with pytest.raises(ConfigError, match="already has results"):
        done("relax", tmp_path / "out", "demo")
    assert "2 of 2 relaxed" in done(
        "relax", tmp_path / "out", "demo", "--steps", 1, "--overwrite", "--no-cell"
    )


def test_what_failed_is_counted_on_the_screen(model, tmp_path, monkeypatch):
    def broken(*arguments, **settings):
        found = perturbed(*arguments, **settings)
        found.crystals.fractional[0] = torch.nan
        return Sampled(found.crystals, None)

    monkeypatch.setattr(SAMPLER, broken)
    text = done("generate", model, tmp_path / "out", "--n", 3, "--chemical-system", "Li-Cl", "--n-atoms", 2)
    assert "2 of 3 crystals" in text
    assert "left out: 1 not finite" in text


def test_after_ctrl_c_it_says_how_to_go_on(model, tmp_path, monkeypatch):
    def interrupted(model, requests, *, seed, **rest):
        if seed[1] == 1:
            raise KeyboardInterrupt
        return perturbed(model, requests, seed=seed, **rest)

    arguments = ("generate", model, tmp_path / "out", "--n", 4, "--batch", 2, "--formula", "LiCl")
    monkeypatch.setattr(SAMPLER, interrupted)
    result = run(*arguments)
    assert result.exit_code == 130
    assert "interrupted: 2 are kept" in result.output
    assert "--resume" in result.output
    monkeypatch.setattr(SAMPLER, perturbed)
    assert "4 of 4 crystals" in done(*arguments, "--resume")


def test_warnings_are_single_lines(model, tmp_path):
    text = done("generate", model, tmp_path / "out", "--n", 1, "--n-atoms", 5)
    assert "warning: The model was not trained on crystals of 5 atoms" in text
    assert ".py" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--formula", "lithium"], "not a chemical formula"),
        (["--property", "density"], "NAME=NUMBER"),
        (["--property", "density=heavy"], "NAME=NUMBER"),
        (["--strategy", "best"], "end_back, vanilla, mix"),
        (["--guidance", "2"], "--property"),
    ],
)
def test_mistakes_are_explained(model, tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        done("generate", model, tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(ModelFileError, match="nowhere"):
        done("generate", tmp_path / "nowhere.safetensors", tmp_path / "out")


def test_evaluation_gets_the_options_of_the_command(model, tmp_path, monkeypatch):
    import ase.io

    done("generate", model, tmp_path / "out", "--n", 3, "--formula", "LiCl", "--max-atoms", 2)
    ase.io.write(tmp_path / "true.extxyz", [bulk("LiCl", "rocksalt", 5.1)])
    options = ["--reference", tmp_path / "true.extxyz", "--task", "prediction", "--json", tmp_path / "m.json"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text = done("evaluate", tmp_path / "out", *options)
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert metrics["n"] == 3
    assert metrics["task"] == "prediction"
    assert (tmp_path / "out" / "evaluation" / "report.md").exists()
    assert "prediction" in text


def test_info_shows_a_crystal_model(model):
    shown = CliRunner().invoke(cli.app, ["info", str(model)]).output
    shown = " ".join(shown.replace("│", " ").split())
    assert "elements Li Cl" in shown
    assert "structures and elements" in shown
    assert "kind cspnet, hidden 8" in shown
