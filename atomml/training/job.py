"""From configuration, data and potential to the fixed parts of a training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rich.console import Console
from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch_geometric.data import Batch, Data

from atomml._version import __version__
from atomml.errors import ConfigError
from atomml.graph.batching import BudgetSampler
from atomml.training.batches import greedy_batches, join, stream_batches
from atomml.training.config import OptimizerConfig, RunConfig
from atomml.training.data import Part, TrainingData
from atomml.training.distributed import Ranks
from atomml.training.loss import weights_of
from atomml.training.state import Job

__all__ = ["make_job", "optimizer_for", "training_statistics"]

MOST_FRAMES_FOR_NEIGHBORS = 2000


def training_statistics(
    train: Part, cutoff: float, e0: Mapping[int, float], *, cache: bool = True
) -> tuple[float, float]:
    """Mean number of neighbours of an atom, and the unit of energy that suits the labels.

    The unit is the RMS force component (eV/Å); without forces, the RMS of (E − Σ E0)/N (eV/atom); never 0.
    Neighbours are counted on at most 2000 frames, evenly chosen.
    """
    dataset = train.graphs(cutoff, cache)
    chosen = range(0, len(train), math.ceil(len(train) / MOST_FRAMES_FOR_NEIGHBORS))
    edges = sum(dataset.shared(i).edge_index.shape[1] for i in chosen)
    neighbors = edges / int(train.store.n_atoms[train.rows[chosen]].sum())
    part = train.store.subset(train.rows)
    forces = part.forces[np.isfinite(part.forces)]
    if len(forces):
        scale = float(np.sqrt(np.mean(forces**2)))
    else:
        elements, counts = part.element_counts()
        rest = (part.energy - counts @ np.array([e0[z] for z in elements])) / part.n_atoms
        scale = float(np.sqrt(np.nanmean(rest**2)))
    return neighbors, scale if scale > 1e-6 else 1.0


def optimizer_for(config: OptimizerConfig, module: nn.Module) -> Optimizer:
    """Adam or AdamW over the parameters that are not frozen; no weight decay on one-dimensional ones.

    Raises:
        ConfigError: every parameter is frozen.
    """
    free = [p for p in module.parameters() if p.requires_grad]
    if not free:
        raise ConfigError("Every parameter is frozen.", where="freeze", fix="use fewer or narrower patterns")
    groups = [
        {"params": [p for p in free if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in free if p.ndim <= 1], "weight_decay": 0.0},
    ]
    cls = AdamW if config.kind == "adamw" else Adam
    return cls(
        [group for group in groups if group["params"]],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        amsgrad=config.amsgrad,
    )


def make_job(
    config: RunConfig,
    potential: nn.Module,
    data: TrainingData,
    ranks: Ranks,
    *,
    console: Console | None = None,
    origin: Mapping[str, Any] | None = None,
) -> Job:
    """Samplers, batches and optimiser of a training.

    Raises:
        DataError: a structure that is larger than a batch may be.
    """
    train = data.train.graphs(cast(Any, potential).cutoff, config.data.cache)
    limits = config.batch
    sampler = BudgetSampler(
        np.asarray(train.n_atoms),
        None if limits.max_edges is None else np.asarray(train.n_edges()),
        batch_size=limits.batch_size,
        max_atoms=limits.max_atoms,
        max_edges=limits.max_edges,
        shuffle=True,
        seed=config.seed,
        rank=ranks.rank,
        world_size=ranks.world_size,
    )
    store = data.train.store

    def steps_of_epoch(epoch: int) -> list[list[int]]:
        return [step[ranks.rank] for step in sampler.batches(epoch)]

    def train_batches(steps: Sequence[list[int]]) -> Iterator[Data | None]:
        return stream_batches(train, steps, workers=config.data.workers, device=ranks.device)

    def frame_names(rows: Sequence[int]) -> str:
        return ", ".join(str(store.ids[row]) for row in rows)

    return Job(
        config=config,
        potential=potential,
        optimizer=optimizer_for(config.optimizer, potential),
        names={p: name for name, p in potential.named_parameters()},
        ranks=ranks,
        weights=weights_of(config.loss, ranks.device),
        run_dir=Path(config.run_dir),
        steps_of_epoch=steps_of_epoch,
        train_batches=train_batches,
        valid_batches=_valid_batches(config, potential, data, ranks),
        frame_names=frame_names,
        provenance={
            "version": __version__,
            "torch": torch.__version__,
            "seed": config.seed,
            "data": data.fingerprint,
            **({"origin": dict(origin)} if origin else {}),
        },
        console=console,
    )


def _valid_batches(
    config: RunConfig, potential: nn.Module, data: TrainingData, ranks: Ranks
) -> Callable[[], Iterator[Data]] | None:
    """Batches of the validation set for one process; collated once if graphs are kept in memory."""
    if data.valid is None:
        return None
    dataset = data.valid.graphs(cast(Any, potential).cutoff, cache=False)
    limits, kept = config.batch, list[Batch]()

    def collate() -> Iterator[Batch]:
        groups = greedy_batches(
            (dataset.shared(i) for i in range(len(dataset))),
            batch_size=limits.batch_size,
            max_atoms=limits.max_atoms,
            max_edges=limits.max_edges,
        )
        for k, group in enumerate(groups):
            if k % ranks.world_size == ranks.rank:
                yield join(group)

    def batches() -> Iterator[Data]:
        if config.data.cache and not kept:
            kept.extend(collate())
        for batch in kept if config.data.cache else collate():
            yield batch.to(ranks.device)

    return batches
