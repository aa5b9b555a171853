"""Lithium-halide crystals made from tabulated positions, as places to begin; relaxation does the rest.

Lattice constants and positions are those of the literature types to about a percent. Partially occupied sites
got one ordering: all Li sites of the monoclinic Li3MX6, half of the 6h sites of the trigonal Li3YCl6, an equal
division of the octahedra of the inverse spinel.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.spacegroup import crystal

from atomml.errors import ConfigError

__all__ = ["PROTOTYPES", "prototype"]


def prototype(name: str) -> Atoms:
    """The crystal of that name with its own elements.

    Raises:
        ConfigError: no such prototype.
    """
    if name not in PROTOTYPES:
        raise ConfigError(f"There is no prototype {name!r}.", fix="choose one of " + ", ".join(PROTOTYPES))
    atoms = PROTOTYPES[name]()
    plain = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
    return plain[np.argsort(plain.numbers, kind="stable")]


def _rocksalt() -> Atoms:
    return bulk("LiCl", "rocksalt", a=5.14)


def _cesiumchloride() -> Atoms:
    return bulk("LiCl", "cesiumchloride", a=3.08)


def _zincblende() -> Atoms:
    return bulk("LiCl", "zincblende", a=5.63)


def _wurtzite() -> Atoms:
    return bulk("LiCl", "wurtzite", a=3.98, c=6.50)


def _li3mx6_c2m() -> Atoms:
    """Li3InCl6, C2/m, 20 atoms: In 2a, Li 4g and 2d, Cl 8j and 4i."""
    sites = [(0, 0, 0), (0, 0.333, 0), (0, 0.5, 0.5), (0.247, 0.160, 0.238), (0.241, 0, 0.768)]
    return crystal(
        ["In", "Li", "Li", "Cl", "Cl"], sites, spacegroup=12, cellpar=[6.41, 11.10, 6.37, 90, 109.8, 90]
    )


def _trigonal(metal: str) -> Atoms:
    """P-3m1 with M 1a and 2d, Cl 3 x 6i, Li 6g and all of 6h."""
    sites = [
        (0, 0, 0),
        (1 / 3, 2 / 3, 0.4951),
        (0.3397, 0, 0),
        (0.3397, 0, 0.5),
        (0.1130, -0.1130, 0.7717),
        (0.2195, -0.2195, 0.2600),
        (0.4463, -0.4463, 0.7600),
    ]
    return crystal(
        [metal, metal, "Li", "Li", "Cl", "Cl", "Cl"],
        sites,
        spacegroup=164,
        cellpar=[11.2001, 11.2001, 6.0302, 90, 90, 120],
    )


def _without_6h(atoms: Atoms, kept: int) -> Atoms:
    """Keep every other one of the Li atoms at z = 1/2, ``kept`` of the six."""
    z = atoms.get_scaled_positions()[:, 2]
    middle = np.flatnonzero((atoms.numbers == 3) & (np.abs(z - 0.5) < 0.01))
    drop = set(middle.tolist()) - set(middle[1::2][:kept].tolist())
    return atoms[[i for i in range(len(atoms)) if i not in drop]]


def _li3mx6_p3m1() -> Atoms:
    """Li3YCl6, 30 atoms: half of the 6h sites occupied."""
    return _without_6h(_trigonal("Y"), 3)


def _li2mx6_p3m1() -> Atoms:
    """Li2ZrCl6, 27 atoms: 6h empty."""
    return _without_6h(_trigonal("Zr"), 0)


def _li2mx4_spinel() -> Atoms:
    """Li2MgCl4, inverse spinel, 14 atoms: Li on the tetrahedra, two Li and two Mg on the octahedra."""
    eighth, u = 0.125, 0.2557
    atoms = crystal(
        ["Li", "Mg", "Cl"],
        [(eighth, eighth, eighth), (0.5, 0.5, 0.5), (u, u, u)],
        spacegroup=227,
        setting=2,
        cellpar=[10.40, 10.40, 10.40, 90, 90, 90],
        primitive_cell=True,
    )
    octahedra = np.flatnonzero(atoms.numbers == 12)
    atoms.numbers[octahedra[:2]] = 3
    return atoms


def _li3ox_antiperovskite() -> Atoms:
    """Li3OCl, cubic: O in an octahedron of Li, Cl at the corners of the cube."""
    sites = [(0.5, 0.5, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5), (0, 0, 0)]
    return Atoms("OLi3Cl", scaled_positions=sites, cell=[3.91] * 3, pbc=True)


PROTOTYPES: dict[str, Callable[[], Atoms]] = {
    "rocksalt": _rocksalt,
    "cesiumchloride": _cesiumchloride,
    "zincblende": _zincblende,
    "wurtzite": _wurtzite,
    "li3mx6_c2m": _li3mx6_c2m,
    "li3mx6_p3m1": _li3mx6_p3m1,
    "li2mx6_p3m1": _li2mx6_p3m1,
    "li2mx4_spinel": _li2mx4_spinel,
    "li3ox_antiperovskite": _li3ox_antiperovskite,
}
