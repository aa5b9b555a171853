"""All measures of one quantity as a flat dictionary with stable names.

Common names: ``count`` values, ``rmse``, ``nll``, ``z_rms`` (the factor the deviations lack), ``ce``, ``ace``,
``rmsce`` (squared, absolute, root calibration error), ``miscalibration_area``, ``coverage_68``, ``coverage_95``,
``ence``, ``sharpness``, ``dispersion``, ``spearman``, ``slope`` (log–log), ``aurc``, ``ause``. A measure that these
values leave undefined (a rank correlation of equal deviations) is NaN.
"""

from __future__ import annotations

import numpy as np

from atomml.errors import DataError
from atomml.shapes import Float64, Int64, ndarray
from atomml.uncertainty.metrics import calibration as levels
from atomml.uncertainty.metrics import detection, scores, spread
from atomml.uncertainty.metrics.values import check_scalars, principal_axes, vector_magnitudes

__all__ = ["energy_measures", "force_measures", "ood_measures", "scalar_measures", "stress_measures"]


def scalar_measures(error: Float64[ndarray, " n"], std: Float64[ndarray, " n"]) -> dict[str, float]:
    """Measures of scalars: the common ones, ``mae``, ``crps``, ``interval_score_95`` and ``rll``.

    Raises:
        DataError: fewer than two values, or some that cannot be used, see `check_scalars`.
    """
    check_scalars(error, std)
    return {
        **_magnitude_measures(np.abs(error), std),
        **_level_measures(levels.central_probability(error, std)),
        "mae": float(np.mean(np.abs(error))),
        "z_rms": float(np.sqrt(np.mean((error / std) ** 2))),
        "nll": float(np.mean(scores.gaussian_nll(error, std))),
        "crps": float(np.mean(scores.gaussian_crps(error, std))),
        "interval_score_95": float(np.mean(scores.interval_score(error, std, 0.95))),
        "rll": spread.relative_log_likelihood(error, std),
    }


def energy_measures(
    error: Float64[ndarray, " graphs"],
    std: Float64[ndarray, " graphs"],
    n_atoms: Int64[ndarray, " graphs"] | None = None,
) -> dict[str, float]:
    """Measures of total energies in eV; with ``n_atoms`` those in eV/atom as well, named ``per_atom_…``.

    Raises:
        DataError: fewer than two values, or some that cannot be used, see `check_scalars`.
    """
    measures = scalar_measures(error, std)
    if n_atoms is not None:
        per_atom = scalar_measures(error / n_atoms, std / n_atoms)
        measures |= {f"per_atom_{name}": x for name, x in per_atom.items() if name not in UNCHANGED}
    return measures


def force_measures(
    error: Float64[ndarray, "atoms 3"], cov: Float64[ndarray, "atoms 3 3"]
) -> dict[str, float]:
    """Measures of force vectors with full covariances; a rotation changes none but those named ``component_…``.

    Levels and coverages are those of ellipsoids (χ²₃); ``rmse``, ``sharpness`` and what compares errors with
    deviations use |error|/√3 and √(tr Σ/3), so that ``rmse`` is that of components. In addition ``energy_score``, and
    ``component_mae``, ``component_nll``, ``component_crps``, ``component_ce`` for the 3N components with σ = √Σ_aa.

    Raises:
        DataError: fewer than two values, or some that cannot be used, see `principal_axes`.
    """
    distance = principal_axes(error, cov).squared_distance()
    x, std = error.ravel(), np.sqrt(np.diagonal(cov, axis1=1, axis2=2)).ravel()
    return {
        **_magnitude_measures(*vector_magnitudes(error, cov)),
        **_level_measures(levels.ellipsoid_probability(error, cov)),
        "z_rms": float(np.sqrt(np.mean(distance) / error.shape[1])),
        "nll": float(np.mean(scores.vector_nll(error, cov))),
        "energy_score": float(np.mean(scores.energy_score(error, cov))),
        "component_mae": float(np.mean(np.abs(x))),
        "component_nll": float(np.mean(scores.gaussian_nll(x, std))),
        "component_crps": float(np.mean(scores.gaussian_crps(x, std))),
        "component_ce": levels.squared_calibration_error(levels.central_probability(x, std)),
    }


def stress_measures(
    error: Float64[ndarray, "graphs 6"], std: Float64[ndarray, "graphs 6"]
) -> dict[str, float]:
    """`scalar_measures` of the six components of each stress, as Mandel vectors: shear components times √2.

    In this notation the sum of the squares is that of the tensor. The components of one stress are taken as
    independent; a rotation changes single components and so, a little, these measures.

    Raises:
        DataError: fewer than two values, or some that cannot be used, see `check_scalars`.
    """
    return scalar_measures(error.ravel(), std.ravel())


def ood_measures(
    known: Float64[ndarray, " known"], unusual: Float64[ndarray, " unusual"]
) -> dict[str, float]:
    """``auroc``, ``fpr_95`` and ``aupr`` of a score; unusual structures are the positive class.

    Raises:
        DataError: no values, or one that is not finite.
    """
    return {
        "auroc": detection.auroc(known, unusual),
        "fpr_95": detection.false_positive_rate(known, unusual, 0.95),
        "aupr": detection.average_precision(known, unusual),
    }


UNCHANGED = frozenset(  # the same for total energies and for energies per atom
    ["count", "z_rms", "ce", "ace", "rmsce", "miscalibration_area", "coverage_68", "coverage_95"]
)


def _level_measures(probability: Float64[ndarray, " n"]) -> dict[str, float]:
    return {
        "ce": levels.squared_calibration_error(probability),
        "ace": levels.absolute_calibration_error(probability),
        "rmsce": levels.root_calibration_error(probability),
        "miscalibration_area": levels.miscalibration_area(probability),
        "coverage_68": levels.coverage(probability, 0.68),
        "coverage_95": levels.coverage(probability, 0.95),
    }


def _magnitude_measures(magnitude: Float64[ndarray, " n"], std: Float64[ndarray, " n"]) -> dict[str, float]:
    if len(magnitude) < 2:
        raise DataError("One value says nothing about deviations.", fix="measure on more labels")
    return {
        "count": float(len(magnitude)),
        "rmse": float(np.sqrt(np.mean(magnitude**2))),
        "sharpness": spread.sharpness(std),
        "dispersion": spread.dispersion(std),
        "ence": spread.expected_normalized_error(magnitude, std),
        "spearman": spread.spearman(magnitude, std),
        "slope": spread.log_log_slope(magnitude, std),
        "aurc": detection.risk_coverage_area(magnitude, std),
        "ause": detection.sparsification_error(magnitude, std),
    }
