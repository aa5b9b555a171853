"""Radial functions as cubic Hermite splines: a look-up in place of a network, for inference."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from atomml.errors import AtommlError
from atomml.nn.constants import ConstantModule
from atomml.shapes import Float, Float64, Tensor, ndarray

__all__ = ["MAX_INTERVALS", "RadialTable", "table_error", "tabulate"]

RadialFunction = Callable[[Tensor], Tensor]
Knots = Float64[ndarray, "knots groups channels"]

FIRST_INTERVALS = 64
MAX_INTERVALS = 8192
BETWEEN_KNOTS = (0.21, 0.5, 0.79)
"""Where errors are measured: the error of a value is largest in the middle, of a slope at ½ ± 1/√12."""


class RadialTable(ConstantModule):
    """w(r) on uniform knots r_k = k h, k = 0..K−1, h = cutoff / (K − 1), continuous with its derivative.

    With v_k = w(r_k), m_k = w'(r_k), k = ⌊r/h⌋ and u = r/h − k,

        w(r) = a + u (b + u (c + u d)),                       w'(r) = (b + u (2c + 3 u d)) / h,
        a = v_k,  b = h m_k,  c = 3(v_{k+1} − v_k) − h(2m_k + m_{k+1}),  d = 2(v_k − v_{k+1}) + h(m_k + m_{k+1})

    and zero from the cutoff on. Value and slope must vanish at the last knot, so that nothing jumps there.
    Differentiation gives exactly w'(r): forces are the gradient of the tabulated energy. The polynomials are
    formed in float64 and rounded afterwards, because v_{k+1} − v_k loses digits in float32.

    Args:
        values: v [K, groups, channels].
        slopes: m [K, groups, channels] in 1/Å.
        cutoff: r_{K−1} in Å.

    Attributes:
        values, slopes: as given, [K, groups, channels], in the module's dtype.
        coefficients: (a, b, c, d) of each interval, [K − 1, 4, groups, channels].
        spacing: h in Å.

    Raises:
        AtommlError: fewer than two knots, shapes that differ, or a last knot that is not zero.
    """

    values: Tensor
    slopes: Tensor
    coefficients: Tensor

    def __init__(self, values: Knots, slopes: Knots, cutoff: float) -> None:
        super().__init__()
        if values.shape != slopes.shape or len(values) < 2 or values[-1].any() or slopes[-1].any():
            raise AtommlError(
                f"Not a radial table: values {values.shape}, slopes {slopes.shape}.",
                fix="give two arrays [knots, groups, channels] whose last knot, at the cutoff, is zero",
            )
        self.cutoff, self.spacing = float(cutoff), float(cutoff) / (len(values) - 1)
        self.add_constant("values", values)
        self.add_constant("slopes", slopes)
        self.add_constant("coefficients", _polynomials(values, self.spacing * slopes))

    @property
    def knots(self) -> int:
        """K, the number of knots, both ends included."""
        return len(self.values)

    def masters(self) -> tuple[Knots, Knots]:
        """Values and slopes in float64 as they were given, whatever the module's dtype is now."""
        return self._masters["values"][0], self._masters["slopes"][0]

    def forward(self, r: Float[Tensor, " edges"]) -> Float[Tensor, "edges groups channels"]:
        """Radial weights for distances r ≥ 0 in Å."""
        x = r / self.spacing
        inside = x < self.knots - 1
        k = torch.where(inside, x, 0).long()
        u = torch.where(inside, x - k, 0)[:, None, None]
        a, b, c, d = self.coefficients[k].unbind(1)
        return (a + u * (b + u * (c + u * d))) * inside[:, None, None]


def tabulate(
    function: RadialFunction, cutoff: float, *, knots: int | None = None, tolerance: float = 1e-5
) -> RadialTable:
    """The table of a radial function, with its exact derivative at the knots.

    Args:
        function: float64 distances [n] → weights [n, groups, channels]; zero with its slope at the cutoff.
        cutoff: Å.
        knots: their number; by default intervals are halved, from 64 on, until the error is small enough.
        tolerance: largest error of `table_error` when ``knots`` is not given.

    Raises:
        AtommlError: the function does not end at the cutoff, or 8192 intervals are not enough.
    """
    if knots is not None:
        return _table(function, cutoff, knots)
    intervals = FIRST_INTERVALS
    while intervals <= MAX_INTERVALS:
        table = _table(function, cutoff, intervals + 1)
        error = table_error(table, function)
        if error <= tolerance:
            return table
        intervals *= 2
    raise AtommlError(
        f"A table of {MAX_INTERVALS} intervals still has a relative error of {error:.1e}, above {tolerance:g}.",
        where="radial function",
        fix="allow a larger error, or look for a radial network that has not learned a smooth function",
    )


def table_error(table: RadialTable, function: RadialFunction) -> float:
    """Largest error of w over the largest |w|, or of w' over the largest |w'|, whichever is larger, in float64."""
    intervals = torch.arange(table.knots - 1, dtype=torch.float64)
    r = torch.cat([(intervals + u) * table.spacing for u in BETWEEN_KNOTS])
    exact = RadialTable(*table.masters(), table.cutoff).double()
    pairs = zip(_value_and_slope(exact, r), _value_and_slope(function, r), strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-300)) for a, b in pairs)


def _table(function: RadialFunction, cutoff: float, knots: int) -> RadialTable:
    r = torch.linspace(0, cutoff, knots, dtype=torch.float64)
    values, slopes = (x.numpy() for x in _value_and_slope(function, r))
    for x in (values, slopes):
        if abs(x[-1]).max() > 1e-9 * abs(x).max():
            raise AtommlError(
                f"The radial function or its slope does not vanish at the cutoff of {cutoff:g} Å.",
                where="radial function",
                fix="multiply it by an envelope that ends there",
            )
        x[-1] = 0
    return RadialTable(values, slopes, cutoff)


def _value_and_slope(function: RadialFunction, r: Tensor) -> tuple[Tensor, Tensor]:
    """Value and slope dw/dr by forward differentiation: one pass whatever the number of channels."""
    with torch.no_grad():
        value, slope = torch.func.jvp(function, (r,), (torch.ones_like(r),))[:2]
    return value, slope


def _polynomials(v: Knots, hm: Knots) -> Float64[ndarray, "intervals four groups channels"]:
    """(a, b, c, d) of the equation of `RadialTable` for each interval, from v and h·m."""
    rise = np.diff(v, axis=0)
    c = 3 * rise - 2 * hm[:-1] - hm[1:]
    d = hm[:-1] + hm[1:] - 2 * rise
    return np.stack([v[:-1], hm[:-1], c, d], axis=1)
