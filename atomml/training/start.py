"""The first and the next start of a training: what is written, or read back, before its first step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from atomml.files import replace_file
from atomml.training.ema import start_ema
from atomml.training.logs import append_jsonl
from atomml.training.loop import save_checkpoint
from atomml.training.mixture import mixture_json
from atomml.training.parts import TrainingData
from atomml.training.resume import restore
from atomml.training.state import Job, TrainState

__all__ = ["resumed", "save_splits", "started"]


def started(job: Job[Any], write: Callable[[], None]) -> TrainState:
    """A new state; configuration, what ``write`` has to (the division of the data), and the first checkpoint."""
    zeros = torch.zeros(3, len(job.task.terms), dtype=torch.float64, device=job.ranks.device)
    state = TrainState(epoch_sums=zeros.clone(), window_sums=zeros)
    if job.config.ema > 0:
        state.ema = start_ema(job.module)
    if job.ranks.is_main:
        text = yaml.safe_dump(job.config.resolved(), sort_keys=False, allow_unicode=True)
        replace_file(job.run_dir / "config.yaml", text.encode())
        write()
        append_jsonl(job.run_dir / "log.jsonl", {"kind": "start", **job.provenance})
    save_checkpoint(job, state)
    return state


def resumed(job: Job[Any], say: Callable[[object], None]) -> TrainState:
    """The state of the checkpoint, see `atomml.training.resume.restore` for errors."""
    state = restore(job)
    if job.ranks.is_main:
        append_jsonl(job.run_dir / "log.jsonl", {"kind": "resume", "epoch": state.epoch, "step": state.step})
    say(f"Resumed in epoch {state.epoch + 1} after step {state.step}.")
    return state


def save_splits(data: TrainingData, run_dir: Path) -> None:
    """``split.json``, or ``splits/SET.json`` and ``sets.json`` for several sets."""
    if data.split is not None:
        data.split.save(run_dir / "split.json")
    if data.mixture is None:
        return
    for name, split in data.mixture.splits.items():
        split.save(run_dir / "splits" / f"{name}.json")
    content = {"sets": mixture_json(data), "fingerprint": data.fingerprint}
    content["alignment"] = data.mixture.alignment.to_dict()
    replace_file(run_dir / "sets.json", json.dumps(content, indent=1).encode())
