"""Predicted deviations held against errors: residuals, measures, and how well they tell unusual structures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, get_args

import numpy as np
from ase.data import chemical_symbols

from atomml.errors import DataError
from atomml.shapes import Bool, Float64, Int64, ndarray
from atomml.training.loss import vanish_by_symmetry
from atomml.uncertainty.calibration import Residuals, measures_of
from atomml.uncertainty.calibration.calibration import Quantity
from atomml.uncertainty.calibration.residuals import Labelled
from atomml.uncertainty.metrics import (
    coverage,
    ellipsoid_probability,
    ood_measures,
    sharpness,
    vector_magnitudes,
)
from atomml.uncertainty.metrics.values import principal_axes

__all__ = [
    "DEVIATIONS",
    "Compared",
    "Measured",
    "deviation_measures",
    "force_deviations",
    "largest_force_deviation",
    "ood_scores",
    "residuals_of",
    "tell_apart",
]

DEVIATIONS = (
    "energy_std",
    "energy_std_epistemic",
    "energy_std_aleatoric",
    "forces_cov",
    "forces_cov_epistemic",
    "stress_std",
    "stress_std_epistemic",
)
NO_DEVIATION, SMALL_ERROR = 1e-4, 0.1  # of the RMS: float32 leaves 1e-5 of what symmetry forbids, labels more
SINGULAR = "{} values have errors where the predicted deviation is zero"
MANDEL = ([0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1])
MANDEL_FACTORS = np.sqrt([1.0, 1, 1, 2, 2, 2])


class Compared(NamedTuple):
    """Errors beside deviations, and what had to be left out.

    Attributes:
        residuals: of all structures; NaN where there is no label or the value is left out.
        left_out: how many values of which quantity are left out, as sentences.
        singular: number of values of each quantity that have an error where their deviation is (almost) zero.
    """

    residuals: Residuals
    left_out: tuple[str, ...]
    singular: dict[str, int]


class Measured(NamedTuple):
    """What the deviations are worth.

    Attributes:
        measures: ``energy``, ``forces``, ``stress`` → the measures of `atomml.uncertainty.metrics.report`.
        elements: chemical symbol → RMS of the force deviation (``forces_std``, eV/Å) and coverages of the force.
        notes: what could not be measured, and why.
    """

    measures: dict[str, dict[str, float]]
    elements: dict[str, dict[str, float]]
    notes: tuple[str, ...]


def residuals_of(arrays: Mapping[str, ndarray]) -> Compared:
    """Errors (label − prediction) and deviations from the arrays of an `Evaluation`.

    What symmetry forbids is left out and counted: forces that `vanish_by_symmetry`, and a value with a component (of
    forces: along an axis of Σ) whose σ is below 1e-4 and whose error below 0.1 of the RMS. Members cannot disagree
    there, and the noise of the label would be an error of any number of σ; and a network that predicts a deviation
    from the surroundings is right without merit. Where only the error is larger the value is kept, and counted in
    ``singular``.

    Args:
        arrays: ``n_atoms``, ``numbers``, predictions, ``*_label``, and the deviations named in `DEVIATIONS`.

    Raises:
        DataError: a prediction or deviation beside a label is not finite, or a covariance is not symmetric.
    """
    stress_std = _mandel(arrays["stress_std"])
    spreads = {"energy": arrays["energy_std"], "forces": arrays["forces_cov"], "stress": stress_std}
    errors: dict[str, Any] = {}
    left_out: list[str] = []
    singular: dict[str, int] = {}
    for name, spread in spreads.items():
        label, value = arrays[f"{name}_label"], arrays[name]
        if name == "stress":
            label, value = _mandel(label), _mandel(value)
        known = np.isfinite(label.reshape(len(label), -1)).all(axis=1)
        error = np.where(known.reshape(-1, *[1] * (label.ndim - 1)), label - value, np.nan)
        if not np.isfinite(error[known]).all() or not np.isfinite(spread[known]).all():
            raise DataError(
                f"A prediction or deviation of {name} is not finite where there is a label.",
                fix="look at the training of this model",
            )
        if known.any():
            rows = np.flatnonzero(known)
            forbidden, wrong = _without_deviation(error[rows], spread[rows])
            if name == "forces":
                forbidden |= vanish_by_symmetry(value[rows], label[rows])
            error[rows[forbidden]] = np.nan
            if forbidden.any():
                left_out.append(f"{name}: {forbidden.sum()} left out that vanish by symmetry")
            if wrong.any():
                singular[name] = int(wrong.sum())
        errors[f"{name}_error"] = error
    residuals = Residuals(
        n_atoms=arrays["n_atoms"],
        numbers=arrays["numbers"],
        energy_std=spreads["energy"],
        forces_cov=spreads["forces"],
        stress_std=stress_std,
        **errors,
    )
    return Compared(residuals, tuple(left_out), singular)


def deviation_measures(arrays: Mapping[str, ndarray]) -> Measured:
    """Measures of energies, forces and stresses that have labels; what cannot be measured stands in ``notes``."""
    try:
        residuals, left_out, singular = residuals_of(arrays)
    except DataError as error:
        return Measured({}, {}, (f"no measures of the deviations: {error.what}",))
    measures, elements = {}, {}
    notes = [*left_out, *(f"{name}: {SINGULAR.format(n)}" for name, n in singular.items())]
    for name in get_args(Quantity):
        part = residuals.labelled(name)
        if part is None:
            continue
        try:
            measures[name] = measures_of(name, part)
            if name == "forces":
                elements = _by_element(part)
        except DataError as error:
            notes.append(f"{name}: no measures of the deviations: {error.what}")
    return Measured(measures, elements, tuple(notes))


def force_deviations(forces_cov: Float64[ndarray, "atoms 3 3"]) -> Float64[ndarray, " atoms"]:
    """√(tr Σ/3) of each atom in eV/Å: the deviation of a component, which no rotation changes."""
    return np.sqrt(np.trace(forces_cov, axis1=1, axis2=2) / 3)


def largest_force_deviation(
    forces_cov: Float64[ndarray, "atoms 3 3"], n_atoms: Int64[ndarray, " frames"]
) -> Float64[ndarray, " frames"]:
    """The largest `force_deviations` of each structure."""
    starts = np.cumsum(n_atoms) - n_atoms
    return np.maximum.reduceat(force_deviations(forces_cov), starts)


def ood_scores(arrays: Mapping[str, ndarray]) -> dict[str, Float64[ndarray, " frames"]]:
    """Scores of structures: ``energy_std_per_atom`` (eV) and ``forces_std_max`` (eV/Å)."""
    n_atoms = arrays["n_atoms"]
    return {
        "energy_std_per_atom": arrays["energy_std"] / n_atoms,
        "forces_std_max": largest_force_deviation(arrays["forces_cov"], n_atoms),
    }


def tell_apart(known: Mapping[str, ndarray], unusual: Mapping[str, ndarray]) -> dict[str, dict[str, float]]:
    """`ood_measures` of each of the `ood_scores`: whether structures from elsewhere have larger deviations.

    Raises:
        DataError: no structures, or a deviation that is not finite.
    """
    other = ood_scores(unusual)
    return {name: ood_measures(score, other[name]) for name, score in ood_scores(known).items()}


def _by_element(part: Labelled) -> dict[str, dict[str, float]]:
    probability = ellipsoid_probability(part.error, part.spread)
    std = vector_magnitudes(part.error, part.spread)[1]
    return {
        chemical_symbols[int(z)]: {
            "forces_std": sharpness(std[mine]),
            "coverage_68": coverage(probability[mine], 0.68),
            "coverage_95": coverage(probability[mine], 0.95),
        }
        for z in np.unique(part.groups)
        for mine in [part.groups == z]
    }


def _without_deviation(error: ndarray, spread: ndarray) -> tuple[Bool[ndarray, " n"], Bool[ndarray, " n"]]:
    """Values with a component (an axis of the covariance) that has no deviation: no error either, or one."""
    if spread.ndim > error.ndim:
        p = principal_axes(error, spread, singular=True)
        error, variance = p.components, p.variances
    else:
        error, variance = error.reshape(len(error), -1), spread.reshape(len(error), -1) ** 2
    none = variance <= NO_DEVIATION**2 * variance.mean()
    small = error**2 <= SMALL_ERROR**2 * np.mean(error**2)
    wrong = (none & ~small).any(axis=1)
    return (none & small).any(axis=1) & ~wrong, wrong


def _mandel(stress: Float64[ndarray, "frames 3 3"]) -> Float64[ndarray, "frames 6"]:
    """Mandel vectors of symmetric matrices, or of the deviations of their components."""
    return MANDEL_FACTORS * (stress + stress.transpose(0, 2, 1))[:, MANDEL[0], MANDEL[1]] / 2
