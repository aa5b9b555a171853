"""Training and calibration of a round."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from atomml.active.history import stores
from atomml.active.labels import measures
from atomml.active.recipe import finetune_config, train_config
from atomml.active.work import Facts, Run, fingerprint_of_model
from atomml.datasets.store import FrameStore, concatenate
from atomml.errors import ConfigError, DataError, UnsupportedError
from atomml.potentials import Potential
from atomml.potentials.model_file import load_model as load_potential
from atomml.potentials.model_file import read_model
from atomml.training.data import TrainingData
from atomml.training.deviations import calibrated
from atomml.training.finetuning import refit_references, with_references
from atomml.training.members import MEMBERS
from atomml.training.run import Say, TrainResult, run, train
from atomml.uncertainty.bayesian import BayesianPotential
from atomml.uncertainty.model_file import FRAMES, load_model, save_model

__all__ = ["calibrate_round", "train_round"]

MODEL = "model.safetensors"
REPLAY = "replay"


def train_round(loop: Run, round_: int) -> Facts:
    """Train on the labels so far; killed, the training goes on from its own checkpoint, bit for bit.

    Raises:
        AtommlError: what a training raises.
    """
    folder = loop.round_folder(round_)
    learn, records = loop.config.learn, loop.journal.records
    before = _model_before(loop, round_)
    warm = learn.mode == "warm" and before is not None
    frames = _replayed(loop, round_) if warm else stores(records, "train")
    parts = {"train": frames, "valid": stores(records, "calibration"), "test": stores(records, "test")}
    files: dict[str, Any] = {
        part: [str(loop.folder / p) for p in paths] or None for part, paths in parts.items()
    }
    figures = {} if loop.config.figures else {"figures": False}
    if warm and before is not None:
        config = finetune_config(learn, folder / "train", files).model_copy(update=figures)
        result = _go_on(loop, config, before)
    else:
        scratch = train_config(learn, folder / "train", files).model_copy(update=figures)
        result = train(scratch, resume=True, quiet=not loop.progress)
    path = result.run_dir / MODEL
    return {
        "frames": sum(len(FrameStore.open(loop.folder / p)) for p in frames),
        "warm": warm,
        "model": {"path": loop.relative(path), "fingerprint": fingerprint_of_model(path)},
    }


def calibrate_round(loop: Run, round_: int) -> Facts:
    """Scale the deviations of the trained model on all calibration frames; the model that explores next.

    Also the errors on calibration and test frames.
    """
    config, records = loop.config.calibrate, loop.journal.records
    source, target = loop.round_folder(round_) / "train" / MODEL, loop.round_folder(round_) / MODEL
    header, tensors = read_model(source)
    model = load_model(source, device=loop.config.device)
    held_out = [FrameStore.open(loop.folder / p) for p in stores(records, "calibration")]
    facts: Facts = {"method": config.method, "frames": sum(map(len, held_out)), "notes": []}
    if isinstance(model, BayesianPotential):
        try:
            if not held_out:
                raise DataError("There are no frames for it.")
            model = calibrated(
                model, concatenate(held_out), method=config.method, by_element=config.by_element
            )
        except DataError as error:
            facts["notes"].append(f"The deviations are as the training left them: {error.what}")
        facts["calibration"] = model.calibration_id
    kept = {name: header[name] for name in ("training", "data", "metrics", "licence") if name in header}
    save_model(model, target, frames=tensors[FRAMES].numpy() if FRAMES in tensors else None, **kept)
    facts["model"] = {"path": loop.relative(target), "fingerprint": fingerprint_of_model(target)}
    model = load_model(target, device=loop.config.device)
    tests = [FrameStore.open(loop.folder / p) for p in stores(records, "test")]
    facts["errors"] = {
        part: measures(model, concatenate(each))
        for part, each in (("calibration", held_out), ("test", tests))
        if each
    }
    return facts


def _model_before(loop: Run, round_: int) -> Path | None:
    """The run folder of the last training before this round, or the model file of the start."""
    for record in reversed(loop.journal.records):
        if record["step"] == "train" and record["round"] < round_:
            return (loop.folder / record["facts"]["model"]["path"]).parent
    start = loop.journal.find(0, "start")
    found = None if start is None else start["facts"]["model"]
    return None if found is None else loop.folder / found["path"]


def _replayed(loop: Run, round_: int) -> list[str]:
    """The new training frames, and a store with as many of the old ones as are wanted."""
    new = [
        r["facts"]["stores"]["train"]["path"]
        for r in loop.journal.records
        if r["step"] == "store" and r["round"] == round_ and "train" in r["facts"]["stores"]
    ]
    old = [path for path in stores(loop.journal.records, "train") if path not in new]
    wanted = loop.config.learn.replay
    if not old or wanted == 0:
        return new or old
    store = concatenate([FrameStore.open(loop.folder / path) for path in old])
    count = math.ceil(wanted * len(store)) if isinstance(wanted, float) else min(wanted, len(store))
    if count == len(store):
        return [*old, *new]
    rows = np.sort(loop.rng("replay", round_).permutation(len(store))[:count])
    folder = loop.round_folder(round_) / REPLAY
    store.subset(rows).save(folder, overwrite=True)
    return [loop.relative(folder), *new]


def _go_on(loop: Run, config: Any, before: Path) -> TrainResult:
    """A training that begins with the weights of the model before; of an ensemble each member with its own."""

    def build(data: TrainingData, say: Say, seed: int) -> Potential:
        potential = load_potential(_file_of(before, seed - config.seed))
        new = [z for z in data.train.elements() if z not in potential.elements]
        if new:
            raise UnsupportedError(
                f"The model before does not know the elements {new} of the new frames.",
                where="learn.mode: warm",
                fix="write mode: scratch",
            )
        if config.e0 == "refit" and data.train.labels()["energy"]:
            potential = with_references(potential, refit_references(potential, data.train), add=True)
        return potential

    return run(config, build, resume=True, quiet=not loop.progress, origin={"model": str(before)})


def _file_of(before: Path, member: int) -> Path:
    """The file of a member; of the model itself where there are none."""
    members = before / MEMBERS / str(member) / MODEL
    if members.is_file():
        return members
    if (before / MEMBERS).is_dir():
        raise ConfigError(
            f"The model before has no member {member}.",
            where=str(before),
            fix="keep the number of members, or write mode: scratch",
        )
    return before if before.is_file() else before / MODEL
