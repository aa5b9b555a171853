"""Arithmetic and memory traffic of a convolution, counted the same way for every implementation of it.

Convention. A multiplication and an addition are one operation each, 2 for a multiply-add.

- Per-path weights: w_e[P,c] Σ_a G_e[P,a,k] x_j[a,c] with G_e[P,a,k] = Σ_b v y_e[b] made once per edge. That is
  2 E C (n_Pak + n_Pk) + 2 E nnz, where n_Pak counts the different (path, a, k) and n_Pk the different (path, k) of
  the table, and nnz its rows.
- CP: q_e[r] · (w_e[g,c] p_j[r,c]) summed, 3 E R C; q = Bᵀy, 2 E d R; p = Aᵀx and D s, 4 N d R C.
- With first derivatives three times the forward operations: the convolution, its adjoint in the features, and
  its adjoints in harmonics and weights, which share their products.

Traffic is what cannot be avoided: every operand read once, every result written once; with derivatives the
operands and the cotangent are read again and the gradients written.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from atomml.kernels.cp_factors import CPFactors
from atomml.kernels.sparse_coupling import SparseCoupling

__all__ = ["Size", "Work", "cp_work", "floors", "per_path_work"]

INDEX_BYTES = 8


@dataclass(frozen=True)
class Size:
    """Atoms N, edges E and channels C of a convolution, and bytes per number."""

    atoms: int
    edges: int
    channels: int
    item: int


@dataclass(frozen=True)
class Work:
    """Operations and bytes of one run."""

    flops: int
    bytes: int


def per_path_work(coupling: SparseCoupling, size: Size, mode: str) -> Work:
    """Of the convolution with one radial weight per path, see the module."""
    a, _, k, path = coupling.entries.T
    products = len(np.unique(np.stack([path, a, k]), axis=1).T)
    outputs = len(np.unique(np.stack([path, k]), axis=1).T)
    flops = 2 * size.edges * (size.channels * (products + outputs) + len(coupling.values))
    return _work(flops, coupling.dim_x, coupling.dim_out, coupling.dim_y, len(coupling.paths), size, mode)


def cp_work(factors: CPFactors, size: Size, mode: str) -> Work:
    """Of the factorised convolution, see the module."""
    (d, rank), edges, channels = factors.a.shape, size.edges, size.channels
    flops = 3 * edges * rank * channels + 2 * edges * d * rank + 4 * size.atoms * d * rank * channels
    return _work(flops, d, d, d, len(factors.groups), size, mode)


def floors(work: Work, ceilings: dict[str, float]) -> tuple[float, float]:
    """Seconds that the operations and the traffic take at the measured limits, see `machine.ceilings`."""
    return work.flops / (1e9 * ceilings["gflops"]), work.bytes / (1e9 * ceilings["gbytes"])


def _work(flops: int, dim_x: int, dim_out: int, dim_y: int, weights: int, size: Size, mode: str) -> Work:
    nodes = size.atoms * size.channels
    operands = nodes * dim_x + size.edges * (dim_y + weights * size.channels)
    traffic = size.item * (operands + nodes * dim_out) + INDEX_BYTES * (size.edges + size.atoms)
    if mode == "forward":
        return Work(flops, traffic)
    # operands again, cotangent, and a gradient for each operand; the edges a second time, sorted by neighbour
    backward = size.item * (2 * operands + nodes * dim_out) + INDEX_BYTES * 2 * (size.edges + size.atoms)
    return Work(3 * flops, traffic + backward)
