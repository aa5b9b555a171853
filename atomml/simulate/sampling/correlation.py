"""How far apart frames of a trajectory must be: integrated autocorrelation time of a series."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from atomml.shapes import Float64, ndarray

__all__ = ["Correlation", "autocorrelation", "correlation_time"]

WINDOW = 5.0  # of Sokal's rule, in autocorrelation times
LONG_ENOUGH = 20.0  # series length in autocorrelation times above which the estimate means something


class Correlation(NamedTuple):
    """Of a series with unit spacing.

    Attributes:
        time: integrated autocorrelation time τ = 1/2 + Σ_{t≥1} C(t), at least 1/2.
        inefficiency: 2τ, the spacing at which samples count as independent; at least 1.
        resolved: whether the series is at least 20 τ long; if not, τ is a lower bound at best.
    """

    time: float
    inefficiency: float
    resolved: bool


def autocorrelation(series: Float64[ndarray, " n"]) -> Float64[ndarray, " n"]:
    """Normalised autocorrelation C(t), C(0) = 1; zeros after it for a constant series.

    The sum at lag t is divided by n − t, by FFT with zero padding.
    """
    n = len(series)
    deviation = series - series.mean()
    spread = float(np.abs(deviation).max(initial=0.0))
    c = np.zeros(n)
    if n:
        c[0] = 1.0
    if spread <= 1e-12 * max(float(np.abs(series).max(initial=0.0)), 1e-300):
        return c
    transform = np.fft.rfft(deviation / spread, 2 * n)
    sums = np.fft.irfft(transform * transform.conj(), 2 * n)[:n] / np.arange(n, 0, -1)
    return sums / sums[0]


def correlation_time(series: Float64[ndarray, " n"]) -> Correlation:
    """Integrated autocorrelation time with Sokal's window: the sum ends at the first t ≥ 5 τ(t).

    If no such t exists within half of the series, the sum over that half is taken, and at least a tenth of
    the series' length: it has not decorrelated.
    """
    n = len(series)
    if n < 4:
        return Correlation(0.5 * max(n, 1), float(max(n, 1)), False)
    running = 0.5 + np.cumsum(autocorrelation(series)[1 : n // 2 + 1])
    lag = np.arange(1, len(running) + 1)
    inside = np.flatnonzero(lag >= WINDOW * np.maximum(running, 0.5))
    time = float(running[inside[0]]) if len(inside) else max(float(running[-1]), n / 10.0)
    time = max(time, 0.5)
    return Correlation(time, max(2.0 * time, 1.0), bool(n >= LONG_ENOUGH * time and len(inside)))
