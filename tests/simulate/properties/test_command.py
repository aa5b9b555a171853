from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write
from typer.testing import CliRunner

import atomml
from atomml.cli.main import app
from atomml.errors import AtommlError, ConfigError, ModelFileError, SimulationError
from atomml.simulate.calculator import Calculator
from atomml.simulate.properties import model_of
from atomml.simulate.properties.model import at_rest


def run(*words):
    result = CliRunner().invoke(app, ["property", *map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def outputs(folder, name):
    with (folder / f"{name}.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert (folder / f"{name}.png").stat().st_size > 5000
    return json.loads((folder / f"{name}.json").read_text()), rows


@pytest.fixture
def copper(tmp_path):
    write(tmp_path / "cu.extxyz", bulk("Cu"))
    return tmp_path / "cu.extxyz"


@pytest.mark.parametrize(
    ("kind", "options", "key", "rows"),
    [
        ("eos", ("--points", 5), "B0_GPa", 5),
        ("elastic", ("--strain", 0.004), "K_hill_GPa", 12),
        ("phonons", ("--supercell", 2, 2, 2, "--mesh", 4, "--temperature", 300), "highest_THz", 200),
    ],
)
def test_properties_of_a_crystal_are_written_with_their_provenance(
    tmp_path, copper, kind, options, key, rows
):
    run(kind, "emt", copper, "--out", tmp_path / "out", "--json", tmp_path / "again.json", *options)
    found, table = outputs(tmp_path / "out", kind)
    assert found[key] > 5
    assert len(table) == rows
    assert np.isfinite([float(x) for row in table for x in row.values()]).all()
    provenance = found["provenance"]
    assert provenance["atomml"] == atomml.__version__
    assert provenance["model"]["kind"] == "emt"
    assert provenance["structure"] == str(copper)
    assert provenance["settings"]["relax"] is True
    assert json.loads((tmp_path / "again.json").read_text()) == found


def walks(path, d, rng, temperature_fs=50.0):
    steps = rng.normal(scale=np.sqrt(20 * d * temperature_fs), size=(151, 8, 3))
    frames = []
    for k, p in enumerate(np.cumsum(steps, axis=0)):
        frames.append(Atoms("Li7Cl", p, cell=[12] * 3, pbc=True))
        frames[-1].info["time_fs"] = k * temperature_fs
        frames[-1].wrap()
    write(path, frames)


def test_diffusion_arrhenius_and_rdf_of_trajectories(tmp_path, rng):
    reports = []
    for kelvin, d in ((500, 1e-5), (700, 4e-5)):
        walks(tmp_path / f"{kelvin}.extxyz", d, rng)
        out = tmp_path / str(kelvin)
        run("diffusion", tmp_path / f"{kelvin}.extxyz", "--temperature", kelvin, "--charge", 1, "--out", out)
        found, table = outputs(out, "diffusion")
        assert found["Li"]["D_cm2_s"] == pytest.approx(d, rel=0.8)
        assert found["Li"]["conductivity_mS_cm"] > 0
        assert set(found) == {"Li", "Cl", "provenance"}
        assert len(table) == 75
        reports.append(out / "diffusion.json")
    run("arrhenius", *reports, "--element", "Li", "--extrapolate", 300, "--out", tmp_path / "a")
    found, _ = outputs(tmp_path / "a", "arrhenius")
    assert abs(found["E_a_eV"] - 0.209) < 4 * found["E_a_std_eV"]
    assert found["extrapolated"][0]["conductivity_mS_cm"] > 0
    run("rdf", tmp_path / "500.extxyz", "--every", 50, "--pair", "Li-Cl", "--out", tmp_path / "r")
    found, table = outputs(tmp_path / "r", "rdf")
    assert found["frames"] == 4
    assert float(table[-1]["neighbours_Li-Cl"]) > 0


def test_warnings_are_shown(tmp_path, rng):
    frames = [Atoms("Li8", rng.random((8, 3)), cell=[12] * 3, pbc=True) for _ in range(101)]
    write(tmp_path / "x.extxyz", frames)
    result = run("diffusion", tmp_path / "x.extxyz", "--interval", 50, "--out", tmp_path / "out")
    assert "Not diffusive" in result.output


def test_a_report_without_the_element_is_refused(tmp_path):
    (tmp_path / "diffusion.json").write_text('{"Li": {}}')
    words = ["property", "arrhenius", str(tmp_path / "diffusion.json"), "--element", "Na"]
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, AtommlError)
    assert "No diffusion coefficient of Na" in result.exception.what


@pytest.mark.parametrize("make", [EMT, lambda: "emt", lambda: model_of("emt")])
def test_calculators_are_taken_by_name_or_as_they_are(make):
    (found,) = model_of(make())([bulk("Cu")], stress=True)
    assert found.energy == pytest.approx(-0.0057, abs=5e-3)
    assert found.stress is not None


def test_potentials_are_evaluated_together_and_as_their_calculator_does():
    structures = [bulk("LiCl", "rocksalt", a=a) for a in (5.0, 5.2)]
    structures[0].rattle(0.05, seed=0)
    potential = atomml.load("demo", dtype="float64")
    for model in (model_of("demo"), model_of(potential), model_of(Calculator(potential))):
        assert model.dtype == "float64"
        for found, atoms in zip(model(structures, stress=True), structures, strict=True):
            atoms.calc = Calculator(potential)
            assert found.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
            np.testing.assert_allclose(found.forces, atoms.get_forces(), atol=1e-9)
            np.testing.assert_allclose(found.stress, atoms.get_stress(), atol=1e-9)
    assert model_of("demo").identity["model_sha256"]
    assert model_of(potential).identity["weights_sha256"]


def test_models_that_do_not_exist_are_refused():
    with pytest.raises(ConfigError, match="model"):
        model_of("chgnet:9.9")
    with pytest.raises(ModelFileError):
        model_of("nothing.safetensors")


def test_direct_forces_and_nan_are_refused(make_potential):
    crystal = bulk("Cu", a=3.8)
    with pytest.raises(SimulationError, match="no stress"):
        model_of(make_potential(flaw="direct"))([crystal], stress=True)
    with pytest.raises(SimulationError, match="not finite"):
        model_of(make_potential(flaw="nan"))([crystal])


def test_what_may_move_moves_and_the_volume_stays_with_the_shape():
    atoms = bulk("Cu", cubic=True)
    atoms.symbols[:2] = "Au"
    shaped = at_rest(atoms, model_of(EMT()), moving="shape", fmax=0.01)
    assert shaped.get_volume() == pytest.approx(atoms.get_volume(), rel=1e-6)
    assert np.ptp(shaped.cell.lengths()) > 0.01
    np.testing.assert_array_equal(at_rest(atoms, model_of(EMT()), fmax=0.01).cell.array, atoms.cell.array)
