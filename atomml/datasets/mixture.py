"""Several sets as one: energies of different levels of theory moved onto one table of reference energies."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from atomml.datasets.references import ReferenceEnergies, null_space
from atomml.datasets.store import CHUNK, FrameStore
from atomml.shapes import Float64, Int64, ndarray

__all__ = ["AlignedStore", "Alignment", "align_energies", "align_labels", "energy_shifts"]

Sets = Mapping[str, tuple[FrameStore, Int64[ndarray, " rows"]]]
Shift = Mapping[int, float]


@dataclass(frozen=True, eq=False)
class AlignedStore(FrameStore):
    """A store whose energies are shifted and of which some labels are ignored; the columns are those of ``base``.

    Attributes:
        base: the store itself, which other processes open in its place.
        shift: eV added for every atom, by atomic number.
        ignored: of ``energy``, ``forces``, ``stress``.
    """

    base: FrameStore | None = None
    shift: Shift = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return align_labels, (self.base, self.shift, self.ignored)


def align_labels(store: FrameStore, shift: Shift, ignored: Collection[str] = ()) -> FrameStore:
    """``store`` with energies E + Σ_i shift(z_i) and NaN for the labels ``ignored``; only energies are copied.

    A frame with an element that ``shift`` lacks has no energy.
    """
    if not ignored and not any(shift.values()):
        return store
    columns = {f.name: getattr(store, f.name) for f in fields(FrameStore)}
    columns["folder"] = None
    columns["energy"] = store.energy + energy_shifts(store, shift)
    for name in ignored:
        columns[name] = np.broadcast_to(np.nan, getattr(store, name).shape)
    aligned = AlignedStore(**columns, base=store, shift=dict(shift), ignored=tuple(ignored))
    if "forces" not in ignored:
        aligned.__dict__["index"] = store.index
    else:
        absent = np.full(len(store), np.nan)
        aligned.__dict__["index"] = replace(store.index, max_force=absent)
    return aligned


def energy_shifts(store: FrameStore, shift: Shift) -> Float64[ndarray, " frames"]:
    """Σ_i shift(z_i) of every frame, eV; NaN where ``shift`` lacks an element. An empty ``shift`` is zero."""
    out = np.zeros(len(store))
    if not shift:
        return out
    table = np.full(256, np.nan)
    table[list(shift)] = list(shift.values())
    for first in range(0, len(store), CHUNK):
        stop = min(first + CHUNK, len(store))
        begin, end = int(store.offsets[first]), int(store.offsets[stop])
        starts = np.asarray(store.offsets[first:stop]) - begin
        out[first:stop] = np.add.reduceat(table[store.numbers[begin:end]], starts)
    return out


@dataclass(frozen=True)
class Alignment:
    """How the energies of several sets were brought onto one table.

    Attributes:
        model: reference energies of the model: those of the reference set, and of the first other set that has
            them for elements which the reference set lacks.
        own: reference energies of each set.
        shifts: eV that is added to the energies of a set for every atom; empty where they are used as they are.
        notes: what the user should know, in sentences.
    """

    model: ReferenceEnergies
    own: dict[str, ReferenceEnergies]
    shifts: dict[str, dict[int, float]]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON form; floats survive to the last digit."""
        return {
            "model": self.model.to_dict(),
            "own": {name: own.to_dict() for name, own in self.own.items()},
            "shifts": {
                name: {chemical_symbols[z]: e for z, e in shift.items()}
                for name, shift in self.shifts.items()
            },
            "notes": list(self.notes),
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Alignment:
        """Inverse of `to_dict`."""
        return Alignment(
            ReferenceEnergies.from_dict(data["model"]),
            {name: ReferenceEnergies.from_dict(own) for name, own in data["own"].items()},
            {
                name: {chemical_symbols.index(s): float(e) for s, e in shift.items()}
                for name, shift in data["shifts"].items()
            },
            tuple(data["notes"]),
        )


def align_energies(sets: Sets, references: Mapping[str, ReferenceEnergies], reference_set: str) -> Alignment:
    """Shift of every set's energies onto the reference energies of ``reference_set``.

    E' = E + Σ_i [E0_reference(z_i) − E0_set(z_i)], so that in both sets E' − Σ E0_reference is the energy above
    the set's own references. A set whose references have the method ``none`` is not shifted.

    Args:
        sets: store and training rows of each set.
        references: of each set.
        reference_set: the set that stays as it is.

    Raises:
        DataError: a set has an element without a reference energy of its own.
    """
    model = dict(references[reference_set].energies)
    for name, (store, rows) in sets.items():
        own, elements = references[name], store.elements(rows)
        missing = [z for z in elements if z not in model]
        if own.method != "none":
            own.require(elements, where=f"set {name!r}")
            model |= {z: own.energies[z] for z in missing}
        elif missing and references[reference_set].method == "none":
            model |= dict.fromkeys(missing, 0.0)
        elif missing:
            model |= _fit_missing(store, rows, model, missing)
    shifts = {
        name: {}
        if name == reference_set or own.method == "none"
        else {z: model[z] - e for z, e in own.energies.items() if z in model}
        for name, own in references.items()
    }
    table = replace(references[reference_set], energies=model)
    notes = [note for name in sets for note in _notes(name, sets, references, reference_set, model)]
    return Alignment(table, dict(references), shifts, tuple(notes))


def _fit_missing(
    store: FrameStore, rows: ndarray, known: Mapping[int, float], missing: list[int]
) -> dict[int, float]:
    """Least-squares E0 of the elements ``missing``, with those in ``known`` held; 0 without energies."""
    elements, counts = store.element_counts(rows)
    energy = np.asarray(store.energy[rows])
    used = np.isfinite(energy)
    if not used.any():
        return dict.fromkeys(missing, 0.0)
    held = np.array([known.get(z, 0.0) for z in elements])
    n = counts[used].sum(axis=1)
    target = (energy[used] - counts[used] @ held) / n
    columns = [elements.index(z) for z in missing]
    solution, *_ = np.linalg.lstsq(counts[used][:, columns] / n[:, None], target, rcond=1e-10)
    return {z: float(e) for z, e in zip(missing, solution, strict=True)}


def _notes(
    name: str,
    sets: Sets,
    references: Mapping[str, ReferenceEnergies],
    reference_set: str,
    model: Mapping[int, float],
) -> list[str]:
    own, primary = references[name], references[reference_set]
    if name == reference_set:
        return []
    notes = []
    new = sorted(set(sets[name][0].elements(sets[name][1])) - set(primary.energies))
    if new:
        notes.append(f"{reference_set} has no {_symbols(new)}: E0 of {_symbols(new)} is that of {name}.")
    levels = [_levels(sets[key][0]) for key in (reference_set, name)]
    if own.method == "none":
        if all(levels) and levels[0] != levels[1]:
            notes.append(
                f"{name} ({', '.join(sorted(levels[1]))}) is used without a shift beside {reference_set} "
                f"({', '.join(sorted(levels[0]))}): give it references, unless their energies are comparable."
            )
        return notes
    if own.method == "least_squares":
        notes.append(
            f"The energies of {name} were aligned by least squares: its mean energy at each composition is lost "
            f"as far as it is linear in the composition (formation energies, heat of a hotter set against "
            f"{reference_set}); what remains are energy differences within the set."
        )
        if all(levels) and levels[0] == levels[1]:
            notes.append(f"{name} and {reference_set} state the same level of theory: use references: none.")
    undecided = _undecided_frames(sets, name, reference_set)
    if primary.rank_deficient and undecided:
        notes.append(
            f"{undecided} training frames of {name} have compositions for which the reference energies of "
            f"{reference_set} are not determined: their energy relative to {reference_set} is arbitrary "
            f"(minimum norm). Isolated atoms or a table would decide it."
        )
    return notes


def _undecided_frames(sets: Sets, name: str, reference_set: str) -> int:
    """Training frames of a set outside the span of the compositions of the reference set."""
    elements, counts = sets[reference_set][0].element_counts(sets[reference_set][1])
    null = null_space(counts / counts.sum(axis=1)[:, None])
    theirs, wanted = sets[name][0].element_counts(sets[name][1])
    aligned = np.zeros((len(wanted), len(elements)))
    for k, z in enumerate(theirs):
        if z in elements:
            aligned[:, elements.index(z)] = wanted[:, k]
    off = np.abs(aligned @ null.T) > 1e-6 * np.abs(aligned).sum(axis=1)[:, None]
    return int(off.any(axis=1).sum())


def _levels(store: FrameStore) -> set[str]:
    return {str(info["level_of_theory"]) for info in store.origins() if info.get("level_of_theory")}


def _symbols(numbers: Collection[int]) -> str:
    return ", ".join(chemical_symbols[z] for z in numbers)
