"""Molecular dynamics in batches: ASE's trajectories, the right temperatures, and nothing learnt from neighbours."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.constraints import FixAtoms, FixedPlane
from ase.md.verlet import VelocityVerlet

from atomml.errors import ConfigError, DataError
from atomml.simulate import Calculator
from atomml.simulate.batched import run_md_batched


def moving(atoms, kelvin, seed=0):
    """A copy with random momenta."""
    atoms = atoms.copy()
    rng = np.random.default_rng(seed)
    scale = np.sqrt(units.kB * kelvin * atoms.get_masses())[:, None]
    atoms.set_momenta(scale * rng.standard_normal((len(atoms), 3)))
    return atoms


def test_nve_is_the_velocity_verlet_of_ase(potential, crystal, molecule):
    crystal.set_constraint(FixAtoms([2]))
    structures = [moving(crystal, 600), moving(molecule, 300, seed=1)]
    results = run_md_batched(
        structures,
        potential,
        temperature=300.0,
        steps=40,
        ensemble="nve",
        timestep=2.0,
        keep_velocities=True,
        record_every=20,
    )
    for result, start in zip(results, structures, strict=True):
        atoms = start.copy()
        atoms.calc = Calculator(potential)
        dyn = VelocityVerlet(atoms, timestep=2.0 * units.fs)
        assert result.error is None
        np.testing.assert_array_equal(result.times, [0.0, 40.0, 80.0])
        for k in range(3):
            np.testing.assert_allclose(result.positions[k], atoms.positions, atol=1e-10)
            assert result.energies[k] == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
            dyn.run(20)
    assert results[0].atoms.get_potential_energy() == pytest.approx(results[0].energies[-1])
    np.testing.assert_array_equal(results[0].positions[-1][2], structures[0].positions[2])


def test_langevin_reaches_every_temperature_and_all_atoms_alike(potential):
    crystal = bulk("Cu", "fcc", 3.7).repeat(2)
    crystal.numbers[:4] = 3  # lithium, much lighter
    kelvins = [100.0] * 6 + [400.0] * 6
    settings = {"steps": 400, "timestep": 3.0, "friction": 0.05, "record_every": 1}
    results = run_md_batched([crystal] * 12, potential, temperature=kelvins, seed=3, **settings)
    means = np.array([r.temperatures[100:].mean() for r in results]).reshape(2, 6).mean(1)
    np.testing.assert_allclose(means, [100, 400], rtol=0.15)
    momenta = np.array([r.atoms.get_momenta() for r in results])
    np.testing.assert_allclose(momenta.sum(1), 0, atol=1e-9)
    # kinetic energy of both elements from the displacements between records, of the hotter six
    positions = np.array([r.positions[100:] for r in results[6:]])
    speed = np.diff(positions, axis=1) / (3.0 * units.fs)
    kinetic = (0.5 * crystal.get_masses()[:, None] * speed**2).mean((0, 1, 3))
    shares = kinetic.reshape(2, 4).mean(1) / (0.5 * units.kB * 400)
    np.testing.assert_allclose(shares, 1 - crystal.get_masses()[::4] / crystal.get_masses().sum(), atol=0.2)


@pytest.mark.parametrize("max_atoms", [2000, 1])
def test_a_trajectory_does_not_depend_on_the_others(potential, crystal, molecule, max_atoms):
    common = {"potential": potential, "steps": 70, "record_every": 35}
    exploding = Atoms("Cu2", [[0, 0, 0], [0, 0, 0.2]])
    alone = run_md_batched([crystal], temperature=500.0, seed=[7], **common)[0]
    together = run_md_batched(
        [exploding, molecule, crystal],
        temperature=[300.0, 900.0, 500.0],
        seed=[1, 2, 7],
        max_atoms=max_atoms,
        **common,
    )
    assert "exploded" in together[0].error or "cannot be simulated" in together[0].error
    np.testing.assert_allclose(together[2].positions, alone.positions, atol=1e-9)
    np.testing.assert_allclose(together[2].energies, alone.energies, atol=1e-9)


def test_seeds_differ_between_structures_and_repeat(potential, crystal):
    runs = [
        run_md_batched([crystal, crystal], potential, temperature=300.0, steps=3, seed=5) for _ in range(2)
    ]
    first, second = ([r.positions for r in run] for run in runs)
    np.testing.assert_array_equal(first, second)
    assert np.abs(first[0] - first[1]).max() > 1e-3


def test_what_explodes_leaves_with_what_it_had(potential, crystal):
    crowded = crystal.copy()
    crowded.set_cell(crowded.cell.array * 0.6, scale_atoms=True)
    limits = {"max_force": 5.0}
    cold, hot = run_md_batched([crystal, crowded], potential, temperature=50.0, steps=10, limits=limits)
    assert cold.error is None
    assert len(cold.positions) == 2
    assert "force on Cu" in hot.error
    assert hot.steps == 0
    assert len(hot.positions) == 0


def test_a_later_explosion_keeps_the_records_before(potential, crystal):
    calm, wild = run_md_batched(
        [crystal, crystal],
        potential,
        temperature=[10.0, 3000.0],
        steps=60,
        record_every=2,
        limits={"max_force": 3.0},
    )
    assert calm.error is None
    assert "The simulation exploded" in wild.error
    assert 0 < wild.steps < 60
    assert len(wild.positions) == (wild.steps - 1) // 2 + 1
    assert len(calm.positions) == 31


def test_structures_that_cannot_run_are_reported(potential, crystal):
    held = crystal.copy()
    held.set_constraint(FixedPlane([1], (0, 0, 1)))
    results = run_md_batched([bulk("Au"), held, crystal, Atoms()], potential, temperature=300.0, steps=1)
    assert [r.error is None for r in results] == [False, False, True, False]
    assert "does not know Au" in results[0].error
    assert "FixAtoms" in results[1].error


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"ensemble": "npt"}, ConfigError, "nve or nvt"),
        ({"thermostat": "nose-hoover"}, ConfigError, "langevin"),
        ({"limits": {"stop_above": 0.1}}, ConfigError, "deviations"),
        ({"fricton": 0.1}, ConfigError, "fricton"),
        ({"seed": [1, 2]}, DataError, "1 structures"),
        ({"record_every": 0}, DataError, "record_every"),
    ],
)
def test_settings_that_it_does_not_know_are_refused(potential, crystal, settings, error, message):
    with pytest.raises(error, match=message):
        run_md_batched([crystal], potential, temperature=300.0, steps=1, **settings)
