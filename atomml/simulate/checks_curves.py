"""Curves: equation of state, dimers, behaviour at the cutoff, isolated atoms."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import combinations_with_replacement

import numpy as np
from ase import Atoms, units
from ase.data import chemical_symbols, covalent_radii
from ase.eos import EquationOfState
from numpy.typing import NDArray

from atomml.simulate.calculator import has_volume
from atomml.simulate.check_report import CheckRow, Curve, limited
from atomml.simulate.interface import PotentialLike

__all__ = ["check_cutoff", "check_dimers", "check_equation_of_state", "check_isolated_atoms"]

Array = NDArray[np.float64]
_EOS = "Equation of state"
_MOST_PAIRS = 60
_PAIRS_IN_A_PANEL = 10


def check_equation_of_state(
    potential: PotentialLike, atoms: Atoms, *, must_pass: bool
) -> tuple[list[CheckRow], list[Curve]]:
    """E(V) of a crystal scaled evenly: a minimum between 0.75 V and 1.35 V, fitted by Birch-Murnaghan.

    Args:
        potential: to test.
        atoms: a crystal.
        must_pass: whether a missing minimum is a failure (the user's structure) or information (a guess).
    """
    name = f"equation of state, {atoms.get_chemical_formula(empirical=True)}"
    if not has_volume(atoms):
        return [CheckRow(_EOS.lower(), np.nan, None, "GPa", None, "not applicable: no volume")], []
    volumes, energies = _scan(potential, atoms, np.linspace(0.75, 1.35, 25))
    curve = Curve(
        _EOS,
        atoms.get_chemical_formula(empirical=True),
        volumes / len(atoms),
        (energies - energies.min()) / len(atoms),
        "volume (Å³/atom)",
        "energy (eV/atom)",
    )
    if not np.all(np.isfinite(energies)):
        return [CheckRow(name, np.nan, None, "GPa", False, "an energy is not finite")], []
    lowest = int(energies.argmin())
    if lowest in (0, len(energies) - 1):
        comment = "no minimum between 0.75 and 1.35 of the given volume"
        return [CheckRow(name, np.nan, None, "GPa", False if must_pass else None, comment)], [curve]
    centre = volumes[lowest] / atoms.get_volume()
    v0, b0 = _birch_murnaghan(*_scan(potential, atoms, centre * np.linspace(0.94, 1.06, 9)))
    bracketed = bool(0.75 < v0 / atoms.get_volume() < 1.35 and b0 > 0)
    comment = f"Birch-Murnaghan: V0 {v0 / len(atoms):.3f} Å³/atom, {v0 / atoms.get_volume():.3f} of the given"
    passed = bracketed if bracketed or must_pass else None
    return [CheckRow(name, b0 / units.GPa, None, "GPa (B0)", passed, comment)], [curve]


def _scan(potential: PotentialLike, atoms: Atoms, factors: Array) -> tuple[Array, Array]:
    """Volumes and energies of the structure scaled to ``factors`` times its volume."""
    scaled = []
    for factor in factors.tolist():
        copy = atoms.copy()
        copy.set_cell(atoms.cell.array * factor ** (1 / 3), scale_atoms=True)
        scaled.append(copy)
    energies = [p.energy for p in potential.predict(scaled, forces=False, stress=False)]
    return factors * atoms.get_volume(), np.array(energies)


def _birch_murnaghan(volumes: Array, energies: Array) -> tuple[float, float]:
    """V0 in Å³ and B0 in eV/Å³; NaN where the fit fails."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            v0, _, b0 = EquationOfState(volumes, energies, eos="birchmurnaghan").fit()
    except (RuntimeError, ValueError):
        return float("nan"), float("nan")
    return float(v0), float(b0)


def check_cutoff(potential: PotentialLike) -> list[CheckRow]:
    """Jumps of E, F = −dE/dr and dF/dr of every dimer at the cutoff r_c.

    J(δ) = g(r_c − δ) − g(r_c + δ); the jump is 2 J(δ/2) − J(δ), which is zero for a g that is continuous.
    """
    rc, delta, h = potential.cutoff, 2e-3, 2e-4
    radii = [rc + side * d for d in (delta, delta / 2) for side in (-1, 1)]
    names = ("energy", "force", "slope of the force")
    worst, where = [0.0, 0.0, 0.0], ["", "", ""]
    pairs, count = _pairs(potential.elements)
    for pair in pairs:
        dimers = [_dimer(pair, r + k * h) for r in radii for k in (-1, 0, 1)]
        out = potential.predict(dimers, forces=True, stress=False)
        energy = np.array([p.energy for p in out]).reshape(4, 3)
        force = np.array([0.0 if p.forces is None else p.forces[1, 2] for p in out]).reshape(4, 3)
        values = (energy[:, 1], force[:, 1], (force[:, 2] - force[:, 0]) / (2 * h))
        for k, g in enumerate(values):
            jump = abs(2 * (g[2] - g[3]) - (g[0] - g[1]))
            if not jump <= worst[k]:
                worst[k], where[k] = float(jump), _label(pair)
    limits, unit = (1e-6, 1e-5, 1e-2), ("eV", "eV/Å", "eV/Å²")
    return [
        limited(
            f"no jump at the cutoff: {names[k]}",
            worst[k],
            limits[k],
            unit[k],
            f"{count}; largest for {where[k]}",
        )
        for k in range(3)
    ]


def check_dimers(potential: PotentialLike) -> tuple[list[CheckRow], list[Curve]]:
    """Energy of every pair of elements from 0.5 Å to the cutoff, and whether they repel at short range."""
    rc = potential.cutoff
    curves, attractive = [], []
    pairs, count = _pairs(potential.elements)
    for pair in pairs:
        r = np.linspace(0.5, rc, 90)
        out = potential.predict(
            [_dimer(pair, d) for d in (*r.tolist(), rc + 1.0)], forces=False, stress=False
        )
        energy = np.array([p.energy for p in out])
        energy = energy[:-1] - energy[-1]
        bond = covalent_radii[pair[0]] + covalent_radii[pair[1]]
        near = energy[r < 0.7 * bond]
        if not np.all(np.isfinite(energy)):
            return [CheckRow("dimers", np.nan, None, "eV", False, f"not finite for {_label(pair)}")], []
        if len(near) > 1 and np.any(np.diff(near) > 0):
            attractive.append(_label(pair))
        panel = "Dimers" if len(pairs) <= _PAIRS_IN_A_PANEL else f"Dimers of {chemical_symbols[pair[0]]}"
        curves.append(Curve(panel, _label(pair), r, energy, "distance (Å)", "energy (eV)"))
    comment = f"{count}; all repel from 0.5 Å to 0.7 of the covalent bond length"
    if attractive:
        comment = f"warning: {count}; not repulsive at short range: {', '.join(attractive)}. "
        comment += (
            "Train with the ZBL prior or with compressed structures before running hot or dense systems"
        )
    return [
        CheckRow("dimers that attract at short range", float(len(attractive)), None, "pairs", None, comment)
    ], curves


def check_isolated_atoms(potential: PotentialLike) -> CheckRow:
    """Energy of a single atom of each element against the reference energy E0."""
    atoms = [Atoms([z]) for z in potential.elements]
    energies = np.array([p.energy for p in potential.predict(atoms, forces=False, stress=False)])
    reference = getattr(potential, "e0", None)
    finite = bool(np.all(np.isfinite(energies)))
    if reference is None or not finite:
        comment = "all finite; the potential states no reference energies" if finite else "not finite"
        return CheckRow("isolated atoms", np.nan, None, "eV", None if finite else False, comment)
    off = np.abs(energies - np.array([reference[z] for z in potential.elements]))
    comment = f"largest |E − E0|, for {chemical_symbols[potential.elements[int(off.argmax())]]}"
    return CheckRow("isolated atoms", float(off.max()), None, "eV", None, comment)


def _pairs(elements: Sequence[int]) -> tuple[list[tuple[int, int]], str]:
    """Pairs of elements to test, at most 60 spread evenly over all of them, and a note of how many."""
    every = list(combinations_with_replacement(sorted(elements), 2))
    chosen = every[:: -(-len(every) // _MOST_PAIRS)]
    return chosen, f"{len(chosen)} of {len(every)} pairs"


def _dimer(pair: tuple[int, int], distance: float) -> Atoms:
    return Atoms(numbers=pair, positions=[[0.0, 0.0, 0.0], [0.0, 0.0, distance]])


def _label(pair: tuple[int, int]) -> str:
    return f"{chemical_symbols[pair[0]]}–{chemical_symbols[pair[1]]}"
