"""Angles: wrapping, fractional coordinates as angles, and the von Mises distribution.

The von Mises distribution of an angle x with mean m and concentration κ has the density
exp(κ cos(x − m)) / (2π I₀(κ)); κ = 0 is the uniform distribution. Mardia and Jupp, Directional Statistics (2000).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.special import i0e, i1e

from atomml.shapes import Float, Tensor, ndarray

__all__ = [
    "angle_of",
    "bessel_ratio",
    "entropy",
    "fractional_of",
    "mean_length",
    "von_mises",
    "von_mises_kl",
    "wrap",
]

_TURN = 2 * math.pi


def wrap(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The same angle in [−π, π): x − 2π ⌊(x + π)/2π⌋, with derivative 1."""
    wrapped = x - _TURN * torch.floor((x + math.pi) / _TURN)
    # Rounding can reach one unit beyond either end.
    return wrapped.clamp(-math.pi, math.pi * (1 - torch.finfo(x.dtype).eps))


def angle_of(fractional: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Angle 2πf − π in [−π, π) of a fractional coordinate f, which need not lie in [0, 1)."""
    return wrap(_TURN * fractional - math.pi)


def fractional_of(angle: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Fractional coordinate (x + π)/2π in [0, 1) of an angle x: the inverse of `angle_of`."""
    turns = angle / _TURN + 0.5
    fractional = turns - torch.floor(turns)
    return torch.where(fractional < 1, fractional, fractional - 1)  # a tiny negative number rounds to 1


def bessel_ratio(kappa: Float[ndarray, "*shape"] | float) -> Float[ndarray, "*shape"]:
    """A(κ) = I₁(κ)/I₀(κ) = |E[e^{ix}]|, the mean length of a von Mises distribution."""
    kappa = np.asarray(kappa, dtype=np.float64)
    return np.asarray(i1e(kappa) / i0e(kappa))


def mean_length(concentration: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """A(κ) = I₁(κ)/I₀(κ) for tensors; see `bessel_ratio`."""
    return torch.special.i1e(concentration) / torch.special.i0e(concentration)


def entropy(kappa: Float[ndarray, "*shape"] | float) -> Float[ndarray, "*shape"]:
    """Entropy H(κ) = ln(2π I₀(κ)) − κ A(κ) of a von Mises distribution, in nats; H(0) = ln 2π."""
    kappa = np.asarray(kappa, dtype=np.float64)
    return np.asarray(np.log(_TURN * i0e(kappa)) + kappa * (1 - bessel_ratio(kappa)))


def von_mises_kl(
    concentration: Float[Tensor, "*#shape"], distance: Float[Tensor, "*#shape"]
) -> Float[Tensor, "*out"]:
    """KL(vM(x, κ) ‖ vM(x̂, κ)) = κ A(κ) (1 − cos(x − x̂)), ``distance`` being x − x̂."""
    return concentration * mean_length(concentration) * (1 - torch.cos(distance))


def von_mises(
    mean: Float[Tensor, "*shape"], concentration: Float[Tensor, "*#shape"], *, generator: torch.Generator
) -> Float[Tensor, "*shape"]:
    """Independent von Mises angles in [−π, π), exact for any κ ≥ 0, drawn in float64 where the generator lives.

    Rejection from a wrapped Cauchy envelope, accepted with probability at least 0.66: D. J. Best and N. I. Fisher,
    Appl. Stat. 28, 152 (1979), with r = (1 + ρ²)/2ρ written so that small κ keeps its digits.
    """
    device = generator.device
    kappa = concentration.to(device, torch.float64).clamp(min=1e-10).broadcast_to(mean.shape).flatten()
    root = torch.sqrt(1 + 4 * kappa**2)
    tau = torch.sqrt(1 + root)
    rho = 2 * kappa * tau / ((tau + math.sqrt(2)) * (1 + root))
    r = (1 + rho**2) / (2 * rho)
    offset = torch.zeros_like(kappa)
    todo = torch.arange(len(kappa), device=device)
    while len(todo):
        u = torch.rand((3, len(todo)), generator=generator, device=device, dtype=torch.float64)
        z = torch.cos(math.pi * u[0])
        cosine = (1 + r[todo] * z) / (r[todo] + z)
        c = kappa[todo] * (r[todo] - cosine)
        accepted = torch.log(c / u[1]) + 1 - c >= 0
        angle = torch.sign(u[2] - 0.5) * torch.acos(cosine.clamp(-1, 1))
        offset[todo[accepted]] = angle[accepted]
        todo = todo[~accepted]
    return wrap(mean + offset.to(mean).reshape(mean.shape))
