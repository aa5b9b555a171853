from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.optimize import BFGS

import atomml
from atomml.errors import ConfigError, DataError, SimulationError, UnsupportedError
from atomml.simulate.properties import phonons

phonopy = pytest.importorskip("phonopy")


@pytest.fixture(scope="module")
def aluminium():
    return phonons(bulk("Al"), EMT(), supercell=(3, 3, 3), mesh=8)


def test_frequencies_are_those_of_phonopy_by_hand(aluminium):
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    cell = aluminium.cell
    hand = Phonopy(PhonopyAtoms(symbols=["Al"], cell=cell, scaled_positions=[[0, 0, 0]]), np.diag([3, 3, 3]))
    hand.generate_displacements(distance=0.01)
    forces = []
    for displaced in hand.supercells_with_displacements:
        atoms = Atoms(displaced.symbols, positions=displaced.positions, cell=displaced.cell, pbc=True)
        atoms.calc = EMT()
        forces.append(atoms.get_forces())
    hand.forces = forces
    hand.produce_force_constants()
    hand.symmetrize_force_constants()
    hand.run_qpoints(aluminium.q)
    expected = hand.get_qpoints_dict()["frequencies"]
    np.testing.assert_allclose(aluminium.frequencies, expected, atol=1e-6)
    hand.run_mesh([8, 8, 8], is_gamma_center=True)
    hand.run_thermal_properties(temperatures=np.array(aluminium.temperatures), cutoff_frequency=0.01)
    thermal = hand.get_thermal_properties_dict()
    np.testing.assert_allclose(aluminium.free_energy, thermal["free_energy"], atol=1e-6)
    np.testing.assert_allclose(aluminium.heat_capacity, thermal["heat_capacity"], atol=1e-6)


def test_acoustic_modes_vanish_at_gamma_and_no_mode_is_imaginary(aluminium):
    assert aluminium.gamma_acoustic < 1e-4
    assert aluminium.gamma_acoustic_raw < 1e-2
    assert aluminium.imaginary == ()
    assert aluminium.fmax < 1e-5


def test_heat_capacity_tends_to_dulong_and_petit(aluminium):
    hot = phonons(bulk("Al"), EMT(), supercell=(2, 2, 2), mesh=8, temperatures=(3000.0,))
    assert hot.heat_capacity[0] == pytest.approx(3 * 8.314, rel=0.01)
    assert (np.diff(aluminium.heat_capacity) > 0).all()


def test_density_of_states_counts_the_modes(aluminium):
    assert np.trapezoid(aluminium.dos, aluminium.dos_frequency) == pytest.approx(3, rel=0.02)


def test_imaginary_modes_are_named_with_their_q_points():
    saddle = phonons(bulk("Cu", "sc", a=2.4), EMT(), supercell=(3, 3, 3), mesh=4)
    worst = saddle.imaginary[0]
    assert worst.frequency < -0.5
    assert saddle.frequencies.min() == pytest.approx(min(m.frequency for m in saddle.imaginary), abs=0.5)
    labelled = [m.label for m in saddle.imaginary if m.label]
    assert labelled
    assert saddle.summary["n_imaginary_q"] == len(saddle.imaginary)
    saddle.phonopy.run_qpoints([worst.q])
    assert saddle.phonopy.get_qpoints_dict()["frequencies"].min() == pytest.approx(worst.frequency, abs=1e-3)


def test_lithium_chloride_of_the_demo_model_has_no_imaginary_modes():
    found = phonons(bulk("LiCl", "rocksalt", a=5.2), "demo", supercell=(3, 3, 3), mesh=8)
    assert found.imaginary == ()
    assert found.fmax <= 1e-5
    assert found.frequencies.shape[1] == 6
    assert found.displacements == 2
    assert 8 < found.frequencies.max() < 15


def test_a_model_in_single_precision_is_refused():
    with pytest.raises(ConfigError, match="float64"):
        phonons(bulk("LiCl", "rocksalt", a=5.1), atomml.load("demo", dtype="float32"))


def test_an_unrelaxed_start_is_refused():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=0)
    with pytest.raises(SimulationError, match="not at rest"):
        phonons(atoms, EMT(), relax=False)


@pytest.mark.parametrize(
    "settings",
    [
        {"supercell": (2, 2)},
        {"supercell": (0, 1, 1)},
        {"displacement": 0.0},
        {"mesh": 0},
        {"temperatures": (-1.0,)},
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ConfigError):
        phonons(bulk("Cu"), EMT(), **settings)


def test_a_molecule_has_no_phonons():
    with pytest.raises(DataError, match="periodic in three directions"):
        phonons(Atoms("Cu2", [[0, 0, 0], [0, 0, 2.5]]), EMT())


def test_without_phonopy_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "phonopy", None)
    with pytest.raises(UnsupportedError, match=r"atomml\[props\]"):
        phonons(bulk("Cu"), EMT())


def test_the_optimiser_of_ase_finds_the_same_lattice_constant(aluminium):
    from ase.filters import FrechetCellFilter

    atoms = bulk("Al")
    atoms.calc = EMT()
    BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-5)
    np.testing.assert_allclose(np.linalg.det(aluminium.cell), atoms.get_volume(), rtol=1e-5)
