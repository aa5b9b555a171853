"""One optimiser step: loss, gradient, clipping, update, average."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from atomml.errors import ConfigError, TrainingError
from atomml.shapes import Float64, Tensor
from atomml.training.distributed import reduce_gradients, sum_over_ranks
from atomml.training.ema import update_ema
from atomml.training.loss import combine
from atomml.training.state import Job, TrainState
from atomml.uncertainty.ivon import IVON

__all__ = ["clip_gradients", "explain_failures", "require_finite_norm", "trainable", "training_step"]


def trainable(job: Job[Any]) -> list[torch.nn.Parameter]:
    """Parameters that are not frozen, in the order of the module."""
    return [p for p in job.names if p.requires_grad]


def training_step(
    job: Job[Any], state: TrainState, batch: Any, lr: float, progress: float = 1.0
) -> Float64[Tensor, ""]:
    """One step on this process's batch (None: it has none in this step); returns the gradient's norm.

    ``progress`` is the share of the training that is done.

    The sums and label counts of all processes are added before the backward pass, so that the gradient is
    that of the joint batch: L = Σ_t weight_t Σ_ranks sum_t / Σ_ranks count_t.
    """
    device, config = job.ranks.device, job.config
    for group in job.optimizer.param_groups:
        group["lr"] = lr
    job.optimizer.zero_grad(set_to_none=True)
    with explain_failures(job, batch), sampled_weights(job):
        sums = counts = torch.zeros(len(job.task.terms), dtype=torch.float64, device=device)
        if batch is not None:
            sums, counts = job.task.sums(batch, progress)
        total = sum_over_ranks(torch.stack([sums.detach(), counts]), job.ranks)
        if batch is not None:
            combine(sums, total[1], job.weights).backward(inputs=trainable(job))
    parameters = trainable(job)
    reduce_gradients(parameters, job.ranks)
    norm = clip_gradients(job, parameters)
    if device.type == "cpu":  # on a GPU the check waits for the next line of the log, to keep the queue full
        require_finite_norm(job, state, norm, batch)
    job.optimizer.step()
    if state.ema is not None:
        update_ema(state.ema, job.module, config.ema, state.step)
    row = torch.cat([total, torch.zeros_like(total[:1])])
    row[2, 0] = norm
    state.epoch_sums += row
    state.window_sums += row
    state.step += 1
    state.batch += 1
    return norm


def clip_gradients(job: Job[Any], parameters: list[torch.nn.Parameter]) -> Float64[Tensor, ""]:
    """Limit the norm of the gradient, of parameters that learn apart by itself; returns the whole norm before."""
    limit = float("inf") if job.config.clip_norm is None else job.config.clip_norm
    apart = [p for p in parameters if job.task.learns_apart(job.names[p])]
    together = [p for p in parameters if not job.task.learns_apart(job.names[p])]
    norms = [torch.nn.utils.clip_grad_norm_(group, limit).double() for group in (together, apart) if group]
    return torch.stack(norms).norm()


def sampled_weights(job: Job[Any]) -> AbstractContextManager[object]:
    """A variational optimiser takes the gradient at a sample of its weights."""
    optimizer = job.optimizer
    return optimizer.sampled() if isinstance(optimizer, IVON) else nullcontext()


def require_finite_norm(job: Job[Any], state: TrainState, norm: Tensor, batch: Any) -> None:
    """Refuse to go on from a gradient that is not a number.

    Raises:
        TrainingError: names the batch and the last good checkpoint.
    """
    if torch.isfinite(norm):
        return
    names = "" if batch is None else job.task.names_of(batch)
    raise TrainingError(
        f"The gradient is not finite at step {state.step + 1} (norm {norm.item()}).",
        where=f"batch of {names}; last good state: {job.run_dir / 'checkpoint'}",
        fix="look at these structures and labels; lower optimizer.lr or clip_norm, or use dtype: float64",
    )


@contextmanager
def explain_failures(job: Job[Any], batch: Any) -> Iterator[None]:
    """Turn exhausted memory and missing bfloat16 derivatives into errors that say what to change.

    Raises:
        TrainingError: out of memory; with the size of the batch and the setting to lower.
        ConfigError: an operation of this network has no bfloat16 version.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        text = str(error)
        memory = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in text
        if memory and batch is not None:
            raise TrainingError(
                f"Out of memory in a batch of {job.task.size_of(batch)}.",
                where=f"{job.ranks.device}",
                fix="lower the limits of batch below that",
            ) from error
        if job.config.dtype == "bfloat16":
            raise ConfigError(
                f"This network cannot be trained under bfloat16 autocast ({text.splitlines()[0]}).",
                where="dtype",
                fix="use dtype: float32",
            ) from error
        raise
