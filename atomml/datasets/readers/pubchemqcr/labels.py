"""Units and reference energies of PubChemQCR, as the published labels were made, or with CODATA constants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from ase import units
from ase.data import atomic_numbers

from atomml.datasets.references import ReferenceEnergies, from_table, reference_sums
from atomml.datasets.store import FrameStore
from atomml.errors import DataError
from atomml.shapes import Float64, ndarray

__all__ = [
    "ATOM_ENERGIES",
    "CONSTANTS",
    "Constants",
    "ConstantsName",
    "atom_energies",
    "paper_energy_labels",
    "pubchemqcr_references",
]

ConstantsName = Literal["paper", "codata"]

ATOM_ENERGIES: dict[str, float] = {
    "H": -0.5002727762,
    "Be": -14.6684425428,
    "B": -24.6543539532,
    "C": -37.8462799513,
    "N": -54.5844893657,
    "O": -75.0606214015,
    "F": -99.7155354215,
    "Si": -289.3723539998,
    "P": -341.2580898032,
    "S": -398.1049925382,
    "Cl": -460.1362417086,
    "Sc": -760.5813501324,
    "Ti": -849.3013849537,
    "V": -943.8255794204,
    "Cr": -1044.2810289455,
    "Mn": -1150.8680174849,
    "Fe": -1263.5207828239406,
    "Co": -1382.5485719267936,
    "Ni": -1508.0542451335,
    "Cu": -1640.1731641564784,
    "Ga": -1924.5926070018,
    "Ge": -2076.6914561594,
    "As": -2235.5683127287,
    "Se": -2401.2347730327,
    "Br": -2573.8397377628,
}
"""Energies of free atoms that the published labels subtract, Hartree; one table for every stage."""


class Constants(NamedTuple):
    """Conversion of the source's numbers.

    Attributes:
        hartree: eV.
        bohr_per_angstrom: Bohr in an Å.
    """

    hartree: float
    bohr_per_angstrom: float


CONSTANTS: dict[ConstantsName, Constants] = {
    "paper": Constants(27.2114, 1.8897),
    "codata": Constants(units.Hartree, 1.0 / units.Bohr),
}


def atom_energies(extra: Mapping[str, float] | None = None) -> Float64[ndarray, " z"]:
    """E0 by atomic number in Hartree, NaN where there is none; ``extra`` adds or replaces entries.

    Raises:
        DataError: an unknown symbol, or an energy that is not finite.
    """
    table = np.full(119, np.nan)
    for symbol, energy in {**ATOM_ENERGIES, **(extra or {})}.items():
        z = atomic_numbers.get(symbol, 0)
        if z < 1 or not np.isfinite(energy):
            raise DataError(
                f"{symbol!r}: {energy} is not the energy of an element.",
                where="extra_references of the reader pubchemqcr",
                fix="use symbols as in {I: -297.8}, in Hartree",
            )
        table[z] = energy
    return table


def pubchemqcr_references(constants: ConstantsName = "paper") -> ReferenceEnergies:
    """The table of free atoms in eV, for training on total energies.

    Args:
        constants: the same as the data set was read with.
    """
    return from_table({symbol: e * CONSTANTS[constants].hartree for symbol, e in ATOM_ENERGIES.items()})


def paper_energy_labels(
    store: FrameStore, references: ReferenceEnergies | None = None
) -> Float64[ndarray, " frames"]:
    """(E − Σ E0)/N of every frame, eV/atom: the energy label of the published models, which they round to float32.

    Args:
        store: read by the reader ``pubchemqcr``, with total energies or with ``energy: atom_references``.
        references: E0 in eV; the published table, in the constants of the store, by default.

    Raises:
        DataError: an element without E0; frames of another reader, of both conventions or of both constants.
    """
    stated = [origin.get("stated", {}) for origin in store.origins()]
    kinds = {(s.get("reader"), s.get("energy"), s.get("constants")) for s in stated}
    if len(kinds) != 1 or stated[0].get("reader") != "pubchemqcr":
        raise DataError(
            "Parts of the data set were read by another reader, or with different energies or constants.",
            where=str(store.info.get("source", "the data set")),
            fix="read all of it with the reader pubchemqcr and the same options",
        )
    _, energy, constants = kinds.pop()
    if energy == "atom_references":
        return np.asarray(store.energy / store.n_atoms)
    sums = reference_sums(references or pubchemqcr_references(constants), store)
    return np.asarray((store.energy - sums) / store.n_atoms)
