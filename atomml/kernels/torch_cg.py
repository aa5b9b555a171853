"""The convolution with one radial weight per path in plain torch, a block of edges at a time.

The operations of `atomml.kernels.reference_cg`. All paths from one degree l1 of the features are stacked: a row
r = (P, k) stands for one output component of one path, so that

    G[e, r, a] = Σ_b M[b, r, a] y[e, b],    U[e, r, c] = Σ_a G[e, r, a] x[j(e), a, c],
    S[i, k, c] = Σ_{e → i} Σ_{r of k} w[e, P(r), c] U[e, r, c],

and likewise for the adjoints: one matrix product and one batched product for each degree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from atomml.graph.atom_graph import EdgeIndex
from atomml.kernels.reference_cg import Harmonics, Nodes, Weights
from atomml.kernels.sparse_coupling import SparseCoupling
from atomml.shapes import Tensor

__all__ = ["cg_conv", "cg_conv_w", "cg_conv_x", "cg_conv_y", "cg_conv_yw"]

BLOCK_BYTES = 1 << 20
"""Size of the largest buffer of one block of edges: a megabyte fits the second-level cache of common processors."""


@dataclass(frozen=True, eq=False)
class _Stack:
    """All paths from one degree l1: its components, M [dy, rows · (2 l1 + 1)], and (P, rows, k) of every path."""

    components: slice
    n_rows: int
    matrix: Tensor
    paths: tuple[tuple[int, slice, slice], ...]

    def bilinear(self, y: Tensor) -> Tensor:
        """G [edges, rows, 2 l1 + 1]."""
        return (y @ self.matrix).view(len(y), self.n_rows, -1)

    def weighted(self, s: Tensor, w: Tensor) -> Tensor:
        """w[e, P(r), c] · s[e, k(r), c], [edges, rows, channels]."""
        out = s.new_empty((len(s), self.n_rows, s.shape[2]))
        for path, rows, k in self.paths:
            torch.mul(s[:, k], w[:, path, None], out=out[:, rows])
        return out


def cg_conv(x: Nodes, y: Harmonics, w: Weights, index: EdgeIndex, coupling: SparseCoupling) -> Nodes:
    """S: see `atomml.kernels.reference_cg.cg_conv`."""
    out = x.new_zeros((len(index.row_ptr) - 1, coupling.dim_out, x.shape[2]))
    stacks = _stacks(coupling, x)
    for edges in _blocks(stacks, y, x):
        x_j, w_e = x[index.neighbor[edges]], w[edges]
        message = x.new_zeros((len(x_j), *out.shape[1:]))
        for stack in stacks:
            u = torch.bmm(stack.bilinear(y[edges]), x_j[:, stack.components])
            for path, rows, k in stack.paths:
                message[:, k].addcmul_(u[:, rows], w_e[:, path, None])
        out.index_add_(0, index.center[edges], message)
    return out


def cg_conv_x(s: Nodes, y: Harmonics, w: Weights, index: EdgeIndex, coupling: SparseCoupling) -> Nodes:
    """Sx: see `atomml.kernels.reference_cg.cg_conv_x`."""
    out = s.new_zeros((len(index.col_ptr) - 1, coupling.dim_x, s.shape[2]))
    stacks = _stacks(coupling, s)
    for edges in _blocks(stacks, y, s):
        s_i, w_e = s[index.center[edges]], w[edges]
        message = s.new_zeros((len(s_i), *out.shape[1:]))
        for stack in stacks:
            g = stack.bilinear(y[edges]).transpose(1, 2)
            message[:, stack.components] = torch.bmm(g, stack.weighted(s_i, w_e))
        out.index_add_(0, index.neighbor[edges], message)
    return out


def cg_conv_y(x: Nodes, s: Nodes, w: Weights, index: EdgeIndex, coupling: SparseCoupling) -> Harmonics:
    """Sy: see `atomml.kernels.reference_cg.cg_conv_y`."""
    out = x.new_zeros((len(index.neighbor), coupling.dim_y))
    stacks = _stacks(coupling, x)
    for edges in _blocks(stacks, out, x):
        x_j, s_i = x[index.neighbor[edges]], s[index.center[edges]]
        for stack in stacks:
            z = torch.bmm(stack.weighted(s_i, w[edges]), x_j[:, stack.components].transpose(1, 2))
            out[edges].addmm_(z.flatten(1), stack.matrix.T)
    return out


def cg_conv_w(x: Nodes, y: Harmonics, s: Nodes, index: EdgeIndex, coupling: SparseCoupling) -> Weights:
    """Sw: see `atomml.kernels.reference_cg.cg_conv_w`."""
    out = x.new_zeros((len(y), len(coupling.paths), x.shape[2]))
    stacks = _stacks(coupling, x)
    for edges in _blocks(stacks, y, x):
        x_j, s_i = x[index.neighbor[edges]], s[index.center[edges]]
        for stack in stacks:
            u = torch.bmm(stack.bilinear(y[edges]), x_j[:, stack.components])
            for path, rows, k in stack.paths:
                torch.sum(u[:, rows].mul_(s_i[:, k]), 1, out=out[edges, path])
    return out


def cg_conv_yw(
    x: Nodes, y: Harmonics, w: Weights, s: Nodes, index: EdgeIndex, coupling: SparseCoupling
) -> tuple[Harmonics, Weights]:
    """Sy and Sw."""
    return cg_conv_y(x, s, w, index, coupling), cg_conv_w(x, y, s, index, coupling)


def _stacks(coupling: SparseCoupling, like: Tensor) -> list[_Stack]:
    """The coupling by the degree l1 of the features, as dense matrices in the dtype and on the device of ``like``."""
    a, b, k, path = coupling.entries.T
    stacks = []
    for l1 in sorted({degrees[0] for degrees in coupling.paths}):
        first_row, n_rows, paths = np.zeros(len(coupling.paths), dtype=np.int64), 0, []
        for number, degrees in enumerate(coupling.paths):
            if degrees[0] == l1:
                size = 2 * degrees[2] + 1
                out = slice(degrees[2] ** 2, (degrees[2] + 1) ** 2)
                paths.append((number, slice(n_rows, n_rows + size), out))
                first_row[number] = n_rows - out.start
                n_rows += size
        mine = (l1**2 <= a) & (a < (l1 + 1) ** 2)
        matrix = np.zeros((coupling.dim_y, n_rows, 2 * l1 + 1))
        matrix[b[mine], first_row[path[mine]] + k[mine], a[mine] - l1**2] = coupling.values[mine]
        dense = torch.from_numpy(matrix).flatten(1).to(like)
        stacks.append(_Stack(slice(l1**2, (l1 + 1) ** 2), n_rows, dense, tuple(paths)))
    return stacks


def _blocks(stacks: list[_Stack], per_edge: Tensor, nodes: Tensor) -> Iterator[slice]:
    """Consecutive edges, so many that the rows of one block fit the buffer."""
    n_edges = len(per_edge)
    rows = max((stack.n_rows for stack in stacks), default=1)
    step = max(1, BLOCK_BYTES // (nodes.element_size() * max(1, rows * nodes.shape[2])))
    for start in range(0, n_edges, step):
        yield slice(start, min(start + step, n_edges))
