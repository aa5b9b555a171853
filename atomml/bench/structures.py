"""Structures to time potentials on, built without files."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from numpy.typing import NDArray

from atomml.errors import ConfigError

__all__ = ["STRUCTURES", "as_json", "octanol", "silicon", "structure", "water"]

RATTLE = 0.02
LATTICE = 5.43
DIAMOND = 8  # atoms in the conventional cell
BOND, CH, OH = 1.53, 1.09, 0.96
DENSITY = 33.3679e-3  # molecules of liquid water per Å³ at 298 K


def silicon(n_atoms: int) -> Atoms:
    """Diamond silicon, a = 5.43 Å, displaced by 0.02 Å: the nearly cubic cell with about ``n_atoms`` atoms."""
    repeat = [1, 1, 1]
    while DIAMOND * np.prod(repeat) < 0.93 * n_atoms:
        repeat[int(np.argmin(repeat))] += 1
    atoms = bulk("Si", "diamond", a=LATTICE, cubic=True).repeat(repeat)
    atoms.rattle(RATTLE, seed=0)
    return atoms


def octanol() -> Atoms:
    """All-trans 1-octanol C8H17OH, 27 atoms, with ideal tetrahedral angles, in no cell."""
    half = np.arccos(-1 / 3) / 2  # half of the tetrahedral angle
    step = BOND * np.array([np.sin(half), np.cos(half)])
    heavy = np.array([[k * step[0], (k % 2) * step[1], 0.0] for k in range(9)])
    symbols, positions = ["C"] * 8 + ["O"], list(heavy)
    for k in range(8):
        away = -1.0 if k % 2 == 0 else 1.0
        arms = np.array([[0.0, away * np.cos(half), side * np.sin(half)] for side in (-1.0, 1.0)])
        positions.extend(heavy[k] + CH * arms)
    ends = [(0, -1.0, 1.0, CH), (8, 1.0, 1.0, OH)]
    for k, along, across, length in ends:
        positions.append(heavy[k] + length * np.array([along * np.sin(half), across * np.cos(half), 0.0]))
    atoms = Atoms(symbols + ["H"] * 18, positions=np.array(positions))
    atoms.rattle(RATTLE, seed=0)
    return atoms


def water(n_molecules: int = 64) -> Atoms:
    """Randomly turned water molecules on a cubic lattice at the density of the liquid, periodic."""
    side = round(n_molecules ** (1 / 3))
    if side**3 != n_molecules:
        raise ConfigError(f"{n_molecules} is not a cube.", fix="use 1, 8, 27, 64, ...")
    rng, spacing = np.random.default_rng(0), (1 / DENSITY) ** (1 / 3)
    single = molecule("H2O")
    shape = single.positions - single.get_center_of_mass()
    places = spacing * (np.stack(np.meshgrid(*[np.arange(side)] * 3), -1).reshape(-1, 3) + 0.5)
    positions = np.concatenate([place + shape @ _rotation(rng).T for place in places])
    return Atoms(list(single.symbols) * n_molecules, positions=positions, cell=[side * spacing] * 3, pbc=True)


def _rotation(rng: np.random.Generator) -> NDArray[np.float64]:
    """A uniformly distributed rotation matrix, from a random unit quaternion."""
    a, b, c, d = (q := rng.normal(size=4)) / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (c * c + d * d), 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), 1 - 2 * (b * b + d * d), 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), 1 - 2 * (b * b + c * c)],
        ]
    )


STRUCTURES = {"si64": lambda: silicon(64), "molecule": octanol, "water": water}
"""si64: 64 atoms, 28 neighbours within 5 Å; molecule: 27 atoms; water: 192 atoms, about 52 neighbours."""


def structure(name: str) -> Atoms:
    """One of `STRUCTURES`, or ``siN``: about N atoms of silicon.

    Raises:
        ConfigError: no such name.
    """
    if name in STRUCTURES:
        return STRUCTURES[name]()
    if name.startswith("si") and name[2:].isdecimal():
        return silicon(int(name[2:]))
    raise ConfigError(
        f"There is no structure {name!r}.",
        where="--structures",
        fix=f"choose among {', '.join(STRUCTURES)}, or siN for about N atoms",
    )


def as_json(atoms: Atoms) -> dict[str, Any]:
    """Numbers, positions, cell and periodicity as plain lists, for the processes that are timed."""
    return {
        "numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        "cell": atoms.cell.array.tolist(),
        "pbc": atoms.pbc.tolist(),
    }
