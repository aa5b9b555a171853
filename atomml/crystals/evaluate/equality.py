"""Which crystals are the same: pymatgen's StructureMatcher on buckets that lose no match."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict, TypeVar, Unpack

import numpy as np
from ase import Atoms

from atomml.parallel import Outcome, map_structures
from atomml.shapes import Float64, Int64, ndarray

__all__ = [
    "EQUALITY",
    "FormulaKey",
    "Reduced",
    "Tolerances",
    "Work",
    "equal_pairs",
    "formula_key",
    "map_present",
    "reduce_structures",
    "structure_of",
]

Item = TypeVar("Item")
Result = TypeVar("Result")
FormulaKey = tuple[tuple[int, int], ...]
AT_ONCE = 32  # comparisons of one structure in one piece of work


class Work(TypedDict, total=False):
    """How work is shared out, see `map_structures`.

    Attributes:
        workers: processes.
        timeout: seconds for one structure or one pair of structures.
        executor: another place to work.
    """

    workers: int
    timeout: float | None
    executor: Executor | None


@dataclass(frozen=True)
class Tolerances:
    """Of pymatgen's StructureMatcher; the defaults are pymatgen's.

    Attributes:
        stol: of a site, in units of (V/N)^(1/3).
        ltol: relative, of a lattice vector.
        angle_tol: of a lattice angle, degrees.
    """

    stol: float = 0.3
    ltol: float = 0.2
    angle_tol: float = 5.0

    def matcher(self) -> Any:
        """The StructureMatcher: primitive cells, scaled to one volume, elements must agree."""
        from pymatgen.analysis.structure_matcher import StructureMatcher

        return StructureMatcher(stol=self.stol, ltol=self.ltol, angle_tol=self.angle_tol)


EQUALITY = Tolerances()


class Reduced(NamedTuple):
    """The primitive, Niggli-reduced cell of a crystal, as StructureMatcher compares it."""

    numbers: Int64[ndarray, " sites"]
    fractional: Float64[ndarray, "sites 3"]
    cell: Float64[ndarray, "3 3"]

    @property
    def bucket(self) -> tuple[FormulaKey, int]:
        """Reduced formula and number of sites; crystals that differ in it never match."""
        return formula_key(self.numbers), len(self.numbers)

    @property
    def volume_per_atom(self) -> float:
        """In Å³."""
        return abs(float(np.linalg.det(self.cell))) / len(self.numbers)

    def structure(self) -> Any:
        """As a pymatgen Structure."""
        from pymatgen.core import Structure

        return Structure(self.cell, self.numbers, self.fractional)


def formula_key(numbers: Sequence[int] | ndarray) -> FormulaKey:
    """The reduced formula as sorted (atomic number, count) without a common factor."""
    elements, counts = np.unique(np.asarray(numbers, dtype=np.int64), return_counts=True)
    factor = math.gcd(*counts.tolist()) if len(counts) else 1
    return tuple(zip(elements.tolist(), (counts // factor).tolist(), strict=True))


def structure_of(atoms: Atoms) -> Any:
    """A pymatgen Structure of the same cell, elements and positions, and nothing else."""
    from pymatgen.core import Structure

    return Structure(atoms.cell.array, atoms.numbers, atoms.get_scaled_positions(wrap=False))


def _reduce(atoms: Atoms) -> Reduced:
    # the two steps of StructureMatcher, once for each structure instead of once for each pair
    found = structure_of(atoms).get_reduced_structure(reduction_algo="niggli").get_primitive_structure()
    return Reduced(
        np.array(found.atomic_numbers, dtype=np.int64),
        np.array(found.frac_coords),
        np.array(found.lattice.matrix),
    )


def map_present(
    function: Callable[[Item], Result], items: Sequence[Item | None], **work: Unpack[Work]
) -> list[Outcome[Result]]:
    """`map_structures` where some items may be missing: these have the error "no structure"."""
    found = iter(map_structures(function, [item for item in items if item is not None], **work))
    return [Outcome(None, "no structure", 0.0) if item is None else next(found) for item in items]


def reduce_structures(structures: Sequence[Atoms | None], **work: Unpack[Work]) -> list[Outcome[Reduced]]:
    """`Reduced` of each structure; what cannot be reduced (no volume, not finite) has an error."""
    return map_present(_reduce, structures, **work)


class _Row(NamedTuple):
    """Crystals ``others`` to be compared with ``one``."""

    one: Reduced
    others: list[Reduced]
    tolerances: Tolerances


def _equal(row: _Row) -> list[bool]:
    matcher, one = row.tolerances.matcher(), row.one.structure()
    return [bool(matcher.fit(other.structure(), one, skip_structure_reduction=True)) for other in row.others]


def equal_pairs(
    pairs: Iterable[tuple[int, int]],
    left: Mapping[int, Reduced] | Sequence[Reduced],
    right: Mapping[int, Reduced] | Sequence[Reduced],
    *,
    tolerances: Tolerances = EQUALITY,
    **work: Unpack[Work],
) -> dict[tuple[int, int], bool | str]:
    """Whether ``left[i]`` and ``right[j]`` are the same crystal, for each pair (i, j); a text says why it failed.

    Comparisons of one structure are made together. When they fail or take too long, each is made again alone, so
    that the time limit is that of a pair and one bad pair spoils no other.
    """
    rows: dict[int, list[int]] = defaultdict(list)
    for i, j in pairs:
        rows[i].append(j)
    pieces = [
        (i, js[first : first + AT_ONCE]) for i, js in rows.items() for first in range(0, len(js), AT_ONCE)
    ]
    found: dict[tuple[int, int], bool | str] = {}
    while pieces:
        items = [_Row(left[i], [right[j] for j in js], tolerances) for i, js in pieces]
        again = []
        for (i, js), outcome in zip(pieces, map_structures(_equal, items, **work), strict=True):
            if outcome.value is not None:
                found |= {(i, j): same for j, same in zip(js, outcome.value, strict=True)}
            elif len(js) == 1:
                found[i, js[0]] = outcome.error or "no answer"
            else:
                again += [(i, [j]) for j in js]
        pieces = again
    return found
