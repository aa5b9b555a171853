"""Crystals to begin with: neutral choices of common ions on the sites of simple prototypes, sized by ionic radii."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.data import atomic_numbers
from ase.spacegroup import crystal
from pymatgen.core import Element

__all__ = ["PROTOTYPES", "Candidate", "candidates"]

Charges = dict[str, tuple[int, ...]]  # of each element
Radii = tuple[float, ...]  # Å, of each site

CATIONS: Charges = {
    **dict.fromkeys(("Li", "Na", "K", "Rb", "Cs"), (1,)),
    **dict.fromkeys(("Be", "Mg", "Ca", "Sr", "Ba", "Ni", "Cu", "Zn"), (2,)),
    **dict.fromkeys(("Sc", "Y", "La", "Al", "Ga", "In"), (3,)),
    **dict.fromkeys(("Fe", "Co"), (2, 3)),
    **dict.fromkeys(("Zr", "Hf", "Si"), (4,)),
    **dict.fromkeys(("Ge", "Sn"), (2, 4)),
    **dict.fromkeys(("Nb", "Ta"), (5,)),
    "Ti": (3, 4),
    "V": (3, 4, 5),
    "Mn": (2, 3, 4),
}
ANIONS: Charges = {
    **dict.fromkeys(("F", "Cl", "Br", "I"), (-1,)),
    **dict.fromkeys(("O", "S", "Se"), (-2,)),
    "N": (-3,),
}
LARGE = ("Li", "Na", "K", "Rb", "Cs", "Mg", "Ca", "Sr", "Ba", "Sc", "Y", "La")
ROMAN = {
    "II": 2,
    "III": 3,
    "IV": 4,
    "V": 5,
    "VI": 6,
    "VII": 7,
    "VIII": 8,
    "IX": 9,
    "X": 10,
    "XI": 11,
    "XII": 12,
}
SN2_RADIUS = 1.10  # Å; not in Shannon's table. Kieslich, Sun, Cheetham, Chem. Sci. 5, 4712 (2014)


class Candidate(NamedTuple):
    """A crystal to relax.

    Attributes:
        id: prototype and formula in the order of its sites.
        prototype: name of the structure type.
        ions: element and charge on each site.
        atoms: the crystal.
    """

    id: str
    prototype: str
    ions: tuple[tuple[str, int], ...]
    atoms: Atoms


class Site(NamedTuple):
    """A site of a prototype: atoms on it, their coordination number, the ions that may be there."""

    atoms: int
    coordination: int
    ions: Charges


class Prototype(NamedTuple):
    """A structure type.

    Attributes:
        sites: its sites.
        build: from the ionic radii to atoms whose "atomic numbers" say the site: 1, 2, 3.
        fit: the number of the radii that has to be between ``low`` and ``high``.
    """

    sites: tuple[Site, ...]
    build: Callable[[Radii], Atoms]
    fit: Callable[[Radii], float]
    low: float
    high: float


def tolerance_factor(radii: Radii) -> float:
    """Goldschmidt's t = (r_A + r_X) / √2 (r_B + r_X)."""
    a, b, x = radii
    return (a + x) / (np.sqrt(2) * (b + x))


def radius_ratio(radii: Radii) -> float:
    """Pauling's r_cation / r_anion."""
    cation, anion = radii
    return cation / anion


def perovskite(radii: Radii) -> Atoms:
    """A at the corners, B in the middle, X on the faces; the edge is the longer one of both contacts."""
    a, b, x = radii
    edge = max(2 * (b + x), np.sqrt(2) * (a + x))
    positions = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]
    return Atoms([1, 2, 3, 3, 3], scaled_positions=positions, cell=[edge] * 3)


def cubic(kind: str, symbols: str, edge: float) -> Callable[[Radii], Atoms]:
    """A cubic type that ASE knows; ``edge`` in units of the bond length."""
    return lambda radii: bulk(symbols, kind, a=edge * sum(radii))


def rutile(radii: Radii) -> Atoms:
    """TiO2 rutile, scaled."""
    a = 2.34 * sum(radii)
    positions = [(0, 0, 0), (0.305, 0.305, 0)]
    return crystal(["H", "He"], positions, spacegroup=136, cellpar=[a, a, 0.644 * a, 90, 90, 90])


def anatase(radii: Radii) -> Atoms:
    """TiO2 anatase, scaled; the primitive cell."""
    a = 1.945 * sum(radii)
    positions, cell = [(0, 0, 0), (0, 0, 0.208)], [a, a, 2.51 * a, 90, 90, 90]
    return crystal(["H", "He"], positions, spacegroup=141, setting=1, cellpar=cell, primitive_cell=True)


def binary(cations: int, anions: int, coordination: tuple[int, int]) -> tuple[Site, ...]:
    """A site of cations and one of anions."""
    return Site(cations, coordination[0], CATIONS), Site(anions, coordination[1], ANIONS)


ABX3 = (Site(1, 12, {s: CATIONS[s] for s in LARGE}), Site(1, 6, CATIONS), Site(3, 6, ANIONS))
ANTI = (Site(1, 12, ANIONS), Site(1, 6, ANIONS), Site(3, 6, CATIONS))
CSCL, TETRAHEDRAL = 2 / np.sqrt(3), 4 / np.sqrt(3)
PROTOTYPES = {
    "perovskite": Prototype(ABX3, perovskite, tolerance_factor, 0.75, 1.1),
    "antiperovskite": Prototype(ANTI, perovskite, tolerance_factor, 0.75, 1.1),
    "rocksalt": Prototype(binary(1, 1, (6, 6)), cubic("rocksalt", "HHe", 2.0), radius_ratio, 0.25, 1.4),
    "cesiumchloride": Prototype(
        binary(1, 1, (8, 8)), cubic("cesiumchloride", "HHe", CSCL), radius_ratio, 0.5, 1.5
    ),
    "zincblende": Prototype(
        binary(1, 1, (4, 4)), cubic("zincblende", "HHe", TETRAHEDRAL), radius_ratio, 0.1, 0.75
    ),
    "fluorite": Prototype(
        binary(1, 2, (8, 4)), cubic("fluorite", "HHeHe", TETRAHEDRAL), radius_ratio, 0.4, 1.5
    ),
    "antifluorite": Prototype(
        binary(2, 1, (4, 8)), cubic("fluorite", "HeHH", TETRAHEDRAL), radius_ratio, 0.2, 1.5
    ),
    "rutile": Prototype(binary(1, 2, (6, 3)), rutile, radius_ratio, 0.25, 0.9),
    "anatase": Prototype(binary(1, 2, (6, 3)), anatase, radius_ratio, 0.25, 0.9),
}


def radius(symbol: str, charge: int, coordination: int) -> float:
    """Shannon's ionic radius in Å of the tabulated coordination number nearest to the one wanted; high spin."""
    if (symbol, charge) == ("Sn", 2):
        return SN2_RADIUS
    table = Element(symbol).data["Shannon radii"][str(charge)]
    nearest = min((key for key in table if key in ROMAN), key=lambda key: abs(ROMAN[key] - coordination))
    spins = table[nearest]
    return float((spins.get("") or spins["High Spin"])["ionic_radius"])


def candidates() -> Iterator[Candidate]:
    """Every neutral choice of different elements whose radii fit the prototype."""
    for name, prototype in PROTOTYPES.items():
        sites = prototype.sites
        choices = [[(symbol, q) for symbol, charges in site.ions.items() for q in charges] for site in sites]
        for ions in product(*choices):
            charge = sum(site.atoms * q for site, (_, q) in zip(sites, ions, strict=True))
            if charge or len({symbol for symbol, _ in ions}) < len(ions):
                continue
            radii = tuple(radius(*ion, site.coordination) for ion, site in zip(ions, sites, strict=True))
            if prototype.low <= prototype.fit(radii) <= prototype.high:
                formula = "".join(
                    f"{s}{t.atoms if t.atoms > 1 else ''}" for t, (s, _) in zip(sites, ions, strict=True)
                )
                shape = prototype.build(radii)
                numbers = [atomic_numbers[ions[k - 1][0]] for k in shape.numbers]
                atoms = Atoms(numbers, shape.positions, cell=shape.cell, pbc=True)
                yield Candidate(f"{name}-{formula}", name, ions, atoms)
