"""`label_structures`: energies, forces and stresses of many structures, each computed once and kept at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

import atomml.errors
from atomml.datasets.frame import Frame, check_frame
from atomml.errors import AtommlError, DataError, SimulationError
from atomml.labelling.cache import LabelCache, electronic_state, identity_digest, structure_key
from atomml.labelling.children import Children
from atomml.labelling.config import AnyLabelCalculator, LabellerConfig
from atomml.labelling.identity import labeller_identity, labeller_name, located_labeller
from atomml.labelling.outcome import ADVICE, LabelOutcome
from atomml.labelling.task import LabelTask, label_task, task_of
from atomml.parallel import Outcome, map_structures
from atomml.simulate.sampling.dynamics import frame_of_atoms

__all__ = ["label_structures"]

OnOutcome = Callable[[int, LabelOutcome], None]
AHEAD = 256  # labels handed to an executor at a time
TRIED = 5  # labels before the share of failures means something


def label_structures(
    structures: Sequence[Atoms],
    labeller: LabellerConfig,
    *,
    cache: LabelCache | None = None,
    executor: Executor | None = None,
    on_outcome: OnOutcome | None = None,
) -> list[LabelOutcome]:
    """The label of every structure, in order.

    What is in the cache is not computed again, and a structure that occurs twice is computed once. Each outcome is
    in the cache, flushed to the disk, before ``on_outcome`` hears of it. A structure that fails is an outcome with
    its kind of failure, and the others go on. Every attempt runs in a child process, here or where the executor
    works, which is killed at its time limit whatever it does.

    Args:
        structures: with any calculator or none; labels they have are not used. Constraints do not change labels.
        labeller: the reference; paths of files in it are relative to the working directory.
        cache: where labels are kept.
        executor: any `concurrent.futures.Executor`, see `atomml.labelling.executors`; local processes by default.
        on_outcome: called with (index of the structure, outcome), known ones first, then in order of arrival.
            What it raises ends the labelling.

    Raises:
        UnsupportedError, ConfigError, ModelFileError: the calculator cannot be made where it should run (a package
            or program is not installed).
        SimulationError: the share of failures reached ``max_failures``; what was done until then is in the cache.
        DataError: the cache cannot be written, or a model file cannot be read.
    """
    labeller = located_labeller(labeller, Path.cwd())
    identity = identity_digest(labeller.calculator)
    keys = [structure_key(atoms, identity) for atoms in structures]
    places: dict[str, list[int]] = {}
    for index, key in enumerate(keys):
        places.setdefault(key, []).append(index)
    outcomes: dict[str, LabelOutcome] = {}

    def tell(outcome: LabelOutcome) -> None:
        outcomes[outcome.key] = outcome
        for count, index in enumerate(places[outcome.key]):
            if on_outcome is not None:
                on_outcome(index, outcome if count == 0 else outcome.known())

    for key in places:
        known = None if cache is None else cache.get(key)
        if known is not None:
            tell(known)
    todo = {key: structures[rows[0]] for key, rows in places.items() if key not in outcomes}
    _compute(todo, labeller, cache, executor, tell)
    return [
        outcomes[key] if places[key][0] == index else outcomes[key].known() for index, key in enumerate(keys)
    ]


def _compute(
    todo: dict[str, Atoms],
    labeller: LabellerConfig,
    cache: LabelCache | None,
    executor: Executor | None,
    tell: Callable[[LabelOutcome], None],
) -> None:
    """Hand out the structures; every outcome is counted, written down and told."""
    keys, counts = list(todo), Counter[str]()
    last: dict[str, str | None] = {}

    def arrived(outcome: LabelOutcome) -> None:
        if cache is not None:
            cache.put(outcome)
        tell(outcome)
        if not outcome.attempts:  # says nothing about the calculator
            return
        counts[outcome.failure or "done"] += 1
        last[outcome.failure or "done"] = outcome.message
        _stop_at_failures(labeller, counts, last)

    fit: list[str] = []
    for key in keys:
        problem = _unfit(todo[key])
        if problem is None:
            fit.append(key)
        else:
            arrived(LabelOutcome(key, None, "unsupported", problem, 0, 0.0, cached=False))
    version = str(labeller_identity(labeller.calculator).get("version", ""))

    def done(k: int, result: Outcome[dict[str, Any]]) -> None:
        arrived(_outcome(fit[k], todo[fit[k]], labeller.calculator, version, result))

    tasks = [task_of(todo[key], labeller) for key in fit]
    if executor is not None:
        map_structures(label_task, tasks, workers=max(labeller.workers, AHEAD), executor=executor, done=done)
        return
    _locally(tasks, labeller.workers, done)


def _locally(tasks: list[LabelTask], workers: int, done: Callable[[int, Outcome[Any]], None]) -> None:
    """One thread for each child process; nothing of either is left, however this ends."""
    with ThreadPoolExecutor(workers) as threads, Children() as children:
        function = partial(label_task, children=children)
        map_structures(function, tasks, workers=workers, executor=threads, done=done)


def _unfit(atoms: Atoms) -> str | None:
    """Why no calculator can do this structure."""
    frame = Frame(atoms.numbers, atoms.positions, atoms.cell.array, np.asarray(atoms.pbc, dtype=bool))
    try:
        check_frame(frame, "structure")
    except DataError as error:
        return error.what
    wrong = [name for name, value in electronic_state(atoms).items() if isinstance(value, str)]
    return f"The {wrong[0]} in the info is not a whole number." if wrong else None


def _outcome(
    key: str, atoms: Atoms, calculator: AnyLabelCalculator, version: str, result: Outcome[dict[str, Any]]
) -> LabelOutcome:
    answer = result.value
    if answer is None:  # the executor lost it
        return LabelOutcome(key, None, "died", result.error, 1, result.seconds, cached=False)
    if "setup" in answer:
        raise _setup_error(**answer["setup"])
    attempts, seconds = answer["attempts"], answer["seconds"]
    if "failure" in answer:
        return LabelOutcome(key, None, answer["failure"], answer["message"], attempts, seconds, cached=False)
    labelled = atoms.copy()
    labelled.info = {}
    labels = {"energy": answer["energy"], "forces": np.array(answer["forces"])}
    if answer["stress"] is not None:
        labels["stress"] = full_3x3_to_voigt_6_stress(np.array(answer["stress"]))
    labelled.calc = SinglePointCalculator(labelled, **labels)
    tags = {
        "labeller": labeller_name(calculator),
        "labeller_version": answer["version"] or version,
        "label_seconds": seconds,
        "label_host": answer["host"],
    }
    return LabelOutcome(key, frame_of_atoms(labelled, tags, key), None, None, attempts, seconds, cached=False)


def _setup_error(kind: str, what: str, where: str | None, fix: str | None, host: str) -> AtommlError:
    place = f"the calculator on {host}" + ("" if where is None else f": {where}")
    return getattr(atomml.errors, kind)(what, where=place, fix=fix)


def _stop_at_failures(labeller: LabellerConfig, counts: Counter[str], last: dict[str, str | None]) -> None:
    tried = counts.total()
    failed = tried - counts["done"]
    if tried < TRIED or failed < labeller.max_failures * tried:
        return
    kind = max((name for name in counts if name != "done"), key=lambda name: counts[name])
    raise SimulationError(
        f"Labelling stopped: {failed} of {tried} structures failed, {counts[kind]} of them with "
        f"{kind!r}: {last[kind]}",
        where=labeller_name(labeller.calculator),
        fix=f"{ADVICE[kind]}; what was labelled so far is kept in the cache",  # type: ignore[index]
    )
