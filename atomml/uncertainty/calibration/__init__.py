"""Calibration of predicted deviations on held-out structures, and its application to others."""

from __future__ import annotations

from atomml.uncertainty.calibration.balance import balance
from atomml.uncertainty.calibration.calibration import Calibration, Quantity, QuantityCalibration
from atomml.uncertainty.calibration.conformal import (
    conformal_quantile,
    conformal_scores,
    fewest_values,
    group_quantiles,
)
from atomml.uncertainty.calibration.fit import fit_calibration, measures_of
from atomml.uncertainty.calibration.isotonic import (
    IsotonicMap,
    calibrated_interval,
    calibrated_quantile,
    calibrated_radius,
    fit_isotonic,
)
from atomml.uncertainty.calibration.residuals import Residuals
from atomml.uncertainty.calibration.scale import (
    Scale,
    affine_scale,
    coverage_scale,
    crps_scale,
    fit_scale,
    group_scales,
    nll_scale,
    robust_scale,
    scaled_cov,
    scaled_std,
)

__all__ = [
    "Calibration",
    "IsotonicMap",
    "Quantity",
    "QuantityCalibration",
    "Residuals",
    "Scale",
    "affine_scale",
    "balance",
    "calibrated_interval",
    "calibrated_quantile",
    "calibrated_radius",
    "conformal_quantile",
    "conformal_scores",
    "coverage_scale",
    "crps_scale",
    "fewest_values",
    "fit_calibration",
    "fit_isotonic",
    "fit_scale",
    "group_quantiles",
    "group_scales",
    "measures_of",
    "nll_scale",
    "robust_scale",
    "scaled_cov",
    "scaled_std",
]
