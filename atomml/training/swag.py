"""SWAG after a training: epochs at a constant or cyclic rate, a snapshot of the weights after each."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from atomml.files import replace_file
from atomml.potentials import Potential
from atomml.training.checkpoint import CHECKPOINT
from atomml.training.config import LikelihoodConfig, RunConfig
from atomml.training.job import make_job
from atomml.training.loop import fit
from atomml.training.loop_config import ScheduleConfig
from atomml.training.parts import TrainingData
from atomml.training.start import resumed, save_splits, started
from atomml.training.state import Job, TrainState
from atomml.uncertainty.config import SWAGConfig
from atomml.uncertainty.posterior import Members
from atomml.uncertainty.swag import SwagMoments

__all__ = ["SWAG", "fit_swag", "with_weights"]

SWAG = "swag"
"""Folder in the run folder."""
CYCLE_ENDS_AT = 0.01
"""Factor of the rate at which a cycle ends and a snapshot is taken."""


def fit_swag(
    job: Job[RunConfig],
    potential: Potential,
    data: TrainingData,
    wanted: SWAGConfig,
    say: Callable[[object], None],
) -> Members:
    """Samples of the Gaussian fitted to the body's weights in ``wanted.epochs`` further epochs, in ``run_dir/swag``.

    A killed run goes on from the checkpoint there; its snapshots are files.
    """
    folder = job.run_dir / SWAG
    config = _collecting(job.config, wanted, folder)
    moving = deepcopy(potential).requires_grad_(True)
    collecting = make_job(config, moving, data, job.ranks, console=job.console)
    collecting = replace(collecting, on_epoch=lambda state: _save_snapshot(collecting, state, folder))
    say(f"SWAG: {wanted.epochs} epochs at a {wanted.rate} rate of {config.optimizer.lr:.2g}")
    going_on = (folder / CHECKPOINT).exists()
    folder.mkdir(exist_ok=True)
    state = resumed(collecting, say) if going_on else started(collecting, lambda: save_splits(data, folder))
    fit(collecting, state)
    moments = SwagMoments(wanted.rank)
    for epoch in range(1, wanted.epochs + 1):
        moments.add(load_file(_snapshot(folder, epoch)))
    generator = torch.Generator().manual_seed(job.config.seed)
    return Members(
        [with_weights(potential, moments.sample(generator)) for _ in range(wanted.samples)], "swag"
    )


def with_weights(potential: Potential, weights: dict[str, torch.Tensor]) -> Potential:
    """A copy with other parameters; those not in ``weights`` stay."""
    copy = deepcopy(potential)
    with torch.no_grad():
        for name, p in copy.named_parameters():
            if name in weights:
                p.copy_(weights[name])
    return copy.requires_grad_(False).eval()


def _collecting(config: RunConfig, wanted: SWAGConfig, folder: Path) -> RunConfig:
    cyclic = wanted.rate == "cyclic"
    rate = wanted.lr or 0.5 * config.optimizer.lr
    loss = config.loss
    if isinstance(loss, LikelihoodConfig):
        # the heads that a λ has inflated have been set right by now
        loss = loss.model_copy(update={"warmup": 0.0, "lambda_energy": 1.0, "lambda_forces": 1.0})
    schedule = ScheduleConfig(kind="cyclic" if cyclic else "constant", min_factor=CYCLE_ENDS_AT)
    return config.model_copy(
        update={
            "run_dir": str(folder),
            "uncertainty": None,
            "loss": loss,
            "optimizer": config.optimizer.model_copy(update={"lr": rate}),
            "schedule": schedule,
            "epochs": wanted.epochs,
            "max_steps": None,
            "max_minutes": None,
            "early_stop": None,
            "ema": 0.0,
            "seed": config.seed + 1000,
        }
    )


def _snapshot(folder: Path, epoch: int) -> Path:
    return folder / "snapshots" / f"{epoch}.safetensors"


def _save_snapshot(job: Job[RunConfig], state: TrainState, folder: Path) -> None:
    if job.ranks.is_main:
        weights = {
            name: p.detach().cpu().contiguous() for p, name in job.names.items() if name.startswith("body.")
        }
        replace_file(_snapshot(folder, state.epoch), save(weights))
