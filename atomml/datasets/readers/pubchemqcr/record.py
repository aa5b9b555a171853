"""One molecule of PubChemQCR: which steps of its relaxation are used, and why the others are not.

The rules are those of the published data, in their order, so that the same steps and molecules remain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, Literal, NamedTuple

import numpy as np
from ase.data import chemical_symbols
from jaxtyping import UInt8

from atomml.datasets.frame import Skipped
from atomml.errors import DataError
from atomml.shapes import Float64, ndarray

__all__ = ["LISTS", "MOLECULE_OF_OTHER_ATOMS", "STEP_OF_OTHER_ATOMS", "Stage", "Step", "steps_of"]

Stage = Literal["pm3", "hf", "1st", "1st_smash", "2nd", "mixing"]

LISTS: dict[str, tuple[str, ...]] = {
    "pm3": ("pm3",),
    "hf": ("hf",),
    "1st": ("DFT_1st",),
    "1st_smash": ("DFT_1st",),
    "2nd": ("DFT_2nd",),
    "mixing": ("DFT_1st", "DFT_2nd"),
}
STEP_OF_OTHER_ATOMS = "step: the atoms of the gradient are not those of the coordinates, or in another order"
MOLECULE_OF_OTHER_ATOMS = "molecule: only steps with a gradient of other atoms"
LARGEST = 1e100  # beyond it is as good as infinite, and would become so in eV
NOT_SMASH = "step: not computed with SMASH"
_ATOM, _XYZ, _DXYZ = itemgetter("atom"), itemgetter("x", "y", "z"), itemgetter("dx", "dy", "dz")
_NUMBERS = {symbol.upper(): z for z, symbol in enumerate(chemical_symbols) if z > 0}
_STEP_KEYS, _ATOM_KEYS = {"coordinates", "energy", "gradient"}, {"atom", "charge", "x", "y", "z"}


class Step(NamedTuple):
    """One usable step, in the units of the source.

    Attributes:
        list_name: the list it is in (``DFT_1st``).
        number: its place in that list, from 0.
        numbers: atomic numbers [N].
        positions: Å [N, 3].
        energy: Hartree.
        gradient: dE/dx, Hartree/Bohr [N, 3].
        smash: computed with SMASH (its atoms have no ``charge``).
        last: the reference step: the last one that has an energy.
    """

    list_name: str
    number: int
    numbers: UInt8[ndarray, " atoms"]
    positions: Float64[ndarray, "atoms 3"]
    energy: float
    gradient: Float64[ndarray, "atoms 3"]
    smash: bool
    last: bool


def steps_of(record: Any, stage: Stage, where: str, unread: Counter[str]) -> Iterator[Step | Skipped]:
    """Usable steps of a molecule in their order, and what was left out.

    A step is used if it has coordinates, an energy and a gradient, as many atoms in both as the reference step
    (the last one with an energy; for ``mixing`` that of DFT_2nd if there is one), finite numbers, known elements,
    and the same atoms in coordinates and gradient.

    Args:
        record: the decoded value.
        stage: see `LISTS`.
        where: file and molecule.
        unread: counts keys that are not used.

    Raises:
        DataError: the record has another layout.
    """
    if not isinstance(record, dict):
        raise _layout(f"it is {type(record).__name__}, not a dict", where)
    names = LISTS[stage]
    unread.update(str(key) for key, value in record.items() if key not in names and not _empty(value))
    steps: list[tuple[str, int, dict[str, Any]]] = []
    absent = {name: _absent(record, name) for name in names if _empty(record.get(name))}
    for name in names:
        if name not in absent:
            steps += _checked(record[name], name, where)
    if len(absent) == len(names):
        yield Skipped(where, "molecule: " + ", ".join(absent.values()))
        return
    for reason in absent.values():
        yield Skipped(where, f"stage: {reason}")
    if stage == "1st_smash":
        others = [entry for entry in steps if not _is_smash(entry[2])]
        yield from (Skipped(f"{where}, {name} step {k}", NOT_SMASH) for name, k, _ in others)
        steps = [entry for entry in steps if _is_smash(entry[2])]
    if steps:
        yield from _usable(steps, where, unread)
    else:
        yield Skipped(where, "molecule: not computed with SMASH")


def _empty(value: Any) -> bool:
    return value is None or (hasattr(value, "__len__") and len(value) == 0)


def _absent(record: Mapping[str, Any], name: str) -> str:
    state = "missing" if name not in record else "None" if record[name] is None else "empty"
    return f"{name} is {state}"


def _layout(what: str, where: str) -> DataError:
    return DataError(
        f"This is not a PubChemQCR record: {what}.",
        where=where,
        fix="check the file; skip_bad_records: true leaves such molecules out and counts them",
    )


def _checked(found: Any, name: str, where: str) -> list[tuple[str, int, dict[str, Any]]]:
    if not isinstance(found, list | tuple) or not all(isinstance(step, dict) for step in found):
        raise _layout(f"{name} is not a list of steps", where)
    for k, step in enumerate(found):
        for key in ("coordinates", "gradient"):
            atoms = step.get(key)
            if _empty(atoms):
                continue
            if not isinstance(atoms, list | tuple) or not all(isinstance(a, dict) for a in atoms):
                raise _layout(f"{key} of {name} step {k} is not a list with one dict per atom", where)
    return [(name, k, step) for k, step in enumerate(found)]


def _is_smash(step: Mapping[str, Any]) -> bool:
    return not _empty(step.get("coordinates")) and "charge" not in step["coordinates"][0]


def _usable(
    steps: list[tuple[str, int, dict[str, Any]]], where: str, unread: Counter[str]
) -> Iterator[Step | Skipped]:
    reference = next((k for k in reversed(range(len(steps))) if steps[k][2].get("energy") is not None), None)
    if reference is None:
        yield Skipped(where, "molecule: no step has an energy")
        return
    n_atoms = len(steps[reference][2].get("coordinates") or ())
    used, reasons = 0, set()
    for k, (name, number, step) in enumerate(steps):
        unread.update(key for key in step if key not in _STEP_KEYS)
        at = f"{where}, {name} step {number}"
        reason = _unusable(step, n_atoms)
        decoded = _decode(step, at) if reason is None else reason
        if isinstance(decoded, str):
            reasons.add(decoded)
            yield Skipped(at, decoded)
            continue
        used += 1
        unread.update(key for key in step["coordinates"][0] if key not in _ATOM_KEYS)
        yield Step(name, number, *decoded, _is_smash(step), k == reference)
    if used == 0:
        other = STEP_OF_OTHER_ATOMS in reasons
        yield Skipped(where, MOLECULE_OF_OTHER_ATOMS if other else "molecule: no step is usable")


def _unusable(step: Mapping[str, Any], n_atoms: int) -> str | None:
    coordinates: Any = step.get("coordinates")
    gradient: Any = step.get("gradient")
    if _empty(coordinates):
        return "step: no coordinates"
    if step.get("energy") is None:
        return "step: no energy"
    if _empty(gradient):
        return "step: no gradient"
    if len(coordinates) != n_atoms:
        return "step: another number of atoms than the reference step"
    if len(gradient) != n_atoms:
        return "step: another number of atoms in the gradient than in the coordinates"
    return None


def _decode(step: Mapping[str, Any], where: str) -> tuple[ndarray, ndarray, float, ndarray] | str:
    """Numbers, positions, energy and gradient, or why the step cannot be used."""
    coordinates, gradient = step["coordinates"], step["gradient"]
    try:
        positions = np.array(list(map(_XYZ, coordinates)), dtype=np.float64)
        slopes = np.array(list(map(_DXYZ, gradient)), dtype=np.float64)
        energy = float(step["energy"])
        symbols = list(map(_ATOM, coordinates))
        numbers = [_NUMBERS.get(s) or _NUMBERS.get(s.upper(), 0) for s in symbols]
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise _layout(
            f"an atom or number of it cannot be read ({type(error).__name__}: {error})", where
        ) from error
    if positions.shape != slopes.shape or positions.shape != (len(coordinates), 3):
        raise _layout("a coordinate is not one number", where)
    if not all(np.abs(values).max() < LARGEST for values in (positions, slopes, energy)):  # NaN is not less
        return "step: a number is NaN or infinite"
    if not all(numbers):
        return f"step: unknown element {str(symbols[numbers.index(0)])[:12]!r}"
    named = [atom.get("atom") for atom in gradient]
    if named != symbols and not _same_atoms(named, symbols):
        return STEP_OF_OTHER_ATOMS
    return np.array(numbers, dtype=np.uint8), positions, energy, slopes


def _same_atoms(named: Sequence[Any], symbols: Sequence[str]) -> bool:
    return all(str(a).upper() == b.upper() for a, b in zip(named, symbols, strict=True))
