"""Lithium halides of the repository as ASE structures, to be written in other formats by the tests."""

import functools

import ase.io
import numpy as np
from ase import units

from tests.conftest import ROOT

KBAR = 0.1 * units.GPa


@functools.cache
def halides(n=12, start=0):
    frames = ase.io.read(ROOT / "data/li_halide/sample/li_halide.extxyz.gz", f"{start}:{start + n}")
    return tuple(frames)


def assert_same(store, frames, *, tolerance=1e-12, stress=True):
    """The store holds these structures and labels, in this order."""
    assert len(store) == len(frames)
    for k, atoms in enumerate(frames):
        part = store.atoms_of(k)
        np.testing.assert_array_equal(store.numbers[part], atoms.numbers)
        np.testing.assert_allclose(store.positions[part], atoms.positions, rtol=0, atol=tolerance)
        np.testing.assert_allclose(store.cell[k], atoms.cell, rtol=0, atol=tolerance)
        np.testing.assert_array_equal(store.pbc[k], atoms.pbc)
        np.testing.assert_allclose(store.energy[k], atoms.get_potential_energy(), rtol=tolerance)
        np.testing.assert_allclose(store.forces[part], atoms.get_forces(), rtol=0, atol=tolerance)
        if stress:
            np.testing.assert_allclose(store.stress[k], atoms.get_stress(voigt=False), rtol=0, atol=tolerance)
        else:
            assert np.isnan(store.stress[k]).all()


def pymatgen_dict(atoms, **lattice):
    """The dictionary of a structure as pymatgen itself writes it, positions kept to the last digit."""
    from pymatgen.core import Lattice, Structure

    structure = Structure(
        Lattice(atoms.cell.array, pbc=tuple(map(bool, atoms.pbc))),
        atoms.get_chemical_symbols(),
        atoms.positions,
        coords_are_cartesian=True,
    ).as_dict()
    structure["lattice"] |= lattice
    return structure
