"""The measurement behind `atomml bench potential`: whole potentials in interleaved runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from atomml.bench import machine
from atomml.bench.models import Model, Started, models, start
from atomml.bench.rounds import Seconds, interleave, ratio
from atomml.bench.scaling import measure_scaling
from atomml.bench.settings import PotentialSettings
from atomml.bench.structures import octanol, structure

__all__ = ["compare", "measure_potentials"]

BATCH = 8


def measure_potentials(
    settings: PotentialSettings, folder: Path, say: Callable[[str], object] = lambda _: None
) -> dict[str, Any]:
    """Time every model on every structure and return the whole result, ready for JSON.

    Args:
        settings: what to measure.
        folder: of the peers' environments.
        say: is told what goes on.

    Returns:
        ``machine``, ``settings``, ``rows`` (one per task and model), ``ratios`` against our models, ``scaling``,
        ``missing``.
    """
    chosen = models(settings.peers, settings.model)
    tasks: list[tuple[str, str, list[Atoms]]] = [
        (name, "evaluate", [structure(name)]) for name in settings.structures
    ]
    if settings.training:
        tasks.append((f"training step, {BATCH} molecules", "training", [octanol() for _ in range(BATCH)]))
    if settings.dynamics and settings.structures:
        first = settings.structures[0]
        tasks.append((f"dynamics, {first}", "dynamics", [structure(first)]))
    result: dict[str, Any] = {
        "machine": machine.facts(settings.threads),
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in asdict(settings).items()},
        "rows": [],
        "ratios": [],
        "missing": [],
    }
    for what, kind, structures in tasks:
        candidates = [model for model in chosen if kind in model.kinds]
        compare(candidates, what, kind, structures, settings, folder, result, say)
    if settings.scaling:
        result["scaling"] = measure_scaling(settings, folder, result, say)
    return result


def compare(
    chosen: Sequence[Model],
    what: str,
    kind: str,
    structures: Sequence[Atoms],
    settings: PotentialSettings,
    folder: Path,
    result: dict[str, Any],
    say: Callable[[str], object],
) -> None:
    """Time the models on one task and append rows and ratios to ``result``; every process ends at the end."""
    missing: list[dict[str, str]] = result["missing"]

    def failed(name: str, error: Exception) -> None:
        missing.append({"name": name, "what": what, "reason": str(error)})

    with ExitStack() as stack:
        started = start(
            chosen,
            kind,
            structures,
            threads=settings.threads,
            folder=folder,
            stack=stack,
            missing=missing,
            what=what,
            processor=result["machine"]["processor"],
            say=say,
        )
        seconds = interleave(
            [s.worker for s in started],
            rounds=settings.rounds,
            slot=settings.slot,
            progress=lambda k: say(f"{what}: round {k} of {settings.rounds}"),
            failed=failed,
        )
        for process in started:
            if process.worker.name in seconds:
                result["rows"].append(_row(what, kind, process, seconds[process.worker.name]))
                result["machine"].setdefault("peers", {}).update(process.facts["versions"])
    result["ratios"] += _ratios(what, chosen, seconds)


def _row(what: str, kind: str, process: Started, seconds: Seconds) -> dict[str, Any]:
    """Median cost in microseconds per atom, its quartiles, and the share of each known part of a step."""
    facts, step = process.facts, float(np.median(seconds))
    low, high = np.quantile(seconds, [0.25, 0.75])
    per_atom = 1e6 / facts["atoms"]
    return {
        "task": what,
        "kind": kind,
        "model": process.worker.name,
        "us_per_atom": per_atom * step,
        "us_low": per_atom * float(low),
        "us_high": per_atom * float(high),
        "seconds": seconds.tolist(),
        "peak_bytes": process.worker.peak_bytes(),
        "shares": process.worker.shares(),
        **{name: value for name, value in facts.items() if name != "versions"},
    }


def _ratios(what: str, chosen: Sequence[Model], seconds: dict[str, Seconds]) -> list[dict[str, Any]]:
    """Every model over every model of ours that is compiled, or over all of ours where none is."""
    ours = [model for model in chosen if model.peer == "tdn" and model.name in seconds]
    bases = [model for model in ours if model.settings["compiled"]] or ours
    return [
        {"task": what, **asdict(ratio(seconds, name, base.name))}
        for base in bases
        for name in seconds
        if name != base.name
    ]
