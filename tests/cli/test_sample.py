"""`atomml data sample`, its configuration and the recipe in data/aqvolt26."""

from __future__ import annotations

import importlib.util
import json

import pytest
import typer
import yaml
from typer.testing import CliRunner

from atomml.cli import config as config_command
from atomml.cli import sample as sample_command
from atomml.datasets import FrameStore
from atomml.errors import ConfigError
from tests.conftest import ROOT

PREPARE = ROOT / "data" / "aqvolt26" / "prepare.py"
SETTINGS = {
    "calculator": {"kind": "lj"},
    "structures": {"files": ["argon.extxyz"]},
    "cell": {"min_length": 5.0, "min_atoms": 4, "max_atoms": 32},
    "relax": {"steps": 5},
    "strain": {"runs": 1},
    "dynamics": {"temperatures": [20], "timestep": 5.0, "equilibration": 50, "sampling": 200, "interval": 20},
}


@pytest.fixture(scope="module")
def app():
    app = typer.Typer()
    data = typer.Typer()
    sample_command.register(data)
    data.command("other")(lambda: None)
    app.add_typer(data, name="data")
    config_command.register(app)
    return app


@pytest.fixture
def file(tmp_path):
    import ase.io
    from ase.build import bulk

    ase.io.write(tmp_path / "argon.extxyz", bulk("Ar", a=5.26, cubic=True))
    path = tmp_path / "sample.yaml"
    path.write_text(yaml.safe_dump({"run_dir": str(tmp_path / "run"), **SETTINGS}))
    return path


@pytest.fixture(autouse=True)
def _no_figure(monkeypatch):
    """Slow, and seen elsewhere."""
    from atomml.simulate.sampling import figure as sampling_figure

    monkeypatch.setattr(sampling_figure, "draw_sampling", lambda *arguments: None)


def run(app, *arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_sample_writes_frames_and_says_how_many(app, file, tmp_path):
    text = run(app, "data", "sample", file, "--set", "seed=3", "--json", tmp_path / "s.json")
    store = FrameStore.open(tmp_path / "run" / "frames")
    assert f"{len(store)} frames" in text
    assert "20 K: 1 runs" in text
    summary = json.loads((tmp_path / "s.json").read_text())
    assert summary["fingerprint"] == store.fingerprint()
    assert summary["seed"] == 3
    with pytest.raises(ConfigError, match="has a run in it"):
        run(app, "data", "sample", file)
    run(app, "data", "sample", file, "--set", "seed=3", "--resume")
    run(app, "data", "sample", file, "--overwrite")
    assert FrameStore.open(tmp_path / "run" / "frames").fingerprint() != summary["fingerprint"]


def test_plan_computes_nothing(app, file, tmp_path):
    text = run(app, "data", "sample", file, "--plan", "--json", tmp_path / "p.json")
    assert "Ar_argon: Ar4" in text
    assert "1 structures, 1 runs, 50 steps" in text
    assert json.loads((tmp_path / "p.json").read_text())["atom_steps"] == 200
    assert not (tmp_path / "run").exists()


def test_wrong_settings_name_the_key(app, file):
    with pytest.raises(ConfigError, match="did you mean 'temperatures'"):
        run(app, "data", "sample", file, "--set", "dynamics.temperature=[300]")


def test_the_configuration_is_explained_and_checked(app, file, tmp_path):
    assert "run_dir" in run(app, "schema", "sample")
    template = tmp_path / "template.yaml"
    template.write_text(run(app, "template", "sample"))
    assert "sample configuration" in run(app, "validate", template)
    assert "sample configuration" in run(app, "validate", file)
    assert "sample configuration" in run(app, "validate", ROOT / "data" / "aqvolt26" / "sample.yaml")


def prepare():
    spec = importlib.util.spec_from_file_location("prepare_aqvolt26", PREPARE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("demo", [True, False])
def test_the_recipe_grows_with_its_scale(demo):
    from atomml.simulate.sampling.plan import plan_sampling

    module, sizes = prepare(), []
    for scale in (0.0003, 0.001, 0.012, 0.036):
        settings = module.recipe(scale, demo=demo) | {"calculator": module.calculator("demo")}
        config, base = module.load_sample_config(PREPARE.with_name("sample.yaml"), settings)
        assert config.selection.max_frames == round(322_656 * scale)
        sizes.append(len(plan_sampling(config, base).structures))
        assert sizes[-1] <= max(config.selection.max_frames / 63, 4) + 7
    assert sizes == sorted(sizes)
    assert sizes[0] == 4
    assert sizes[-1] > 150


def test_the_counted_structures_are_those_that_are_made():
    from atomml.simulate.sampling.plan import plan_sampling

    module = prepare()
    for tier in module.TIERS:
        settings = {"structures": {"prototypes": tier[0]}, "calculator": {"kind": "emt"}}
        settings["substitution"] = {"species": tier[1], "charges": {"Mn": 2, "Fe": 2}}
        config, base = module.load_sample_config(PREPARE.with_name("sample.yaml"), settings)
        assert len(plan_sampling(config, base).structures) == module.structures_of(tier)


def test_the_script_of_the_recipe_runs(tmp_path, monkeypatch, capsys):
    tiny = {
        "cell": "{min_length: 0, min_atoms: 2}",
        "dynamics.temperatures": "[2100]",
        "dynamics.equilibration": "10",
        "dynamics.sampling": "40",
        "relax.steps": "1",
    }
    arguments = [str(PREPARE), "--scale", "0.00001", "--calculator", "demo", "--out", str(tmp_path / "run")]
    arguments += [word for key, value in tiny.items() for word in ("--set", f"{key}={value}")]
    monkeypatch.setattr("sys.argv", arguments)
    module = prepare()
    module.main()
    assert "energy" in capsys.readouterr().out
    store = FrameStore.open(tmp_path / "run" / "frames")
    assert len(store) <= 3 + 4
    assert set(store.tags["T"]) == {0.0, 2100.0}
