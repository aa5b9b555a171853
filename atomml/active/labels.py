"""Labels of the selected structures, and their division into frames for training and for calibration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from atomml.active.explore.units import potential_at
from atomml.active.history import stores
from atomml.active.work import Facts, Run, saved
from atomml.datasets.fingerprints import frame_fingerprints
from atomml.datasets.frame import Frame
from atomml.datasets.packing import pack_frames
from atomml.datasets.store import FrameStore
from atomml.errors import SimulationError
from atomml.labelling.cache import LabelCache
from atomml.labelling.identity import labeller_name
from atomml.labelling.label import label_structures
from atomml.labelling.outcome import LabelOutcome
from atomml.shapes import Bool, ndarray
from atomml.training.evaluation import evaluate

__all__ = ["CACHE", "calibration_rows", "label", "measures", "store_labels"]

CACHE = "labels/cache"


def label(run: Run, round_: int, rows: Sequence[int]) -> Facts:
    """Label rows of the pool; every outcome is on the disk as it comes.

    Raises:
        SimulationError: too many failures, or nothing but failures.
        AtommlError: what else `label_structures` raises.
    """
    pool = FrameStore.open(run.round_folder(round_) / "pool")
    outcomes = _outcomes(run, round_, pool, rows)
    bad = [(row, o) for row, o in zip(rows, outcomes, strict=True) if o.frame is None]
    if len(bad) == len(rows):
        first = bad[0][1]
        raise SimulationError(
            f"None of {len(rows)} structures could be labelled: {first.failure}, {first.message}",
            where=labeller_name(run.config.label.calculator),
            fix="change label, then go on with --resume (--forget-failures asks for failed ones again)",
        )
    return {
        "asked": len(rows),
        "labelled": len(rows) - len(bad),
        "keys": [outcome.key for outcome in outcomes],
        "failed": dict(sorted(Counter(str(o.failure) for _, o in bad).items())),
        "failed_fingerprints": frame_fingerprints(pool, [row for row, _ in bad]).tolist(),
        "notes": [f"{o.failure}: {o.message}" for _, o in bad[:3]],
    }


def store_labels(run: Run, round_: int, rows: Sequence[int], keys: Sequence[str]) -> Facts:
    """Labelled frames as stores, divided for good; and the error of the model that has not seen them.

    Args:
        run: the loop.
        round_: number of the round.
        rows: of the pool, as they were labelled.
        keys: of their labels in the cache.
    """
    pool = FrameStore.open(run.round_folder(round_) / "pool")
    with LabelCache(run.folder / CACHE) as cache:
        outcomes = [cache.get(key) for key in keys]
    frames = [
        _frame(outcome.frame, pool, row, round_)
        for row, outcome in zip(rows, outcomes, strict=True)
        if outcome is not None and outcome.frame is not None
    ]
    info = {"source": "atomml active", "level_of_theory": labeller_name(run.config.label.calculator)}
    store = pack_frames(frames, info, where=f"labels of round {round_}")
    held_out = calibration_rows(run, store, f"round {round_}")
    parts = {"train": np.flatnonzero(~held_out), "calibration": np.flatnonzero(held_out)}
    folder = run.folder / "labels" / f"round_{round_:02d}"
    return {
        "stores": {
            name: saved(run, store.subset(part), folder / name) for name, part in parts.items() if len(part)
        },
        "fresh": _errors(run, store),
    }


def calibration_rows(run: Run, store: FrameStore, name: str) -> Bool[ndarray, " frames"]:
    """Which frames validate and calibrate: a random share, none with an element that no training frame has."""
    n = len(store)
    count = min(max(round(run.config.calibrate.share * n), 1), n - 1)
    order = run.rng("calibration", name).permutation(n)
    held_out = np.zeros(n, dtype=bool)
    known = {
        z
        for path in stores(run.journal.records, "train")
        for z in FrameStore.open(run.folder / path).elements()
    }
    for row in order:
        if held_out.sum() == count:
            break
        rest = ~held_out
        rest[row] = False
        if known.union(store.elements(np.flatnonzero(rest))).issuperset(store.elements([int(row)])):
            held_out[row] = True
    return held_out


def _outcomes(run: Run, round_: int, pool: FrameStore, rows: Sequence[int]) -> list[LabelOutcome]:
    structures = []
    for row in rows:
        atoms = pool[row]
        atoms.info, atoms.calc = {}, None
        structures.append(atoms)
    arrived = 0

    def count(index: int, outcome: LabelOutcome) -> None:
        nonlocal arrived
        arrived += 1
        run.now(round_, "label", arrived, len(rows))

    with LabelCache(run.folder / CACHE) as cache:
        return label_structures(structures, run.config.label, cache=cache, on_outcome=count)


def _frame(labelled: Frame, pool: FrameStore, row: int, round_: int) -> Frame:
    """A labelled frame that knows where it comes from."""
    tags = {**dict(labelled.tags), **pool.tags_of(row), "round": round_}
    return labelled._replace(id=str(pool.ids[row]), tags=tags)


def _errors(run: Run, store: FrameStore) -> dict[str, float] | None:
    """Errors, and how they compare with the deviations, of the model before it learns these frames."""
    model = run.model
    if model is None:
        return None
    return measures(potential_at(model), store)


def measures(potential: object, store: FrameStore) -> dict[str, float]:
    """RMSE and MAE of energy per atom, forces and stress; with deviations RMS of error/σ and coverage of forces."""
    found = evaluate(potential, store)  # type: ignore[arg-type]
    out = {name: float(value) for name, value in found.metrics.items() if not name.startswith("energy_m")}
    forces = found.deviations.get("forces", {})
    return out | {
        name: float(forces[name]) for name in ("z_rms", "coverage_68", "coverage_95") if name in forces
    }
