"""Accuracies of the von Mises flow: the entropy of a belief falls linearly with the number of samples.

Wu et al., A Periodic Bayesian Flow for Material Generation, ICLR 2025. The expectation that they estimate with random
numbers is a one-dimensional integral, done here by Gauss-Legendre quadrature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.optimize import brentq

from atomml.crystals.circle import bessel_ratio, entropy
from atomml.errors import ConfigError
from atomml.shapes import Float64, ndarray

__all__ = ["AccuracySchedule", "accuracy_schedule"]

_SMALLEST, _LARGEST = 1e-3, 1e9  # between which H can be inverted in double precision
_POINTS = 200


@dataclass(frozen=True)
class AccuracySchedule:
    """What n samples are worth.

    Attributes:
        accuracies: α_i, concentration of the i-th sample.
        concentrations: c_i, concentration of the belief after i samples for which α_i was chosen; the last is β₁.
    """

    accuracies: Float64[ndarray, " steps"]
    concentrations: Float64[ndarray, " steps"]

    @property
    def weights(self) -> Float64[ndarray, " steps"]:
        """Weight n α_i A(α_i) of 1 − cos(x − x̂); the mean over steps is the sum of the KL divergences."""
        return len(self.accuracies) * self.accuracies * bessel_ratio(self.accuracies)


@lru_cache(maxsize=32)
def accuracy_schedule(n: int, beta1: float) -> AccuracySchedule:
    """Accuracies of n samples after which the belief has about the concentration ``beta1``.

    The targets are H(c_i) = H(0) + (i/n)(H(β₁) − H(0)) for the entropy H. Then α_1 = c_1, and α_i solves

        E_φ √(c_{i−1}² + α² + 2 α c_{i−1} cos φ) = c_i    for φ ~ vM(0, α),

    which is what one more sample gives on average to a belief whose mean is already right.

    Raises:
        ConfigError: n < 1, or β₁ outside [1e-3, 1e9].
    """
    if n < 1:
        raise ConfigError(f"A flow of {n} steps.", fix="ask for at least one step")
    if not _SMALLEST <= beta1 <= _LARGEST:
        raise ConfigError(
            f"A flow cannot end at the concentration {beta1}.",
            fix=f"choose beta1 from {_SMALLEST:g} to {_LARGEST:g}; 1000 is usual",
        )
    targets = entropy(0.0) + np.arange(1, n) / n * (entropy(beta1) - entropy(0.0))
    concentrations = np.array([_concentration_of(float(target), beta1) for target in targets] + [beta1])
    accuracies = concentrations.copy()
    for i in range(1, n):
        accuracies[i] = _next_accuracy(concentrations[i - 1], concentrations[i], beta1)
    for array in (accuracies, concentrations):
        array.setflags(write=False)  # the cache hands the same arrays to everybody
    return AccuracySchedule(accuracies, concentrations)


def _concentration_of(target: float, beta1: float) -> float:
    return float(brentq(lambda c: float(entropy(c)) - target, 0.0, beta1, xtol=1e-14))


def _next_accuracy(before: float, after: float, beta1: float) -> float:
    nodes, weights = _half_legendre()

    def surplus(alpha: float) -> float:
        phi = nodes * min(math.pi, 12 / math.sqrt(alpha)) if alpha > 0 else nodes * math.pi
        density = weights * np.exp(alpha * (np.cos(phi) - 1))
        length = np.sqrt(before**2 + alpha**2 + 2 * alpha * before * np.cos(phi))
        return float(density @ length / density.sum()) - after

    return float(brentq(surplus, 0.0, beta1, xtol=1e-13))


@lru_cache(maxsize=1)
def _half_legendre() -> tuple[Float64[ndarray, " points"], Float64[ndarray, " points"]]:
    """Nodes and weights on [0, 1]; the integrands are even."""
    nodes, weights = np.polynomial.legendre.leggauss(_POINTS)
    return (nodes + 1) / 2, weights / 2
