"""Proper scores: they are least, on average, for the true distribution. Lower is better.

Gneiting and Raftery, J. Am. Stat. Assoc. 102, 359 (2007).
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr, ndtri

from atomml.errors import DataError
from atomml.shapes import Float64, ndarray
from atomml.uncertainty.metrics.values import PrincipalErrors, check_scalars, principal_axes

__all__ = [
    "energy_score",
    "gaussian_crps",
    "gaussian_nll",
    "interval_score",
    "mean_norm",
    "vector_nll",
]

LOG_2PI = float(np.log(2 * np.pi))
NODES = 32


def gaussian_nll(error: Float64[ndarray, " n"], std: Float64[ndarray, " n"]) -> Float64[ndarray, " n"]:
    """Negative log-likelihood ½ [z² + log σ² + log 2π], z = error/σ, of each value.

    Raises:
        DataError: values that cannot be used, see `check_scalars`.
    """
    check_scalars(error, std)
    return 0.5 * ((error / std) ** 2 + LOG_2PI) + np.log(std)


def gaussian_crps(error: Float64[ndarray, " n"], std: Float64[ndarray, " n"]) -> Float64[ndarray, " n"]:
    """Continuous ranked probability score σ [z (2Φ(z) − 1) + 2φ(z) − 1/√π], in the unit of the error.

    Gneiting et al., Mon. Weather Rev. 133, 1098 (2005).

    Raises:
        DataError: values that cannot be used, see `check_scalars`.
    """
    check_scalars(error, std)
    z = error / std
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return std * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / np.sqrt(np.pi))


def interval_score(
    error: Float64[ndarray, " n"], std: Float64[ndarray, " n"], level: float = 0.95
) -> Float64[ndarray, " n"]:
    """Score of the central interval ±qσ: its width 2qσ + 2/(1 − level) · (distance of the label beyond it).

    Args:
        error: label − prediction.
        std: deviations.
        level: probability p of the interval, q = Φ⁻¹((1 + p)/2).

    Raises:
        DataError: a level outside (0, 1), or values that cannot be used, see `check_scalars`.
    """
    check_scalars(error, std)
    if not 0 < level < 1:
        raise DataError(f"The level of an interval lies between 0 and 1, not at {level}.")
    half = ndtri((1 + level) / 2) * std
    return 2 * half + 2 / (1 - level) * np.maximum(np.abs(error) - half, 0.0)


def vector_nll(error: Float64[ndarray, "n d"], cov: Float64[ndarray, "n d d"]) -> Float64[ndarray, " n"]:
    """Negative log-likelihood ½ [errorᵀΣ⁻¹error + log det Σ + d log 2π] of each vector.

    Raises:
        DataError: values that cannot be used, see `principal_axes`.
    """
    p = principal_axes(error, cov)
    return 0.5 * (p.squared_distance() + np.log(p.variances).sum(axis=1) + error.shape[1] * LOG_2PI)


def energy_score(error: Float64[ndarray, "n d"], cov: Float64[ndarray, "n d d"]) -> Float64[ndarray, " n"]:
    """E|X − error| − ½ E|X − X'| with X, X' ~ N(0, Σ): the CRPS of vectors, in the unit of the error.

    Both expectations are one-dimensional integrals (`mean_norm`), so there is no sampling noise.

    Raises:
        DataError: values that cannot be used, see `principal_axes`.
    """
    p = principal_axes(error, cov)
    spread = PrincipalErrors(np.zeros_like(p.components), 2 * p.variances)
    return mean_norm(p) - 0.5 * mean_norm(spread)


def mean_norm(p: PrincipalErrors) -> Float64[ndarray, " n"]:
    """E|X| of X ~ N(m, diag λ), to a relative 2e-6 (measured over λ and m² spread over 8 decades).

    From |x| = (1/√π) ∫₀^∞ [1 − exp(−s²|x|²)] s⁻² ds and the Gaussian mean of the exponential,
    φ(s) = Π_k (1 + 2s²λ_k)^(−½) exp[−s²m_k²/(1 + 2s²λ_k)]; with s = tan θ/c and c² = Σ(λ_k + m_k²),
    E|X| = (c/√π) ∫₀^{π/2} [1 − φ]/sin²θ dθ has a smooth integrand: Gauss–Legendre.
    """
    square, variances = p.components**2, p.variances
    size = (square + variances).sum(axis=1)
    square, variances = square / size[:, None], variances / size[:, None]
    total = np.zeros(len(size))
    for x, weight in zip(*np.polynomial.legendre.leggauss(NODES), strict=True):
        theta = np.pi / 4 * (x + 1)
        s2 = np.tan(theta) ** 2
        growth = 1 + 2 * s2 * variances
        exponent = -0.5 * np.log(growth).sum(axis=1) - (s2 * square / growth).sum(axis=1)
        total -= weight * np.pi / 4 * np.expm1(exponent) / np.sin(theta) ** 2
    return np.sqrt(size / np.pi) * total
