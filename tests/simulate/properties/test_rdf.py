from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from atomml.errors import ConfigError, DataError
from atomml.simulate.properties import radial_distribution


def gas(rng, n=200, cell=20.0):
    return Atoms("Li" * (n // 2) + "Cl" * (n // 2), rng.random((n, 3)) * cell, cell=[cell] * 3, pbc=True)


def test_an_ideal_gas_is_one_everywhere(rng):
    found = radial_distribution([gas(rng) for _ in range(30)], r_max=9.0, width=0.5)
    for name, expected in (("Li-Cl", 1.0), ("Li-Li", 0.99), ("Cl-Cl", 0.99)):
        np.testing.assert_allclose(found.g[name][2:], expected, atol=0.08)
        assert found.g[name][6:].mean() == pytest.approx(expected, abs=0.01)


def test_neighbours_of_rock_salt_are_counted_in_a_cell_smaller_than_the_range():
    found = radial_distribution(bulk("LiCl", "rocksalt", a=5.1), r_max=6.0)
    running = dict(
        zip(np.round(found.edges[1:], 2).tolist(), found.neighbours["Li-Cl"].tolist(), strict=True)
    )
    assert running[2.5] == 0
    assert running[3.0] == pytest.approx(6)
    assert running[5.0] == pytest.approx(6 + 8)  # √3 · 2.55 = 4.42 Å
    assert running[6.0] == pytest.approx(6 + 8 + 24)  # √5 · 2.55 = 5.70 Å
    peak = found.peaks["Li-Li"]
    assert peak.position == pytest.approx(5.1 / np.sqrt(2), abs=0.03)
    assert peak.coordination == pytest.approx(12)


def test_a_supercell_and_a_primitive_cell_agree():
    small = bulk("NaCl", "rocksalt", a=5.64)
    one, many = radial_distribution(small, r_max=7.0), radial_distribution(small * (3, 2, 4), r_max=7.0)
    for name in one.g:
        np.testing.assert_allclose(one.g[name], many.g[name], atol=1e-9)


def test_the_integral_of_g_is_the_number_of_neighbours(rng):
    atoms = bulk("LiCl", "rocksalt", a=5.1, cubic=True)
    atoms.rattle(0.1, rng=rng)
    found = radial_distribution(atoms, ["Cl-Li"], r_max=6.0)
    density = 4 / atoms.get_volume()
    integral = np.cumsum(found.g["Cl-Li"] * density * 4 / 3 * np.pi * np.diff(found.edges**3))
    np.testing.assert_allclose(integral, found.neighbours["Cl-Li"], atol=1e-9)


@pytest.mark.parametrize(
    ("frames", "settings", "error", "text"),
    [
        ([], {}, DataError, "no frames"),
        (molecule("H2O"), {}, DataError, "periodic in three directions"),
        ([bulk("Cu"), bulk("Al")], {}, DataError, "Frame 1 has other atoms"),
        (bulk("Cu"), {"pairs": ["Cu-Li"]}, DataError, "There is no Li"),
        (bulk("Cu"), {"pairs": ["CuLi"]}, ConfigError, "not a pair"),
        (bulk("Cu"), {"r_max": 0.0}, ConfigError, "do not divide"),
    ],
)
def test_bad_input_is_refused(frames, settings, error, text):
    with pytest.raises(error, match=text):
        radial_distribution(frames, **settings)
