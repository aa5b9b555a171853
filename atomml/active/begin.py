"""The first step: everything that the loop begins with is read, checked and copied into its folder."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np

from atomml.active.config import ActiveConfig
from atomml.active.labels import calibration_rows
from atomml.active.work import Facts, Run, fingerprint_of_model, saved
from atomml.calculators import EmtCalculator
from atomml.datasets import frame_fingerprints, load_frames
from atomml.datasets.frame import Frame
from atomml.datasets.packing import pack_frames
from atomml.datasets.store import FrameStore
from atomml.errors import ConfigError, DataError
from atomml.potentials.model_file import find_model
from atomml.simulate.sampling.config import SampleConfig
from atomml.simulate.sampling.structures import make_starts
from atomml.uncertainty.bayesian import BayesianPotential
from atomml.uncertainty.model_file import load_model

__all__ = ["begin"]

MODEL = "start/model.safetensors"


def begin(run: Run) -> Facts:
    """Labelled frames, divided for training and calibration; the test; structures; the model.

    Raises:
        DataError: files that cannot be read, no labels left, test frames without labels.
        ConfigError: structures that cannot be made, a model without the deviations that are needed.
    """
    stores: dict[str, Any] = {}
    notes: list[str] = []
    test = _read(run.config.start.test, "start.test")
    if test is not None:
        stores["test"] = saved(run, test, run.folder / "labels" / "test")
    labelled = _read(run.config.start.labelled, "start.labelled")
    if labelled is not None:
        stores |= _divided(run, labelled, test, notes)
    return {
        "stores": stores,
        "structures": _structures(run, notes),
        "model": _model(run.config, run),
        "notes": notes,
    }


def _read(files: list[str], key: str) -> FrameStore | None:
    if not files:
        return None
    store = load_frames(files)
    if not store.label_counts()["forces"]:
        raise DataError("No frame has forces.", where=key, fix="give labelled frames")
    return store


def _divided(run: Run, labelled: FrameStore, test: FrameStore | None, notes: list[str]) -> dict[str, Any]:
    """Without copies and test frames, into training and calibration."""
    prints = frame_fingerprints(labelled)
    first = np.zeros(len(prints), dtype=bool)
    first[np.unique(prints, return_index=True)[1]] = True
    in_test = np.zeros(len(prints), dtype=bool) if test is None else np.isin(prints, frame_fingerprints(test))
    for mask, what in ((in_test, "are in the test set"), (~first & ~in_test, "come twice")):
        if mask.any():
            notes.append(f"{mask.sum()} labelled frames {what} and were left out")
    rows = np.flatnonzero(first & ~in_test)
    if len(rows) < 2:
        raise DataError(
            f"{len(rows)} labelled frames are left, two are needed.", where="start.labelled", fix="give more"
        )
    store = labelled.subset(rows)
    held_out = calibration_rows(run, store, "start")
    folder = run.folder / "labels" / "round_00_start"
    parts = {"train": ~held_out, "calibration": held_out}
    return {
        name: saved(run, store.subset(np.flatnonzero(mask)), folder / name)
        for name, mask in parts.items()
        if mask.any()
    }


def _structures(run: Run, notes: list[str]) -> dict[str, Any] | None:
    """The cells that explorers begin with, each with its name in the tag ``system``."""
    start = run.config.start
    if not start.structures.files and not start.structures.prototypes:
        return None
    how = SampleConfig(
        run_dir="unused",
        seed=run.config.seed,
        structures=start.structures,
        substitution=start.substitution,
        cell=start.cell,
        calculator=EmtCalculator(),  # not used: only the cells are made
    )
    made = make_starts(how)
    notes += [f"{name} was left out: it {reason}" for name, reason in made.dropped]
    frames = [
        Frame(
            np.array(s.atoms.numbers),
            np.array(s.atoms.positions),
            np.array(s.atoms.cell.array),
            np.array(s.atoms.pbc),
            id=s.name,
            tags={"system": s.name, "provenance": s.provenance},
        )
        for s in made.kept
    ]
    store = pack_frames(frames, {"source": "atomml active"}, where="start.structures")
    return saved(run, store, run.folder / "start" / "structures")


def _model(config: ActiveConfig, run: Run) -> dict[str, Any] | None:
    """The model of the start as a file of the run."""
    if config.start.model is None:
        return None
    source, target = find_model(config.start.model), run.folder / MODEL
    model = load_model(source, device=config.device)
    limits = config.gate.force_std_min is not None or config.gate.force_std_max is not None
    if limits and not isinstance(model, BayesianPotential):
        raise ConfigError(
            "The model of the start has no deviations for the gate.",
            where=f"start.model: {source}",
            fix="give a model with an uncertainty, or set the limits of gate to null",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(".tmp")
    shutil.copyfile(source, temporary)
    temporary.replace(target)
    return {"path": run.relative(target), "fingerprint": fingerprint_of_model(target)}
