"""What changes during a training, and what does not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn
from torch.optim import Optimizer
from torch_geometric.data import Data

from atomml.shapes import Float64, Tensor
from atomml.training.config import RunConfig
from atomml.training.distributed import Ranks
from atomml.training.schedule import Plateau

__all__ = ["Job", "TrainState", "state_from_json", "state_to_json"]


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
        epoch_sums: [3, 3] rows Σρ, label counts, and (Σ gradient norm, 0, 0) since the epoch began.
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
    epoch_sums: Float64[Tensor, "3 3"] = field(default_factory=lambda: torch.zeros(3, 3, dtype=torch.float64))
    window_sums: Float64[Tensor, "3 3"] = field(
        default_factory=lambda: torch.zeros(3, 3, dtype=torch.float64)
    )
    ema: dict[str, Tensor] | None = None
    best: dict[str, Tensor] | None = None


@dataclass(frozen=True)
class Job:
    """The fixed parts of a training.

    Attributes:
        config: the configuration.
        potential: the module being trained; ``forward(graph, forces=, stress=, create_graph=)``.
        optimizer: its optimiser.
        names: name of every parameter.
        ranks: this process among all.
        weights: of energy, forces and stress in the loss, on the device.
        sets: names of the sets that are trained on; one empty name for a single set.
        factors: of the loss terms for each set, on the device; None for a single set.
        valid_shares: weight of each set in the validation loss, 0 where it has no validation frames.
        run_dir: folder for results.
        steps_of_epoch: rows of each step of this process, for an epoch.
        train_batches: graphs for a list of steps.
        valid_batches: number of the set and graphs of the validation set (this process's share); None
            without one.
        frame_names: names of the frames of a batch, for messages.
        provenance: version, seed and data fingerprint, recorded in every artefact.
        alignment: JSON form of the alignment of several sets' energies, kept in the checkpoint.
        console: terminal of the main process, None on the others.
        on_epoch: called after each epoch, before its checkpoint is written.
    """

    config: RunConfig
    potential: nn.Module
    optimizer: Optimizer
    names: dict[nn.Parameter, str]
    ranks: Ranks
    weights: Float64[Tensor, " 3"]
    run_dir: Path
    steps_of_epoch: Callable[[int], list[list[int]]]
    train_batches: Callable[[Sequence[list[int]]], Iterator[Data | None]]
    valid_batches: Callable[[], Iterator[tuple[int, Data]]] | None
    frame_names: Callable[[Data], str]
    provenance: dict[str, Any]
    console: Console | None = None
    sets: tuple[str, ...] = ("",)
    factors: Float64[Tensor, "sets 3"] | None = None
    valid_shares: tuple[float, ...] = (1.0,)
    alignment: dict[str, Any] | None = None
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
