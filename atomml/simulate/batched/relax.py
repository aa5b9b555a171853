"""Relaxation of many structures in one graph; those that are done make room for others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from atomml.errors import AtommlError, DataError
from atomml.simulate.batched.evaluate import Evaluation, evaluate, refuse_unusable, results_of
from atomml.simulate.batched.fire import FireState, downhill, fire_state, fire_step
from atomml.simulate.batched.structures import can_be_batched
from atomml.simulate.batched.verlet import VerletLists
from atomml.simulate.calculator import Calculator, has_volume
from atomml.simulate.deviations import mean_potential
from atomml.simulate.interface import PotentialLike
from atomml.simulate.progress import progress_bar
from atomml.simulate.relax import (
    MIN_DISTANCE,
    VOLUME_FACTOR,
    RelaxResult,
    refuse_runaway,
    refuse_unrelaxable,
    relax,
    relax_result,
    structures_to_relax,
)

__all__ = ["relax_batched"]


class _Limits(NamedTuple):
    fmax: float
    steps: int
    cell: bool | None
    max_atoms: int


class _Outcome(NamedTuple):
    """How a structure ended: the last atoms, with their results unless there is an error."""

    atoms: Atoms
    flexible: bool
    converged: bool = False
    steps: int = 0
    energy_first: float = float("nan")
    error: str | None = None


def relax_batched(
    structures: Atoms | Sequence[Atoms],
    potential: PotentialLike | Calculator | str | Path,
    *,
    fmax: float = 0.01,
    steps: int = 500,
    cell: bool | None = None,
    max_atoms: int = 2000,
    skin: float = 0.5,
    progress: bool = False,
    on_result: Callable[[RelaxResult], None] = lambda result: None,
) -> list[RelaxResult]:
    """Relax structures together, each as `relax` would by FIRE: the same steps to rounding, and the same results.

    Deviations of a potential with an uncertainty are computed at the end of each structure only. Structures with
    constraints other than ``FixAtoms`` are relaxed one after the other.

    Args:
        structures: left unchanged.
        potential: a potential, a model file, "demo", or a `Calculator`, whose potential and options are taken.
        fmax: largest norm allowed at the end, eV/Å, of a force and of a row of the force on the cell.
        steps: largest number of optimiser steps for each structure.
        cell: relax the cell too; None: where there is a volume.
        max_atoms: atoms in the batch (at least one structure).
        skin: of the neighbour lists, Å.
        progress: show a progress bar.
        on_result: called with each result as soon as it is there, in any order.

    Raises:
        DataError: no structures, or an impossible limit.
    """
    given = structures_to_relax(structures, fmax, steps)
    if max_atoms < 1:
        raise DataError(f"max_atoms must be positive, not {max_atoms!r}.")
    calculator = potential if isinstance(potential, Calculator) else Calculator(potential)
    together = {k: atoms for k, atoms in enumerate(given) if can_be_batched(atoms)}
    results = dict[int, RelaxResult]()
    with progress_bar(len(given), "relaxation", show=progress) as advance:

        def keep(result: RelaxResult) -> None:
            results[result.index] = result
            on_result(result)
            advance(1)

        for k in sorted(set(range(len(given))) - set(together)):
            (result,) = relax(given[k], calculator, fmax=fmax, steps=steps, cell=cell)
            keep(replace(result, index=k))
        limits = _Limits(fmax, steps, cell, max_atoms)
        for ended in _relaxed(together, mean_potential(calculator.potential), limits, skin):
            for k, o in _with_deviations(ended, calculator, max_atoms).items():
                figures = o.converged, o.steps, o.flexible, o.energy_first, o.error
                keep(relax_result(k, given[k], o.atoms, *figures))
    return [results[k] for k in range(len(given))]


def _relaxed(
    given: Mapping[int, Atoms], potential: PotentialLike, limits: _Limits, skin: float
) -> Iterator[dict[int, _Outcome]]:
    """Outcomes of the structures that end at the same step, step after step."""
    waiting, lists = deque(given.items()), VerletLists(potential.cutoff, skin)
    state: FireState | None = None
    while True:
        state, refused = _filled(state, waiting, potential, limits)
        if refused:
            yield refused
        if state is None:
            return
        lists.extend(len(state) - len(lists))
        result, errors = evaluate(potential, state, lists)
        first = torch.where(state.steps == 0, result.energy, state.energy_first)
        state, force = replace(state, energy_first=first), downhill(state, result)
        errors = _runaways(state, result) | errors
        converged = force.largest_norm() < limits.fmax
        ended = converged | (state.steps >= limits.steps)
        ended[list(errors)] = True
        outcomes = dict[int, _Outcome]()
        for place in torch.nonzero(ended)[:, 0].tolist():
            k = int(state.index[place])
            figures = place, bool(converged[place]), errors.get(place)
            outcomes[k] = _outcome(given[k], state, result, *figures)
        if outcomes:
            yield outcomes
        lists = lists.select(~ended)
        state = None if bool(ended.all()) else fire_step(state.select(~ended), force.select(~ended))


def _filled(
    state: FireState | None, waiting: deque[tuple[int, Atoms]], potential: PotentialLike, limits: _Limits
) -> tuple[FireState | None, dict[int, _Outcome]]:
    """The batch with as many of those that wait as fit behind it, and the outcomes of those that are refused."""
    parts, refused = [] if state is None else [state], dict[int, _Outcome]()
    size = 0 if state is None else len(state.z)
    while waiting and (not parts or size + len(waiting[0][1]) <= limits.max_atoms):
        k, atoms = waiting.popleft()
        flexible = has_volume(atoms) if limits.cell is None else limits.cell
        try:
            _refuse(atoms, potential, flexible=flexible)
        except AtommlError as problem:
            refused[k] = _Outcome(atoms.copy(), flexible, error=str(problem))
            continue
        parts.append(fire_state(atoms, k, flexible=flexible, device=potential.device))
        size += len(atoms)
    return (FireState.join(parts) if parts else None), refused


def _refuse(atoms: Atoms, potential: PotentialLike, *, flexible: bool) -> None:
    """What makes a relaxation impossible, before anything is computed.

    Raises:
        AtommlError: says what.
    """
    if flexible:
        refuse_unrelaxable(atoms, stress=potential.conservative)
    refuse_unusable(atoms, potential)


def _runaways(state: FireState, result: Evaluation) -> dict[int, AtommlError]:
    """Structures whose atoms overlap or whose volume runs away, by their place."""
    errors: dict[int, AtommlError] = {}
    volume, start = (torch.linalg.det(cell).abs() for cell in (state.cell, state.start_cell))
    ratio = torch.where(state.volume, volume / start, 1.0)
    good = (result.closest >= MIN_DISTANCE) & (ratio > 1 / VOLUME_FACTOR) & (ratio < VOLUME_FACTOR)
    for place in torch.nonzero(~good)[:, 0].tolist():
        try:
            refuse_runaway(float(result.closest[place]), float(ratio[place]))
        except AtommlError as error:
            errors[place] = error
    return errors


def _outcome(
    given: Atoms,
    state: FireState,
    result: Evaluation,
    place: int,
    converged: bool,
    error: AtommlError | None,
) -> _Outcome:
    rows, atoms = state.rows(place), given.copy()
    atoms.set_cell(state.cell[place].cpu().numpy(), apply_constraint=False)
    atoms.positions[:] = state.pos[rows].cpu().numpy()
    flexible, steps = bool(state.flexible[place]), int(state.steps[place])
    energy_first = float(state.energy_first[place])
    if error is not None:
        return _Outcome(atoms, flexible, False, steps, energy_first, str(error))
    atoms.calc = SinglePointCalculator(atoms, **results_of(state, result, place))
    return _Outcome(atoms, flexible, converged, steps, energy_first)


def _with_deviations(
    outcomes: dict[int, _Outcome], calculator: Calculator, max_atoms: int
) -> dict[int, _Outcome]:
    """The outcomes with the deviations of the last structures, where the potential has some."""
    if "energy_std" not in calculator.implemented_properties:
        return outcomes
    good = [k for k, outcome in outcomes.items() if outcome.error is None]
    if not good:
        return outcomes
    try:
        options = {"max_atoms": max_atoms, **calculator.deviation_options}
        predicted = cast(Any, calculator.potential).predict([outcomes[k].atoms for k in good], **options)
    except AtommlError as error:
        if len(good) == 1:
            failed = outcomes[good[0]]._replace(converged=False, error=str(error))
            return {**outcomes, good[0]: failed}
        parts = [_with_deviations({k: outcomes[k]}, calculator, max_atoms) for k in good]
        return outcomes | {k: outcome for part in parts for k, outcome in part.items()}
    for k, prediction in zip(good, predicted, strict=True):
        names = ("energy", "forces", "stress", "energy_std", "forces_std")
        found = {name: getattr(prediction, name) for name in names}
        outcomes[k].atoms.calc.results.update({n: x for n, x in found.items() if x is not None})
    return outcomes
