from __future__ import annotations

import numpy as np
import pytest
from ase import units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.eos import EquationOfState as AseEos

from atomml.errors import ConfigError, DataError, SimulationError
from atomml.simulate.properties import equation_of_state
from atomml.simulate.properties.eos import birch_murnaghan, fit_birch_murnaghan


def test_agrees_with_the_fit_of_ase_on_copper():
    result = equation_of_state(bulk("Cu", a=3.7), EMT())
    v0, e0, b0 = AseEos(result.volumes, result.energies, eos="birchmurnaghan").fit()
    assert result.v0 == pytest.approx(v0, rel=1e-6)
    assert result.e0 == pytest.approx(e0, abs=1e-8)
    assert result.b0 == pytest.approx(b0 / units.GPa, rel=1e-5)
    assert result.residual < 1e-4
    assert result.v0 == pytest.approx(np.linalg.det(result.cell), rel=1e-3)


def test_fit_recovers_the_parameters_of_its_own_equation():
    volumes = np.linspace(36.0, 46.0, 9)
    energies = birch_murnaghan(volumes, -3.2, 41.0, 0.6, 4.7)
    np.testing.assert_allclose(fit_birch_murnaghan(volumes, energies), (-3.2, 41.0, 0.6, 4.7), rtol=1e-6)


def test_relaxed_ions_lower_the_energy_of_a_strained_cell():
    atoms = bulk("Cu", a=3.9, cubic=True)
    atoms.symbols[:2] = "Au"
    atoms.rattle(0.05, seed=1)
    settings = {"points": 5, "relax": False, "span": 0.2, "fmax": 0.01}
    free = equation_of_state(atoms, EMT(), **settings)
    clamped = equation_of_state(atoms, EMT(), ions=False, **settings)
    np.testing.assert_allclose(free.volumes, clamped.volumes)
    assert (free.energies < clamped.energies - 1e-3).all()


def test_shape_follows_the_volume_when_asked():
    atoms = bulk("Cu", cubic=True)
    atoms.symbols[:2] = "Au"  # tetragonal
    kept = equation_of_state(atoms, EMT(), points=5, span=0.15, fmax=0.02)
    shaped = equation_of_state(atoms, EMT(), points=5, span=0.15, fmax=0.02, shape=True)
    np.testing.assert_allclose(shaped.volumes, kept.volumes, rtol=1e-6)
    assert (shaped.energies <= kept.energies + 1e-6).all()
    assert shaped.energies[0] < kept.energies[0] - 1e-4


def test_an_unrelaxed_start_without_a_minimum_is_refused():
    with pytest.raises(SimulationError, match="no minimum within the volumes"):
        equation_of_state(bulk("Cu", a=3.9), EMT(), relax=False, span=0.05)


@pytest.mark.parametrize(
    ("atoms", "settings", "error", "text"),
    [
        (molecule("H2O"), {}, DataError, "periodic in three directions"),
        (bulk("Cu"), {"points": 4}, ConfigError, "Five volumes"),
        (bulk("Cu"), {"span": 0.6}, ConfigError, "span"),
        (bulk("Cu", a=4.0), {"steps": 1}, SimulationError, "not at rest after 1 steps"),
    ],
)
def test_bad_input_is_refused(atoms, settings, error, text):
    with pytest.raises(error, match=text):
        equation_of_state(atoms, EMT(), **settings)
