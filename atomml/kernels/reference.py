"""The factorised convolution written down plainly: the truth that every fast kernel is tested against.

For ranks r in group g(r), channels c and edges e: j → i,

    T (p, q, w)[i, r, c]   = Σ_{e → i}  q[e, r] · w[e, g(r), c] · p[j(e), r, c]
    Tp(s, q, w)[j, r, c]   = Σ_{e ← j}  q[e, r] · w[e, g(r), c] · s[i(e), r, c]
    Tq(p, s, w)[e, r]      = Σ_c        w[e, g(r), c] · p[j(e), r, c] · s[i(e), r, c]
    Tw(p, q, s)[e, g, c]   = Σ_{r ∈ g}  q[e, r] · p[j(e), r, c] · s[i(e), r, c]

T is linear in each of p, q, w, and the other three are its adjoints, so every derivative of any order is
again one of these four.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from atomml.graph.atom_graph import EdgeIndex
from atomml.kernels.reference_cg import cg_conv, cg_conv_w, cg_conv_x, cg_conv_y, cg_conv_yw
from atomml.shapes import Float, Int64, Tensor

__all__ = [
    "cg_conv",
    "cg_conv_w",
    "cg_conv_x",
    "cg_conv_y",
    "cg_conv_yw",
    "conv",
    "conv_p",
    "conv_q",
    "conv_qw",
    "conv_w",
    "group_of_rank",
    "mix",
]

Nodes = Float[Tensor, "_ rank channels"]
Ranks = Float[Tensor, "edges rank"]
Weights = Float[Tensor, "edges groups channels"]


def group_of_rank(groups: Sequence[int], device: torch.device) -> Int64[Tensor, " rank"]:
    """g(r): ranks are stored group by group, ``groups`` holds how many ranks each has."""
    sizes = torch.tensor(list(groups), device=device)
    return torch.repeat_interleave(torch.arange(len(groups), device=device), sizes)


def conv(p: Nodes, q: Ranks, w: Weights, index: EdgeIndex, groups: Sequence[int]) -> Nodes:
    """T: messages of all neighbours j(e), summed at the centres i(e)."""
    return _messages(p[index.neighbor], q, w, groups, index.center, len(index.row_ptr) - 1)


def conv_p(s: Nodes, q: Ranks, w: Weights, index: EdgeIndex, groups: Sequence[int]) -> Nodes:
    """Tp: adjoint of T in p; the convolution along reversed edges."""
    return _messages(s[index.center], q, w, groups, index.neighbor, len(index.col_ptr) - 1)


def conv_q(p: Nodes, s: Nodes, w: Weights, index: EdgeIndex, groups: Sequence[int]) -> Ranks:
    """Tq: adjoint of T in q."""
    g = group_of_rank(groups, p.device)
    return (w[:, g] * p[index.neighbor] * s[index.center]).sum(-1)


def conv_w(p: Nodes, q: Ranks, s: Nodes, index: EdgeIndex, groups: Sequence[int]) -> Weights:
    """Tw: adjoint of T in w."""
    product = q[:, :, None] * p[index.neighbor] * s[index.center]
    g = group_of_rank(groups, p.device)
    return product.new_zeros((len(q), len(groups), p.shape[2])).index_add(1, g, product)


def conv_qw(
    p: Nodes, q: Ranks, w: Weights, s: Nodes, index: EdgeIndex, groups: Sequence[int]
) -> tuple[Ranks, Weights]:
    """Tq and Tw together."""
    return conv_q(p, s, w, index, groups), conv_w(p, q, s, index, groups)


def mix(
    matrix: Float[Tensor, "rows columns"], x: Float[Tensor, "atoms columns channels"]
) -> Float[Tensor, "atoms rows channels"]:
    """M(x)[n, r, c] = Σ_a matrix[r, a] · x[n, a, c]: from components to ranks or back, at each node."""
    return torch.matmul(matrix, x)


def _messages(x: Tensor, q: Ranks, w: Weights, groups: Sequence[int], target: Tensor, n: int) -> Nodes:
    """Σ_{e → target} q_e · w_e · x_e for features x that are already on edges."""
    message = q[:, :, None] * w[:, group_of_rank(groups, x.device)] * x
    return x.new_zeros((n, *x.shape[1:])).index_add(0, target, message)
