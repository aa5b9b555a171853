"""What `atomml evaluate` does: read, compare, print a table, write files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.progress import Progress

from atomml._version import __version__
from atomml.datasets import FrameStore, label_summary, load_frames
from atomml.errors import ConfigError
from atomml.potentials import Potential, load_model
from atomml.training.evaluation import Evaluation, evaluate
from atomml.training.protocols_command import (
    predictions_of,
    protocol_metrics,
    protocol_table,
    require_protocol,
    save_submission,
)
from atomml.training.report import evaluation_json, metrics_table, write_evaluation

__all__ = ["ProtocolOptions", "evaluate_files"]


@dataclass(frozen=True)
class ProtocolOptions:
    """What `atomml evaluate --protocol` is asked for.

    Attributes:
        name: ``oc20``, ``oc22`` or ``pubchemqcr``.
        task: ``s2ef`` or ``is2re``; told from the labels where None.
        predictions: file for the leaderboard, to which the split is added.
        split: name of these frames in that file.
        free_forces: write the forces on free atoms only, as EvalAI took them.
    """

    name: str
    task: str | None = None
    predictions: Path | None = None
    split: str = "id"
    free_forces: bool = False


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
    protocol: ProtocolOptions | None = None,
    console: Console | None = None,
) -> Evaluation | None:
    """Evaluate a model file on data files and print the errors.

    Returns None where a protocol only asks for predictions of frames that have no labels.

    Args:
        model: a model file or the name of a bundled model.
        data: files or native stores.
        out: folder for report, figure and per-frame tables.
        json_file: file for the metrics.
        device: where to compute.
        dtype: ``float32`` or ``float64``.
        max_atoms: atoms in one batch.
        keys: ``energy_key``, ``forces_key``, ``stress_key`` for the reader.
        protocol: benchmark whose measures to compute, too.
        console: terminal for the table; standard output by default.

    Raises:
        ConfigError: an unknown precision.
        AtommlError: the model or the data cannot be read, an unknown element, no labels.
    """
    if dtype not in (None, "float32", "float64"):
        raise ConfigError(f"{dtype!r} is not a precision.", where="--dtype", fix="use float32 or float64")
    console = Console() if console is None else console
    potential = load_model(model, device=device, dtype=cast(Any, dtype))
    store = load_frames(list(data), **cast(Any, dict(keys or {})))
    console.print(f"{len(store)} frames: {label_summary(store)}", highlight=False)
    chosen = None if protocol is None else require_protocol(protocol.name, protocol.task, store)
    free_only = chosen is not None and chosen.free_only
    labelled = any(store.label_counts().values()) or protocol is None or protocol.predictions is None
    result = None
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("evaluating", total=len(store))

        def step(done: int) -> None:
            bar.update(task, completed=done)

        if labelled:
            result = evaluate(potential, store, free_only=free_only, max_atoms=max_atoms, on_batch=step)
            energy, forces = result.energy, result.forces
        elif chosen is not None:
            energy, forces = predictions_of(potential, store, chosen, max_atoms, step)
    numbers: dict[str, Any] = {} if result is None else evaluation_json(result)
    if result is not None:
        console.print(metrics_table({"all": result}))
    if result is not None and chosen is not None:
        numbers["protocol"] = protocol_metrics(chosen, result, store)
        console.print(protocol_table(numbers["protocol"]))
    if chosen is not None and protocol is not None and protocol.predictions is not None:
        splits = save_submission(
            protocol.predictions,
            protocol.split,
            chosen,
            store,
            energy,
            forces,
            free_only=protocol.free_forces,
        )
        console.print(f"Predictions in {protocol.predictions}: {', '.join(splits)}", highlight=False)
    provenance = _provenance(model, potential, data, store)
    if result is not None and out is not None:
        write_evaluation(result, out, e0=potential.e0, provenance=provenance)
        console.print(f"Report: {out / 'evaluation.md'}", highlight=False)
    if json_file is not None:
        json_file.write_text(json.dumps(numbers | {"provenance": provenance}, indent=1), encoding="utf-8")
    return result


def _provenance(model: str, potential: Potential, data: Sequence[str], store: FrameStore) -> dict[str, Any]:
    return {
        "version": __version__,
        "model": model,
        "model_created": potential.metadata.get("created", ""),
        "data": [str(path) for path in data],
        "data_fingerprint": store.fingerprint(),
    }
