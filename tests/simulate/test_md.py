from __future__ import annotations

import json

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.constraints import FixAtoms
from ase.io import read

from atomml.errors import ConfigError, DataError, SimulationError, UnsupportedError
from atomml.simulate import MDConfig, run_md
from atomml.simulate.md_config import default_timestep
from atomml.simulate.md_integrators import degrees_of_freedom, start_velocities, temperature


@pytest.fixture
def copper():
    return bulk("Cu", "fcc", a=3.8, cubic=True)


def config(**settings):
    return MDConfig(**{"temperature": 300.0, "steps": 1, "timestep": 1.0, **settings})


def test_first_velocities_have_the_temperature_and_no_momentum(copper):
    start_velocities(copper, config(), np.random.default_rng(1))
    np.testing.assert_allclose(copper.get_momenta().sum(axis=0), 0, atol=1e-12)
    assert temperature(copper, 3 * len(copper) - 3) == pytest.approx(300)


def test_first_velocities_of_a_molecule_have_no_rotation(molecule):
    nve = config(ensemble="nve")
    start_velocities(molecule, nve, np.random.default_rng(1))
    np.testing.assert_allclose(molecule.get_angular_momentum(), 0, atol=1e-10)
    assert degrees_of_freedom(molecule, nve) == 6
    assert degrees_of_freedom(Atoms("Cu2", [[0, 0, 0], [0, 0, 2]]), nve) == 1
    assert degrees_of_freedom(molecule, config()) == 9  # Langevin noise turns the molecule


def test_fixed_atoms_carry_no_velocity(copper):
    copper.set_constraint(FixAtoms([0, 1]))
    start_velocities(copper, config(), np.random.default_rng(1))
    assert np.all(copper.get_momenta()[:2] == 0)
    assert degrees_of_freedom(copper, config()) == 6


def test_nve_keeps_the_total_energy_and_leaves_the_input_alone(potential, crystal):
    before = crystal.copy()
    result = run_md(
        crystal, potential, temperature=300.0, steps=100, timestep=1.0, ensemble="nve", log_every=1
    )
    assert np.ptp(result.log["total_eV"]) / len(crystal) < 2e-3
    assert np.ptp(result.log["potential_eV"]) > 20 * np.ptp(result.log["total_eV"])
    np.testing.assert_array_equal(crystal.positions, before.positions)
    assert crystal.calc is None
    assert not crystal.has("momenta")


@pytest.mark.parametrize(
    "settings",
    [
        {"ensemble": "nvt", "thermostat": "langevin", "friction": 0.05},
        {"ensemble": "nvt", "thermostat": "nose-hoover", "thermostat_time": 50.0},
    ],
)
def test_thermostats_reach_the_temperature(potential, copper, settings):
    result = run_md(copper, potential, temperature=400.0, steps=400, timestep=4.0, log_every=4, **settings)
    assert result.log["temperature_K"][25:].mean() == pytest.approx(400, rel=0.2)
    np.testing.assert_allclose(result.atoms.get_momenta().sum(axis=0), 0, atol=1e-8)


@pytest.mark.parametrize("flexible", [False, True])
def test_npt_moves_the_volume_and_conserves_its_energy(potential, copper, flexible):
    result = run_md(
        copper,
        potential,
        temperature=300.0,
        steps=150,
        timestep=2.0,
        ensemble="npt",
        pressure=2.0,
        flexible_cell=flexible,
        barostat_time=200.0,
        log_every=5,
    )
    assert np.ptp(result.log["volume_A3"]) > 0.5
    assert np.ptp(result.log["conserved_eV"]) / len(copper) < 2e-3
    lengths = result.atoms.cell.lengths()
    assert (np.ptp(lengths) > 1e-3) == flexible


def test_pressure_has_the_sign_of_compression(potential, copper):
    copper.set_cell(copper.cell * 0.9, scale_atoms=True)
    result = run_md(copper, potential, temperature=10.0, steps=0, timestep=1.0)
    assert result.log["pressure_GPa"][0] > 0
    stress = result.atoms.get_stress()
    kinetic = 2 * result.atoms.get_kinetic_energy() / 3 / copper.get_volume()
    expected = -stress[:3].mean() + kinetic
    assert result.log["pressure_GPa"][0] == pytest.approx(expected / units.GPa, rel=1e-6)


def test_files_of_a_run(potential, copper, tmp_path):
    result = run_md(
        copper, potential, temperature=300.0, steps=25, timestep=1.0, log_every=10, out_dir=tmp_path
    )
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {".lock", "log.csv", "trajectory.extxyz", "state.npz", "summary.json", "md.png"}
    frames = read(tmp_path / "trajectory.extxyz", ":")
    assert [f.info["step"] for f in frames] == [0, 10, 20, 25]
    assert not frames[0].constraints
    assert frames[-1].get_potential_energy() == pytest.approx(result.log["potential_eV"][-1])
    assert frames[-1].get_stress().shape == (6,)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["steps"] == 25
    assert summary["settings"]["thermostat"] == "langevin"
    assert summary["conserved_drift_meV_per_atom_per_ps"] is None  # Langevin conserves nothing


def test_exploding_run_stops_and_writes_the_last_good_frame(potential, copper, tmp_path):
    with pytest.raises(
        SimulationError, match=r"exploded: (the force on Cu|the temperature|two atoms)"
    ) as caught:
        run_md(
            copper, potential, temperature=3000.0, steps=500, timestep=60.0, ensemble="nve", out_dir=tmp_path
        )
    assert "last_good.extxyz" in str(caught.value)
    assert np.isfinite(read(tmp_path / "last_good.extxyz").positions).all()


def test_overlapping_atoms_are_refused_at_the_start(potential, copper):
    copper.positions[1] = copper.positions[0] + [0.1, 0, 0]
    with pytest.raises(SimulationError, match="start structure cannot be simulated"):
        run_md(copper, potential, temperature=300.0, steps=5)


def test_nan_during_a_run_names_step_and_atoms(make_potential, copper, tmp_path):
    class Failing(make_potential):
        calls = 0

        def forward(self, graph, **options):
            self.calls += 1
            self.flaw = "nan" if self.calls > 5 else ""
            return super().forward(graph, **options)

    with pytest.raises(
        SimulationError, match=r"(?s)not finite for atoms Cu 0.*after step 4 of 50.*last_good"
    ):
        run_md(copper, Failing(), temperature=300.0, steps=50, timestep=1.0, out_dir=tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ensemble": "nvp"}, "ensemble"),
        ({"thermostt": "langevin"}, "did you mean 'thermostat'"),
        ({"timestep": -1.0}, "timestep"),
        ({"temperature": 0.0}, "above 0 K"),
    ],
)
def test_impossible_settings_are_refused(potential, copper, settings, message):
    with pytest.raises(ConfigError, match=message):
        run_md(copper, potential, **{"temperature": 300.0, "steps": 5, **settings})


def test_npt_of_a_molecule_is_refused(potential, molecule):
    with pytest.raises(SimulationError, match="periodic in three directions"):
        run_md(molecule, potential, temperature=300.0, steps=5, ensemble="npt")


def test_model_with_direct_forces_runs_nvt_and_is_refused_npt(make_potential, copper):
    direct = make_potential(flaw="direct")
    result = run_md(copper, direct, temperature=50.0, steps=3)
    assert np.isnan(result.log["pressure_GPa"]).all()
    with pytest.raises(SimulationError, match="predicts forces directly"):
        run_md(copper, direct, temperature=50.0, steps=3, ensemble="npt")


def test_unknown_element_stops_before_the_first_step(potential):
    with pytest.raises(UnsupportedError, match="Au"):
        run_md(bulk("Au"), potential, temperature=300.0, steps=5)


def test_default_time_step_follows_the_lightest_atom():
    assert default_timestep(Atoms("H2O")) == 0.5
    assert default_timestep(Atoms("LiCl")) == 1.0
    assert default_timestep(Atoms("Cu")) == 2.0


def test_same_seed_same_trajectory(potential, copper):
    runs = [run_md(copper, potential, temperature=300.0, steps=10, seed=s) for s in (4, 4, 5)]
    np.testing.assert_array_equal(runs[0].atoms.positions, runs[1].atoms.positions)
    assert np.any(runs[0].atoms.positions != runs[2].atoms.positions)


def test_structure_that_stops_being_one_ends_the_run_with_the_last_good_frame(
    make_potential, copper, tmp_path
):
    class Breaking(make_potential):
        calls = 0

        def forward(self, graph, **options):
            self.calls += 1
            if self.calls > 3:
                raise DataError("A position is not a finite number.")
            return super().forward(graph, **options)

    with pytest.raises(
        SimulationError, match=r"(?s)not a finite number.*after step 2 of 50; last good frame"
    ):
        run_md(copper, Breaking(), temperature=300.0, steps=50, out_dir=tmp_path)
