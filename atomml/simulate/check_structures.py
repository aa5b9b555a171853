"""Structures to check a potential with: the user's, or crystals and molecules made from its elements."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from ase.data import atomic_numbers, chemical_symbols, covalent_radii, reference_states

from atomml.errors import DataError
from atomml.simulate.calculator import has_volume

__all__ = ["cluster_of", "default_structures", "perturbed", "supercell", "uncovered"]

# Shannon radii in Å (coordination 6) of ions that form rocksalt crystals with each other.
_CATIONS = {"Li": 0.76, "Na": 1.02, "K": 1.38, "Rb": 1.52, "Mg": 0.72, "Ca": 1.00, "Sr": 1.18, "Ba": 1.35}
_ANIONS = {"F": 1.33, "Cl": 1.81, "Br": 1.96, "I": 2.20, "O": 1.40, "S": 1.84, "Se": 1.98}
_VALENCE = {**dict.fromkeys(("Li", "Na", "K", "Rb", "F", "Cl", "Br", "I"), 1)}
_MOLECULES = ("CH3CH2OH", "CH3OH", "C6H6", "CH3NO2", "HCN", "CH4", "NH3", "H2O", "CO2", "N2", "O2", "H2")
_MOST = 4


def default_structures(elements: Sequence[int]) -> list[Atoms]:
    """Up to four ideal structures made of the given atomic numbers, chosen to cover them.

    Molecules for H, C, N, O; rocksalt for an ion pair; the element's own fcc, bcc, hcp or diamond crystal;
    otherwise rocksalt of two elements with a bond of the sum of their covalent radii.

    Raises:
        DataError: no elements.
    """
    symbols = [chemical_symbols[z] for z in elements]
    if not symbols:
        raise DataError("The potential knows no elements.", fix="use a trained model")
    found = _molecules(symbols) + _rocksalts(symbols)
    if not found:
        found = _elemental(symbols) or [_bonded(symbols)]
    return _cover(found)


def perturbed(atoms: Atoms, seed: int, *, stdev: float = 0.05, strain: float = 0.02) -> Atoms:
    """A copy with normal displacements (Å) and, where there is a volume, a random symmetric strain."""
    atoms, rng = atoms.copy(), np.random.default_rng(seed)
    if has_volume(atoms):
        e = rng.uniform(-strain, strain, (3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.5 * (e + e.T)), scale_atoms=True)
    atoms.positions += rng.normal(scale=stdev, size=(len(atoms), 3))
    return atoms


def supercell(atoms: Atoms, n_atoms: int) -> Atoms:
    """The smallest nearly cubic repetition with at least ``n_atoms`` atoms; a molecule as it is."""
    repeat = [1, 1, 1]
    lengths = atoms.cell.lengths()
    if not has_volume(atoms):
        return atoms.copy()
    while len(atoms) * int(np.prod(repeat)) < n_atoms:
        repeat[int(np.argmin(lengths * repeat))] += 1
    return atoms.repeat(tuple(repeat))


def cluster_of(atoms: Atoms, n_atoms: int = 5) -> Atoms:
    """A non-periodic piece: the first atom and the ones nearest to it."""
    if not np.any(atoms.pbc):
        return atoms[: min(len(atoms), n_atoms)]
    big = atoms.repeat(tuple(2 if p else 1 for p in atoms.pbc))
    big.pbc = False
    big.cell[:] = 0
    distance = np.linalg.norm(big.positions - big.positions[0], axis=1)
    return big[np.argsort(distance, kind="stable")[:n_atoms]]


def uncovered(structures: Sequence[Atoms], elements: Sequence[int]) -> list[str]:
    """Symbols of the elements that no structure contains."""
    present = {int(z) for atoms in structures for z in atoms.numbers}
    return [chemical_symbols[z] for z in sorted(set(elements) - present)]


def _molecules(symbols: Sequence[str]) -> list[Atoms]:
    made = [molecule(name) for name in _MOLECULES]
    return [m for m in made if set(m.symbols) <= set(symbols)]


def _rocksalts(symbols: Sequence[str]) -> list[Atoms]:
    return [
        bulk(cation + anion, "rocksalt", a=2.0 * (_CATIONS[cation] + _ANIONS[anion]), cubic=True)
        for cation in symbols
        for anion in symbols
        if cation in _CATIONS and anion in _ANIONS and (cation in _VALENCE) == (anion in _VALENCE)
    ]


def _elemental(symbols: Sequence[str]) -> list[Atoms]:
    crystals = []
    for symbol in symbols:
        state = reference_states[atomic_numbers[symbol]] or {}
        if state.get("symmetry") in ("fcc", "bcc", "hcp", "diamond"):
            crystals.append(bulk(symbol, orthorhombic=True) if state["symmetry"] == "hcp" else _cubic(symbol))
    return crystals


def _cubic(symbol: str) -> Atoms:
    return bulk(symbol, cubic=True)


def _bonded(symbols: Sequence[str]) -> Atoms:
    pairs = list(combinations(symbols, 2)) or [(symbols[0], symbols[0])]
    first, second = pairs[0]
    bond = covalent_radii[atomic_numbers[first]] + covalent_radii[atomic_numbers[second]]
    return bulk(first + second, "rocksalt", a=2.2 * bond, cubic=True)


def _cover(found: Sequence[Atoms]) -> list[Atoms]:
    """Greedy choice: each next structure is the one with most elements not seen yet."""
    chosen: list[Atoms] = []
    seen: set[str] = set()
    rest = list(found)
    while rest and len(chosen) < _MOST:
        best = max(rest, key=lambda atoms: len(set(atoms.symbols) - seen))
        if chosen and not set(best.symbols) - seen:
            break
        chosen.append(best)
        seen |= set(best.symbols)
        rest = [atoms for atoms in rest if atoms is not best]
    return chosen
