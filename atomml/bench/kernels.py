"""The measurement behind `atomml bench kernels`: convolutions in interleaved runs, ratios, fractions of the floor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atomml.bench import machine
from atomml.bench.environments import environment
from atomml.bench.kernel_cases import E3NN, PER_PATH, LocalCase, agreement, cases, problem
from atomml.bench.process import WORKERS, PeerError, Worker
from atomml.bench.rounds import Case, Seconds, interleave, ratio
from atomml.bench.settings import KernelSettings
from atomml.kernels.cost_model import Mode

__all__ = ["measure_kernels"]

CUEQUIVARIANCE = "cuequivariance"
SEED = 0


def measure_kernels(
    settings: KernelSettings, folder: Path, say: Callable[[str], object] = lambda _: None
) -> dict[str, Any]:
    """Time every case and return the whole result, ready for JSON.

    Args:
        settings: what to measure.
        folder: of the peers' environments.
        say: is told what goes on.

    Returns:
        ``machine``, ``ceilings``, ``settings``, ``rows`` (one per degree, mode and case), ``ratios``,
        ``agreement`` with e3nn by degree, ``missing``.
    """
    missing: list[dict[str, str]] = []
    with _threads(settings.threads), ExitStack() as stack:
        result: dict[str, Any] = {
            "machine": machine.facts(settings.threads),
            "ceilings": machine.ceilings(settings.device, settings.threads),
            "settings": asdict(settings),
            "rows": [],
            "ratios": [],
            "agreement": {},
            "missing": missing,
        }
        workers = [w for peer in settings.peers if (w := _start(peer, settings, folder, stack, missing, say))]
        for lmax in settings.lmax:
            result["agreement"][str(lmax)] = agreement(_problem(settings, lmax))
            for mode in settings.modes:
                say(f"L = {lmax}, {mode}")
                _measure(lmax, mode, settings, workers, result)
    return result


def _measure(
    lmax: int, mode: Mode, settings: KernelSettings, workers: Sequence[Worker], result: dict[str, Any]
) -> None:
    local = cases(_problem(settings, lmax), mode)
    ready: list[Case] = [*local]
    for worker in workers:
        try:
            facts = worker.prepare({"lmax": lmax, "mode": mode, "seed": SEED, **_task(settings)})
            result["machine"].setdefault("peers", {}).update(facts["versions"])
            ready.append(worker)
        except PeerError as error:
            result["missing"].append(
                {"name": worker.name, "what": f"L = {lmax}, {mode}", "reason": str(error)}
            )
    seconds = interleave(ready, rounds=settings.rounds, slot=settings.slot)
    by_name = {case.name: case for case in local}
    for name, values in seconds.items():
        result["rows"].append(_row(lmax, mode, name, values, by_name.get(name), result["ceilings"]))
    for comparison, pairs in _comparisons(list(seconds)).items():
        for numerator, denominator in pairs:
            found = asdict(ratio(seconds, numerator, denominator))
            result["ratios"].append({"lmax": lmax, "mode": mode, "comparison": comparison, **found})


def _comparisons(names: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """Which quotients are formed: the same function; fewer weights against ours; fewer weights, for orientation."""
    factorised = [name for name in names if name.startswith("CP ")]
    others = [name for name in (E3NN, CUEQUIVARIANCE) if name in names]
    return {
        "like for like: per-path weights": [(name, PER_PATH) for name in others],
        "shared weights against our per-path kernel": [(PER_PATH, name) for name in factorised],
        "orientation only: shared weights against e3nn": [(E3NN, name) for name in factorised],
    }


def _row(
    lmax: int,
    mode: str,
    name: str,
    values: Seconds,
    case: LocalCase | None,
    ceilings: dict[str, Any],
) -> dict[str, Any]:
    median = float(np.median(values))
    row = {"lmax": lmax, "mode": mode, "case": name, "ms": 1e3 * median, "seconds": values.tolist()}
    if case is None:
        return row
    if case.device != "cpu" and case.predicted is not None:
        row["predicted_ms"] = 1e3 * case.predicted
    if mode == "double":
        return row
    row |= {"rank": case.rank, "gflops": case.work.flops / median / 1e9}
    row["compute_fraction"] = row["gflops"] / ceilings["gflops"]
    row["memory_fraction"] = case.work.bytes / median / 1e9 / ceilings["gbytes"]
    return row


def _problem(settings: KernelSettings, lmax: int) -> Any:
    return problem(
        lmax,
        channels=settings.channels,
        edges=settings.edges,
        degree=settings.degree,
        dtype=getattr(torch, settings.dtype),
        device=settings.device,
        seed=SEED,
    )


def _task(settings: KernelSettings) -> dict[str, Any]:
    names = ("channels", "edges", "degree", "device", "dtype", "threads")
    return {name: getattr(settings, name) for name in names}


def _start(
    peer: str,
    settings: KernelSettings,
    folder: Path,
    stack: ExitStack,
    missing: list[dict[str, str]],
    say: Callable[[str], object],
) -> Worker | None:
    try:
        python = environment(peer, folder, say)
        program = WORKERS / f"{peer}_worker.py"
        return stack.enter_context(Worker(peer, python, program, threads=settings.threads))
    except PeerError as error:
        missing.append({"name": peer, "what": "all", "reason": str(error)})
        return None


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
