"""Covariance matrices of forces, made of features that turn with the structure."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from atomml.shapes import Float64, Tensor, ndarray

__all__ = [
    "BOUND",
    "FLOOR",
    "ForceNoise",
    "bounded",
    "cholesky_noise",
    "exponential_noise",
    "isotropic_noise",
    "outer_noise",
    "traceless_basis",
]

BOUND = 5.0
"""Where logarithms of variances, relative to their typical value, saturate: deviations within a factor e^±2.5."""
FLOOR = 1e-6
"""Least variance of the lab-frame matrix relative to σ₀², a thousandth of the typical deviation."""


class ForceNoise(NamedTuple):
    """Σ [N, 3, 3] in (eV/Å)², Σ⁻¹ [N, 3, 3] and log det Σ [N] of the force on each atom, x, y, z, in float64."""

    covariance: Float64[Tensor, "atoms 3 3"]
    precision: Float64[Tensor, "atoms 3 3"]
    log_det: Float64[Tensor, " atoms"]


def traceless_basis() -> Float64[ndarray, "5 3 3"]:
    """Matrices Q_m, symmetric, traceless, tr Q_m Q_n = δ_mn, in the order of the l = 2 components of e3nn.

    The polar axis of e3nn is y: its second-degree harmonics are, up to one factor for all, √3 xz, √3 xy,
    y² − (x² + z²)/2, √3 yz, √3/2 (z² − x²), while those of l = 1 are x, y, z themselves. Q_m is the matrix of
    the m-th of these quadratic forms, uᵀ Q_m u = c Y_m(u), divided by its norm, which is the same for all five.
    So Σ_m t_m Q_m turns with t: from Y(R u) = D Y(u) with orthogonal D,

        uᵀ (Σ_m (D t)_m Q_m) u = c (D t)·Y(u) = c t·Y(Rᵀ u) = uᵀ R (Σ_m t_m Q_m) Rᵀ u     for every u,

    hence Q(D t) = R Q(t) Rᵀ, for mirrors too because l = 2 is even. Together with 1/√3 they span the symmetric
    matrices, so that they are a rotated Mandel basis.
    """
    h, s = 1 / math.sqrt(2), 1 / math.sqrt(6)
    return np.array(
        [
            [[0, 0, h], [0, 0, 0], [h, 0, 0]],
            [[0, h, 0], [h, 0, 0], [0, 0, 0]],
            [[-s, 0, 0], [0, 2 * s, 0], [0, 0, -s]],
            [[0, 0, 0], [0, 0, h], [0, h, 0]],
            [[-h, 0, 0], [0, 0, 0], [0, 0, h]],
        ]
    )


def bounded(x: Float64[Tensor, "*shape dim"]) -> Float64[Tensor, "*shape dim"]:
    """The function x / √(1 + |x|²/b²), b = `BOUND`: the direction of x is kept, its length saturates at b.

    Smooth at 0, and nearly linear for |x| < 2. The derivative falls off like |x|⁻³, not exponentially as that
    of a hyperbolic tangent, so that a saturated value can still come back.
    """
    return x / (1 + x.square().sum(-1, keepdim=True) / BOUND**2).sqrt()


def isotropic_noise(log_var: Float64[Tensor, " atoms"]) -> ForceNoise:
    """Σ = exp(s) 1 for s = ``log_var`` [N]."""
    eye = _eye(log_var)
    return ForceNoise(_times(log_var.exp(), eye), _times((-log_var).exp(), eye), 3 * log_var)


def exponential_noise(log_var: Float64[Tensor, " atoms"], tensor: Float64[Tensor, "atoms 5"]) -> ForceNoise:
    """Σ = exp(s 1 + Σ_m t_m Q_m) for s = ``log_var`` [N] and l = 2 components t = ``tensor`` [N, 5].

    Positive definite for every s and t. Exactly, Σ⁻¹ = exp(−s 1 − Σ_m t_m Q_m) and log det Σ = 3 s, since the
    Q_m are traceless. Neither the value nor the derivative needs eigenvectors, so that equal eigenvalues
    (t = 0, an axis of symmetry) do no harm.
    """
    basis = torch.as_tensor(traceless_basis(), device=tensor.device)
    exponent = torch.einsum("nm,mij->nij", tensor, basis)
    shape, inverse = torch.linalg.matrix_exp(torch.stack([exponent, -exponent])).unbind()
    return ForceNoise(_times(log_var.exp(), shape), _times((-log_var).exp(), inverse), 3 * log_var)


def outer_noise(
    log_var: Float64[Tensor, " atoms"], vectors: Float64[Tensor, "atoms 3 vectors"]
) -> ForceNoise:
    """Σ = e^s (1 + Σ_k v_k v_kᵀ) for s = ``log_var`` [N] and v_k from ``vectors`` [N, 3, K], l = 1 features.

    The matrix in brackets has no eigenvalue below 1 and is factorised as it is: the determinant lemma and the
    Woodbury identity would trade it for one of K × K.
    """
    return _scaled(log_var, _eye(log_var) + vectors @ vectors.transpose(1, 2))


def cholesky_noise(log_var: Float64[Tensor, " atoms"], entries: Float64[Tensor, "atoms 6"]) -> ForceNoise:
    """Σ = e^s (L Lᵀ + `FLOOR` 1), L = [[e^(a₁/2), 0, 0], [a₆, e^(a₂/2), 0], [a₅, a₄, e^(a₃/2)]], a = ``entries``.

    The a are the same in every orientation of the structure, so Σ does not turn with it and the likelihood of
    the forces depends on the orientation: for reproduction only. Source: arXiv 2510.03046, eq. 18–20, but with
    a floor relative to the typical variance in place of 10⁻³ (eV/Å)².
    """
    a1, a2, a3 = (entries[:, :3] / 2).exp().unbind(1)
    a4, a5, a6 = entries[:, 3:].unbind(1)
    zero = torch.zeros_like(a1)
    factor = torch.stack([a1, zero, zero, a6, a2, zero, a5, a4, a3], 1).unflatten(1, (3, 3))
    return _scaled(log_var, factor @ factor.transpose(1, 2) + FLOOR * _eye(log_var))


def _scaled(log_var: Float64[Tensor, " atoms"], shape: Float64[Tensor, "atoms 3 3"]) -> ForceNoise:
    """Σ = e^s M with inverse and log det from the Cholesky factor of M."""
    # the variant that does not check needs no synchronisation, and leaves NaN for the caller to find
    factor, _ = torch.linalg.cholesky_ex(shape)
    log_det = 2 * factor.diagonal(dim1=1, dim2=2).log().sum(1)
    precision = _times((-log_var).exp(), torch.cholesky_inverse(factor))
    return ForceNoise(_times(log_var.exp(), shape), precision, 3 * log_var + log_det)


def _eye(like: Tensor) -> Tensor:
    return torch.eye(3, dtype=like.dtype, device=like.device)


def _times(factor: Tensor, matrix: Tensor) -> Tensor:
    return factor[:, None, None] * matrix
