"""Fit a `Calibration` on the residuals of held-out structures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast, get_args

import numpy as np

from atomml.errors import DataError
from atomml.shapes import ndarray
from atomml.uncertainty.calibration.calibration import Calibration, Quantity, QuantityCalibration
from atomml.uncertainty.calibration.conformal import conformal_quantile, conformal_scores
from atomml.uncertainty.calibration.isotonic import fit_isotonic
from atomml.uncertainty.calibration.residuals import Labelled, Residuals
from atomml.uncertainty.calibration.scale import (
    FEWEST_IN_GROUP,
    Method,
    Scale,
    factors_of_groups,
    fit_scale,
    group_scales,
    scaled_cov,
    scaled_std,
)
from atomml.uncertainty.metrics.calibration import ellipsoid_probability, pit
from atomml.uncertainty.metrics.report import energy_measures, force_measures, scalar_measures

__all__ = ["FEWEST_FRAMES", "fit_calibration", "measures_of"]

FEWEST_FRAMES = 20
LEVELS = (0.5, 0.68, 0.9, 0.95)


def fit_calibration(
    residuals: Residuals,
    *,
    method: str = "nll",
    by_element: bool = False,
    epistemic: Mapping[Quantity, float] | None = None,
    data: Mapping[str, Any] | None = None,
) -> Calibration:
    """Fit scales, monotone maps and conformal factors of every quantity with labels and deviations.

    A quantity needs 20 structures with labels: α is then uncertain by 1/√(2·20) = 16 %, and 19 values are the least
    that give a conformal factor at 95 %; one with less is skipped. A force label per atom does not help, as the atoms
    of one structure err together. What is skipped stands in ``notes``; the other quantities are calibrated all the
    same, and only if none is left is there an error.

    Args:
        residuals: of structures that were used neither for training nor for choosing the model.
        method: ``nll``, ``crps``, ``robust``, ``coverage`` or ``affine``, see `atomml.uncertainty.calibration.scale`.
        by_element: one scale of the forces for each element with at least 100 labels.
        epistemic: γ of each quantity, see `balance`, which the deviations contain already; kept in the calibration.
        data: what the residuals come from; kept in the calibration.

    Raises:
        ConfigError: an unknown method.
        DataError: no quantity can be calibrated; a prediction or deviation is not finite; deviations are zero or
            negative (``affine`` allows zeros).
    """
    notes: list[str] = []
    quantities: dict[Quantity, QuantityCalibration] = {}
    for name in get_args(Quantity):
        part = residuals.labelled(name)
        if part is None:
            notes.append(f"{name}: no labels or no deviations, so not calibrated")
        elif part.frames < FEWEST_FRAMES:
            few = f"labels in {part.frames} structures, fewer than {FEWEST_FRAMES}"
            notes.append(f"{name}: {few}, so not calibrated")
        else:
            quantities[name] = _fit_quantity(name, part, method, by_element and name == "forces", notes)
    if not quantities:
        raise DataError(
            "Nothing can be calibrated: " + "; ".join(notes) + ".",
            fix=f"give at least {FEWEST_FRAMES} held-out structures with labels, and a model with deviations",
        )
    return Calibration(
        method=cast(Method, method),
        epistemic=dict(epistemic or {}),
        quantities=quantities,
        data=dict(data or {}),
        notes=tuple(notes),
    )


def _fit_quantity(
    name: Quantity, part: Labelled, method: str, by_element: bool, notes: list[str]
) -> QuantityCalibration:
    if part.missing:
        notes.append(f"{name}: {part.missing} without a usable label left out")
    scale = fit_scale(part.error, part.spread, method)
    if scale.alpha == 0:
        notes.append(f"{name}: the deviations say nothing about the errors; a constant describes them better")
    scales = group_scales(part.error, part.spread, part.groups, method) if by_element else {}
    if by_element:
        _note_rare_elements(part.groups, scales, notes)
    factors = factors_of_groups(part.groups, scale, scales)
    after = part._replace(spread=(scaled_cov if name == "forces" else scaled_std)(part.spread, *factors))
    scores = conformal_scores(after.error, after.spread)
    return QuantityCalibration(
        scale=scale,
        by_element=scales,
        isotonic=fit_isotonic(
            (ellipsoid_probability if name == "forces" else pit)(after.error, after.spread)
        ),
        conformal=_conformal(scores),
        conformal_by_element={z: _conformal(scores[part.groups == z]) for z in scales},
        count=len(part.error),
        frames=part.frames,
        before=_before(name, part, notes),
        after=measures_of(name, after),
    )


def _conformal(scores: ndarray) -> dict[float, float]:
    return {level: conformal_quantile(scores, level) for level in LEVELS}


def _note_rare_elements(numbers: ndarray, scales: Mapping[int, Scale], notes: list[str]) -> None:
    found, counts = np.unique(numbers, return_counts=True)
    rare = [f"Z = {z} ({k})" for z, k in zip(found, counts, strict=True) if int(z) not in scales]
    if rare:
        few = f"fewer than {FEWEST_IN_GROUP} labels, so the common scale"
        notes.append(f"forces on {', '.join(rare)}: {few}")


def _before(name: Quantity, part: Labelled, notes: list[str]) -> dict[str, float]:
    """Measures of what the model said; none if it stated deviations of zero, which only ``affine`` can mend."""
    try:
        return measures_of(name, part)
    except DataError as error:
        notes.append(f"{name}: no measures before: {error.what}")
        return {}


def measures_of(name: Quantity, part: Labelled) -> dict[str, float]:
    """`energy_measures`, `force_measures` or `scalar_measures` of what `Residuals.labelled` gives."""
    if name == "forces":
        return force_measures(part.error, part.spread)
    if name == "stress":
        return scalar_measures(part.error, part.spread)
    root = np.sqrt(part.groups)
    return energy_measures(part.error * root, part.spread * root, part.groups)
