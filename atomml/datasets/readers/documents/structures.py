"""pymatgen's and JARVIS' dictionaries of a structure, read without building their objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from atomml.datasets.readers.labelled import Geometry
from atomml.errors import DataError
from atomml.shapes import ndarray

__all__ = ["element_numbers", "jarvis_geometry", "pymatgen_geometry"]

NUMBERS = {symbol: z for z, symbol in enumerate(chemical_symbols) if z > 0}
SAME_PLACE = 1e-3  # Å that `abc` and `xyz` of a site may differ by


def pymatgen_geometry(structure: Any, where: str) -> Geometry:
    """The geometry in ``Structure.as_dict()``: ``lattice.matrix``, ``lattice.pbc``, ``sites``.

    Positions are ``abc`` times the lattice, as pymatgen has them; ``xyz`` has to agree.

    Raises:
        DataError: a part is missing or of another shape, a site with several species or a partial
            occupancy, an unknown element, `abc` and `xyz` that disagree.
    """
    try:
        lattice, sites = structure["lattice"], structure["sites"]
        cell = np.array(lattice["matrix"], dtype=np.float64)
        pbc = np.array(lattice.get("pbc") or (True, True, True), dtype=bool)
        numbers = element_numbers([_element(site, where) for site in sites], where)
        if not sites:
            raise ValueError("no sites")
        positions = _positions(sites, cell)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"This is not the dictionary of a pymatgen structure ({type(error).__name__}: {error}).",
            where=where,
            fix="the file is damaged or not of this format",
        ) from error
    if "xyz" in sites[0] and "abc" in sites[0]:
        _check_places(sites, positions, where)
    return Geometry(numbers, positions, cell, pbc)


def jarvis_geometry(atoms: Any, where: str) -> Geometry:
    """The geometry in JARVIS' ``Atoms.to_dict()``: ``lattice_mat``, ``coords``, ``elements``, ``cartesian``.

    Raises:
        DataError: a part is missing or of another shape, an unknown element.
    """
    try:
        cell = np.array(atoms["lattice_mat"], dtype=np.float64)
        numbers = element_numbers(atoms["elements"], where)
        coordinates = np.array(atoms["coords"], dtype=np.float64)
        positions = coordinates if atoms["cartesian"] else coordinates @ cell
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"This is not the dictionary of JARVIS atoms ({type(error).__name__}: {error}).",
            where=where,
            fix="the file is damaged or not of this format",
        ) from error
    return Geometry(numbers, positions, cell, np.ones(3, dtype=bool))


def element_numbers(symbols: list[str], where: str) -> ndarray:
    """Atomic numbers [N] of chemical symbols.

    Raises:
        DataError: a symbol that is not an element.
    """
    try:
        return np.array([NUMBERS[symbol] for symbol in symbols], dtype=np.int64)
    except KeyError as error:
        raise DataError(
            f"{error.args[0]!r} is not an element.", where=where, fix="remove the frame"
        ) from error


def _element(site: Mapping[str, Any], where: str) -> str:
    species = site["species"]
    if len(species) == 1 and species[0]["occu"] == 1:
        return species[0]["element"]
    parts = " ".join(f"{s['element']}:{s['occu']}" for s in species) or "nothing"
    raise DataError(
        f"A site is disordered, its occupancy is {parts}.",
        where=where,
        fix="remove the frame, or make an ordered cell of it",
    )


def _positions(sites: list[Mapping[str, Any]], cell: ndarray) -> ndarray:
    if "abc" in sites[0]:
        return np.array([site["abc"] for site in sites], dtype=np.float64) @ cell
    return np.array([site["xyz"] for site in sites], dtype=np.float64)


def _check_places(sites: list[Mapping[str, Any]], positions: ndarray, where: str) -> None:
    try:
        difference = np.abs(np.array([site["xyz"] for site in sites], dtype=np.float64) - positions)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"The places `xyz` cannot be read ({error}).", where=where) from error
    if (difference > SAME_PLACE).any():
        raise DataError(
            f"The places `abc` and `xyz` of a site disagree by {difference.max():.3g} Å.",
            where=where,
            fix="find out which of the two is right and remove the other",
        )
