"""What `atomml calibrate` does: read, refuse training frames, fit, print a table, write a model file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from ase.data import chemical_symbols
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from atomml.datasets import FrameStore, label_summary, load_frames
from atomml.errors import ConfigError, DataError, UnsupportedError
from atomml.files import write_atomically
from atomml.potentials.model_file import read_model
from atomml.shapes import Int64, ndarray
from atomml.training.deviations import calibrated, used_in_training
from atomml.uncertainty.bayesian import BayesianPotential
from atomml.uncertainty.calibration import Calibration
from atomml.uncertainty.calibration.scale import Method
from atomml.uncertainty.model_file import FRAMES, load_model, save_model

__all__ = ["calibrate_file", "calibration_table"]

SHOWN = {
    "coverage_68": "in 68 %",
    "coverage_95": "in 95 %",
    "z_rms": "error/σ",
    "ce": "CE",
    "nll": "NLL",
}
NAMED = 5


def calibrate_file(
    model: str,
    data: Sequence[str],
    *,
    method: str = "nll",
    by_element: bool = False,
    exact: bool = False,
    out: Path | None = None,
    in_place: bool = False,
    json_file: Path | None = None,
    allow_overlap: bool = False,
    device: str = "cpu",
    max_atoms: int = 2000,
    keys: Mapping[str, str] | None = None,
    console: Console | None = None,
) -> Path:
    """Scale the deviations of a model file to the errors on held-out frames; returns the file that was written.

    Args:
        model: a model file with deviations; what calibration it has is replaced.
        data: files or native stores with frames that were not trained on.
        method: see `atomml.uncertainty.calibration.fit_calibration`.
        by_element: one scale of the forces for each element.
        exact: fit the deviations that are derived, not those that are estimated.
        out: file to write; by default ``model`` with ``-calibrated`` before its suffix.
        in_place: write to ``model`` itself.
        json_file: file for the calibration.
        allow_overlap: take frames that the model was trained on, too; recorded in the calibration.
        device: where to compute.
        max_atoms: atoms in one batch.
        keys: ``energy_key``, ``forces_key``, ``stress_key`` for the reader.
        console: terminal for the table; standard output by default.

    Raises:
        ConfigError: ``out`` and ``in_place`` both; an unknown method.
        UnsupportedError: a model without deviations.
        DataError: frames of the training set; too few labels; data that cannot be read.
        ModelFileError: the model cannot be read or written.
    """
    console = Console() if console is None else console
    if method not in get_args(Method):
        known = ", ".join(get_args(Method))
        raise ConfigError(f"{method!r} is not a method.", where="--method", fix=f"use one of {known}")
    target = _target(model, out, in_place)
    potential = load_model(model, device=device)
    if not isinstance(potential, BayesianPotential):
        raise UnsupportedError(
            "This model has no deviations to calibrate.",
            where=model,
            fix="train with model.noise, model.heads or an uncertainty method",
        )
    store = load_frames(list(data), **cast(Any, dict(keys or {})))
    console.print(f"{len(store)} frames: {label_summary(store)}", highlight=False)
    header, tensors = read_model(model)
    training = tensors[FRAMES].numpy() if FRAMES in tensors else None
    overlap = _overlap(training, store, allow_overlap, console)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("predicting", total=len(store))
        result = calibrated(
            potential,
            store,
            method=method,
            by_element=by_element,
            exact=exact,
            data={"source": [str(path) for path in data], "training_frames": overlap},
            max_atoms=max_atoms,
            on_batch=lambda done: bar.update(task, completed=done),
        )
    calibration = cast(Calibration, result.calibration)
    _show(calibration, potential.calibration_id, console)
    kept = {name: header[name] for name in ("training", "data", "metrics", "licence") if name in header}
    save_model(result, target, frames=training, **kept)
    console.print(f"Model with calibration {calibration.id}: {target}", highlight=False)
    if json_file is not None:
        write_atomically(json_file, json.dumps(calibration.to_dict(), indent=1).encode())
    return target


def calibration_table(calibration: Calibration) -> Table:
    """Scales of each quantity, and its measures before and after, for the terminal."""
    table = Table("quantity", "scale", "", *SHOWN.values())
    for name, fitted in calibration.quantities.items():
        gamma = calibration.epistemic_factor(name)
        parts = [("α", fitted.scale.alpha), ("β", fitted.scale.beta), ("γ", gamma if gamma != 1 else 0.0)]
        scale = "\n".join(f"{letter} {value:.3g}" for letter, value in parts if value or letter == "α")
        for k, (when, measures) in enumerate((("before", fitted.before), ("after", fitted.after))):
            numbers = [_text(key, measures.get(key)) for key in SHOWN]
            table.add_row(*((name, scale) if k == 0 else (f"{fitted.count} labels", "")), when, *numbers)
    return table


def _show(calibration: Calibration, replaced: str | None, console: Console) -> None:
    if replaced is not None:
        console.print(f"The calibration {replaced} of the model is replaced.", highlight=False)
    console.print(calibration_table(calibration))
    for name, fitted in calibration.quantities.items():
        scales = [f"{chemical_symbols[z]} {scale.alpha:.3g}" for z, scale in fitted.by_element.items()]
        if scales:
            console.print(f"{name}, α by element: {', '.join(scales)}", highlight=False)
    for note in (*calibration.data.get("left_out", ()), *calibration.notes):
        console.print(f"Note: {note}", highlight=False, markup=False)


def _text(key: str, value: float | None) -> str:
    if value is None:
        return "–"
    return (
        f"{100 * value:.1f} %"
        if key.startswith("coverage")
        else f"{value:.3g}"
        if key != "ce"
        else f"{value:.1e}"
    )


def _target(model: str, out: Path | None, in_place: bool) -> Path:
    if out is not None and in_place:
        raise ConfigError("--out and --in-place exclude each other.", fix="leave one of them out")
    path = Path(model)
    if out is not None or in_place:
        return path if out is None else out
    return path.with_name(f"{path.stem}-calibrated.safetensors")


def _overlap(
    training: Int64[ndarray, " fingerprints"] | None, store: FrameStore, allowed: bool, console: Console
) -> int | None:
    """How many frames the model was trained on; None where the model does not say.

    Raises:
        DataError: there are some, and they are not allowed.
    """
    if training is None:
        console.print(
            "Warning: the model has no fingerprints of its training frames; nobody checked that these frames are "
            "others. On frames of the training the deviations become too small.",
            style="yellow",
        )
        return None
    rows = np.flatnonzero(used_in_training(training, store))
    if len(rows) and not allowed:
        names = ", ".join(store.ids[int(row)] for row in rows[:NAMED])
        raise DataError(
            f"{len(rows)} of {len(store)} frames are in the training set of this model: their errors are smaller "
            "than those on new structures, and so would be the deviations.",
            where=names + (", …" if len(rows) > NAMED else ""),
            fix="give held-out frames, or add --allow-overlap, which the calibration records",
        )
    if len(rows):
        console.print(
            f"Warning: {len(rows)} frames are in the training set.", style="yellow", highlight=False
        )
    return len(rows)
