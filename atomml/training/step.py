"""One optimiser step: loss, gradient, clipping, update, average."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch_geometric.data import Data

from atomml.errors import ConfigError, TrainingError
from atomml.shapes import Float64, Tensor
from atomml.training.config import LikelihoodConfig
from atomml.training.distributed import reduce_gradients, sum_over_ranks
from atomml.training.ema import update_ema
from atomml.training.likelihood import Phase, likelihood_sums, phase_of
from atomml.training.loss import combine, loss_sums
from atomml.training.state import Job, TrainState
from atomml.uncertainty.ivon import IVON

__all__ = ["evaluated_loss", "explain_failures", "precision", "trainable", "training_step"]


def evaluated_loss(
    job: Job, graph: Data, phase: Phase
) -> tuple[dict[str, Tensor], Float64[Tensor, " 3"], Float64[Tensor, " 3"]]:
    """Prediction of a batch and the sums and counts of its loss."""
    loss, validation = job.config.loss, phase == "validation"
    options: dict[str, Any] = {
        "forces": loss.forces > 0,
        "stress": loss.stress > 0,
        "create_graph": not validation,
    }
    if isinstance(loss, LikelihoodConfig):
        options["noise_feedback"] = loss.feedback if phase == "joint" else 0.0
    with precision(job):
        prediction = job.potential(graph, **options)
    if validation:
        prediction = {key: value.detach() for key, value in prediction.items()}
    if isinstance(loss, LikelihoodConfig):
        return prediction, *likelihood_sums(prediction, graph, loss, job.factors, phase=phase)
    return prediction, *loss_sums(prediction, graph, loss, job.factors)


def trainable(job: Job) -> list[torch.nn.Parameter]:
    """Parameters that are not frozen, in the order of the module."""
    return [p for p in job.names if p.requires_grad]


def precision(job: Job) -> AbstractContextManager[object]:
    """Autocast to bfloat16 when the configuration asks for it."""
    if job.config.dtype != "bfloat16":
        return nullcontext()
    return torch.autocast(job.ranks.device.type, dtype=torch.bfloat16)


def training_step(
    job: Job, state: TrainState, graph: Data | None, lr: float, progress: float = 1.0
) -> Float64[Tensor, ""]:
    """One step on this process's batch (None: it has none in this step); returns the gradient's norm.

    ``progress``, the share of the training that is done, decides between warm-up and joint likelihood.

    The sums and label counts of all processes are added before the backward pass, so that the gradient is
    that of the joint batch: L = Σ_t weight_t Σ_ranks sum_t / Σ_ranks count_t.
    """
    device, config = job.ranks.device, job.config
    for group in job.optimizer.param_groups:
        group["lr"] = lr
    job.optimizer.zero_grad(set_to_none=True)
    phase = phase_of(config.loss, progress) if isinstance(config.loss, LikelihoodConfig) else "joint"
    with explain_failures(job, graph), sampled_weights(job):
        sums = counts = torch.zeros(3, dtype=torch.float64, device=device)
        if graph is not None:
            _, sums, counts = evaluated_loss(job, graph, phase)
        total = sum_over_ranks(torch.stack([sums.detach(), counts]), job.ranks)
        if graph is not None:
            combine(sums, total[1], job.weights).backward(inputs=trainable(job))
    parameters = trainable(job)
    reduce_gradients(parameters, job.ranks)
    limit = float("inf") if config.clip_norm is None else config.clip_norm
    norm = torch.nn.utils.clip_grad_norm_(parameters, limit).to(torch.float64)
    if device.type == "cpu":  # on a GPU the check waits for the next line of the log, to keep the queue full
        require_finite_norm(job, state, norm, graph)
    job.optimizer.step()
    if state.ema is not None:
        update_ema(state.ema, job.potential, config.ema, state.step)
    row = torch.cat([total, torch.stack([norm, norm * 0, norm * 0])[None]])
    state.epoch_sums += row
    state.window_sums += row
    state.step += 1
    state.batch += 1
    return norm


def sampled_weights(job: Job) -> AbstractContextManager[object]:
    """A variational optimiser takes the gradient at a sample of its weights."""
    optimizer = job.optimizer
    return optimizer.sampled() if isinstance(optimizer, IVON) else nullcontext()


def require_finite_norm(job: Job, state: TrainState, norm: Tensor, graph: Data | None) -> None:
    """Refuse to go on from a gradient that is not a number.

    Raises:
        TrainingError: names the batch and the last good checkpoint.
    """
    if torch.isfinite(norm):
        return
    names = "" if graph is None or "index" not in graph else job.frame_names(graph)
    raise TrainingError(
        f"The gradient is not finite at step {state.step + 1} (norm {norm.item()}).",
        where=f"batch of {names}; last good state: {job.run_dir / 'checkpoint'}",
        fix="look at these structures and labels; lower optimizer.lr or clip_norm, or use dtype: float64",
    )


@contextmanager
def explain_failures(job: Job, graph: Data | None) -> Iterator[None]:
    """Turn exhausted memory and missing bfloat16 derivatives into errors that say what to change.

    Raises:
        TrainingError: out of memory; with the size of the batch and the setting to lower.
        ConfigError: an operation of this potential has no bfloat16 version.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        text = str(error)
        memory = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in text
        if memory and graph is not None:
            raise TrainingError(
                f"Out of memory in a batch of {graph.num_graphs} structures, {graph.pos.shape[0]} atoms, "
                f"{graph.edge_index.shape[1]} edges.",
                where=f"{job.ranks.device}",
                fix="lower batch.max_edges (or batch.max_atoms, batch.batch_size) below that",
            ) from error
        if job.config.dtype == "bfloat16":
            raise ConfigError(
                f"This potential cannot be trained under bfloat16 autocast ({text.splitlines()[0]}).",
                where="dtype",
                fix="use dtype: float32",
            ) from error
        raise
