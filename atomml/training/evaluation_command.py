"""What `atomml evaluate` does: read, compare, print a table, write files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.progress import Progress

from atomml._version import __version__
from atomml.datasets import label_summary, load_frames
from atomml.errors import ConfigError
from atomml.potentials import load_model
from atomml.training.evaluation import Evaluation, evaluate
from atomml.training.report import evaluation_json, metrics_table, write_evaluation

__all__ = ["evaluate_files"]


def evaluate_files(
    model: str,
    data: Sequence[str],
    *,
    out: Path | None = None,
    json_file: Path | None = None,
    device: str = "cpu",
    dtype: str | None = None,
    max_atoms: int = 2000,
    keys: Mapping[str, str] | None = None,
    console: Console | None = None,
) -> Evaluation:
    """Evaluate a model file on data files and print the errors.

    Args:
        model: a model file or the name of a bundled model.
        data: files or native stores.
        out: folder for report, figure and per-frame tables.
        json_file: file for the metrics.
        device: where to compute.
        dtype: ``float32`` or ``float64``.
        max_atoms: atoms in one batch.
        keys: ``energy_key``, ``forces_key``, ``stress_key`` for the reader.
        console: terminal for the table; standard output by default.

    Raises:
        ConfigError: an unknown precision.
        AtommlError: the model or the data cannot be read, an unknown element, no labels.
    """
    if dtype not in (None, "float32", "float64"):
        raise ConfigError(f"{dtype!r} is not a precision.", where="--dtype", fix="use float32 or float64")
    console = Console() if console is None else console
    potential = load_model(model, device=device, dtype=cast(Any, dtype))
    store = load_frames(list(data), **dict(keys or {}))
    console.print(f"{len(store)} frames: {label_summary(store)}", highlight=False)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("evaluating", total=len(store))
        result = evaluate(
            potential, store, max_atoms=max_atoms, on_batch=lambda done: bar.update(task, completed=done)
        )
    console.print(metrics_table({"all": result}))
    provenance = {
        "version": __version__,
        "model": model,
        "model_created": potential.metadata.get("created", ""),
        "data": [str(path) for path in data],
        "data_fingerprint": store.fingerprint(),
    }
    if out is not None:
        write_evaluation(result, out, e0=potential.e0, provenance=provenance)
        console.print(f"Report: {out / 'evaluation.md'}", highlight=False)
    if json_file is not None:
        numbers = evaluation_json(result) | {"provenance": provenance}
        json_file.write_text(json.dumps(numbers, indent=1), encoding="utf-8")
    return result
