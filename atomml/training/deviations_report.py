"""Tables, figures and warnings about the deviations of an `Evaluation`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from rich.table import Table

from atomml.training.deviation_measures import residuals_of
from atomml.training.evaluation import Evaluation
from atomml.uncertainty.calibration.residuals import Labelled
from atomml.uncertainty.metrics import central_probability, ellipsoid_probability, vector_magnitudes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from atomml.shapes import ndarray

__all__ = [
    "MEASURES",
    "SCORES",
    "OutsideSet",
    "detection_table",
    "deviation_figures",
    "deviation_warnings",
    "deviations_table",
    "measure_columns",
]

MEASURES = {
    "count": "values",
    "rmse": "RMSE",
    "sharpness": "RMS σ (sharpness)",
    "z_rms": "RMS error/σ, 1 if σ is right",
    "coverage_68": "coverage of 68 %",
    "coverage_95": "coverage of 95 %",
    "ce": "calibration error, squared",
    "ace": "calibration error, absolute",
    "miscalibration_area": "miscalibration area",
    "nll": "NLL",
    "crps": "CRPS",
    "energy_score": "energy score",
    "interval_score_95": "interval score 95 %",
    "ence": "ENCE",
    "spearman": "Spearman of σ and error",
    "slope": "log-log slope",
    "dispersion": "dispersion of σ",
    "ause": "AUSE",
    "rll": "relative log-likelihood",
}
"""Names of the measures in the order of a table."""
COLUMNS = {
    "energy (eV)": ("energy", ""),
    "per atom (eV)": ("energy", "per_atom_"),
    "forces (eV/Å)": ("forces", ""),
    "components (eV/Å)": ("forces", "component_"),
    "stress (eV/Å³)": ("stress", ""),
}
UNITS = {"energy": "eV/atom", "forces": "eV/Å", "stress": "eV/Å³"}
TOLERANCES = {68: 0.1, 95: 0.05}
SCORES = {"energy_std_per_atom": "σ of the energy per atom", "forces_std_max": "largest σ of a force"}


class OutsideSet(NamedTuple):
    """Structures from elsewhere.

    Attributes:
        evaluation: of these structures.
        detection: see `atomml.training.deviation_measures.tell_apart`.
    """

    evaluation: Evaluation
    detection: dict[str, dict[str, float]]


def measure_columns(deviations: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """The measures of each column of a table: total energy, energy per atom, forces, their components, stress."""
    found = {}
    for title, (quantity, prefix) in COLUMNS.items():
        measures = deviations.get(quantity, {})
        own = {key: measures[f"{prefix}{key}"] for key in MEASURES if f"{prefix}{key}" in measures}
        if prefix == "per_atom_":  # what is the same for total energies is stored once
            own = {key: own.get(key, measures[key]) for key in MEASURES if key in measures}
        if own:
            found[title] = own
    return found


def deviations_table(evaluations: Mapping[str, Evaluation]) -> Table:
    """How right the deviations of each part are, for the terminal; without rows where there are none."""
    table = Table("part", "quantity", "RMS σ", "RMSE", "in 68 %", "in 95 %", "CE", "rank ρ")
    for part, e in evaluations.items():
        for title, m in measure_columns(e.deviations).items():
            if "coverage_68" in m:
                numbers = [f"{m[key]:.3g}" for key in ("sharpness", "rmse")]
                numbers += [f"{100 * m[key]:.1f} %" for key in ("coverage_68", "coverage_95")]
                table.add_row(part, title, *numbers, f"{m['ce']:.2g}", f"{m['spearman']:.2f}")
    return table


def detection_table(detection: Mapping[str, Mapping[str, float]]) -> Table:
    """How well deviations tell structures from elsewhere, for the terminal."""
    table = Table("score", "AUROC", "FPR at 95 % found", "AUPR", title="in or out of distribution")
    for name, m in detection.items():
        table.add_row(SCORES[name], *(f"{m[key]:.4f}" for key in ("auroc", "fpr_95", "aupr")))
    return table


def deviation_warnings(name: str, evaluation: Evaluation) -> list[str]:
    """What a user must know before believing the deviations: no calibration, coverages far off, no measures.

    A coverage is far off if it misses 68 % by 0.1 or 95 % by 0.05, and two standard errors of its estimate more.
    """
    e = evaluation
    if e.energy_std is None:
        return []
    found = [f"{name}: {note}" for note in e.notes]
    if e.calibration is None:
        found.append("The deviations are as the method gives them; `atomml calibrate` scales them to errors.")
    for quantity, m in e.deviations.items():
        for level, tolerance in TOLERANCES.items():
            p, seen = level / 100, m[f"coverage_{level}"]
            if abs(seen - p) > tolerance + 2 * math.sqrt(p * (1 - p) / m["count"]):
                size = "small" if seen < p else "large"
                found.append(
                    f"{name}: {100 * seen:.0f} % of the labels of {quantity} are within their {level} %: "
                    f"deviations are too {size}."
                )
                break
    return found


def deviation_figures(evaluation: Evaluation) -> dict[str, Figure]:
    """Reliability of all quantities, and error against σ and sparsification of each, by the end of a file's name."""
    from atomml.uncertainty.metrics.figures import error_figure, reliability_figure, sparsification_figure

    curves, figures = {}, {}
    for name, part in _measured(evaluation):
        if name == "forces":
            curves[name] = ellipsoid_probability(part.error, part.spread)
            error, std = vector_magnitudes(part.error, part.spread)
        else:
            curves[name] = central_probability(part.error, part.spread)
            error, std = _per_atom(part) if name == "energy" else (part.error, part.spread)
        figures[f"{name}_deviations"] = error_figure(error, std, unit=UNITS[name], title=name)
        figures[f"{name}_sparsification"] = sparsification_figure(error, std, title=name)
    return {"reliability": reliability_figure(curves), **figures} if curves else {}


def _measured(evaluation: Evaluation) -> Iterator[tuple[str, Labelled]]:
    if evaluation.deviations:
        residuals = residuals_of(evaluation.arrays()).residuals
        for name in evaluation.deviations:
            part = residuals.labelled(name)
            if part is not None:
                yield name, part


def _per_atom(part: Labelled) -> tuple[ndarray, ndarray]:
    """Energies per atom from energies over √n_atoms."""
    root = part.groups**0.5
    return part.error / root, part.spread / root
