"""Least-squares solvers for canonical polyadic (CP) decompositions of small dense tensors, in float64.

The coupling tensors are invariant under cyclic permutations of their indices, so that ansätze with the same
symmetry have a third of the unknowns and, with Levenberg-Marquardt steps, reach exact ranks below the generic
one in seconds:

- ``symmetric``: M = Σ_r x_r ⊗ x_r ⊗ x_r (parity-even tensors);
- ``cyclic``: M = Σ_r x_r ⊗ x_π(r) ⊗ x_π(π(r)), π a permutation of fixed points and 3-cycles;
- ``free``: M = Σ_r a_r ⊗ b_r ⊗ d_r, any tensor;
- ``als``: the same by proximal alternating least squares, the plain fit that published ranks refer to.

All minimise ‖Σ − M‖² + μ‖unknowns‖² (``als``: distance from the last sweep) with μ going to nearly zero. The
penalty keeps the columns small, without which large columns cancel and ruin the product in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from atomml.errors import UnsupportedError
from atomml.kernels.cp_factors import conditioning_of
from atomml.shapes import Float64, ndarray

__all__ = ["Fit", "Method", "fit_factors"]

Method = Literal["symmetric", "cyclic", "free", "als"]

_Vector = Float64[ndarray, " unknowns"]
_Matrix = Float64[ndarray, "unknowns unknowns"]


@dataclass(frozen=True, eq=False)
class Fit:
    """The best of several fits: factors, relative Frobenius error, conditioning and the start's seed."""

    a: Float64[ndarray, "rows_a rank"]
    b: Float64[ndarray, "rows_b rank"]
    d: Float64[ndarray, "rows_d rank"]
    error: float
    conditioning: float
    seed: int
    method: str


@runtime_checkable
class _Ansatz(Protocol):
    """A least-squares problem in one vector of unknowns."""

    @property
    def size(self) -> int: ...

    def factors(self, x: _Vector) -> tuple[ndarray, ndarray, ndarray]: ...

    def gradient(self, x: _Vector) -> tuple[float, _Vector]: ...

    def normal_matrix(self, x: _Vector) -> _Matrix: ...


@dataclass(frozen=True, eq=False)
class _Cyclic:
    """M = Σ_r x_r ⊗ x_π(r) ⊗ x_π(π(r)); π has ``triples`` 3-cycles and else fixed points."""

    tensor: Float64[ndarray, "dim dim dim"]
    rank: int
    triples: int

    @property
    def size(self) -> int:
        return self.tensor.shape[0] * self.rank

    def factors(self, x: _Vector) -> tuple[ndarray, ndarray, ndarray]:
        fixed, cycle = self.rank - 3 * self.triples, np.arange(self.triples)
        starts = [fixed + shift * self.triples for shift in (1, 2, 0)]
        order = np.concatenate([np.arange(fixed), *(start + cycle for start in starts)]).astype(np.int64)
        columns = x.reshape(-1, self.rank)
        return columns, columns[:, order], columns[:, order[order]]

    def gradient(self, x: _Vector) -> tuple[float, _Vector]:
        a, b, d = self.factors(x)
        pairs = _khatri_rao(b, d)
        residual = a @ pairs.T - self.tensor.reshape(len(a), -1)
        return float(np.sum(residual**2)), 3.0 * (residual @ pairs).ravel()

    def normal_matrix(self, x: _Vector) -> _Matrix:
        """JᵀJ; ∂/∂x_r puts a unit vector in each of three places: the products of these with each other."""
        _, b, d = self.factors(x)
        cross = b.T @ d
        matrix = np.einsum("ir,qr,jq->iqjr", b, cross, d)
        matrix += matrix.transpose(2, 3, 0, 1).copy()
        diagonal = np.arange(len(b))
        matrix[diagonal, :, diagonal, :] += (b.T @ b) * (d.T @ d)
        return 3.0 * matrix.reshape(self.size, self.size)


@dataclass(frozen=True, eq=False)
class _Free:
    """M = Σ_r a_r ⊗ b_r ⊗ d_r without any symmetry, of any shape."""

    tensor: Float64[ndarray, "rows_a rows_b rows_d"]
    rank: int

    @property
    def size(self) -> int:
        return sum(self.tensor.shape) * self.rank

    def factors(self, x: _Vector) -> tuple[ndarray, ndarray, ndarray]:
        rows_a, rows_b, _ = self.tensor.shape
        columns = x.reshape(-1, self.rank)
        return columns[:rows_a], columns[rows_a : rows_a + rows_b], columns[rows_a + rows_b :]

    def gradient(self, x: _Vector) -> tuple[float, _Vector]:
        parts = self.factors(x)
        residual = np.einsum("ar,br,kr->abk", *parts, optimize=True) - self.tensor
        slopes = [_unfold(residual, mode) @ _khatri_rao(*_others(parts, mode)) for mode in range(3)]
        return float(np.sum(residual**2)), np.concatenate(slopes).ravel()

    def normal_matrix(self, x: _Vector) -> _Matrix:
        parts = self.factors(x)
        grams = [part.T @ part for part in parts]
        edges = np.cumsum([0, *self.tensor.shape])
        total = int(edges[-1])
        matrix = np.zeros((total, self.rank, total, self.rank))
        for m in range(3):
            same = np.multiply(*_others(grams, m))
            rows = np.arange(edges[m], edges[m + 1])
            matrix[rows, :, rows, :] = same
            for n in range(3):
                if n != m:
                    block = np.einsum("is,jr,rs->irjs", parts[m], parts[n], grams[3 - m - n])
                    matrix[edges[m] : edges[m + 1], :, edges[n] : edges[n + 1], :] = block
        return matrix.reshape(self.size, self.size)


def fit_factors(
    tensor: Float64[ndarray, "rows_a rows_b rows_d"],
    rank: int,
    *,
    method: Method = "free",
    triples: int = 0,
    seed: int = 0,
    restarts: int = 8,
    penalty: float = 1e-2,
    tolerance: float = 1e-13,
) -> Fit:
    """Fit M[a, b, k] ≈ Σ_r A[a, r] B[b, r] D[k, r] from the starts seed, seed+1, ...; the best is returned.

    Args:
        tensor: M.
        rank: R.
        method: the ansatz (see the module).
        triples: number of 3-cycles of the ``cyclic`` ansatz.
        seed: seed of the first start; the same seed gives the same factors on the same machine.
        restarts: number of starts; the first whose error is below ``tolerance`` ends the search.
        penalty: first μ; a large one keeps the columns small, too large a one kills columns for good.
        tolerance: relative Frobenius error that counts as exact.

    Raises:
        UnsupportedError: an unknown method, or a rank, shape or symmetry that does not fit the ansatz.
    """
    _check_request(tensor, rank, method, triples)
    best: Fit | None = None
    for start in range(seed, seed + restarts):
        fit = _fit_once(tensor, rank, method, triples, start, penalty, tolerance)
        if best is None or fit.error < best.error:
            best = fit
        if best.error <= tolerance:
            break
    if best is None:
        raise UnsupportedError("A fit needs at least one start.", fix="set restarts to 1 or more")
    return best


def _check_request(tensor: ndarray, rank: int, method: str, triples: int) -> None:
    """Refuse what the ansatz cannot represent."""
    if method not in get_args(Method):
        raise UnsupportedError(f"Unknown method {method!r}.", fix=f"use one of {', '.join(get_args(Method))}")
    if rank < 1 or triples < 0 or 3 * triples > rank or (triples > 0 and method != "cyclic"):
        raise UnsupportedError(f"Rank {rank} with {triples} 3-cycles is not a {method!r} ansatz.")
    if method in ("symmetric", "cyclic"):
        images = [tensor.transpose(1, 2, 0)] + [tensor.transpose(1, 0, 2)] * (method == "symmetric")
        if any(tensor.shape != image.shape or not np.allclose(tensor, image) for image in images):
            raise UnsupportedError(f"The tensor is not {method}.", fix="use the method 'free'")


def _fit_once(
    tensor: ndarray, rank: int, method: Method, triples: int, seed: int, penalty: float, tolerance: float
) -> Fit:
    """One start."""
    rng = np.random.default_rng(seed)
    scale = float(np.linalg.norm(tensor))
    if method == "als":
        factors = _alternate(tensor, rank, rng)
    else:
        ansatz: _Ansatz = _Free(tensor, rank) if method == "free" else _Cyclic(tensor, rank, triples)
        start = rng.normal(size=ansatz.size) * 0.7 / np.sqrt(np.mean(tensor.shape))
        factors = ansatz.factors(_levenberg_marquardt(ansatz, start, penalty, scale, tolerance))
    a, b, d = (np.ascontiguousarray(factor) for factor in factors)
    residual = np.einsum("ar,br,kr->abk", a, b, d, optimize=True) - tensor
    words = {"cyclic": f"cyclic, triples {triples}, penalty {penalty:g}", "als": "als"}
    name = words.get(method, f"{method}, penalty {penalty:g}")
    return Fit(a, b, d, float(np.linalg.norm(residual)) / scale, conditioning_of(a, b, d), seed, name)


def _levenberg_marquardt(ansatz: _Ansatz, x: _Vector, mu: float, scale: float, tolerance: float) -> _Vector:
    """Minimise ‖residual‖² + μ‖x‖², μ falling by 0.8 per step and zero in the last ones.

    Ends when ‖residual‖ ≤ tolerance · scale, when it stalls, or after 400 steps.
    """
    damping, history = 1e-2, []
    state = (x, *ansatz.gradient(x))
    for _ in range(400):
        state, damping = _damped_step(ansatz, state, mu, damping)
        history.append(np.sqrt(state[1]) / scale)
        mu = 0.8 * mu if mu > 1e-10 else 0.0
        stalled = mu == 0.0 and history[-1] > 0.9 * history[-25]
        if history[-1] <= tolerance or stalled:
            break
    return state[0]


_State = tuple[_Vector, float, _Vector]


def _damped_step(ansatz: _Ansatz, state: _State, mu: float, damping: float) -> tuple[_State, float]:
    """One step: the new unknowns with ‖residual‖² and half its gradient, and the new damping."""
    x, value, slope = state
    matrix = ansatz.normal_matrix(x)
    diagonal = np.arange(len(x))
    for _ in range(12):
        shifted = matrix.copy()
        shifted[diagonal, diagonal] += damping + mu
        try:
            step = cho_solve(cho_factor(shifted, overwrite_a=True, check_finite=False), slope + mu * x)
        except LinAlgError:
            damping *= 10.0
            continue
        trial = x - step
        new_value, new_slope = ansatz.gradient(trial)
        if new_value + mu * trial @ trial < value + mu * x @ x:
            return (trial, new_value, new_slope), max(0.3 * damping, 1e-14)
        damping *= 4.0
    return state, damping


def _alternate(tensor: ndarray, rank: int, rng: np.random.Generator) -> tuple[ndarray, ndarray, ndarray]:
    """Proximal alternating least squares, μ from 1e-2 by 0.7 every 50 sweeps to 1e-9, columns balanced."""
    parts = [rng.normal(size=(rows, rank)) / np.sqrt(rows) for rows in tensor.shape]
    unfolded = [_unfold(tensor, mode) for mode in range(3)]
    mu = 1e-2
    while mu > 1e-9:
        for _ in range(50):
            for mode in range(3):
                first, second = _others(parts, mode)
                gram = (first.T @ first) * (second.T @ second) + mu * np.eye(rank)
                right = unfolded[mode] @ _khatri_rao(first, second) + mu * parts[mode]
                parts[mode] = cho_solve(cho_factor(gram), right.T).T
            norms = [np.linalg.norm(part, axis=0) for part in parts]
            mean = np.cbrt(norms[0] * norms[1] * norms[2])
            parts = [part * (mean / norm) for part, norm in zip(parts, norms, strict=True)]
        mu *= 0.7
    return parts[0], parts[1], parts[2]


def _khatri_rao(first: ndarray, second: ndarray) -> ndarray:
    """Column-wise Kronecker product, [rows_1 · rows_2, rank]."""
    return (first[:, None, :] * second[None, :, :]).reshape(-1, first.shape[1])


def _unfold(tensor: ndarray, mode: int) -> ndarray:
    """The tensor as a matrix with ``mode`` in the rows and the other two, in order, in the columns."""
    return np.moveaxis(tensor, mode, 0).reshape(tensor.shape[mode], -1)


def _others(parts: Sequence[ndarray], mode: int) -> tuple[ndarray, ndarray]:
    """The other two of three."""
    first, second = (part for index, part in enumerate(parts) if index != mode)
    return first, second
