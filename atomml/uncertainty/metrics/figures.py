"""Figures of calibration: reliability, errors against deviations, sparsification."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from atomml.errors import DataError
from atomml.shapes import Float64, ndarray
from atomml.uncertainty.metrics.calibration import observed_fractions, squared_calibration_error
from atomml.uncertainty.metrics.detection import sparsification, sparsification_error
from atomml.uncertainty.metrics.spread import binned_deviations

__all__ = ["error_figure", "reliability_figure", "sparsification_figure"]

MOST_POINTS = 400  # of a drawn curve


def reliability_figure(curves: Mapping[str, Float64[ndarray, " _"]], *, title: str = "") -> Figure:
    """Observed against expected fraction of labels at 21 levels, with the band of two standard errors.

    Args:
        curves: name ("before", "after") → `central_probability` or `ellipsoid_probability` of the values.
        title: such as "forces".

    Raises:
        DataError: no curve, no values, or one that is not finite.
    """
    if not curves:
        raise DataError("There is no curve to draw.")
    levels = np.linspace(0, 1, 21)
    figure = Figure(figsize=(4.2, 4.0), layout="constrained")
    axes = figure.add_subplot()
    chance = 2 * np.sqrt(levels * (1 - levels) / min(len(p) for p in curves.values()))
    axes.fill_between(levels, levels - chance, levels + chance, color="0.85", linewidth=0)
    axes.axline((0, 0), slope=1, color="0.5", linewidth=0.8)
    for name, probability in curves.items():
        error = squared_calibration_error(probability)
        observed = observed_fractions(probability, levels)
        axes.plot(levels, observed, "o-", markersize=3, label=f"{name}: CE {error:.2g}")
    axes.set(xlabel="expected fraction", ylabel="observed fraction", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_title(title, fontsize=9)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def error_figure(
    error: Float64[ndarray, " n"], std: Float64[ndarray, " n"], *, unit: str, title: str = ""
) -> Figure:
    """|error| against σ on logarithmic axes, with RMSE against RMS σ in bins; on the diagonal if σ is right.

    Forces enter as `vector_magnitudes`. Errors that are exactly zero count in the bins but have no place on the axes.

    Raises:
        DataError: values that cannot be used, see `check_scalars`.
    """
    deviation, rmse = binned_deviations(error, std)
    seen = error != 0
    x, y = std[seen], np.abs(error[seen])
    figure = Figure(figsize=(4.6, 4.0), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log")
    if len(x):
        if np.ptp(x) == 0:  # hexagons need an extent
            axes.plot(x, y, ".", markersize=2, color="0.7")
        else:
            axes.hexbin(x, y, xscale="log", yscale="log", gridsize=60, bins="log", mincnt=1, linewidths=0)
    axes.plot(deviation, rmse, "o-", color="#d62728", markersize=4, label="RMSE in bins")
    for factor, style in ((1.0, "-"), (2.0, ":")):
        axes.axline((deviation[0], factor * deviation[0]), (2 * deviation[0], 2 * factor * deviation[0]),
                    color="0.3", linewidth=0.8, linestyle=style, label=f"{factor:g} σ")  # fmt: skip
    axes.set(xlabel=f"predicted deviation σ ({unit})", ylabel=f"|error| ({unit})")
    axes.set_title(title, fontsize=9)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def sparsification_figure(
    error: Float64[ndarray, " n"], std: Float64[ndarray, " n"], *, title: str = ""
) -> Figure:
    """RMSE of the rest, over that of all, while the values with the largest σ are removed; and the oracle's.

    Raises:
        DataError: values that cannot be used, see `check_scalars`.
    """
    area = sparsification_error(error, std)
    figure = Figure(figsize=(4.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for name, score in ((f"by σ: AUSE {area:.2g}", std), ("by |error|", np.abs(error))):
        removed, rest = sparsification(error, score)
        some = np.unique(np.linspace(0, len(removed) - 1, MOST_POINTS).astype(int))
        axes.plot(removed[some], rest[some], label=name)
    axes.axhline(1.0, color="0.5", linewidth=0.8, linestyle=":", label="at random")
    axes.set(xlabel="fraction removed", ylabel="RMSE of the rest / RMSE", xlim=(0, 1), ylim=(0, None))
    axes.set_title(title, fontsize=9)
    axes.legend(frameon=False, fontsize=8)
    return figure
