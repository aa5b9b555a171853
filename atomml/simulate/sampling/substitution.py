"""Isovalent substitution: other elements of the same charge on the same sites, the cell scaled by ionic radii."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from atomml.errors import ConfigError, DataError
from atomml.shapes import Int64, ndarray

__all__ = ["HALOGENS", "Variant", "check_species", "ion_charge", "ionic_radius", "scaled_to", "variants"]

HALOGENS = frozenset({9, 17, 35, 53, 85})
# Charges of ions whose element has several; all other elements with one common state have that one.
_CHARGES = {
    **dict.fromkeys(("F", "Cl", "Br", "I"), -1),
    **dict.fromkeys(("O", "S", "Se", "Te"), -2),
    **dict.fromkeys(("H", "Ag"), 1),
}
_COORDINATION = ("VI", "IV", "VIII", "V", "VII", "IX", "X", "XII", "III", "II")


class Variant(NamedTuple):
    """A structure and what was replaced to make it.

    Attributes:
        atoms: the structure.
        substitution: "Cl>Br", several joined by commas, "Cl>Br:3+Cl:5" for shared sites; empty if nothing was.
        halide: whether a halogen was replaced.
    """

    atoms: Atoms
    substitution: str
    halide: bool


def ion_charge(symbol: str, charges: Mapping[str, int]) -> int:
    """Charge of the ion: as stated, else the known or only common one.

    Raises:
        ConfigError: an unknown element, or one with several charges that is not stated.
    """
    from pymatgen.core import Element

    if symbol not in atomic_numbers or symbol == "X":
        raise ConfigError(f"{symbol!r} is not an element.", where="substitution")
    if symbol in charges:
        return charges[symbol]
    if symbol in _CHARGES:
        return _CHARGES[symbol]
    common = Element(symbol).common_oxidation_states
    if len(common) == 1:
        return int(common[0])
    listed = ", ".join(map(str, common)) or "none known"
    raise ConfigError(
        f"{symbol} has not one charge but several ({listed}).",
        where="substitution.charges",
        fix=f"state it: charges: {{{symbol}: {common[0] if common else 2}}}",
    )


def ionic_radius(symbol: str, charge: int) -> float:
    """Shannon's effective ionic radius in Å (Acta Cryst. A 32, 751, 1976), as tabulated in pymatgen.

    Coordination number 6 where there is one, high spin where there is a choice.

    Raises:
        DataError: no radius of that ion.
    """
    from pymatgen.core import Element

    table = Element(symbol).data.get("Shannon radii", {}).get(str(charge), {})
    for coordination in _COORDINATION:
        for spin in ("", "High Spin"):
            entry = table.get(coordination, {}).get(spin)
            if entry is not None:
                return float(entry["ionic_radius"])
    raise DataError(
        f"There is no ionic radius of {symbol} with the charge {charge:+d}.",
        where="substitution",
        fix="state another charge in substitution.charges, or leave the element out",
    )


def check_species(species: Sequence[Sequence[str]], charges: Mapping[str, int]) -> None:
    """Refuse sets whose elements have different charges or occur twice.

    Raises:
        ConfigError: names the elements.
    """
    seen: set[str] = set()
    for group in species:
        found = {symbol: ion_charge(symbol, charges) for symbol in group}
        if len(set(found.values())) > 1:
            listed = ", ".join(f"{s} {q:+d}" for s, q in found.items())
            raise ConfigError(
                f"The elements of a set have different charges ({listed}).",
                where="substitution.species",
                fix="put only elements of one charge into a set, or state substitution.charges",
            )
        twice = (seen & set(group)) | {s for s in group if list(group).count(s) > 1}
        if twice:
            raise ConfigError(f"{', '.join(sorted(twice))} occurs twice.", where="substitution.species")
        seen |= set(group)


def variants(
    atoms: Atoms,
    species: Sequence[Sequence[str]],
    charges: Mapping[str, int],
    *,
    number: int | None,
    mixed: int,
    rng: np.random.Generator,
) -> list[Variant]:
    """The structure itself, then its substituted versions.

    Args:
        atoms: left unchanged.
        species: sets of elements, see `check_species`.
        charges: stated charges.
        number: how many versions with whole elements replaced; None: all.
        mixed: how many versions in which two elements of a set share sites at random, the rest replaced at random.
        rng: of both choices.
    """
    present = list(dict.fromkeys(atoms.symbols))
    group_of = {s: list(group) for s in present for group in species if s in group}
    found = [Variant(atoms.copy(), "", False)]
    if not group_of:
        return found
    choices = [group_of.get(s, [s]) for s in present]
    maps = [dict(zip(present, targets, strict=True)) for targets in product(*choices)]
    maps = [m for m in maps if any(a != b for a, b in m.items())]
    if number is not None and number < len(maps):
        maps = [maps[k] for k in sorted(rng.choice(len(maps), number, replace=False))]
    for replaced in maps:
        numbers = np.array([atomic_numbers[replaced[s]] for s in atoms.symbols])
        text = ",".join(f"{a}>{b}" for a, b in replaced.items() if a != b)
        found.append(_variant(atoms, numbers, text, charges))
    sources = [s for s in group_of if list(atoms.symbols).count(s) > 1 and len(group_of[s]) > 1]
    for _ in range(mixed if sources else 0):
        numbers, text = _shared(atoms, group_of, sources, rng)
        found.append(_variant(atoms, numbers, text, charges))
    return found


def _shared(
    atoms: Atoms, group_of: Mapping[str, list[str]], sources: Sequence[str], rng: np.random.Generator
) -> tuple[Int64[ndarray, " atoms"], str]:
    """Numbers with the sites of one element shared by two of its set, and the other elements replaced at random."""
    # by number of sites: two sites can be shared in one way only
    share = np.array([np.sum(atoms.symbols == s) for s in sources], dtype=np.float64)
    shared = sources[int(rng.choice(len(sources), p=share / share.sum()))]
    numbers, texts = np.array(atoms.numbers), []
    for source, group in group_of.items():
        sites = np.flatnonzero(atoms.symbols == source)
        if source != shared:
            target = group[int(rng.integers(len(group)))]
            numbers[sites] = atomic_numbers[target]
            texts += [f"{source}>{target}"] if target != source else []
            continue
        first, second = (group[k] for k in sorted(rng.choice(len(group), 2, replace=False)))
        count = int(rng.integers(1, len(sites)))
        numbers[sites] = atomic_numbers[second]
        numbers[rng.choice(sites, count, replace=False)] = atomic_numbers[first]
        texts.append(f"{source}>{first}:{count}+{second}:{len(sites) - count}")
    return numbers, ",".join(texts)


def _variant(atoms: Atoms, numbers: ndarray, text: str, charges: Mapping[str, int]) -> Variant:
    changed = np.flatnonzero(numbers != atoms.numbers)
    halide = bool(set(atoms.numbers[changed].tolist()) & HALOGENS)
    return Variant(scaled_to(atoms, numbers, charges), text, halide)


def scaled_to(atoms: Atoms, numbers: ndarray, charges: Mapping[str, int]) -> Atoms:
    """``atoms`` with other elements on its sites and the lengths scaled by the ratio of typical bonds.

    A typical bond is the mean radius of the cations plus that of the anions (of the atoms of each kind).
    """
    new = atoms.copy()
    new.numbers = np.asarray(numbers)
    scale = _bond(new, charges) / _bond(atoms, charges)
    if atoms.cell.rank == 3:
        new.set_cell(atoms.cell.array * scale, scale_atoms=True)
    else:
        new.positions = atoms.positions * scale
    return new


def _bond(atoms: Atoms, charges: Mapping[str, int]) -> float:
    kinds: dict[bool, list[float]] = {True: [], False: []}
    known = {s: ion_charge(s, charges) for s in dict.fromkeys(atoms.symbols)}
    radii = {s: ionic_radius(s, q) for s, q in known.items()}
    for symbol in atoms.symbols:
        kinds[known[symbol] > 0].append(radii[symbol])
    return float(sum(np.mean(found) for found in kinds.values() if found))
