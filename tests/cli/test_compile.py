import json

import pytest
from ase.build import bulk
from ase.io import write
from typer.testing import CliRunner

import atomml
from atomml.cli.main import app
from atomml.errors import CheckError, ConfigError, UnsupportedError
from atomml.potentials import save_model
from tests.potentials.conftest import make_paper_potential, make_potential


def run(*arguments):
    """The command; an error that is not the command line's own is raised as it is."""
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    potential = make_potential(layers=1, lmax=1)
    return save_model(
        potential, tmp_path_factory.mktemp("model") / "m.safetensors", metrics={"forces_mae": 0.5}
    )


def test_a_model_is_compiled_and_reported(model, tmp_path):
    out, report = tmp_path / "fast.safetensors", tmp_path / "report.json"
    result = run("compile", model, out, "--json", report)
    assert result.exit_code == 0, result.output
    for text in ("table alone", "eV/atom", "knots:", "MB", "µs per atom", "threads:"):
        assert text in result.output
    numbers = json.loads(report.read_text())
    assert numbers["bytes"] == out.stat().st_size
    assert numbers["speed"]["atoms"] > 30
    assert numbers["speed"]["ratio"] > 0
    compiled = atomml.load(out)
    assert compiled.compilation["knots"] == numbers["knots"]
    assert compiled.metadata["metrics"] == {"forces_mae": 0.5}


def test_info_shows_that_a_model_is_compiled_and_how_well(model, tmp_path):
    out = tmp_path / "fast.safetensors"
    run("compile", model, out, "--knots", 1500)
    shown = " ".join(run("info", out).output.replace("│", " ").split())
    for text in (
        "for inference only",
        "1500 knots",
        "allowed 0.0001",
        "structures made from the elements",
        "sha256",
    ):
        assert text in shown
    assert json.loads(run("info", out, "--json").output)["compiled"]["knots"] == [1500]


def test_other_commands_use_a_compiled_model_like_any_other(model, tmp_path):
    out, crystal = tmp_path / "fast.safetensors", tmp_path / "crystal.extxyz"
    write(crystal, bulk("LiCl", "rocksalt", 5.1, cubic=True))
    assert run("compile", model, out, "--structures", crystal).exit_code == 0
    md = run("md", out, crystal, "--temperature", 300, "--steps", 3, "--out", tmp_path / "md")
    assert md.exit_code == 0, md.output
    labelled = bulk("LiCl", "rocksalt", 5.0, cubic=True)
    labelled.calc = atomml.Calculator(model)
    labelled.get_forces()
    write(tmp_path / "labelled.extxyz", labelled)
    result = run("evaluate", out, tmp_path / "labelled.extxyz", "--json", tmp_path / "e.json")
    assert result.exit_code == 0, result.output


def test_nothing_is_written_when_the_errors_are_above_the_tolerance(model, tmp_path):
    out = tmp_path / "fast.safetensors"
    with pytest.raises(CheckError, match="not accurate enough"):
        run("compile", model, out, "--knots", 9)
    assert not out.exists()


def test_bad_requests_are_refused(model, tmp_path):
    out = tmp_path / "fast.safetensors"
    with pytest.raises(ConfigError, match="not a precision"):
        run("compile", model, out, "--dtype", "float16")
    with pytest.raises(ConfigError, match="two knots"):
        run("compile", model, out, "--knots", 1)
    with pytest.raises(ConfigError, match="replace its source"):
        run("compile", model, model)
    paper = save_model(make_paper_potential(layers=1), tmp_path / "paper.safetensors")
    with pytest.raises(UnsupportedError, match="only the conservative"):
        run("compile", paper, out)
    assert not out.exists()
