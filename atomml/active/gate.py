"""The gate: which candidates are worth a label, and why each of the others is not."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase.data import covalent_radii

from atomml.active.config import GateConfig
from atomml.active.explore.units import is_calibrated, potential_at
from atomml.active.history import ModelFile, stores
from atomml.active.similar import near_duplicates, numbers_of
from atomml.active.work import Facts, Run
from atomml.datasets.fingerprints import frame_fingerprints
from atomml.datasets.frame import Frame
from atomml.datasets.store import FrameStore
from atomml.errors import DataError, SimulationError
from atomml.files import write_atomically
from atomml.graph.neighbors import neighbor_list
from atomml.shapes import Float64, Int64, ndarray
from atomml.training.evaluation import predicted_arrays

__all__ = ["GATE", "Verdicts", "gate", "judge", "passed_rows"]

GATE = "gate.csv"
PASSED = "passed"
COLUMNS = ("row", "id", "kind", "verdict", "force_std_max", "force_max")
EXPLODED = ("too_uncertain", "max_force", "too_close", "not_finite")


class Verdicts(NamedTuple):
    """What the gate says about each candidate.

    Attributes:
        reason: ``passed``, or why not: unknown_elements, too_close, known (equal to a frame that is labelled, failed,
            or belongs to the test set), duplicate, not_finite, max_force, too_uncertain, confident, near_duplicate.
        force_std: largest √(tr Σ/3) of its atoms, eV/Å; NaN where it was not predicted.
        force: largest norm of a predicted force, eV/Å; likewise.
    """

    reason: list[str]
    force_std: Float64[ndarray, " frames"]
    force: Float64[ndarray, " frames"]


def gate(run: Run, round_: int) -> Facts:
    """Judge the pool of a round; the verdicts go to ``rounds/NN/gate.csv``.

    Raises:
        SimulationError: every candidate is beyond a limit; the message names it.
    """
    config, folder = run.config.gate, run.round_folder(round_)
    pool = FrameStore.open(folder / "pool")
    records = run.journal.records
    labelled = [
        FrameStore.open(run.folder / p) for part in ("train", "calibration") for p in stores(records, part)
    ]
    others = [FrameStore.open(run.folder / p) for p in stores(records, "test")]
    known = [frame_fingerprints(store) for store in (*labelled, *others)]
    scaled = run.model is not None and is_calibrated(run.model)
    if not scaled:  # raw deviations can be wrong by orders of magnitude: no limit may be put on them
        config = config.model_copy(update={"force_std_min": None, "force_std_max": None})
    verdicts = judge(
        pool, config, model=run.model, known=np.concatenate([*known, _failed(run)]), labelled=labelled
    )
    counts = Counter(verdicts.reason)
    judged = sum(counts[name] for name in (PASSED, "confident", "too_uncertain", "near_duplicate"))
    share = counts["confident"] / judged if config.force_std_min is not None and judged else None
    if not counts[PASSED] and not counts["confident"]:
        _refuse_exploded(counts, verdicts, config)
    _write(folder / GATE, pool, verdicts)
    return {
        "candidates": len(pool),
        "dropped": {name: counts[name] for name in sorted(counts) if name != PASSED},
        "passed": counts[PASSED],
        "confident_share": share,
        "force_std": _quantiles(verdicts.force_std),
        "notes": _notes(run, counts, scaled),
    }


def passed_rows(folder: Path) -> Int64[ndarray, " rows"]:
    """Rows of the pool that passed, from the file that `gate` wrote."""
    with (folder / GATE).open(newline="", encoding="utf-8") as file:
        rows = [int(line["row"]) for line in csv.DictReader(file) if line["verdict"] == PASSED]
    return np.array(rows, dtype=np.int64)


def judge(
    pool: FrameStore,
    config: GateConfig,
    *,
    model: ModelFile | None,
    known: Int64[ndarray, " known"],
    labelled: Sequence[FrameStore] = (),
) -> Verdicts:
    """Judge candidates; the first reason counts.

    Args:
        pool: candidates.
        config: limits.
        model: predicts forces and their calibrated deviations; None: only the geometry is judged.
        known: fingerprints of frames that must not be labelled again.
        labelled: frames that a candidate must differ from.
    """
    reason = [""] * len(pool)
    force_std, force = np.full(len(pool), np.nan), np.full(len(pool), np.nan)

    def drop(rows: Iterable[int], why: str) -> None:
        for row in rows:
            reason[row] = reason[row] or why

    def left() -> list[int]:
        return [k for k, why in enumerate(reason) if not why]

    if model is not None:
        elements = set(potential_at(model).elements)
        drop((k for k in left() if not elements.issuperset(numbers_of(pool, k))), "unknown_elements")
    drop((k for k in left() if _closest(pool.frame(k)) < config.min_distance), "too_close")
    prints = frame_fingerprints(pool)
    drop(np.flatnonzero(np.isin(prints, known)).tolist(), "known")
    first = np.unique(prints, return_index=True)[1]
    drop(sorted(set(range(len(pool))) - set(first.tolist())), "duplicate")
    if model is not None:
        _predict(pool, left(), model, force_std, force, drop)
        over = np.inf if config.max_force is None else config.max_force
        drop((k for k in left() if force[k] > over), "max_force")
        most = np.inf if config.force_std_max is None else config.force_std_max
        drop((k for k in left() if force_std[k] > most), "too_uncertain")
        least = 0.0 if config.force_std_min is None else config.force_std_min
        drop((k for k in left() if force_std[k] < least), "confident")
    if config.min_difference > 0:
        drop(near_duplicates(pool, left(), labelled, config), "near_duplicate")
    drop(left(), PASSED)
    return Verdicts(reason, force_std, force)


def _predict(
    pool: FrameStore,
    rows: list[int],
    model: ModelFile,
    force_std: Float64[ndarray, " frames"],
    force: Float64[ndarray, " frames"],
    drop: Callable[[Iterable[int], str], None],
) -> None:
    """Fill in deviations and forces of ``rows``; those whose prediction is not finite are dropped."""
    if not rows:
        return
    try:
        stds, forces = _largest(pool.subset(rows), model)
    except (DataError, SimulationError):  # a member predicts a NaN: find out for which
        if len(rows) == 1:
            drop(rows, "not_finite")
            return
        half = len(rows) // 2
        _predict(pool, rows[:half], model, force_std, force, drop)
        _predict(pool, rows[half:], model, force_std, force, drop)
        return
    force_std[rows], force[rows] = stds, forces
    drop((k for k in rows if not np.isfinite(force[k]) or force_std[k] == np.inf), "not_finite")


def _largest(
    part: FrameStore, model: ModelFile
) -> tuple[Float64[ndarray, " frames"], Float64[ndarray, " frames"]]:
    """Largest √(tr Σ/3) (NaN without deviations) and largest norm of a force in each frame."""
    wanted = {"forces": True, "stress": False}
    arrays = predicted_arrays(potential_at(model), part, wanted, 2000, 200_000, None)
    first = np.asarray(part.offsets[:-1])
    norms = np.linalg.norm(arrays["forces"], axis=1)
    if "forces_cov" not in arrays:
        return np.full(len(part), np.nan), np.maximum.reduceat(norms, first)
    std = np.sqrt(np.trace(arrays["forces_cov"], axis1=1, axis2=2) / 3.0)
    return np.maximum.reduceat(std, first), np.maximum.reduceat(norms, first)


def _closest(frame: Frame) -> float:
    """Shortest distance in units of the sum of the covalent radii; infinity if no two atoms are near."""
    numbers = np.asarray(frame.numbers, dtype=np.int64)
    radii = covalent_radii[numbers]
    positions, cell = np.array(frame.positions), np.array(frame.cell)
    try:
        j, i, shift = neighbor_list(
            positions, cell, np.array(frame.pbc, dtype=bool), 2.0 * float(radii.max())
        )
    except DataError:  # a cell without thickness
        return 0.0
    if not len(j):
        return float("inf")
    distance = np.linalg.norm(positions[j] + shift @ cell - positions[i], axis=1)
    return float((distance / (radii[i] + radii[j])).min())


def _failed(run: Run) -> Int64[ndarray, " frames"]:
    """Fingerprints of structures that could not be labelled in earlier rounds."""
    found = [
        int(value)
        for record in run.journal.records
        if record["step"] == "label"
        for value in record["facts"]["failed_fingerprints"]
    ]
    return np.array(found, dtype=np.int64)


def _refuse_exploded(counts: Counter[str], verdicts: Verdicts, config: GateConfig) -> None:
    """Stop if limits, rather than duplicates, left nothing.

    Raises:
        SimulationError: names the limit that most candidates are beyond, and by how much.
    """
    worst, number = max(((name, counts[name]) for name in EXPLODED), key=lambda item: item[1])
    if number == 0 or counts["known"] + counts["duplicate"] + counts["near_duplicate"] >= number:
        return
    limits = {
        "too_uncertain": f"gate.force_std_max {config.force_std_max} eV/Å (median deviation "
        f"{_median(verdicts.force_std)} eV/Å)",
        "max_force": f"gate.max_force {config.max_force} eV/Å (median of the largest forces "
        f"{_median(verdicts.force)} eV/Å)",
        "too_close": f"gate.min_distance {config.min_distance}: atoms overlap",
        "not_finite": "what can be computed: predictions are not finite",
    }
    rest = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    raise SimulationError(
        f"Nothing is left to label: {number} of {len(verdicts.reason)} candidates are beyond {limits[worst]}.",
        where=f"the gate: {rest}",
        fix="raise the limit, or explore more gently (temperature, displacement, strain, timestep); then --resume",
    )


def _notes(run: Run, counts: Counter[str], scaled: bool) -> list[str]:
    limits = run.config.gate
    notes = []
    if not scaled and (limits.force_std_min is not None or limits.force_std_max is not None):
        notes.append("The deviations are not calibrated yet, so the limits of the deviation do not apply.")
    if counts["confident"] and not counts[PASSED]:
        notes.append(
            f"Nothing to label: {counts['confident']} of {counts.total()} candidates are confident (below "
            f"gate.force_std_min {limits.force_std_min} eV/Å), the others are known or beyond a limit."
        )
    elif not counts[PASSED]:
        notes.append("Nothing to label: every candidate is known already.")
    return notes


def _median(values: Float64[ndarray, " frames"]) -> str:
    known = values[np.isfinite(values)]
    return f"{np.median(known):.3g}" if len(known) else "unknown"


def _quantiles(values: Float64[ndarray, " frames"]) -> dict[str, float] | None:
    """Of the largest deviation of each candidate, eV/Å."""
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    return {f"q{q:02d}": float(np.quantile(known, q / 100)) for q in (5, 50, 95)} | {
        "max": float(known.max())
    }


def _write(path: Path, pool: FrameStore, verdicts: Verdicts) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    kinds = pool.tags["kind"]
    for k, (why, std, force) in enumerate(zip(*verdicts, strict=True)):
        numbers = ["" if np.isnan(x) else repr(float(x)) for x in (std, force)]
        writer.writerow([k, pool.ids[k], kinds[k], why, *numbers])
    write_atomically(path, text.getvalue().encode())
