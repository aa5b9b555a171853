"""Go on from a checkpoint, or say exactly what no longer fits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from atomml.datasets.mixture import Alignment
from atomml.errors import ConfigError
from atomml.training.checkpoint import (
    CHECKPOINT,
    differences,
    load_into_optimizer,
    load_into_parameters,
    read_checkpoint,
    restore_rng,
)
from atomml.training.logs import columns_of, read_jsonl, rewrite_csv
from atomml.training.state import Job, TrainState, state_from_json

__all__ = ["FREE", "restore", "saved_alignment", "saved_constants"]

FREE = {
    "run_dir",
    "device",
    "threads",
    "max_minutes",
    "checkpoint_minutes",
    "checkpoint_steps",
    "log_every",
    "figures",
    "data.train",  # the fingerprint of its content is compared instead
    "data.cache",
    "data.workers",
}
"""Keys that may change between the pieces of a training."""


def restore(job: Job[Any]) -> TrainState:
    """State, weights, moments and random generators of the checkpoint of a run; the log is cut to it.

    Raises:
        ModelFileError: the checkpoint is truncated or foreign.
        ConfigError: configuration, data or number of processes differ; every difference is named.
    """
    path = job.run_dir / CHECKPOINT
    tensors, saved = read_checkpoint(path, job.ranks.device)
    _require_same(job, saved, str(path))
    state = state_from_json(saved)
    load_into_parameters(job.module, tensors, "weights.")
    load_into_optimizer(job.optimizer, job.names, tensors)
    restore_rng(tensors, job.ranks.device)
    state.ema = _group(tensors, "ema.")
    state.best = _group(tensors, "best.")
    state.epoch_sums, state.window_sums = tensors["epoch_sums"], tensors["window_sums"]
    if state.stopped and _limits_moved(job, state):
        state.stopped = ""
    if job.ranks.is_main:
        records = read_jsonl(job.run_dir / "log.jsonl", saved["log_size"])
        columns = columns_of(job.task.terms, job.task.measures)
        rewrite_csv(job.run_dir / "metrics.csv", records, columns)
    return state


def saved_constants(run_dir: Path, device: torch.device) -> dict[str, Any]:
    """Reference energies and scales with which a run began, to the last digit.

    A least-squares fit done again in another process can differ in its last bits.

    Raises:
        ModelFileError: the checkpoint is truncated or foreign.
    """
    constants = read_checkpoint(run_dir / CHECKPOINT, device)[1]["constants"]
    return constants | {"e0": {int(z): e for z, e in constants["e0"].items()}}


def saved_alignment(run_dir: Path, device: torch.device) -> Alignment | None:
    """How the energies of several sets were aligned when the run began; None for one set.

    Raises:
        ModelFileError: the checkpoint is truncated or foreign.
    """
    saved = read_checkpoint(run_dir / CHECKPOINT, device)[1].get("alignment")
    return None if saved is None else Alignment.from_dict(saved)


def _with_defaults(saved: dict[str, Any], job: Job[Any]) -> dict[str, Any]:
    """The saved configuration with the defaults of keys that its version did not have."""
    try:
        return type(job.config).model_validate(saved).resolved()
    except ValidationError:
        return saved


def _group(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor] | None:
    # tensors of a file lie at odd addresses, and BLAS rounds differently there than in memory torch allocates
    found = {k.removeprefix(prefix): v.clone() for k, v in tensors.items() if k.startswith(prefix)}
    return found or None


def _limits_moved(job: Job[Any], state: TrainState) -> bool:
    config = job.config
    return state.stopped != "early_stop" and not (
        (config.epochs is not None and state.epoch >= config.epochs)
        or (config.max_steps is not None and state.step >= config.max_steps)
        or (config.max_minutes is not None and state.seconds >= 60.0 * config.max_minutes)
    )


def _shapes_training(uncertainty: Mapping[str, Any] | None) -> bool:
    """Whether a method of uncertainty is part of the training, rather than of what follows it."""
    return uncertainty is not None and uncertainty["kind"] == "ivon"


def _require_same(job: Job[Any], saved: Mapping[str, Any], where: str) -> None:
    free = set(FREE)
    if job.config.schedule.kind != "cosine":
        free |= {"epochs", "max_steps"}
    changed = {
        key: pair
        for key, pair in differences(_with_defaults(saved["config"], job), job.config.resolved()).items()
        if key not in free and not (key.startswith("data.sets.") and key.endswith(".train"))
    }
    if not any(
        _shapes_training(config.get("uncertainty")) for config in (saved["config"], job.config.resolved())
    ):
        changed = {key: pair for key, pair in changed.items() if key.partition(".")[0] != "uncertainty"}
    changed |= differences(saved["provenance"]["data"], job.provenance["data"], "content of data: ")
    if saved["world_size"] != job.ranks.world_size:
        changed["number of processes"] = (saved["world_size"], job.ranks.world_size)
    if changed:
        lines = "\n".join(f"    - {key}: {old!r} then, {new!r} now" for key, (old, new) in changed.items())
        raise ConfigError(
            f"The run cannot be resumed, because it is not the same run:\n{lines}",
            where=where,
            fix="undo these changes, or start a new run_dir",
        )
