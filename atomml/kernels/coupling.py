"""Coupling tensors: the equivariant bilinear maps of a convolution, features times spherical harmonics.

Every tensor here is ``M[a, b, k]`` over the fused components of degrees 0..L, d = (L+1)², in the order and
real basis of e3nn (the l = 1 block is x, y, z), and maps two such vectors to a third:

    out_k = Σ_ab M_abk x_a y_b,      M(Dx, Dy) = D M(x, y) for every rotation.

All of them are invariant under cyclic permutations of their indices (the parity-even ones under all
permutations), which :mod:`atomml.kernels.cp_fit` exploits.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from e3nn import o3

from atomml.errors import UnsupportedError
from atomml.shapes import Float64, ndarray

__all__ = [
    "CouplingKind",
    "Grouping",
    "Path",
    "coupling_paths",
    "coupling_tensor",
    "dimension",
    "gaunt_square_constants",
    "group_tensors",
    "path_tensors",
    "spherical_harmonics",
    "wigner_d",
]

CouplingKind = Literal["cg_even", "so3", "gaunt"]
"""``so3``: all paths; ``cg_even``: the paths of even l1+l2+l3; ``gaunt``: these with Gaunt coefficients."""

Grouping = Literal["fused", "per_l2", "per_path"]
"""How paths share a radial weight: all of them, those of one degree l2 of the harmonic, or none."""

Path = tuple[int, int, int]
"""The degrees (l1, l2, l3) of the feature, the spherical harmonic and the output."""


def dimension(lmax: int) -> int:
    """Number of components d = (L+1)² of the degrees 0..L.

    Raises:
        UnsupportedError: ``lmax`` is negative.
    """
    if lmax < 0:
        raise UnsupportedError(f"lmax must not be negative, not {lmax}.")
    return (lmax + 1) ** 2


def coupling_paths(lmax: int, kind: CouplingKind) -> list[Path]:
    """Admissible paths |l1-l2| ≤ l3 ≤ min(L, l1+l2), in lexicographic order.

    Only those of even l1+l2+l3 (features of parity (-1)^l) for ``cg_even`` and ``gaunt``.

    Raises:
        UnsupportedError: an unknown kind or a negative ``lmax``.
    """
    dimension(lmax)
    if kind not in get_args(CouplingKind):
        raise UnsupportedError(
            f"Unknown kind of coupling {kind!r}.", fix=f"use one of {', '.join(get_args(CouplingKind))}"
        )
    paths = [
        (l1, l2, l3)
        for l1 in range(lmax + 1)
        for l2 in range(lmax + 1)
        for l3 in range(abs(l1 - l2), min(lmax, l1 + l2) + 1)
    ]
    return [path for path in paths if kind == "so3" or sum(path) % 2 == 0]


def path_tensors(lmax: int, kind: CouplingKind) -> tuple[list[Path], Float64[ndarray, "paths dim dim dim"]]:
    """One tensor per path, each zero outside its block; their sum is :func:`coupling_tensor`.

    Raises:
        UnsupportedError: an unknown kind or a negative ``lmax``.
    """
    paths = coupling_paths(lmax, kind)
    d = dimension(lmax)
    full = _gaunt_tensor(lmax) if kind == "gaunt" else None
    tensors = np.zeros((len(paths), d, d, d))
    for row, path in enumerate(paths):
        i, j, m = (slice(degree**2, (degree + 1) ** 2) for degree in path)
        values = full[i, j, m] if full is not None else o3.wigner_3j(*path, dtype=torch.float64).numpy()
        tensors[row, i, j, m] = values
    return paths, tensors


def coupling_tensor(lmax: int, kind: CouplingKind) -> Float64[ndarray, "dim dim dim"]:
    """The fused tensor M[a, b, k]: a of the feature, b of the spherical harmonic, k of the output.

    - ``so3``: every path, each block the real Wigner 3j symbol of e3nn (Frobenius norm 1), coefficients 1.
    - ``cg_even``: the same over the paths of even l1+l2+l3.
    - ``gaunt``: M_abk = ⟨Y_a Y_b Y_k⟩, the mean over the sphere of component-normalised harmonics
      (⟨Y_a Y_b⟩ = δ_ab). With f = Σ x_a Y_a and g = Σ y_b Y_b, out_k is the coefficient of Y_k in f·g.
      For x = y = Y(r) the result is c_l Y_k(r), with the constants of :func:`gaunt_square_constants`.

    Raises:
        UnsupportedError: an unknown kind or a negative ``lmax``.
    """
    tensor: Float64[ndarray, "dim dim dim"] = path_tensors(lmax, kind)[1].sum(axis=0)
    return tensor


def group_tensors(
    lmax: int, kind: CouplingKind, grouping: Grouping
) -> tuple[list[list[Path]], Float64[ndarray, "groups dim dim dim"]]:
    """The coupling tensor split into G sums of whole paths, each equivariant by itself.

    ``fused``: G = 1; ``per_l2``: the paths by the degree l2 of the harmonic, G = L+1; ``per_path``: one path
    per group.

    Raises:
        UnsupportedError: an unknown kind or grouping, or a negative ``lmax``.
    """
    if grouping not in get_args(Grouping):
        raise UnsupportedError(
            f"Unknown grouping of paths {grouping!r}.", fix=f"use one of {', '.join(get_args(Grouping))}"
        )
    paths, tensors = path_tensors(lmax, kind)
    if grouping == "fused":
        labels = [0] * len(paths)
    elif grouping == "per_l2":
        labels = [path[1] for path in paths]
    else:
        labels = list(range(len(paths)))
    members = [[row for row, label in enumerate(labels) if label == g] for g in range(max(labels) + 1)]
    split = np.stack([tensors[rows].sum(axis=0) for rows in members])
    return [[paths[row] for row in rows] for rows in members], split


def gaunt_square_constants(lmax: int) -> Float64[ndarray, " degrees"]:
    """The c_l in Σ_ab M_abk Y_a(r) Y_b(r) = c_l Y_k(r) for the ``gaunt`` tensor.

    By the addition theorem Σ_a Y_a(r) Y_a(x) = K(r·x) with K(t) = Σ_l (2l+1) P_l(t), and by Funk and Hecke
    c_l = ½ ∫ K(t)² P_l(t) dt over [-1, 1].
    """
    t, weights = np.polynomial.legendre.leggauss(2 * lmax + 1)
    legendre = np.polynomial.legendre.legvander(t, lmax)
    kernel = legendre @ (2.0 * np.arange(lmax + 1) + 1.0)
    constants: Float64[ndarray, " degrees"] = 0.5 * (weights * kernel**2) @ legendre
    return constants


def spherical_harmonics(lmax: int, vectors: Float64[ndarray, "points 3"]) -> Float64[ndarray, "points dim"]:
    """Component-normalised real harmonics of degrees 0..L of the directions of ``vectors``."""
    degrees = list(range(lmax + 1))
    points = torch.from_numpy(np.ascontiguousarray(vectors))
    values: Float64[ndarray, "points dim"] = o3.spherical_harmonics(
        degrees, points, normalize=True, normalization="component"
    ).numpy()
    return values


def wigner_d(lmax: int, matrix: Float64[ndarray, "3 3"]) -> Float64[ndarray, "dim dim"]:
    """D with Y(Q r) = D Y(r) for an orthogonal matrix Q; a reflection carries the parity (-1)^l.

    Solved from the definition on a fixed set of directions, hence exact to rounding and free of angles.
    """
    points, weights = _sphere_quadrature(2 * lmax)
    before = spherical_harmonics(lmax, points)
    after = spherical_harmonics(lmax, points @ matrix.T)
    d: Float64[ndarray, "dim dim"] = after.T @ (weights[:, None] * before)
    return d


def _sphere_quadrature(
    degree: int,
) -> tuple[Float64[ndarray, "points 3"], Float64[ndarray, " points"]]:
    """Points and weights (sum 1) exact for polynomials up to ``degree``: Gauss-Legendre × trapezoid."""
    z, wz = np.polynomial.legendre.leggauss(degree // 2 + 1)
    phi = 2.0 * np.pi * np.arange(degree + 1) / (degree + 1)
    s = np.sqrt(1.0 - z**2)
    points = np.stack(
        [np.outer(s, np.cos(phi)), np.outer(s, np.sin(phi)), np.outer(z, np.ones_like(phi))], -1
    )
    weights = np.outer(wz, np.ones_like(phi)) / (2.0 * (degree + 1))
    return points.reshape(-1, 3), weights.reshape(-1)


def _gaunt_tensor(lmax: int) -> Float64[ndarray, "dim dim dim"]:
    """⟨Y_a Y_b Y_k⟩ by a quadrature exact for degree 3L, with the zeros of the selection rules made exact."""
    points, weights = _sphere_quadrature(3 * lmax)
    y = spherical_harmonics(lmax, points)
    tensor: Float64[ndarray, "dim dim dim"] = np.einsum("p,pa,pb,pk->abk", weights, y, y, y, optimize=True)
    tensor[np.abs(tensor) < 1e-13] = 0.0
    return tensor
