"""Measures of predicted deviations: proper scores, calibration, ranking, detection. Figures: `.figures`."""

from __future__ import annotations

from atomml.uncertainty.metrics.calibration import (
    absolute_calibration_error,
    central_probability,
    coverage,
    ellipsoid_probability,
    miscalibration_area,
    observed_fractions,
    pit,
    root_calibration_error,
    squared_calibration_error,
)
from atomml.uncertainty.metrics.detection import (
    auroc,
    average_precision,
    false_positive_rate,
    risk_coverage,
    risk_coverage_area,
    sparsification,
    sparsification_error,
)
from atomml.uncertainty.metrics.report import (
    energy_measures,
    force_measures,
    ood_measures,
    scalar_measures,
    stress_measures,
)
from atomml.uncertainty.metrics.scores import (
    energy_score,
    gaussian_crps,
    gaussian_nll,
    interval_score,
    vector_nll,
)
from atomml.uncertainty.metrics.spread import (
    binned_deviations,
    dispersion,
    expected_normalized_error,
    log_log_slope,
    relative_log_likelihood,
    sharpness,
    spearman,
)
from atomml.uncertainty.metrics.values import vector_magnitudes

__all__ = [
    "absolute_calibration_error",
    "auroc",
    "average_precision",
    "binned_deviations",
    "central_probability",
    "coverage",
    "dispersion",
    "ellipsoid_probability",
    "energy_measures",
    "energy_score",
    "expected_normalized_error",
    "false_positive_rate",
    "force_measures",
    "gaussian_crps",
    "gaussian_nll",
    "interval_score",
    "log_log_slope",
    "miscalibration_area",
    "observed_fractions",
    "ood_measures",
    "pit",
    "relative_log_likelihood",
    "risk_coverage",
    "risk_coverage_area",
    "root_calibration_error",
    "scalar_measures",
    "sharpness",
    "sparsification",
    "sparsification_error",
    "spearman",
    "squared_calibration_error",
    "stress_measures",
    "vector_magnitudes",
    "vector_nll",
]
