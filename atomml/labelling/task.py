"""One label as a piece of work that can be sent anywhere: tried in a child process, again if that may help."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from ase import Atoms

from atomml.labelling.cache import TOTALS, electronic_state
from atomml.labelling.children import Children
from atomml.labelling.config import LabellerConfig
from atomml.labelling.outcome import RETRIED

__all__ = ["LabelTask", "atoms_of", "label_task", "task_of"]


@dataclass(frozen=True)
class LabelTask:
    """JSON values only, so that any executor and any version of Python can carry it.

    Attributes:
        request: for the child process: calculator, structure, time limit of one attempt in s.
        retries: further attempts.
        threads: of the child process.
    """

    request: dict[str, Any]
    retries: int
    threads: int


def task_of(atoms: Atoms, labeller: LabellerConfig) -> LabelTask:
    """The work of one label: what enters its key, and nothing else of the structure."""
    structure = {
        "numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        "cell": atoms.cell.array.tolist(),
        "pbc": np.asarray(atoms.pbc).tolist(),
        **electronic_state(atoms),
    }
    request = {
        "calculator": labeller.calculator.model_dump(mode="json"),
        "structure": structure,
        "timeout": labeller.timeout,
    }
    return LabelTask(request, labeller.retries, labeller.threads)


def atoms_of(structure: dict[str, Any]) -> Atoms:
    """The structure of a request."""
    info = {name: structure[name] for name in TOTALS if name in structure}
    arrays = {name: structure[name] for name in ("magmoms", "charges") if name in structure}
    names = ("numbers", "positions", "cell", "pbc")
    return Atoms(**{name: structure[name] for name in names}, **arrays, info=info)


def label_task(task: LabelTask, children: Children | None = None) -> dict[str, Any]:
    """Energy, forces, stress, version and host; or a failure and a message; or a setup error of this machine.

    Args:
        task: what to do.
        children: processes to do it in; by default those of this process, which go on to the next task.
    """
    pool = _children() if children is None else children
    seconds, attempts = 0.0, 0
    while True:
        attempts += 1
        answer = pool.ask(task.request, task.threads)
        seconds += answer["seconds"]
        if answer.get("failure") not in RETRIED or attempts > task.retries or pool.closed:
            return answer | {"attempts": attempts, "seconds": seconds}


@lru_cache(maxsize=1)
def _children() -> Children:
    """Of a worker of an executor: they load a model once and live as long as the worker."""
    return Children()
