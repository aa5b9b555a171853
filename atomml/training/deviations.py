"""Calibration of a potential's deviations on held-out frames of a store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from atomml._version import __version__
from atomml.datasets import FrameStore, frame_fingerprints
from atomml.errors import DataError
from atomml.shapes import Bool, Int64, ndarray
from atomml.training.deviation_measures import SINGULAR, residuals_of
from atomml.training.evaluation import evaluate
from atomml.uncertainty.bayesian import BayesianPotential
from atomml.uncertainty.calibration import Calibration, Quantity, balance, fit_calibration

__all__ = ["calibrated", "uncalibrated", "used_in_training"]


def calibrated(
    model: BayesianPotential,
    store: FrameStore,
    rows: Sequence[int] | ndarray | None = None,
    *,
    method: str = "nll",
    by_element: bool = False,
    exact: bool = False,
    free_only: bool = False,
    data: Mapping[str, Any] | None = None,
    max_atoms: int = 2000,
    max_edges: int | None = 200_000,
    on_batch: Callable[[int], Any] | None = None,
) -> BayesianPotential:
    """The model with its deviations scaled to the errors on held-out frames; see `fit_calibration`.

    A calibration that it already has is replaced, not built upon: the raw deviations are fitted. The calibration
    records the fingerprint and the number of the frames, the version, ``exact``, how many values were left out
    because they vanish by symmetry, and ``data``.

    Args:
        model: whose deviations to scale; unchanged, but the result shares its weights.
        store: frames that were used neither for training nor, ideally, for choosing the model.
        rows: which frames; all by default.
        method: see `atomml.uncertainty.calibration.scale`.
        by_element: one scale of the forces for each element with enough labels.
        exact: fit the deviations that are derived, not those that are estimated; use the model likewise.
        free_only: forces on atoms that the store holds fixed are no labels.
        data: more to record, for JSON.
        max_atoms: atoms in one batch (at least one frame).
        max_edges: edges in one batch.
        on_batch: called with the number of frames done, for a progress bar.

    Raises:
        DataError: too few labels (20 frames), predictions that are not finite, deviations of zero.
        ConfigError: an unknown method.
        UnsupportedError: an element the model does not know.
    """
    frames = store if rows is None else store.subset(rows)
    raw = uncalibrated(model)
    result = evaluate(
        raw,
        frames,
        free_only=free_only,
        exact=exact,
        max_atoms=max_atoms,
        max_edges=max_edges,
        on_batch=on_batch,
    )
    arrays, epistemic = _balanced(raw, result.arrays())
    residuals, left_out, singular = residuals_of(arrays)
    if singular and method != "affine":
        name, count = next(iter(singular.items()))
        raise DataError(
            f"No factor makes the deviations of {name} right: {SINGULAR.format(count)}.",
            fix="use the method affine, which adds a constant; an ensemble without noise needs more than 3 members",
        )
    record = {
        "fingerprint": frames.fingerprint(),
        "frames": len(frames),
        "version": __version__,
        "exact": exact,
    }
    record |= {"left_out": list(left_out)} if left_out else {}
    calibration = fit_calibration(
        residuals,
        method=method,
        by_element=by_element,
        epistemic=epistemic,
        data=record | dict(data or {}),
    )
    return _with(model, calibration)


def _balanced(
    raw: BayesianPotential, arrays: dict[str, ndarray]
) -> tuple[dict[str, ndarray], dict[Quantity, float]]:
    """Arrays whose deviations have γ times their epistemic part, and γ; stresses have that of the forces."""
    if raw.parts != ("epistemic", "aleatoric"):
        return arrays, {}
    found: dict[Quantity, float] = {}
    known = np.isfinite(arrays["energy_label"])
    if known.any():
        error = (arrays["energy_label"] - arrays["energy"])[known, None]
        parts = [arrays[f"energy_std_{part}"][known, None, None] ** 2 for part in ("aleatoric", "epistemic")]
        found["energy"] = balance(error, *parts)
    known = np.isfinite(arrays["forces_label"]).all(axis=1)
    if known.any():
        epistemic = arrays["forces_cov_epistemic"][known]
        error = (arrays["forces_label"] - arrays["forces"])[known]
        found["forces"] = balance(error, arrays["forces_cov"][known] - epistemic, epistemic)
        found["stress"] = found["forces"]
    more = {name: gamma**2 - 1 for name, gamma in found.items()}
    out = dict(arrays)
    scalars: tuple[Quantity, ...] = ("energy", "stress")
    for name in scalars:
        own, part = (arrays[f"{name}_std{suffix}"] ** 2 for suffix in ("", "_epistemic"))
        out[f"{name}_std"] = np.sqrt(own + more.get(name, 0.0) * part)
    out["forces_cov"] = arrays["forces_cov"] + more.get("forces", 0.0) * arrays["forces_cov_epistemic"]
    return out, found


def uncalibrated(model: BayesianPotential) -> BayesianPotential:
    """The model with the deviations as its method gives them."""
    return _with(model, None)


def used_in_training(
    training: Int64[ndarray, " fingerprints"], store: FrameStore
) -> Bool[ndarray, " frames"]:
    """Which frames have one of the fingerprints of the training frames, see `frame_fingerprints`."""
    return np.isin(frame_fingerprints(store), training)


def _with(model: BayesianPotential, calibration: Calibration | None) -> BayesianPotential:
    other = BayesianPotential(cast(Any, model.posterior), calibration)
    other.metadata = model.metadata
    return other.train(model.training)
