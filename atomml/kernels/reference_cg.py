"""The convolution with one radial weight per path, written down plainly: the truth for every fast kernel.

With the entries (a, b, k, P, v) of a sparse coupling, channels c and edges e: j → i,

    S (x, y, w)[i, k, c] = Σ_{e → i} Σ_{a, b, P} v · w[e, P, c] · y[e, b] · x[j(e), a, c]
    Sx(s, y, w)[j, a, c] = Σ_{e ← j} Σ_{b, k, P} v · w[e, P, c] · y[e, b] · s[i(e), k, c]
    Sy(x, s, w)[e, b]    = Σ_c       Σ_{a, k, P} v · w[e, P, c] · x[j(e), a, c] · s[i(e), k, c]
    Sw(x, y, s)[e, P, c] =           Σ_{a, b, k} v · y[e, b] · x[j(e), a, c] · s[i(e), k, c]

S is linear in each of x, y, w, and the other three are its adjoints, so every derivative of any order is
again one of these four. Every term of every edge is held in memory: [edges, nnz, channels].
"""

from __future__ import annotations

import torch

from atomml.graph.atom_graph import EdgeIndex
from atomml.kernels.sparse_coupling import SparseCoupling
from atomml.shapes import Float, Tensor

__all__ = ["Harmonics", "Nodes", "Weights", "cg_conv", "cg_conv_w", "cg_conv_x", "cg_conv_y", "cg_conv_yw"]

Nodes = Float[Tensor, "_ _ channels"]
Harmonics = Float[Tensor, "edges _"]
Weights = Float[Tensor, "edges _ channels"]


def cg_conv(x: Nodes, y: Harmonics, w: Weights, index: EdgeIndex, coupling: SparseCoupling) -> Nodes:
    """S: messages of all neighbours j(e), summed at the centres i(e)."""
    a, b, k, path, v = _columns(coupling, x)
    terms = v[:, None] * w[:, path] * y[:, b, None] * x[index.neighbor][:, a]
    return _scatter(_collect(terms, k, coupling.dim_out), index.center, len(index.row_ptr) - 1)


def cg_conv_x(s: Nodes, y: Harmonics, w: Weights, index: EdgeIndex, coupling: SparseCoupling) -> Nodes:
    """Sx: adjoint of S in x; the messages of the centres, summed at the neighbours."""
    a, b, k, path, v = _columns(coupling, s)
    terms = v[:, None] * w[:, path] * y[:, b, None] * s[index.center][:, k]
    return _scatter(_collect(terms, a, coupling.dim_x), index.neighbor, len(index.col_ptr) - 1)


def cg_conv_y(x: Nodes, s: Nodes, w: Weights, index: EdgeIndex, coupling: SparseCoupling) -> Harmonics:
    """Sy: adjoint of S in y."""
    a, b, k, path, v = _columns(coupling, x)
    terms = v[:, None] * w[:, path] * x[index.neighbor][:, a] * s[index.center][:, k]
    return _collect(terms.sum(-1), b, coupling.dim_y)


def cg_conv_w(x: Nodes, y: Harmonics, s: Nodes, index: EdgeIndex, coupling: SparseCoupling) -> Weights:
    """Sw: adjoint of S in w."""
    a, b, k, path, v = _columns(coupling, x)
    terms = v[:, None] * y[:, b, None] * x[index.neighbor][:, a] * s[index.center][:, k]
    return _collect(terms, path, len(coupling.paths))


def cg_conv_yw(
    x: Nodes, y: Harmonics, w: Weights, s: Nodes, index: EdgeIndex, coupling: SparseCoupling
) -> tuple[Harmonics, Weights]:
    """Sy and Sw, which share their operands."""
    return cg_conv_y(x, s, w, index, coupling), cg_conv_w(x, y, s, index, coupling)


def _columns(coupling: SparseCoupling, like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The columns a, b, k, path and v of the table."""
    a, b, k, path = torch.tensor(coupling.entries.T, dtype=torch.int64, device=like.device)
    return a, b, k, path, torch.tensor(coupling.values, dtype=like.dtype, device=like.device)


def _collect(terms: Tensor, target: Tensor, size: int) -> Tensor:
    """Sum of the terms [edges, nnz, …] of each target."""
    return terms.new_zeros((terms.shape[0], size, *terms.shape[2:])).index_add(1, target, terms)


def _scatter(messages: Tensor, atom: Tensor, n_atoms: int) -> Tensor:
    """Sum of the messages of each atom."""
    return messages.new_zeros((n_atoms, *messages.shape[1:])).index_add(0, atom, messages)
