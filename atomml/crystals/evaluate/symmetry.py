"""Space groups of crystals, at a loose and at a tight tolerance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Unpack

from ase import Atoms

from atomml._optional import installed
from atomml.crystals.evaluate.equality import Work, map_present
from atomml.crystals.evaluate.shares import reasons, share
from atomml.errors import DataError

__all__ = ["SYMPRECS", "SpaceGroup", "Symmetries", "crystal_system", "space_group", "space_groups"]

SYMPRECS = (0.1, 0.01)
# first space group of each system (International Tables A)
SYSTEMS = {
    195: "cubic",
    168: "hexagonal",
    143: "trigonal",
    75: "tetragonal",
    16: "orthorhombic",
    3: "monoclinic",
    1: "triclinic",
}


class SpaceGroup(NamedTuple):
    """Number in the International Tables and short Hermann-Mauguin symbol."""

    number: int
    symbol: str

    def __str__(self) -> str:
        return f"{self.number} {self.symbol}"

    @property
    def system(self) -> str:
        """The crystal system."""
        return crystal_system(self.number)


def crystal_system(number: int) -> str:
    """The crystal system of a space group."""
    return next(name for first, name in SYSTEMS.items() if number >= first)


def space_group(atoms: Atoms, symprec: float = 0.01) -> SpaceGroup:
    """The space group by spglib, or by moyopy (where it is installed) when spglib finds none.

    Args:
        atoms: a crystal.
        symprec: how far atoms may be from symmetric positions, Å.

    Raises:
        DataError: neither finds one (atoms too close, no volume).
    """
    import spglib

    fractional = atoms.cell.scaled_positions(atoms.positions)
    # newer versions of spglib raise where older ones return None
    try:
        found = spglib.get_symmetry_dataset((atoms.cell.array, fractional, atoms.numbers), symprec=symprec)
        why = "no symmetry found"
    except Exception as problem:
        found, why = None, str(problem)
    if found is not None:
        return SpaceGroup(int(found.number), str(found.international))
    if installed("moyopy"):
        import moyopy

        cell = moyopy.Cell(atoms.cell.array.tolist(), fractional.tolist(), atoms.numbers.tolist())
        try:
            number = moyopy.MoyoDataset(cell, symprec=symprec).number
        except Exception as problem:
            why += f"; moyopy: {problem}"
        else:
            return SpaceGroup(number, moyopy.SpaceGroupType(number).hm_short.replace(" ", ""))
    raise DataError(f"No space group at {symprec:g} Å ({why}).", where=atoms.get_chemical_formula())


@dataclass(frozen=True)
class Symmetries:
    """Space groups of n crystals.

    Attributes:
        symprecs: tolerances, Å.
        groups: for each tolerance that of each crystal, or a text that says why there is none.
    """

    symprecs: tuple[float, ...]
    groups: tuple[tuple[SpaceGroup | str, ...], ...]

    def metrics(self) -> dict[str, Any]:
        """By tolerance: the share of P1, the number of crystals of each space group and system, the failures."""
        found = {}
        for symprec, groups in zip(self.symprecs, self.groups, strict=True):
            named = [g for g in groups if isinstance(g, SpaceGroup)]
            found[f"{symprec:g}"] = {
                "p1": share(sum(g.number == 1 for g in named), len(groups)),
                "unknown": share(len(groups) - len(named), len(groups)),
                "space_groups": dict(Counter(str(g) for g in named).most_common()),
                "systems": dict(Counter(g.system for g in named).most_common()),
                "errors": reasons(g for g in groups if isinstance(g, str)),
            }
        return found


def space_groups(
    structures: Sequence[Atoms | None], symprecs: Sequence[float] = SYMPRECS, **work: Unpack[Work]
) -> Symmetries:
    """`space_group` of every crystal at every tolerance; a failure is an error of that crystal alone.

    Args:
        structures: None: unknown.
        symprecs: Å.
        **work: ``workers``, ``timeout`` (seconds of a structure), ``executor``.
    """
    outcomes = map_present(partial(_at_tolerances, symprecs=tuple(symprecs)), structures, **work)
    table = [outcome.value or [str(outcome.error)] * len(symprecs) for outcome in outcomes]
    return Symmetries(tuple(symprecs), tuple(tuple(row[k] for row in table) for k in range(len(symprecs))))


def _at_tolerances(atoms: Atoms, symprecs: tuple[float, ...]) -> list[SpaceGroup | str]:
    found: list[SpaceGroup | str] = []
    for symprec in symprecs:
        try:
            found.append(space_group(atoms, symprec))
        except DataError as problem:
            found.append(problem.what)
    return found
