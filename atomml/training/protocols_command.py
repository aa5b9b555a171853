"""Evaluation as a benchmark prescribes it: which numbers, over which atoms, and the file for its leaderboard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from rich.table import Table

from atomml.datasets import FrameStore
from atomml.errors import ConfigError
from atomml.training.evaluation import Evaluable, Evaluation, predict_frames
from atomml.training.protocols import MEANINGS, Compared, Sums, is2re_sums, means, pubchemqcr_sums, s2ef_sums
from atomml.training.protocols_files import SplitName, require_split, submission_ids, write_predictions

__all__ = [
    "Protocol",
    "predictions_of",
    "protocol_metrics",
    "protocol_table",
    "require_protocol",
    "save_submission",
]

Name = Literal["oc20", "oc22", "pubchemqcr"]
Task = Literal["s2ef", "is2re"]
NAMES, TASKS = get_args(Name), get_args(Task)


@dataclass(frozen=True)
class Protocol:
    """A benchmark and its task.

    Attributes:
        name: ``oc20``, ``oc22`` or ``pubchemqcr``.
        task: ``s2ef`` (energies and forces) or ``is2re`` (energies).
    """

    name: Name
    task: Task

    @property
    def free_only(self) -> bool:
        """Whether forces on fixed atoms are left out."""
        return self.name != "pubchemqcr"


def require_protocol(name: str, task: str | None, store: FrameStore) -> Protocol:
    """The protocol that is meant; without ``task`` it is ``s2ef`` where every frame has forces.

    Raises:
        ConfigError: an unknown name or task; a task that cannot be told from the labels.
    """
    if name not in NAMES:
        raise ConfigError(f"{name!r} is not a protocol.", where="--protocol", fix=f"use {', '.join(NAMES)}")
    if task is not None and task not in TASKS:
        raise ConfigError(f"{task!r} is not a task.", where="--task", fix=f"use {' or '.join(TASKS)}")
    if name == "pubchemqcr" and task == "is2re":
        raise ConfigError("pubchemqcr has no task is2re.", where="--task", fix="leave it out")
    counts = store.label_counts()
    if task is None and name != "pubchemqcr" and counts["forces"] not in (0, len(store)):
        raise ConfigError(
            f"{counts['forces']} of {len(store)} frames have forces.", where="--task", fix="state the task"
        )
    if task is None and name != "pubchemqcr" and counts["energy"] == 0:
        raise ConfigError("The frames have no labels.", where="--task", fix="state s2ef or is2re")
    found = task or ("s2ef" if name == "pubchemqcr" or counts["forces"] else "is2re")
    return Protocol(name, found)  # type: ignore[arg-type]


def protocol_metrics(protocol: Protocol, result: Evaluation, store: FrameStore) -> dict[str, Any]:
    """Metrics, sums and counts of an evaluation of the whole ``store``, as the protocol defines them.

    Raises:
        DataError: a frame without a label that the protocol compares.
    """
    fixed = store.fixed if protocol.free_only else None
    data = Compared(
        result.n_atoms,
        result.energy,
        result.energy_label,
        result.forces,
        np.array(store.forces),
        None if fixed is None else ~np.asarray(fixed),
    )
    by_name: dict[str, Callable[[Compared], Sums]] = {"s2ef": s2ef_sums, "is2re": is2re_sums}
    sums = (pubchemqcr_sums if protocol.name == "pubchemqcr" else by_name[protocol.task])(data)
    return {
        "protocol": protocol.name,
        "task": protocol.task,
        "metrics": means(sums),
        "sums": {name: {"total": total, "number": number} for name, (total, number) in sums.items()},
        "frames": len(store),
        "atoms": len(store.numbers),
        "free atoms": int(data.mask().sum()),
    }


def protocol_table(content: dict[str, Any]) -> Table:
    """Every measure with its number of values, unit and definition, for the terminal."""
    table = Table("measure", "value", "number", "unit", "definition", title=content["protocol"])
    for name, value in content["metrics"].items():
        unit, meaning = MEANINGS[name]
        shown = f"{100 * value:.3g} %" if name.endswith("within_threshold") else f"{value:.5g}"
        table.add_row(name, shown, str(content["sums"][name]["number"]), unit, meaning)
    return table


def predictions_of(
    potential: Evaluable,
    store: FrameStore,
    protocol: Protocol,
    max_atoms: int,
    on_batch: Callable[[int], Any] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Energies [frames] and forces [atoms, 3] of frames that need no labels."""
    wanted = {"forces": protocol.task == "s2ef", "stress": False}
    energy, forces, _ = predict_frames(potential, store, wanted, max_atoms, 200_000, on_batch)
    return energy, forces


def save_submission(
    path: Path,
    split: str,
    protocol: Protocol,
    store: FrameStore,
    energy: np.ndarray,
    forces: np.ndarray,
    *,
    free_only: bool = False,
) -> list[str]:
    """Add predictions to a file for the leaderboard; returns the splits in it.

    Raises:
        ConfigError: the protocol has no leaderboard, an unknown split, predictions that are not finite.
        DataError: frames with the same name; a file that is something else.
    """
    if protocol.name == "pubchemqcr":
        raise ConfigError("pubchemqcr has no leaderboard file.", where="--predictions", fix="leave it out")
    name: SplitName = require_split(split)
    s2ef = protocol.task == "s2ef"
    ids = submission_ids(store, forces=s2ef)
    if not s2ef:
        return write_predictions(path, name, ids, energy)
    free = ~np.asarray(store.fixed) if free_only and store.fixed is not None else None
    n_atoms = np.array(store.n_atoms)
    return write_predictions(path, name, ids, energy, n_atoms=n_atoms, forces=forces, free=free)
