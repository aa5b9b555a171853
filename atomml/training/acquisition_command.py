"""What `atomml acquire` does: find in a pool the structures that are worth labelling."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from ase.io import write
from rich.console import Console
from rich.table import Table

from atomml._version import __version__
from atomml.datasets import FrameStore, frame_fingerprints, load_frames
from atomml.errors import ConfigError, DataError
from atomml.files import write_atomically
from atomml.potentials.model_file import read_model
from atomml.shapes import Int64, ndarray
from atomml.training.acquisition import member_predictions, summed_features, with_noise
from atomml.uncertainty.acquisition import (
    METHODS,
    AcquisitionSettings,
    PoolFeatures,
    Selection,
    acquire,
)
from atomml.uncertainty.model_file import FRAMES, load_model

__all__ = ["AcquireOptions", "acquire_files"]

BY_FEATURES = ("farthest_point", "llpr_maxdet")
ROWS_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class AcquireOptions:
    """What `atomml acquire` is asked for.

    Attributes:
        method: one of `atomml.uncertainty.acquisition.METHODS`.
        n: how many structures.
        labelled: files of the structures that are labelled already, for methods by features.
        settings: aggregation over atoms and limits.
        seed: of the method ``random``.
        max_atoms: atoms in one batch.
    """

    method: str
    n: int
    labelled: Sequence[str] = ()
    settings: AcquisitionSettings = field(default_factory=AcquisitionSettings)
    seed: int = 0
    max_atoms: int = 2000


def acquire_files(
    model: str,
    pool: Sequence[str],
    options: AcquireOptions,
    *,
    out: Path,
    device: str = "cpu",
    json_file: Path | None = None,
    console: Console | None = None,
) -> Selection:
    """Choose structures of the pool files, write them to ``out`` and print them.

    Structures that the model was trained on, or that come twice, are left out.

    Args:
        model: a model file.
        pool: files or native stores; labels in them are not looked at.
        options: method, number and limits.
        out: file of the chosen structures, any format that ASE writes.
        device: where to compute.
        json_file: file for rows, ids, scores and notes.
        console: terminal; standard output by default.

    Raises:
        ConfigError: an unknown method, or one whose input is missing.
        DataError: fewer structures in the pool than are to be chosen.
        UnsupportedError: the model has no members; an element it does not know.
    """
    method = _known(options.method)
    console = Console() if console is None else console
    potential = load_model(model, device=device)
    store = load_frames(list(pool))
    rows, notes = _fresh(store, model)
    frames = store.subset(rows)
    console.print(f"Pool: {len(frames)} structures{''.join(f'; {note}' for note in notes)}", highlight=False)
    predictions = features = None
    if method in BY_FEATURES:
        features = _features(potential, frames, options)
    limited = options.settings.force_std_max is not None or options.settings.force_std_min > 0
    if method not in (*BY_FEATURES, "random") or limited:
        predictions = member_predictions(potential, frames, max_atoms=options.max_atoms)
    if method == "random" and predictions is None:
        chosen = np.random.default_rng(options.seed).permutation(len(frames))[: options.n]
        if len(chosen) < options.n:
            raise DataError(
                f"The pool has {len(frames)} structures, {options.n} are to be chosen.", where="--n"
            )
        found = Selection(chosen, np.zeros(len(chosen)), "random")
    else:
        found = acquire(
            cast(Any, method),
            options.n,
            predictions=predictions,
            features=features,
            rng=np.random.default_rng(options.seed),
            settings=with_noise(options.settings, potential),
        )
    found = found._replace(rows=rows[found.rows], notes=(*notes, *found.notes))
    write(out, [store[int(row)] for row in found.rows], format="extxyz" if out.suffix == ".xyz" else None)
    _show(found, store, console)
    console.print(f"{len(found.rows)} structures in {out}", highlight=False)
    if json_file is not None:
        _write_json(json_file, found, store, model)
    return found


def _known(method: str) -> str:
    if method not in METHODS:
        raise ConfigError(
            f"There is no method {method!r}.", where="--method", fix=f"choose one of {', '.join(METHODS)}"
        )
    return method


def _fresh(store: FrameStore, model: str) -> tuple[Int64[ndarray, " rows"], tuple[str, ...]]:
    """Rows that are neither training frames of the model nor copies of an earlier row, and what was left out."""
    prints = frame_fingerprints(store)
    tensors = read_model(model)[1]
    seen = np.isin(prints, tensors[FRAMES].numpy()) if FRAMES in tensors else np.zeros(len(store), dtype=bool)
    first = np.zeros(len(store), dtype=bool)
    first[np.unique(prints, return_index=True)[1]] = True
    notes = []
    if seen.any():
        notes.append(f"{seen.sum()} left out that the model was trained on")
    if (~first & ~seen).any():
        notes.append(f"{(~first & ~seen).sum()} left out that come twice")
    return np.flatnonzero(first & ~seen), tuple(notes)


def _features(potential: Any, frames: FrameStore, options: AcquireOptions) -> PoolFeatures:
    if not options.labelled:
        raise ConfigError(
            f"{options.method} compares the pool with what is labelled already.",
            where="--labelled",
            fix="give the files that the model was trained on",
        )
    labelled = load_frames(list(options.labelled))
    each = [summed_features(potential, part, max_atoms=options.max_atoms) for part in (frames, labelled)]
    return PoolFeatures(pool=each[0], labelled=each[1])


def _show(found: Selection, store: FrameStore, console: Console) -> None:
    table = Table("rank", "row", "id", "formula", f"score ({found.method})")
    for rank, (row, score) in enumerate(zip(found.rows[:ROWS_SHOWN], found.scores, strict=False), 1):
        formula = store[int(row)].get_chemical_formula()
        table.add_row(str(rank), str(row), str(store.ids[int(row)]), formula, f"{score:.4g}")
    console.print(table)
    if len(found.rows) > ROWS_SHOWN:
        console.print(f"and {len(found.rows) - ROWS_SHOWN} more")
    for note in found.notes:
        console.print(f"Note: {note}", highlight=False)


def _write_json(path: Path, found: Selection, store: FrameStore, model: str) -> None:
    content = {
        "method": found.method,
        "rows": found.rows.tolist(),
        "ids": [str(store.ids[int(row)]) for row in found.rows],
        "scores": found.scores.tolist(),
        "notes": list(found.notes),
        "version": __version__,
        "model": model,
        "pool_fingerprint": store.fingerprint(),
    }
    write_atomically(path, json.dumps(content, indent=1).encode(), error=DataError)
