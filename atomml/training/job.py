"""From configuration, data and potential to the fixed parts of a training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from rich.console import Console
from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch_geometric.data import Batch, Data

from atomml._version import __version__
from atomml.datasets import GraphDataset
from atomml.datasets.mixture_graphs import MixtureGraphs
from atomml.errors import ConfigError
from atomml.graph import BudgetSampler, MixtureSampler
from atomml.training.batches import greedy_batches, join, stream_batches
from atomml.training.config import RunConfig
from atomml.training.distributed import Ranks
from atomml.training.loop_config import LoopConfig, OptimizerConfig
from atomml.training.loss import weights_of
from atomml.training.parts import AnyPart, Mixture, Part, TrainingData
from atomml.training.potential_task import PotentialTask
from atomml.training.state import Job
from atomml.uncertainty.config import IVONConfig
from atomml.uncertainty.ivon import IVON

__all__ = ["make_job", "optimizer_for", "provenance_of", "training_statistics"]

MOST_FRAMES_FOR_NEIGHBORS = 2000


def training_statistics(
    train: AnyPart, cutoff: float, e0: Mapping[int, float], *, cache: bool = True
) -> tuple[float, float]:
    """Mean number of neighbours of an atom, and the unit of energy that suits the labels.

    The unit is the RMS force component (eV/Å); without forces, the RMS of (E − Σ E0)/N (eV/atom); never 0.
    Neighbours are counted on at most 2000 frames, evenly chosen. Each of several sets counts by its share of
    the training.
    """
    counted = [(share, *_sampled_edges(part, cutoff, cache)) for share, part in train.shared_sets()]
    each = [
        share / frames / (counted[0][0] / counted[0][3]) for share, _, _, frames in counted
    ]  # [1.0] for one
    edges = sum(w * n for w, (_, n, _, _) in zip(each, counted, strict=True))
    atoms = sum(w * n for w, (_, _, n, _) in zip(each, counted, strict=True))
    squares = weight = 0.0
    for share, part in train.shared_sets():
        forces = part.forces()
        forces = forces[np.isfinite(forces)]
        if len(forces):
            squares, weight = squares + share * float(np.mean(forces**2)), weight + share
    if weight == 0.0:
        for share, part in train.shared_sets():
            store = part.store.subset(part.rows)
            elements, counts = store.element_counts()
            rest = (store.energy - counts @ np.array([e0[z] for z in elements])) / store.n_atoms
            if np.isfinite(rest).any():
                squares, weight = squares + share * float(np.nanmean(rest**2)), weight + share
    scale = math.sqrt(squares / weight)
    return edges / atoms, scale if scale > 1e-6 else 1.0


def _sampled_edges(part: Part, cutoff: float, cache: bool) -> tuple[int, int, int]:
    """Edges, atoms and number of evenly chosen frames."""
    dataset = part.graphs(cutoff, cache)
    chosen = range(0, len(part), math.ceil(len(part) / MOST_FRAMES_FOR_NEIGHBORS))
    edges = sum(dataset.shared(i).edge_index.shape[1] for i in chosen)
    return edges, int(part.store.n_atoms[part.rows[chosen]].sum()), len(chosen)


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
) -> Job[RunConfig]:
    """Samplers, batches and optimiser of a training.

    Raises:
        DataError: a structure that is larger than a batch may be.
    """
    train = data.train.graphs(cast(Any, potential).cutoff, config.data.cache)
    sampler = _sampler(config, data, train, ranks)
    stores = [part.store for part in data.train.sets().values()]
    mixture = data.mixture

    def steps_of_epoch(epoch: int) -> list[list[int]]:
        return [step[ranks.rank] for step in sampler.batches(epoch)]

    def train_batches(steps: Sequence[list[int]]) -> Iterator[Data | None]:
        return stream_batches(train, steps, workers=config.data.workers, device=ranks.device)

    def frame_names(graph: Data) -> str:
        rows = graph.index.tolist()
        numbers = graph.set_number.tolist() if mixture is not None else [0] * len(rows)
        return ", ".join(str(stores[k].ids[row]) for k, row in zip(numbers, rows, strict=True))

    weights = weights_of(config.loss, ranks.device)
    task = PotentialTask(
        config,
        potential,
        ranks,
        weights,
        _valid_batches(config, potential, data, ranks),
        frame_names,
        **({} if mixture is None else _mixture_of(mixture, data, ranks)),
    )
    return Job(
        config=config,
        module=potential,
        task=task,
        optimizer=_variational(config, potential, len(data.train), ranks)
        or optimizer_for(config.optimizer, potential),
        names={p: name for name, p in potential.named_parameters()},
        ranks=ranks,
        weights=weights,
        run_dir=Path(config.run_dir),
        steps_of_epoch=steps_of_epoch,
        train_batches=train_batches,
        provenance=provenance_of(config, data, origin),
        console=console,
    )


@runtime_checkable
class Fingerprinted(Protocol):
    """Data that know what they are: hashes by name."""

    @property
    def fingerprint(self) -> dict[str, str]:
        """Of files and division."""


def provenance_of(
    config: LoopConfig, data: Fingerprinted, origin: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Version, seed and data fingerprint, and what a finetuning began with: recorded in every artefact."""
    return {
        "version": __version__,
        "torch": torch.__version__,
        "seed": config.seed,
        "data": data.fingerprint,
        **({"origin": dict(origin)} if origin else {}),
    }


def _variational(config: RunConfig, module: nn.Module, frames: int, ranks: Ranks) -> Optimizer | None:
    """IVON where the configuration asks for it.

    Raises:
        ConfigError: several processes: their samples of the weights would differ.
    """
    wanted = config.uncertainty
    if not isinstance(wanted, IVONConfig):
        return None
    if ranks.world_size > 1:
        raise ConfigError(
            "IVON runs on one process.", where="uncertainty.kind", fix="start it without torchrun"
        )
    ess = float(wanted.ess or frames)
    precision = wanted.std_init**-2
    if not precision > wanted.prior_precision:
        raise ConfigError(
            "The weights cannot start wider than the prior.",
            where="uncertainty.std_init",
            fix=f"make it smaller than {wanted.prior_precision**-0.5:.3g}",
        )
    return IVON(
        [p for p in module.parameters() if p.requires_grad],
        # the optimiser multiplies its rate by the first curvature; a weight then moves by lr · clip_radius at most
        lr=config.optimizer.lr * ess / precision,
        ess=ess,
        hess_init=(precision - wanted.prior_precision) / ess,
        beta1=wanted.beta1,
        beta2=wanted.beta2,
        prior_precision=wanted.prior_precision,
        clip_radius=wanted.clip_radius,
    )


def _mixture_of(mixture: Mixture, data: TrainingData, ranks: Ranks) -> dict[str, Any]:
    """The fields of `PotentialTask` that only several sets have."""
    validated = set() if data.valid is None else set(data.valid.sets())
    return {
        "sets": mixture.names,
        "factors": torch.tensor(mixture.factors, dtype=torch.float64, device=ranks.device),
        "valid_shares": tuple(
            share if name in validated else 0.0
            for name, share in zip(mixture.names, mixture.shares, strict=True)
        ),
        "alignment": mixture.alignment.to_dict(),
    }


def _sampler(
    config: RunConfig, data: TrainingData, train: GraphDataset | MixtureGraphs, ranks: Ranks
) -> BudgetSampler:
    limits = config.batch
    options: dict[str, Any] = {
        "n_edges": None if limits.max_edges is None else np.asarray(train.n_edges()),
        "batch_size": limits.batch_size,
        "max_atoms": limits.max_atoms,
        "max_edges": limits.max_edges,
        "shuffle": True,
        "seed": config.seed,
        "rank": ranks.rank,
        "world_size": ranks.world_size,
    }
    n_atoms = np.asarray(train.n_atoms)
    if data.mixture is None:
        return BudgetSampler(n_atoms, **options)
    counts = [len(part) for part in data.train.sets().values()]
    return MixtureSampler(n_atoms, counts=counts, quotas=data.mixture.quotas, **options)


def _valid_batches(
    config: RunConfig, potential: nn.Module, data: TrainingData, ranks: Ranks
) -> Callable[[], Iterator[tuple[int, Data]]] | None:
    """Batches of the validation set for one process; collated once if graphs are kept in memory."""
    if data.valid is None:
        return None
    cutoff = cast(Any, potential).cutoff
    limits, kept = config.batch, list[tuple[int, Batch]]()
    names = ("",) if data.mixture is None else data.mixture.names
    parts = data.valid.sets()

    def groups() -> Iterator[tuple[int, list[Data]]]:
        for number, name in enumerate(names):
            if name not in parts:
                continue
            dataset = parts[name].graphs(cutoff, cache=False)
            for group in greedy_batches(
                (dataset.shared(i) for i in range(len(dataset))),
                batch_size=limits.batch_size,
                max_atoms=limits.max_atoms,
                max_edges=limits.max_edges,
            ):
                yield number, group

    def collate() -> Iterator[tuple[int, Batch]]:
        for k, (number, group) in enumerate(groups()):
            if k % ranks.world_size == ranks.rank:
                batch = join(group)
                if data.mixture is not None:
                    batch.set_number = torch.full((len(group),), number)
                yield number, batch

    def batches() -> Iterator[tuple[int, Data]]:
        if config.data.cache and not kept:
            kept.extend(collate())
        for number, batch in kept if config.data.cache else collate():
            yield number, batch.to(ranks.device)

    return batches
