"""Whether larger deviations mean larger errors, and how large and how different the deviations are.

Vectors enter as the scalars of `vector_magnitudes`.
"""

from __future__ import annotations

import numpy as np

from atomml.shapes import Float64, ndarray
from atomml.uncertainty.metrics.scores import LOG_2PI, gaussian_nll
from atomml.uncertainty.metrics.values import check_scalars, ranks

__all__ = [
    "binned_deviations",
    "dispersion",
    "expected_normalized_error",
    "log_log_slope",
    "relative_log_likelihood",
    "sharpness",
    "spearman",
]

BINS, FEWEST_IN_BIN = 20, 10


def sharpness(std: Float64[ndarray, " n"]) -> float:
    """Root of the mean variance, √mean σ²; it equals the RMSE if the variances are right on average."""
    return float(np.sqrt(np.mean(std**2)))


def dispersion(std: Float64[ndarray, " n"]) -> float:
    """Coefficient of variation of the deviations, s(σ)/mean σ (s with n − 1); 0 if all are the same.

    Levi et al., Sensors 22, 5540 (2022). NaN for a single value.
    """
    return float(np.std(std, ddof=1) / np.mean(std)) if len(std) > 1 else float("nan")


def binned_deviations(
    error: Float64[ndarray, " n"], std: Float64[ndarray, " n"], bins: int = BINS
) -> tuple[Float64[ndarray, " bins"], Float64[ndarray, " bins"]]:
    """RMS σ and RMSE in bins of equally many values, by ascending σ; on the diagonal if σ is right.

    There are fewer bins if one would hold less than 10 values.

    Raises:
        DataError: values that cannot be used, see `check_scalars`.
    """
    check_scalars(error, std)
    groups = np.array_split(np.argsort(std, kind="stable"), max(1, min(bins, len(std) // FEWEST_IN_BIN)))
    rms = [(np.sqrt(np.mean(std[g] ** 2)), np.sqrt(np.mean(error[g] ** 2))) for g in groups]
    deviation, rmse = np.array(rms).T
    return deviation, rmse


def expected_normalized_error(
    error: Float64[ndarray, " n"], std: Float64[ndarray, " n"], bins: int = BINS
) -> float:
    """Expected normalised calibration error: mean over bins of |RMS σ − RMSE|/RMS σ, see `binned_deviations`.

    Levi et al., Sensors 22, 5540 (2022). By chance it is about √(bins/(π n)), so only values with the same number
    of bins and of values compare.

    Raises:
        DataError: values that cannot be used, see `check_scalars`.
    """
    deviation, rmse = binned_deviations(error, std, bins)
    return float(np.mean(np.abs(deviation - rmse) / deviation))


def log_log_slope(error: Float64[ndarray, " n"], std: Float64[ndarray, " n"], bins: int = BINS) -> float:
    """Least-squares slope of log RMSE against log RMS σ over `binned_deviations`.

    1 if errors grow as the deviations say, 0 if the deviations say nothing. NaN with fewer than two bins, where all
    bins have the same deviation, or where a bin has no error at all.

    Raises:
        DataError: values that cannot be used, see `check_scalars`.
    """
    deviation, rmse = binned_deviations(error, std, bins)
    x = np.log(deviation) - np.log(deviation).mean()
    if np.ptp(x) < 1e-9 or not rmse.all():
        return float("nan")
    return float(x @ np.log(rmse) / (x @ x))


def spearman(error: Float64[ndarray, " n"], std: Float64[ndarray, " n"]) -> float:
    """Rank correlation of σ and |error|.

    Far from 1 even for the right σ, as errors scatter: 0.16 if log σ is uniform over a factor of 1.6, 0.57 over ten.

    NaN where all deviations or all errors are the same.

    Raises:
        DataError: values that cannot be used, see `check_scalars`.
    """
    check_scalars(error, std)
    a, b = (ranks(x) - (len(x) + 1) / 2 for x in (np.abs(error), std))
    norm = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm > 0 else float("nan")


def relative_log_likelihood(error: Float64[ndarray, " n"], std: Float64[ndarray, " n"]) -> float:
    """[NLL(σ) − NLL(RMSE)] / [NLL(|error|) − NLL(RMSE)] with the mean `gaussian_nll` for each choice of deviations.

    0 for one constant deviation, the RMSE; 1 for deviations that equal every single error, which no honest
    prediction reaches; negative if worse than the constant. After Kellner and Ceriotti, Mach. Learn.: Sci.
    Technol. 5, 035006 (2024). NaN where an error is exactly zero or all have the same size: there is no scale.

    Raises:
        DataError: values that cannot be used, see `check_scalars`.
    """
    nll = float(np.mean(gaussian_nll(error, std)))
    square = error**2
    if not square.all() or np.ptp(square) == 0:
        return float("nan")
    constant = 0.5 * (1 + LOG_2PI + np.log(np.mean(square)))
    best = 0.5 * (1 + LOG_2PI + np.mean(np.log(square)))
    return float((nll - constant) / (best - constant))
