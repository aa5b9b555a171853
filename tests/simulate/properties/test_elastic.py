from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from pymatgen.analysis.elasticity import ElasticTensor

from atomml.errors import ConfigError, DataError, SimulationError
from atomml.simulate.properties import elastic_constants, moduli
from atomml.simulate.properties.elastic import symmetrised
from atomml.simulate.properties.model import at_rest, model_of


def energy_of(atoms, strain, calculator):
    """Energy of the cell with its vectors multiplied by 1 + ε, ε given by Voigt components."""
    xx, yy, zz, yz, xz, xy = strain
    tensor = np.array([[xx, xy / 2, xz / 2], [xy / 2, yy, yz / 2], [xz / 2, yz / 2, zz]])
    strained = atoms.copy()
    strained.set_cell(atoms.cell.array @ (np.eye(3) + tensor), scale_atoms=True)
    strained.calc = calculator
    return strained.get_potential_energy()


@pytest.fixture(scope="module")
def copper():
    return elastic_constants(bulk("Cu", cubic=True), EMT(), strains=(0.002, 0.004), fmax=1e-6)


def test_copper_agrees_with_second_derivatives_of_the_energy(copper):
    atoms = Atoms(
        "Cu4", scaled_positions=bulk("Cu", cubic=True).get_scaled_positions(), cell=copper.cell, pbc=True
    )
    h, calculator = 1e-3, EMT()

    def second(i, j):
        def energy(a, b):
            strain = np.zeros(6)
            strain[i] += a * h
            strain[j] += b * h
            return energy_of(atoms, strain, calculator)

        if i == j:
            return (energy(1, 0) - 2 * energy(0, 0) + energy(-1, 0)) / h**2
        mixed = energy(1, 1) - energy(1, -1) - energy(-1, 1) + energy(-1, -1)
        return mixed / (4 * h**2)

    for i, j in ((0, 0), (1, 1), (0, 1), (3, 3), (4, 4), (0, 3)):
        expected = second(i, j) / atoms.get_volume() / units.GPa
        assert copper.c[i, j] == pytest.approx(expected, abs=0.1)
    assert copper.point_group == "m-3m"
    assert copper.stable


def test_moduli_agree_with_pymatgen(copper):
    rng = np.random.default_rng(0)
    random = rng.normal(size=(6, 6))
    for c in (copper.c, random @ random.T + 10 * np.eye(6)):
        reference, mine = ElasticTensor.from_voigt(c), moduli(c)
        assert mine.k_voigt == pytest.approx(reference.k_voigt)
        assert mine.k_reuss == pytest.approx(reference.k_reuss)
        assert mine.k_hill == pytest.approx(reference.k_vrh)
        assert mine.g_voigt == pytest.approx(reference.g_voigt)
        assert mine.g_reuss == pytest.approx(reference.g_reuss)
        assert mine.g_hill == pytest.approx(reference.g_vrh)
        assert mine.young * 1e9 == pytest.approx(reference.y_mod)
        assert mine.poisson == pytest.approx(reference.homogeneous_poisson)
        assert mine.anisotropy == pytest.approx(reference.universal_anisotropy)


def test_bulk_modulus_is_that_of_the_equation_of_state(copper):
    from atomml.simulate.properties import equation_of_state

    assert copper.moduli.k_hill == pytest.approx(equation_of_state(bulk("Cu"), EMT(), span=0.03).b0, rel=2e-3)


def test_a_turned_crystal_has_turned_constants(copper):
    turned = bulk("Cu", cubic=True)
    turned.rotate(30, "z", rotate_cell=True)
    found = elastic_constants(turned, EMT(), strains=(0.002, 0.004), fmax=1e-6)
    angle = np.pi / 6
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1.0]])
    np.testing.assert_allclose(found.c, symmetrised(copper.c, rotation[None]), atol=0.02)
    np.testing.assert_allclose(found.raw, found.c, atol=0.02)
    assert abs(found.c[0, 5]) > 5


def test_symmetrised_constants_of_a_cubic_group_have_three_numbers():
    import spglib

    rotations = spglib.get_symmetry_dataset((np.eye(3), [[0, 0, 0]], [1])).rotations.astype(float)
    raw = np.random.default_rng(1).normal(size=(6, 6))
    c = symmetrised(raw, rotations)
    np.testing.assert_allclose(np.diag(c)[:3], c[0, 0])
    np.testing.assert_allclose(np.diag(c)[3:], c[3, 3])
    np.testing.assert_allclose(c[:3, 3:], 0, atol=1e-12)
    np.testing.assert_allclose(c[[0, 0, 1], [1, 2, 2]], c[0, 1])
    pymatgen = ElasticTensor.from_voigt((raw + raw.T) / 2)
    full = np.mean([np.einsum("ia,jb,kc,ld,abcd->ijkl", *[r] * 4, pymatgen) for r in rotations], axis=0)
    np.testing.assert_allclose(ElasticTensor(full).voigt, c, atol=1e-10)


def test_ions_that_may_move_soften_a_crystal():
    atoms = at_rest(bulk("Cu", "hcp", a=2.55, c=4.2), model_of(EMT()), moving="cell", fmax=1e-5)
    clamped = elastic_constants(atoms, EMT(), relax=False, ions=False)
    free = elastic_constants(atoms, EMT(), relax=False, fmax=1e-5)
    assert free.c[0, 0] < clamped.c[0, 0] - 1
    assert free.c[5, 5] == pytest.approx((free.c[0, 0] - free.c[0, 1]) / 2, abs=0.02)
    assert free.point_group == "6/mmm"


def test_an_unstable_lattice_is_called_unstable():
    found = elastic_constants(bulk("Cu", "sc", a=2.4), EMT())  # relaxes to the simple cubic saddle point
    assert not found.stable
    assert found.lowest < 0


def test_an_unrelaxed_start_is_refused():
    with pytest.raises(SimulationError, match="not at rest"):
        elastic_constants(bulk("Cu", a=3.7), EMT(), relax=False)


@pytest.mark.parametrize("strains", [(), (0.0,), (-0.01,), (0.1,), (0.01, 0.01)])
def test_impossible_strains_are_refused(strains):
    with pytest.raises(ConfigError, match="Strains must be different"):
        elastic_constants(bulk("Cu"), EMT(), strains=strains)


def test_a_structure_without_volume_is_refused():
    with pytest.raises(DataError, match="periodic in three directions"):
        elastic_constants(Atoms("Cu"), EMT())
