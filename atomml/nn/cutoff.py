"""Smooth switching-off of neighbours at the cutoff."""

from __future__ import annotations

from atomml.shapes import Float, Tensor

__all__ = ["polynomial_envelope"]


def polynomial_envelope(r: Float[Tensor, " edges"], cutoff: float, p: int = 6) -> Float[Tensor, " edges"]:
    """Polynomial that falls from 1 at r = 0 to 0 at the cutoff, with two continuous derivatives there.

    u(x) = 1 − (p+1)(p+2)/2 xᵖ + p(p+2) xᵖ⁺¹ − p(p+1)/2 xᵖ⁺²,  x = r / cutoff; zero for x ≥ 1.

    Source: Gasteiger, Groß, Günnemann, ICLR 2020, eq. 8.
    """
    x = r / cutoff
    u = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
    return u * (x < 1)
