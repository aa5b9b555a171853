"""Factors that make deviations right on average: σ² ← α²σ² + β², for vectors Σ ← α²Σ + β²1.

Each fit takes errors [n] with deviations [n], or error vectors [n, d] with covariances [n, d, d]. All of them are
unchanged when vectors and covariances are rotated together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator
from scipy.optimize import brentq, minimize_scalar
from scipy.special import gammaincinv

from atomml.config import Config
from atomml.errors import ConfigError, DataError
from atomml.shapes import Float64, Int64, ndarray
from atomml.uncertainty.metrics.calibration import LEVELS
from atomml.uncertainty.metrics.scores import mean_norm
from atomml.uncertainty.metrics.values import PrincipalErrors, check_scalars, principal_axes

__all__ = [
    "Method",
    "Scale",
    "affine_scale",
    "coverage_scale",
    "crps_scale",
    "factors_of_groups",
    "fit_scale",
    "group_scales",
    "nll_scale",
    "principal_errors",
    "robust_scale",
    "scaled_cov",
    "scaled_std",
]

Method = Literal["nll", "crps", "robust", "coverage", "affine"]
Errors = Float64[ndarray, "n *d"]
Spread = Float64[ndarray, "n *dd"]
Factor = Annotated[float, Field(ge=0, allow_inf_nan=False)]
FEWEST_IN_GROUP = 100
NEGLIGIBLE = 1e-12


class Scale(Config):
    """σ² ← α²σ² + β²."""

    alpha: Factor = 1.0
    """Factor of the deviation."""
    beta: Factor = 0.0
    """Deviation that every value has in any case, in the unit of the deviation."""

    @model_validator(mode="after")
    def _leaves_a_deviation(self) -> Scale:
        if self.alpha == self.beta == 0:
            raise ValueError("alpha and beta cannot both be zero")
        return self


def nll_scale(error: Errors, spread: Spread) -> Scale:
    """α = √mean(z²), for vectors √mean(errorᵀΣ⁻¹error/d): the least Gaussian negative log-likelihood.

    Raises:
        DataError: values that cannot be used, a deviation that is not positive, or no error but zeros.
    """
    p = principal_errors(error, spread)
    return Scale(alpha=float(np.sqrt(np.mean(p.squared_distance()) / p.variances.shape[1])))


def robust_scale(error: Errors, spread: Spread) -> Scale:
    """α = √(π/2) mean|z|; for vectors the root of median(errorᵀΣ⁻¹error) over the median of χ²_d.

    Outliers weigh less than in `nll_scale`, so typical values are right and rare large errors are not covered.

    Raises:
        DataError: see `nll_scale`; or more than half of the errors, by number or by deviation, are exactly zero.
    """
    p = principal_errors(error, spread)
    _refuse_zeros(p)
    distance, d = p.squared_distance(), p.variances.shape[1]
    if d == 1:
        return Scale(alpha=float(np.sqrt(np.pi / 2) * np.mean(np.sqrt(distance))))
    return Scale(alpha=float(np.sqrt(np.median(distance) / (2 * gammaincinv(d / 2, 0.5)))))


def crps_scale(error: Errors, spread: Spread) -> Scale:
    """α with the least mean CRPS, for vectors with the least mean energy score.

    Both scores are convex in α. For scalars the derivative vanishes where Σ σ_i [2φ(z_i/α) − 1/√π] = 0; for vectors
    E|αX − error| − (α/2) E|X − X'| is minimised over log α.

    Raises:
        DataError: see `nll_scale`; or more than half of the errors, by number or by deviation, are exactly zero.
    """
    p = principal_errors(error, spread)
    _refuse_zeros(p)
    if p.variances.shape[1] > 1:
        return _energy_score_scale(p)
    std = np.sqrt(p.variances[:, 0])
    z2 = p.squared_distance()

    def derivative(log_alpha: float) -> float:
        density = np.exp(-0.5 * z2 * np.exp(-2 * log_alpha)) * np.sqrt(2 / np.pi)
        return float(std @ (density - 1 / np.sqrt(np.pi)))

    start = np.log(np.mean(z2)) / 2
    low, high = _bracket(derivative, start)
    return Scale(alpha=float(np.exp(brentq(derivative, low, high, xtol=1e-12))))


def coverage_scale(error: Errors, spread: Spread) -> Scale:
    """α with the least squared calibration error: the observed fractions of all levels are as near as they can be.

    Where errors have heavier tails than a Gaussian, `nll_scale` widens all intervals for the sake of the tails;
    this one keeps the usual ones right.

    Raises:
        DataError: see `nll_scale`; or more than half of the errors, by number or by deviation, are exactly zero.
    """
    p = principal_errors(error, spread)
    _refuse_zeros(p)
    distance, d = np.sort(p.squared_distance()), p.variances.shape[1]
    quantile = 2 * gammaincinv(d / 2, LEVELS)

    def cost(log_alpha: float) -> float:
        inside = np.searchsorted(distance, np.exp(2 * log_alpha) * quantile, side="right")
        return float(np.mean((inside / len(distance) - LEVELS) ** 2))

    best = 0.5 * np.log(np.median(distance) / (2 * gammaincinv(d / 2, 0.5)))
    for width in (1.5, 0.15, 0.015):  # the cost is a staircase, of steps that a finer grid resolves
        grid = np.linspace(best - width, best + width, 61)
        best = grid[np.argmin([cost(x) for x in grid])]
    return Scale(alpha=float(np.exp(best)))


def affine_scale(error: Errors, spread: Spread) -> Scale:
    """α and β of σ² ← α²σ² + β² (Σ ← α²Σ + β²1) with the least Gaussian negative log-likelihood.

    β is the noise that a committee's spread lacks. With β² = rα² the best α² is mean[e²/(v + r)] over the errors e
    and variances v along all axes, which leaves log mean[e²/(v + r)] + mean log(v + r) to minimise over r; r = 0
    (β = 0) and r = ∞ (α = 0: the spread says nothing) are tried as well.

    Variances may be zero. Pairs in which error and variance are both negligible (1e-12 of the mean squares: force
    components that vanish by symmetry) are left out of the fit, for their likelihood grows without bound as β → 0.

    Raises:
        DataError: values that cannot be used, negative variances, or no error but zeros.
    """
    p = principal_errors(error, spread, singular=True)
    square, variance = p.components.ravel() ** 2, p.variances.ravel()
    unit, size = square.mean(), variance.mean()
    if size == 0:
        return Scale(alpha=0.0, beta=float(np.sqrt(unit)))
    square, variance = square / unit, variance / size
    counts = (square > NEGLIGIBLE) | (variance > NEGLIGIBLE)
    square, variance = square[counts], variance[counts]

    def cost(log_r: float) -> float:
        total = variance + np.exp(log_r)
        return float(np.log(np.mean(square / total)) + np.mean(np.log(total)))

    grid = np.linspace(np.log(1e-8), np.log(1e8), 65)
    best = float(grid[np.argmin([cost(x) for x in grid])])
    step = float(grid[1] - grid[0])
    found = minimize_scalar(cost, bounds=(best - step, best + step), method="bounded")
    r = float(np.exp(found.x))
    if variance.all() and np.log(np.mean(square / variance)) + np.mean(np.log(variance)) <= found.fun + 1e-9:
        r = 0.0
    elif np.log(np.mean(square)) <= found.fun + 1e-9:
        return Scale(alpha=0.0, beta=float(np.sqrt(unit * np.mean(square))))
    alpha = float(np.sqrt(np.mean(square / (variance + r)) * unit / size))
    return Scale(alpha=alpha, beta=alpha * float(np.sqrt(r * size)))


FITS: dict[str, Callable[[ndarray, ndarray], Scale]] = {
    "nll": nll_scale,
    "crps": crps_scale,
    "robust": robust_scale,
    "coverage": coverage_scale,
    "affine": affine_scale,
}


def fit_scale(error: Errors, spread: Spread, method: str) -> Scale:
    """One of the functions above, by ``method``, its name without ``_scale``.

    Raises:
        ConfigError: an unknown method.
        DataError: see there.
    """
    if method not in FITS:
        raise ConfigError(f"Deviations are scaled by the methods {', '.join(FITS)}, not {method!r}.")
    return FITS[method](error, spread)


def group_scales(
    error: Errors,
    spread: Spread,
    groups: Int64[ndarray, " n"],
    method: str,
    *,
    fewest: int = FEWEST_IN_GROUP,
) -> dict[int, Scale]:
    """`fit_scale` of each group (element) with at least ``fewest`` values; the others are absent.

    α from n independent vectors is uncertain by 1/√(6n), 4 % for 100, and atoms of one structure are not
    independent; a group with less does better with the common factor.

    Raises:
        DataError: see `fit_scale`.
    """
    found, counts = np.unique(groups, return_counts=True)
    return {
        int(g): fit_scale(error[groups == g], spread[groups == g], method)
        for g, count in zip(found, counts, strict=True)
        if count >= fewest
    }


def factors_of_groups(
    groups: Int64[ndarray, " n"], common: Scale, scales: Mapping[int, Scale]
) -> tuple[Float64[ndarray, " n"], Float64[ndarray, " n"]]:
    """α and β of each value: those of its group, or the common ones."""
    alpha, beta = np.full(len(groups), common.alpha), np.full(len(groups), common.beta)
    for group, scale in scales.items():
        alpha[groups == group], beta[groups == group] = scale.alpha, scale.beta
    return alpha, beta


def scaled_std(
    std: Float64[ndarray, " n"],
    alpha: float | Float64[ndarray, " n"],
    beta: float | Float64[ndarray, " n"] = 0.0,
) -> Float64[ndarray, " n"]:
    """√(α²σ² + β²)."""
    return np.hypot(alpha * std, beta)


def scaled_cov(
    cov: Float64[ndarray, "n d d"],
    alpha: float | Float64[ndarray, " n"],
    beta: float | Float64[ndarray, " n"] = 0.0,
) -> Float64[ndarray, "n d d"]:
    """α²Σ + β²1."""
    a2, b2 = (np.reshape(np.square(x), (-1, 1, 1)) for x in (alpha, beta))
    return a2 * cov + b2 * np.eye(cov.shape[1])


def principal_errors(error: Errors, spread: Spread, *, singular: bool = False) -> PrincipalErrors:
    """`principal_axes` of vectors; scalars are vectors of one component.

    Raises:
        DataError: values that cannot be used, or no error but zeros.
    """
    if error.ndim > 1:
        p = principal_axes(error, spread, singular=singular)
    elif singular and spread.shape == error.shape:
        variance = spread * np.abs(spread)  # keeps the sign, so that a negative deviation is noticed
        p = principal_axes(error[:, None], variance[:, None, None], singular=True)
    else:
        check_scalars(error, spread)
        p = PrincipalErrors(error[:, None], spread[:, None] ** 2)
    if not p.components.any():
        raise DataError("Every error is exactly zero: there is nothing to calibrate with.")
    return p


def _refuse_zeros(p: PrincipalErrors) -> None:
    """With more than half of the errors exactly zero a median, or the best CRPS, can ask for α = 0."""
    exact, size = ~p.components.any(axis=1), np.sqrt(p.variances.sum(axis=1))
    if max(exact.mean(), size[exact].sum() / size.sum()) > 0.5:
        raise DataError("More than half of the errors are exactly zero.", fix="use the method 'nll'")


def _energy_score_scale(p: PrincipalErrors) -> Scale:
    spread = float(np.mean(mean_norm(PrincipalErrors(np.zeros_like(p.components), 2 * p.variances))))

    def score(log_alpha: float) -> float:
        alpha = np.exp(log_alpha)
        scaled = PrincipalErrors(p.components, alpha**2 * p.variances)
        return float(np.mean(mean_norm(scaled))) - 0.5 * alpha * spread

    start = np.log(np.mean(p.squared_distance()) / p.variances.shape[1]) / 2
    found = minimize_scalar(score, bracket=(start - 0.5, start), tol=1e-6)
    return Scale(alpha=float(np.exp(found.x)))


def _bracket(increasing: Callable[[float], float], start: float) -> tuple[float, float]:
    """An interval around the root of an increasing function."""
    low, high = start - 1.0, start + 1.0
    while increasing(low) > 0:
        low -= 2.0
    while increasing(high) < 0:
        high += 2.0
    return float(low), float(high)
