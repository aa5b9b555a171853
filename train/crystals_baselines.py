"""Crystals of given compositions that no model made: what a match is worth."""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, Unpack

import numpy as np
from ase import Atoms

from atomml.crystals.evaluate.equality import Work
from atomml.parallel import Outcome, map_structures
from atomml.shapes import Int64, ndarray

GROUPS = 60
"""Space groups that are tried for a crystal before it counts as failed."""


class Numbered(NamedTuple):
    """A crystal whose composition is wanted, and its row."""

    row: int
    atoms: Atoms


def random_cell(one: Numbered, volume: float, seed: int) -> Atoms:
    """Atoms at random in a cube with the mean volume per atom of the training crystals."""
    rng = np.random.default_rng((seed, one.row))
    edge = (volume * len(one.atoms)) ** (1 / 3)
    places = rng.random((len(one.atoms), 3))
    return Atoms(one.atoms.numbers, scaled_positions=places, cell=[edge] * 3, pbc=True)


def symmetric(one: Numbered, seed: int) -> Atoms:
    """A random crystal of PyXtal: of space groups in random order the first that it can make.

    Raises:
        RuntimeError: it can make none of `GROUPS`.
    """
    from pyxtal import pyxtal  # type: ignore[import-untyped]
    from pyxtal.msg import Error  # type: ignore[import-untyped]

    rng = np.random.default_rng((seed, one.row))
    counts = Counter(one.atoms.get_chemical_symbols())
    for group in rng.permutation(np.arange(1, 231))[:GROUPS].tolist():
        crystal = pyxtal()
        try:
            crystal.from_random(3, group, [*counts], [*counts.values()], conventional=False, random_state=rng)
            atoms = crystal.to_ase()
        except (Error, RuntimeError, ValueError):
            continue
        return Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
    raise RuntimeError(f"none of {GROUPS} space groups")


def exchanged(one: Numbered, templates: Sequence[Atoms], seed: int) -> Atoms:
    """A random training crystal with the same numbers of atoms of each kind, with these elements in its places.

    Raises:
        LookupError: there is no such training crystal.
    """
    rng = np.random.default_rng((seed, one.row))
    if not templates:
        raise LookupError("no training crystal with such a composition")
    template = templates[int(rng.integers(len(templates)))]
    pairs = zip(_by_count(template.numbers, rng), _by_count(one.atoms.numbers, rng), strict=True)
    places = dict(pairs)
    numbers = [places[z] for z in template.numbers.tolist()]
    return Atoms(numbers, positions=template.positions, cell=template.cell, pbc=True)


def baselines(
    wanted: Sequence[Atoms], training: Sequence[Atoms], *, seed: int = 0, **work: Unpack[Work]
) -> dict[str, list[Outcome[Atoms]]]:
    """Name → a crystal for each wanted composition, or why there is none.

    Args:
        wanted: crystals whose compositions are wanted.
        training: crystals that are known.
        seed: of the random numbers.
        **work: of PyXtal, see `map_structures`.
    """
    volume = float(np.mean([atoms.cell.volume / len(atoms) for atoms in training]))
    items = [Numbered(row, atoms) for row, atoms in enumerate(wanted)]
    templates = defaultdict(list)
    for atoms in training:
        templates[_kind(atoms)].append(atoms)
    found = {
        "random cell": map_structures(partial(random_cell, volume=volume, seed=seed), items),
        "other elements": [
            map_structures(
                partial(exchanged, templates=templates.get(_kind(one.atoms), ()), seed=seed), [one]
            )[0]
            for one in items
        ],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return found | {"PyXtal": map_structures(partial(symmetric, seed=seed), items, **work)}


def _kind(atoms: Atoms) -> tuple[int, ...]:
    """Numbers of atoms of the elements, ascending: (1, 1, 3) for a perovskite."""
    return tuple(sorted(Counter(atoms.numbers.tolist()).values()))


def _by_count(numbers: Int64[ndarray, " atoms"], rng: np.random.Generator) -> list[int]:
    """The elements by their number of atoms, those with the same number in random order."""
    elements, counts = np.unique(numbers, return_counts=True)
    return elements[np.lexsort((rng.random(len(counts)), counts))].tolist()
