"""Structures and helpers to test potentials with: shipped, so that users can test their own models."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import bulk, graphene, molecule

__all__ = ["edge_case_structures"]


def edge_case_structures() -> dict[str, Atoms]:
    """Structures on which neighbour lists and potentials go wrong, by name.

    Made for cutoffs of 3 to 6 Å: cells smaller than the cutoff, skewed and left-handed cells, periodicity in
    any number of directions with or without a lattice vector in the others, atoms outside the cell, atoms
    without neighbours.
    """
    return {**_crystals(), **_low_dimensional(), **_finite()}


def _crystals() -> dict[str, Atoms]:
    skewed = bulk("Cu", cubic=True)
    skewed.set_cell(skewed.cell.array + [[0, 0, 0], [9.2, 0, 0], [-5.1, 4.3, 0]])
    left_handed = _rattled(bulk("NaCl", "rocksalt", a=5.64, cubic=True), 0.1)
    left_handed.set_cell(left_handed.cell.array[[1, 0, 2]])
    outside = _rattled(bulk("NaCl", "rocksalt", a=5.64), 0.05)
    outside.positions += [[13.7, -22.1, 41.0], [-8.9, 3.3, -170.5]]
    return {
        "fcc_primitive_1_atom": bulk("Cu"),
        "bcc_primitive_1_atom": bulk("Fe"),
        "tiny_cell_1_atom": Atoms("H", cell=[1.1, 1.3, 1.7], pbc=True),
        "hcp_primitive": bulk("Mg"),
        "diamond_primitive": bulk("Si"),
        "skewed_cell": skewed,
        "left_handed_cell": left_handed,
        "flat_cell": Atoms("AlP", positions=[[0, 0, 0], [3, 9, 0.4]], cell=[11.0, 13.0, 0.9], pbc=True),
        "nacl_2x2x2": _rattled(bulk("NaCl", "rocksalt", a=5.64, cubic=True) * 2, 0.1),
        "atoms_outside_the_cell": outside,
    }


def _low_dimensional() -> dict[str, Atoms]:
    sheet = graphene(size=(2, 2, 1))
    sheet.pbc = [True, True, False]
    sheet.cell[2] = 0
    slab = bulk("Cu", cubic=True) * (2, 2, 2)
    slab.pbc = [True, True, False]
    tilted = slab.copy()
    tilted.cell[2] = [4.0, -3.0, 2.0]
    wire = Atoms("Au3", positions=[[0, 0, 0.2], [2.5, 0.3, 0], [4.9, -0.2, 0.1]], cell=[7.5, 0, 0])
    wire.pbc = [True, False, False]
    slanted = Atoms("CH", positions=[[0, 0, 0], [0.5, 0.9, 0.2]])
    slanted.cell[2] = [1.5, 1.2, 1.0]
    slanted.pbc = [False, False, True]
    huge = wire.copy()
    huge.set_cell([7.5, 1e9, 1e9])
    return {
        "sheet_without_third_vector": sheet,
        "slab_with_third_vector": slab,
        "slab_with_tilted_third_vector": tilted,
        "wire_without_other_vectors": wire,
        "slanted_wire": slanted,
        "wire_in_huge_box": huge,
    }


def _finite() -> dict[str, Atoms]:
    boxed = molecule("CH3CH2OH")
    boxed.set_cell([30.0, 30.0, 30.0])
    far = Atoms("ArAr", positions=[[0, 0, 0], [0, 0, 50.0]])
    scattered = molecule("H2O") + Atoms("He", positions=[[1e7, -1e7, 3e6]])
    return {
        "molecule_without_cell": molecule("CH3CH2OH"),
        "molecule_in_open_box": boxed,
        "isolated_atom": Atoms("He"),
        "isolated_atom_in_periodic_box": Atoms("He", cell=[40.0, 40.0, 40.0], pbc=True),
        "dimer_beyond_cutoff": far,
        "molecule_and_far_away_atom": scattered,
        "collinear_molecule": molecule("CO2"),
    }


def _rattled(atoms: Atoms, amplitude: float) -> Atoms:
    """A copy with atoms moved at random by up to ``amplitude`` Å, the same in every call."""
    atoms = atoms.copy()
    atoms.positions += np.random.default_rng(7).uniform(-amplitude, amplitude, atoms.positions.shape)
    return atoms
