"""The training loop: epochs of steps, validation, checkpoints, and when to stop."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.distributed as dist

from atomml.errors import TrainingError
from atomml.training.checkpoint import CHECKPOINT, optimizer_tensors, rng_tensors, write_checkpoint
from atomml.training.ema import swapped_weights
from atomml.training.logs import append_csv, append_jsonl, columns_of, epoch_line, epoch_progress, set_lines
from atomml.training.loss import combine
from atomml.training.schedule import after_validation, learning_rate_factor
from atomml.training.state import Job, TrainState, state_to_json
from atomml.training.step import require_finite_norm, training_step

__all__ = ["fit", "progress_of", "save_checkpoint", "validate"]


def fit(job: Job[Any], state: TrainState) -> TrainState:
    """Train from ``state`` until a limit of the configuration; ``state`` is changed in place and returned.

    Raises:
        TrainingError: diverged, out of memory, or a checkpoint that cannot be written.
    """
    first_epoch_steps = len(job.steps_of_epoch(0))
    while not state.stopped:
        steps = job.steps_of_epoch(state.epoch)
        job.module.train()
        waited = run_epoch(job, state, steps, first_epoch_steps)
        end_epoch(job, state, len(steps), waited)
        if job.on_epoch is not None:
            job.on_epoch(state)
        save_checkpoint(job, state)
    return state


def run_epoch(job: Job[Any], state: TrainState, steps: list[list[int]], first_epoch_steps: int) -> float:
    """The rest of the present epoch, from batch ``state.batch`` on; the share of it spent waiting for batches."""
    config = job.config
    saved_at = started = asked = time.perf_counter()
    waited = 0.0
    before = state.seconds
    with epoch_progress(job.console, state.epoch + 1, len(steps)) as (bar, task):
        for batch in job.train_batches(steps[state.batch :]):
            waited += time.perf_counter() - asked
            progress = progress_of(job, state, len(steps))
            factor = learning_rate_factor(
                config.schedule, state.step, progress, first_epoch_steps, state.plateau
            )
            norm = training_step(job, state, batch, config.optimizer.lr * factor, progress)
            now = time.perf_counter()
            state.seconds = before + now - started
            if state.step % config.log_every == 0:
                require_finite_norm(job, state, norm, batch)
                record = step_record(job, state)
                if bar is not None:
                    bar.update(task, loss=f"loss {record['train_loss']:.5f}")
            if bar is not None:
                bar.update(task, completed=state.batch)
            if out_of_budget(job, state):
                break
            if state.batch < len(steps) and checkpoint_due(job, state, now - saved_at):
                require_finite_norm(job, state, norm, batch)
                save_checkpoint(job, state)
                saved_at = now
            asked = time.perf_counter()
    return waited / max(time.perf_counter() - started, 1e-9)


def progress_of(job: Job[Any], state: TrainState, steps_in_epoch: int) -> float:
    """Fraction of the training done, by epochs or steps, whichever is further."""
    config, done = job.config, 0.0
    if config.epochs is not None:
        done = (state.epoch + state.batch / max(steps_in_epoch, 1)) / config.epochs
    if config.max_steps is not None:
        done = max(done, state.step / config.max_steps)
    return min(done, 1.0)


def out_of_budget(job: Job[Any], state: TrainState) -> bool:
    """Whether steps or minutes are used up; the clock of the main process decides for all."""
    config = job.config
    if config.max_steps is not None and state.step >= config.max_steps:
        state.stopped = "max_steps"
    elif config.max_minutes is not None:
        late = state.seconds >= 60.0 * config.max_minutes
        if job.ranks.world_size > 1:
            decision = torch.tensor(int(late), device=job.ranks.device)
            dist.broadcast(decision, 0)
            late = bool(decision)
        if late:
            state.stopped = "max_minutes"
    return bool(state.stopped)


def checkpoint_due(job: Job[Any], state: TrainState, seconds: float) -> bool:
    """Whether the interval in steps or minutes is over."""
    config = job.config
    if config.checkpoint_steps is not None and state.step % config.checkpoint_steps == 0:
        return True
    return config.checkpoint_minutes is not None and seconds >= 60.0 * config.checkpoint_minutes


def step_record(job: Job[Any], state: TrainState) -> dict[str, Any]:
    """Write the losses since the last line to the log and start a new window."""
    lr = job.optimizer.param_groups[0]["lr"]
    record = {"kind": "step", "step": state.step, "epoch": state.epoch + 1, "lr": lr}
    record |= losses(job, state.window_sums)
    state.window_sums.zero_()
    if job.ranks.is_main:
        append_jsonl(job.run_dir / "log.jsonl", record)
    return record


def losses(job: Job[Any], sums: torch.Tensor) -> dict[str, float]:
    """Total loss and each unweighted term from accumulated sums (see `TrainState`)."""
    total = combine(sums[0], sums[1], job.weights).item()
    out = {"train_loss": total}
    for name, value, count in zip(job.task.terms, sums[0].tolist(), sums[1].tolist(), strict=True):
        if count > 0:
            out[f"train_{name}"] = value / count
    return out


def validate(job: Job[Any], weights: dict[str, torch.Tensor] | None) -> dict[str, Any]:
    """What the task measures on its validation set with the given weights."""
    job.module.eval()
    with swapped_weights(job.module, weights):
        measured = job.task.validate()
    job.module.train()
    return measured


def end_epoch(job: Job[Any], state: TrainState, steps_in_epoch: int, waited: float) -> None:
    """Validate, keep the best weights, adjust the schedule, decide whether to stop, write the log."""
    config = job.config
    state.epoch += 1
    record: dict[str, Any] = {"kind": "epoch", "epoch": state.epoch, "step": state.step}
    record["complete"] = state.batch == steps_in_epoch
    record["lr"] = job.optimizer.param_groups[0]["lr"]
    record |= losses(job, state.epoch_sums)
    record["grad_norm"] = state.epoch_sums[2, 0].item() / max(state.batch, 1)
    measured = validate(job, state.ema)
    record |= measured
    if measured:
        judge(job, state, measured["valid_loss"])
    record["best_epoch"] = state.best_epoch
    record["seconds"] = round(state.seconds - state.epoch_seconds, 3)
    record["loading"] = round(waited, 4)
    state.epoch_seconds = state.seconds
    state.batch = 0
    state.epoch_sums.zero_()
    if not state.stopped and config.epochs is not None and state.epoch >= config.epochs:
        state.stopped = "epochs"
    if job.ranks.is_main:
        append_jsonl(job.run_dir / "log.jsonl", record)
        append_csv(job.run_dir / "metrics.csv", record, columns_of(job.task.terms, job.task.measures))
    if job.console is not None:
        for line in (epoch_line(record), *set_lines(record)):
            job.console.print(line, highlight=False, soft_wrap=True)


def judge(job: Job[Any], state: TrainState, loss: float) -> None:
    """Best weights, plateau and early stop from a validation loss that is the same on every process.

    Raises:
        TrainingError: the loss is not a number.
    """
    if not loss < float("inf"):
        raise TrainingError(
            f"The validation loss is {loss} after epoch {state.epoch}.",
            where=str(job.run_dir),
            fix="lower optimizer.lr; the checkpoint before this epoch is intact",
        )
    state.plateau = after_validation(job.config.schedule, state.plateau, loss)
    if loss < state.best_loss:
        state.best_loss, state.best_epoch, state.waited = loss, state.epoch, 0
        source = state.ema or {name: p.detach() for p, name in job.names.items()}
        state.best = {name: value.clone() for name, value in source.items()}
        return
    state.waited += 1
    if job.config.early_stop is not None and state.waited >= job.config.early_stop and not state.stopped:
        state.stopped = "early_stop"


def save_checkpoint(job: Job[Any], state: TrainState) -> None:
    """Write everything needed to go on as if nothing had happened (main process only).

    Raises:
        TrainingError: the disk is full; the previous checkpoint is intact.
    """
    if not job.ranks.is_main:
        return
    tensors: dict[str, torch.Tensor] = {f"weights.{name}": p for p, name in job.names.items()}
    tensors |= {f"ema.{name}": value for name, value in (state.ema or {}).items()}
    tensors |= {f"best.{name}": value for name, value in (state.best or {}).items()}
    tensors |= optimizer_tensors(job.optimizer, job.names) | rng_tensors(job.ranks.device)
    tensors |= {"epoch_sums": state.epoch_sums, "window_sums": state.window_sums}
    log = job.run_dir / "log.jsonl"
    extra = {
        "config": job.config.resolved(),
        "log_size": log.stat().st_size if log.exists() else 0,
        "world_size": job.ranks.world_size,
        "provenance": job.provenance,
        **job.task.constants(),
    }
    write_checkpoint(job.run_dir / CHECKPOINT, tensors, state_to_json(state) | extra)
