"""What `atomml evaluate` does: read, compare, print a table, write files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.progress import Progress

from atomml._version import __version__
from atomml.datasets import FrameStore, label_summary, load_frames
from atomml.errors import ConfigError, UnsupportedError
from atomml.potentials import Potential
from atomml.training.deviation_measures import tell_apart
from atomml.training.deviations_report import (
    OutsideSet,
    detection_table,
    deviation_warnings,
    deviations_table,
)
from atomml.training.evaluation import Evaluable, Evaluation, evaluate
from atomml.training.protocols_command import (
    Protocol,
    predictions_of,
    protocol_metrics,
    protocol_table,
    require_protocol,
    save_submission,
)
from atomml.training.report import evaluation_json, metrics_table, write_evaluation
from atomml.uncertainty.bayesian import BayesianPotential
from atomml.uncertainty.model_file import load_model

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
    ood: Sequence[str] = (),
    exact: bool | None = None,
    console: Console | None = None,
) -> Evaluation | None:
    """Evaluate a model file on data files and print the errors, and how right its deviations are.

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
        ood: files or stores out of distribution, with or without labels.
        exact: derive deviations that are estimated by default; None: as the calibration was fitted.
        console: terminal for the table; standard output by default.

    Raises:
        ConfigError: an unknown precision.
        UnsupportedError: ``ood`` or ``exact`` for a model without deviations.
        AtommlError: the model or the data cannot be read, an unknown element, no labels.
    """
    if dtype not in (None, "float32", "float64"):
        raise ConfigError(f"{dtype!r} is not a precision.", where="--dtype", fix="use float32 or float64")
    console = Console() if console is None else console
    potential = load_model(model, device=device, dtype=cast(Any, dtype))
    if (ood or exact) and not isinstance(potential, BayesianPotential):
        raise UnsupportedError(
            "This model has no deviations.",
            where=model,
            fix="leave out --ood and --exact, or train with them",
        )
    read = cast(Any, dict(keys or {}))
    store = load_frames(list(data), **read)
    outside = load_frames(list(ood), require_energy=False, **read) if ood else None
    console.print(f"{len(store)} frames: {label_summary(store)}", highlight=False)
    chosen = None if protocol is None else require_protocol(protocol.name, protocol.task, store)
    compare = partial(evaluate, potential, max_atoms=max_atoms, exact=exact, unlabelled=outside is not None)
    labelled = any(store.label_counts().values()) or protocol is None or protocol.predictions is None
    result, unusual = None, None
    if labelled:
        free_only = chosen is not None and chosen.free_only
        with _progress(console, store) as step:
            result = compare(store, free_only=free_only, on_batch=step)
    if result is not None and outside is not None:
        with _progress(console, outside) as step:
            other = compare(outside, on_batch=step)
        unusual = OutsideSet(other, tell_apart(result.arrays(), other.arrays()))
    numbers = {} if result is None else _show(console, result, unusual)
    if result is not None and chosen is not None:
        numbers["protocol"] = protocol_metrics(chosen, result, store)
        console.print(protocol_table(numbers["protocol"]))
    if chosen is not None and protocol is not None and protocol.predictions is not None:
        _save_predictions(console, potential, store, chosen, protocol, result, max_atoms)
    provenance = _provenance(model, potential, data, store)
    if ood:
        provenance["ood"] = [str(path) for path in ood]
    if result is not None and out is not None:
        write_evaluation(result, out, e0=potential.e0, provenance=provenance, outside=unusual)
        console.print(f"Report: {out / 'evaluation.md'}", highlight=False)
    if json_file is not None:
        json_file.write_text(json.dumps(numbers | {"provenance": provenance}, indent=1), encoding="utf-8")
    return result


@contextmanager
def _progress(console: Console, store: FrameStore) -> Iterator[Callable[[int], None]]:
    """A bar on the terminal, and what tells it how many frames are done."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("evaluating", total=len(store))
        yield lambda done: bar.update(task, completed=done)


def _show(console: Console, result: Evaluation, unusual: OutsideSet | None) -> dict[str, Any]:
    """Print errors, measures of deviations and warnings; returns the numbers."""
    numbers = evaluation_json(result)
    shown = {"all": result}
    if unusual is not None:
        shown["ood"] = unusual.evaluation
        numbers["ood"] = evaluation_json(unusual.evaluation) | {"detection": unusual.detection}
    console.print(metrics_table(shown))
    deviations = deviations_table(shown)
    if deviations.rows:
        console.print(deviations)
    if unusual is not None:
        console.print(detection_table(unusual.detection))
    warnings = [line for name, e in shown.items() for line in deviation_warnings(name, e)]
    for line in dict.fromkeys(warnings):
        console.print(f"Note: {line}", style="yellow", highlight=False, markup=False)
    return numbers


def _save_predictions(
    console: Console,
    potential: Evaluable,
    store: FrameStore,
    chosen: Protocol,
    wanted: ProtocolOptions,
    result: Evaluation | None,
    max_atoms: int,
) -> None:
    if result is not None:
        energy, forces = result.energy, result.forces
    else:
        with _progress(console, store) as step:
            energy, forces = predictions_of(potential, store, chosen, max_atoms, step)
    file = cast(Path, wanted.predictions)
    free = wanted.free_forces
    splits = save_submission(file, wanted.split, chosen, store, energy, forces, free_only=free)
    console.print(f"Predictions in {file}: {', '.join(splits)}", highlight=False)


def _provenance(
    model: str, potential: Potential | BayesianPotential, data: Sequence[str], store: FrameStore
) -> dict[str, Any]:
    return {
        "version": __version__,
        "model": model,
        "model_created": potential.metadata.get("created", ""),
        "data": [str(path) for path in data],
        "data_fingerprint": store.fingerprint(),
    } | (
        {"calibration": potential.calibration_id or "none"}
        if isinstance(potential, BayesianPotential)
        else {}
    )
