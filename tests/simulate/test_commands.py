from __future__ import annotations

import json

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.io import read, write
from typer.testing import CliRunner

from atomml.cli.main import app
from atomml.errors import CheckError, ConfigError, DataError
from atomml.potentials import TDNConfig, build_potential, save_model
from atomml.simulate import relax, run_checks, run_md
from atomml.simulate.check_report import CheckReport, limited
from atomml.simulate.commands import read_structures


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small network with random weights and the nuclear repulsion, so that nothing collapses."""
    config = TDNConfig(lmax=1, channels=4, layers=1, cutoff=4.0, radial_hidden=[8], zbl=True)
    numbers = {3: -0.5, 17: -0.2}
    potential = build_potential(
        config, elements=list(numbers), e0=numbers, average_neighbors=20.0, scale=0.1, seed=0
    )
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(potential, path)
    return str(path)


@pytest.fixture
def structure(tmp_path):
    path = tmp_path / "licl.extxyz"
    write(path, bulk("LiCl", "rocksalt", a=5.1, cubic=True))
    return str(path)


def call(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_md_writes_a_run_that_can_be_resumed(model, structure, tmp_path):
    out, report = tmp_path / "run", tmp_path / "md.json"
    options = ("md", model, structure, "--temperature", 50, "--timestep", 0.5, "--out", out)
    assert call(*options, "--steps", 10).exit_code == 0
    with pytest.raises(ConfigError, match="already a run"):
        call(*options, "--steps", 20)
    result = call(*options, "--steps", 20, "--resume", "--json", report)
    assert result.exit_code == 0
    assert "temperature_K" in result.output
    assert json.loads(report.read_text())["steps"] == 20
    assert len(read(out / "trajectory.extxyz", ":")) == 3
    assert call(*options, "--steps", 0, "--overwrite").exit_code == 0


def test_resumed_run_of_a_network_equals_the_whole_one(model, tmp_path):
    atoms = bulk("LiCl", "rocksalt", a=5.1, cubic=True)
    settings = {"temperature": 50.0, "timestep": 0.5, "ensemble": "nve", "log_every": 5}
    whole = run_md(atoms, model, steps=20, **settings)
    run_md(atoms, model, steps=7, out_dir=tmp_path, **settings)
    resumed = run_md(atoms, model, steps=20, out_dir=tmp_path, resume=True, **settings)
    np.testing.assert_array_equal(whole.atoms.positions, resumed.atoms.positions)


def test_md_repeats_the_cell(model, structure, tmp_path):
    out = tmp_path / "run"
    call("md", model, structure, "--temperature", 50, "--steps", 0, "--repeat", 2, 1, 1, "--out", out)
    assert len(read(out / "trajectory.extxyz")) == 16


@pytest.mark.parametrize("way", ["--batched", "--one-by-one"])
def test_relax_in_a_batch_writes_what_relax_writes(model, tmp_path, way):
    crystals = [bulk("LiCl", "rocksalt", a=a) for a in (4.9, 5.2)]
    write(tmp_path / "crystals.extxyz", crystals)
    report, out = tmp_path / "relax.json", tmp_path / "out.extxyz"
    options = ("--steps", 3, "--no-cell", "--json", report, "--out", out, way)
    call("relax", model, tmp_path / "crystals.extxyz", *options, "--max-atoms", 2)
    rows = json.loads(report.read_text())
    assert [row["index"] for row in rows] == [0, 1]
    expected = relax(crystals, model, steps=3, cell=False)
    for row, frame, one in zip(rows, read(out, ":"), expected, strict=True):
        assert row["energy_last"] == pytest.approx(one.energy_last, abs=1e-5)
        assert frame.get_potential_energy() == pytest.approx(one.energy_last, abs=1e-5)


def test_lbfgs_is_not_for_batches(model, structure):
    with pytest.raises(ConfigError, match="fire"):
        call("relax", model, structure, "--batched", "--optimizer", "lbfgs")


def test_relax_exit_code_says_whether_all_converged(model, tmp_path):
    atoms = bulk("LiCl", "rocksalt", a=5.1, cubic=True)
    good, mixed, out = tmp_path / "good.extxyz", tmp_path / "mixed.extxyz", tmp_path / "out.extxyz"
    write(good, [atoms])
    write(mixed, [atoms, molecule("H2O")])
    options = ("--no-cell", "--fmax", 0.05, "--out", out)
    assert call("relax", model, good, *options).exit_code == 0
    result = call("relax", model, mixed, *options, "--json", tmp_path / "relax.json")
    assert result.exit_code == 1
    rows = json.loads((tmp_path / "relax.json").read_text())
    assert [row["converged"] for row in rows] == [True, False]
    assert "does not know H, O" in rows[1]["error"]
    assert out.with_suffix(".csv").exists()


@pytest.mark.parametrize("passed", [True, False])
def test_check_prints_writes_and_fails_by_name(model, structure, tmp_path, monkeypatch, passed):
    rows = (limited("good thing", 0.5, 1.0, "eV"), limited("other thing", 0.5 if passed else 2.0, 1.0, "eV"))

    def stand_in(potential, frames, out, **options):
        report = CheckReport(rows, (), {"elements": "Li Cl", "structures": "LiCl"}, out)
        report.write(out)
        return report

    monkeypatch.setattr("atomml.simulate.commands.run_checks", stand_in)
    options = ("--structure", structure, "--out", tmp_path / "check", "--json", tmp_path / "check.json")
    if passed:
        assert "good thing" in call("check", model, *options).output
    else:
        with pytest.raises(CheckError, match=r"1 of 2 checks failed: other thing\."):
            call("check", model, *options)
    for file in (tmp_path / "check.json", tmp_path / "check" / "check.json"):
        assert json.loads(file.read_text())["passed"] is passed


@pytest.mark.slow
def test_conservative_network_with_random_weights_passes_every_exact_check(model, structure):
    report = run_checks(model, read_structures(structure), quick=True)
    exact = ("forces", "stress", "rotation", "reflection", "permutation", "E(2×2×2)", "no jump", "NVE")
    rows = [row for row in report.rows if row.name.startswith(exact)]
    assert len(rows) == 14
    assert all(row.passed for row in rows), report.markdown()


def test_unreadable_structures_are_named(tmp_path, model):
    with pytest.raises(DataError, match="Cannot read structures"):
        read_structures(tmp_path / "nothing.xyz")
    garbage = tmp_path / "garbage.extxyz"
    garbage.write_text("not a structure\n")
    with pytest.raises(DataError, match=r"garbage\.extxyz"):
        call("relax", model, garbage)


def test_one_frame_of_a_file_can_be_chosen(tmp_path):
    path = tmp_path / "two.extxyz"
    write(path, [bulk("Cu"), bulk("Cu", cubic=True)])
    assert [len(a) for a in read_structures(path)] == [1, 4]
    assert [len(a) for a in read_structures(f"{path}@0")] == [1]


@pytest.mark.parametrize("arguments", [("--dtype", "float16"), ("--optimizer", "newton")])
def test_unknown_options_are_refused(model, structure, arguments):
    with pytest.raises(ConfigError, match="There is no"):
        call("relax", model, structure, *arguments)
