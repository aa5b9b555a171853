"""Which of the candidates that passed the gate are labelled."""

from __future__ import annotations

from typing import Any

import numpy as np

from atomml.active.config import OF_MEMBERS, SelectConfig
from atomml.active.explore.units import potential_at
from atomml.active.gate import passed_rows
from atomml.active.history import stores, total
from atomml.active.work import Facts, Run
from atomml.datasets.farthest import farthest_points
from atomml.datasets.store import FrameStore, concatenate
from atomml.shapes import Float64, ndarray
from atomml.simulate.sampling.fingerprint import radial_fingerprint
from atomml.training.acquisition import member_predictions, summed_features, with_noise
from atomml.uncertainty.acquisition import (
    PoolFeatures,
    Selection,
    acquire,
    farthest_point,
)

__all__ = ["choose", "select"]

BY_FEATURES = ("farthest_point", "llpr_maxdet")
BATCH = (
    *BY_FEATURES,
    "batch_bald",
    "random",
)  # methods that see the whole batch, or want no more than chance


def select(run: Run, round_: int) -> Facts:
    """Rows of the pool of a round, best first, no more than the budget has left."""
    config, folder = run.config.select, run.round_folder(round_)
    pool, rows = FrameStore.open(folder / "pool"), passed_rows(folder)
    budget = run.config.stop.max_labels
    left = config.n if budget is None else min(config.n, budget - total(run.journal.records, "asked"))
    n = min(left, len(rows))
    if n <= 0:
        return {"method": config.method, "rows": [], "ids": [], "scores": [], "notes": []}
    rng = run.rng("select", round_)
    model = run.model
    potential = None if model is None else potential_at(model)
    labelled = [FrameStore.open(run.folder / path) for path in stores(run.journal.records, "train")]
    found = choose(potential, pool.subset(rows), config, n, rng, labelled)
    chosen = rows[found.rows]
    return {
        "method": found.method,
        "rows": chosen.tolist(),
        "ids": [str(pool.ids[int(row)]) for row in chosen],
        "scores": [float(score) if np.isfinite(score) else None for score in found.scores],
        "notes": list(found.notes),
    }


def choose(
    potential: Any,
    frames: FrameStore,
    config: SelectConfig,
    n: int,
    rng: np.random.Generator,
    labelled: list[FrameStore],
) -> Selection:
    """The ``n`` frames to label, by the method of the configuration.

    Args:
        potential: the model; None: there is none yet, and the most different frames are taken.
        frames: candidates.
        config: method, diversity, settings.
        n: how many, at most as many as there are.
        rng: of the method random.
        labelled: what the model was trained on, for methods by features.
    """
    method = config.method
    if potential is None and method != "random":
        points = PoolFeatures(pool=_fingerprints(frames), labelled=_fingerprints(frames)[:0])
        return farthest_point(points, n)._replace(notes=("There is no model yet: the most different ones.",))
    if method == "random":
        nothing = PoolFeatures(pool=np.zeros((len(frames), 1)), labelled=np.zeros((0, 1)))
        return acquire("random", n, features=nothing, rng=rng)
    settings = with_noise(config.settings, potential)
    predictions = member_predictions(potential, frames) if method in OF_MEMBERS else None
    features = None
    spread = config.diversity > 1 and method not in BATCH
    if method in BY_FEATURES or spread:
        known = concatenate(labelled) if labelled else frames.subset([])
        old = summed_features(potential, known) if len(known) else None
        new = summed_features(potential, frames)
        features = PoolFeatures(pool=new, labelled=new[:0] if old is None else old)
    if not spread:
        return acquire(method, n, predictions=predictions, features=features, rng=rng, settings=settings)
    most = min(len(frames), round(config.diversity * n))
    best = acquire(method, most, predictions=predictions, rng=rng, settings=settings)
    return _different(best, features, n)


def _different(best: Selection, features: PoolFeatures | None, n: int) -> Selection:
    """The ``n`` most different of the best ones, in order of their scores; the best of all is one of them."""
    if features is None or len(best.rows) <= n:
        return best
    points = features.pool[best.rows]
    kept = np.sort(farthest_points(points, start=points[:1], most=n - 1)[0])
    places = np.unique(np.concatenate([[0], kept])).astype(np.int64)
    note = f"The {n} most different of the {len(best.rows)} with the best scores."
    return best._replace(rows=best.rows[places], scores=best.scores[places], notes=(*best.notes, note))


def _fingerprints(frames: FrameStore) -> Float64[ndarray, "frames features"]:
    elements = np.array(frames.elements())
    return np.stack([radial_fingerprint(frames.frame(k), elements, 6.0) for k in range(len(frames))])
