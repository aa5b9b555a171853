"""What changes during a training, and what does not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
from rich.console import Console
from torch import nn
from torch.optim import Optimizer

from atomml.shapes import Float64, Tensor
from atomml.training.distributed import Ranks
from atomml.training.loop_config import LoopConfig
from atomml.training.schedule import Plateau

__all__ = ["Job", "Task", "TrainState", "state_from_json", "state_to_json", "training_facts"]


@dataclass
class TrainState:
    """Everything that a checkpoint must hold besides the weights and the optimiser.

    Attributes:
        step: optimiser steps done.
        epoch: epochs completed.
        batch: steps done of the present epoch.
        seconds: time spent in the loop, over all resumed pieces.
        best_loss, best_epoch: lowest validation loss and the epoch that had it.
        waited: epochs since then.
        plateau: memory of the plateau schedule.
        stopped: why the training ended; empty while it goes on.
        epoch_sums: rows Σρ, label counts, and (Σ gradient norm, 0, …), by term, since the epoch began.
        window_sums: the same since the last line of the log.
        ema, best: averaged and best weights by parameter name; None where not in use.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    best_loss: float = math.inf
    best_epoch: int = 0
    waited: int = 0
    plateau: Plateau = field(default_factory=Plateau)
    stopped: str = ""
    epoch_sums: Float64[Tensor, "3 terms"] = field(default_factory=lambda: torch.zeros(3, 0).double())
    window_sums: Float64[Tensor, "3 terms"] = field(default_factory=lambda: torch.zeros(3, 0).double())
    ema: dict[str, Tensor] | None = None
    best: dict[str, Tensor] | None = None


@runtime_checkable
class Task(Protocol):
    """What is trained: how a batch is judged. The loop knows nothing else of it."""

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms of the loss."""

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of what `validate` measures besides ``valid_loss``, for ``metrics.csv``."""

    def sums(
        self, batch: Any, progress: float
    ) -> tuple[Float64[Tensor, " terms"], Float64[Tensor, " terms"]]:
        """Σ of each term over a batch, with its graph, and the number of labels; the loss is `combine` of them.

        ``progress``: share of the training that is done.
        """

    def validate(self) -> dict[str, Any]:
        """``valid_loss`` and other numbers on held-out data, over all processes; empty without such data.

        The weights are in place and the module is in evaluation mode.
        """

    def learns_apart(self, name: str) -> bool:
        """Whether a parameter learns from a gradient of its own, which must not shrink that of the others."""

    def size_of(self, batch: Any) -> str:
        """How large a batch is, for a message, and what to lower in the configuration."""

    def names_of(self, batch: Any) -> str:
        """What is in a batch, for a message."""

    def constants(self) -> dict[str, Any]:
        """What was computed from the data, for the checkpoint: computed again it may have other last digits."""


C = TypeVar("C", bound=LoopConfig)


@dataclass(frozen=True)
class Job(Generic[C]):
    """The fixed parts of a training.

    Attributes:
        config: the configuration.
        module: what is being trained.
        task: how it is judged.
        optimizer: its optimiser.
        names: name of every parameter.
        ranks: this process among all.
        weights: of the terms in the loss, on the device.
        run_dir: folder for results.
        steps_of_epoch: rows of each step of this process, for an epoch.
        train_batches: batches for a list of steps; None where this process has none.
        provenance: version, seed and data fingerprint, recorded in every artefact.
        console: terminal of the main process, None on the others.
        on_epoch: called after each epoch, before its checkpoint is written.
    """

    config: C
    module: nn.Module
    task: Task
    optimizer: Optimizer
    names: dict[nn.Parameter, str]
    ranks: Ranks
    weights: Float64[Tensor, " terms"]
    run_dir: Path
    steps_of_epoch: Callable[[int], list[list[int]]]
    train_batches: Callable[[Sequence[list[int]]], Iterator[Any]]
    provenance: dict[str, Any]
    console: Console | None = None
    on_epoch: Callable[[TrainState], None] | None = None


_JSON = ("step", "epoch", "batch", "seconds", "epoch_seconds", "best_epoch", "waited", "stopped")


def state_to_json(state: TrainState) -> dict[str, Any]:
    """The numbers of a state; infinity is written as null."""
    out: dict[str, Any] = {key: getattr(state, key) for key in _JSON}
    out["best_loss"] = state.best_loss if math.isfinite(state.best_loss) else None
    plateau = asdict(state.plateau)
    plateau["best"] = state.plateau.best if math.isfinite(state.plateau.best) else None
    return out | {"plateau": plateau}


def state_from_json(data: dict[str, Any]) -> TrainState:
    """Inverse of `state_to_json`; the tensors are put in by the caller."""
    plateau = dict(data["plateau"])
    plateau["best"] = math.inf if plateau["best"] is None else plateau["best"]
    best = math.inf if data["best_loss"] is None else data["best_loss"]
    return TrainState(**{key: data[key] for key in _JSON}, best_loss=best, plateau=Plateau(**plateau))


def training_facts(job: Job[Any], state: TrainState) -> dict[str, Any]:
    """What a training was, for its report and its model file."""
    return {
        "parameters": sum(p.numel() for p in job.names),
        "epochs": state.epoch,
        "steps": state.step,
        "best epoch": state.best_epoch,
        "minutes": round(state.seconds / 60, 2),
        "ended by": state.stopped,
        "processes": job.ranks.world_size,
    }
