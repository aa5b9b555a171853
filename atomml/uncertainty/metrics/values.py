"""Errors and their predicted deviations, checked once: scalars, and vectors in the axes of their covariance.

Everywhere ``error`` is label − prediction, so that the label's place in the predicted distribution is Φ(error/std).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from atomml.errors import DataError
from atomml.shapes import Float64, ndarray

__all__ = ["PrincipalErrors", "check_finite", "check_scalars", "principal_axes", "ranks", "vector_magnitudes"]

SINGLE = 1e-7  # rounding of covariances that were computed in single precision
MORE_NOISE = "give the potential a noise head or more members, or calibrate with the method 'affine'"


class PrincipalErrors(NamedTuple):
    """Vectors in the axes of their covariances Σ = U diag(λ) Uᵀ.

    Attributes:
        components: [n, d] Uᵀ error.
        variances: [n, d] λ, ascending.
    """

    components: Float64[ndarray, "n d"]
    variances: Float64[ndarray, "n d"]

    def squared_distance(self) -> Float64[ndarray, " n"]:
        """Squared Mahalanobis distance errorᵀ Σ⁻¹ error; χ² with d degrees of freedom if Σ is right."""
        return (self.components**2 / self.variances).sum(axis=1)


def check_finite(values: ndarray, name: str) -> None:
    """Raises DataError if ``values`` is empty, or holds NaN or infinity (it says how many and where first)."""
    if values.size == 0:
        raise DataError(f"There are no values of {name}.")
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        raise DataError(
            f"{name} holds {len(bad)} values that are NaN or infinite.",
            where=f"{name}[{', '.join(map(str, bad[0]))}] = {values[tuple(bad[0])]}",
            fix="leave out what has no label, and check the predictions",
        )


def check_scalars(error: Float64[ndarray, " n"], std: Float64[ndarray, " n"]) -> None:
    """Check errors and their deviations.

    Raises:
        DataError: different shapes, no values, a value that is not finite, a deviation that is not positive.
    """
    _same_length(error, std, "std")
    check_finite(error, "error")
    check_finite(std, "std")
    _positive(std, "std", "deviations")


def principal_axes(
    error: Float64[ndarray, "n d"], cov: Float64[ndarray, "n d d"], *, singular: bool = False
) -> PrincipalErrors:
    """Errors in the axes of their covariances; rotating both changes nothing that is computed from these.

    Args:
        error: label − prediction.
        cov: symmetric, positive definite covariances.
        singular: zero variances are allowed, as of a covariance of few members. Without this, a variance below 1e-7
            of the largest along the other axes is refused: such a number is rounding.

    Raises:
        DataError: different shapes, no values, a value that is not finite, a covariance that is not symmetric or
            not positive definite.
    """
    _same_length(error, cov, "cov")
    check_finite(error, "error")
    check_finite(cov, "cov")
    size = np.abs(cov).max(axis=(1, 2))
    skew = np.abs(cov - cov.transpose(0, 2, 1)).max(axis=(1, 2)) > 1e-6 * size
    if skew.any():
        raise DataError(
            f"{int(skew.sum())} covariances are not symmetric.", where=f"cov[{int(np.argmax(skew))}]"
        )
    variances, axes = np.linalg.eigh(cov)
    variances = np.where(np.abs(variances) <= SINGLE * size[:, None], 0.0, variances)
    _positive(variances, "cov", "variances along the axes of the covariance", zero=singular)
    return PrincipalErrors(np.einsum("nij,ni->nj", axes, error), variances)


def vector_magnitudes(
    error: Float64[ndarray, "n d"], cov: Float64[ndarray, "n d d"]
) -> tuple[Float64[ndarray, " n"], Float64[ndarray, " n"]]:
    """|error|/√d and √(tr Σ/d) of each vector: a scalar error and its deviation that no rotation changes."""
    d = error.shape[1]
    return np.linalg.norm(error, axis=1) / np.sqrt(d), np.sqrt(np.trace(cov, axis1=1, axis2=2) / d)


def ranks(values: Float64[ndarray, " n"]) -> Float64[ndarray, " n"]:
    """Ranks from 1; equal values share their mean rank."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[group]


def _same_length(error: ndarray, other: ndarray, name: str) -> None:
    wanted = error.shape + error.shape[1:]  # [n] beside [n], [n, d] beside [n, d, d]
    if other.shape != wanted:
        raise DataError(f"{name} has the shape {other.shape}; the errors {error.shape} need {wanted}.")


def _positive(values: ndarray, name: str, what: str, *, zero: bool = False) -> None:
    bad = np.argwhere(values < 0 if zero else values <= 0)
    if len(bad):
        raise DataError(
            f"{len(bad)} {what} are {'negative' if zero else 'zero or negative'}.",
            where=f"{name}[{bad[0][0]}]: {values[tuple(bad[0])]:.3g}",
            fix=MORE_NOISE,
        )
