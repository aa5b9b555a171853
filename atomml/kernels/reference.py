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

from atomml.shapes import Float, Int64, Tensor

__all__ = ["conv", "conv_p", "conv_q", "conv_w", "group_of_rank"]

Nodes = Float[Tensor, "_ rank channels"]
Ranks = Float[Tensor, "edges rank"]
Weights = Float[Tensor, "edges groups channels"]
Index = Int64[Tensor, " edges"]


def group_of_rank(groups: Sequence[int], device: torch.device) -> Int64[Tensor, " rank"]:
    """g(r): ranks are stored group by group, ``groups`` holds how many ranks each has."""
    sizes = torch.tensor(list(groups), device=device)
    return torch.repeat_interleave(torch.arange(len(groups), device=device), sizes)


def conv(
    p: Nodes, q: Ranks, w: Weights, neighbor: Index, center: Index, n_centers: int, groups: Sequence[int]
) -> Nodes:
    """T: messages of all neighbours j(e), summed at the centres i(e)."""
    g = group_of_rank(groups, p.device)
    message = q[:, :, None] * w[:, g] * p[neighbor]
    return p.new_zeros((n_centers, *p.shape[1:])).index_add(0, center, message)


def conv_p(
    s: Nodes, q: Ranks, w: Weights, neighbor: Index, center: Index, n_neighbors: int, groups: Sequence[int]
) -> Nodes:
    """Tp: adjoint of T in p; the convolution along reversed edges."""
    return conv(s, q, w, center, neighbor, n_neighbors, groups)


def conv_q(p: Nodes, s: Nodes, w: Weights, neighbor: Index, center: Index, groups: Sequence[int]) -> Ranks:
    """Tq: adjoint of T in q."""
    g = group_of_rank(groups, p.device)
    return (w[:, g] * p[neighbor] * s[center]).sum(-1)


def conv_w(p: Nodes, q: Ranks, s: Nodes, neighbor: Index, center: Index, groups: Sequence[int]) -> Weights:
    """Tw: adjoint of T in w."""
    product = q[:, :, None] * p[neighbor] * s[center]
    g = group_of_rank(groups, p.device)
    return product.new_zeros((len(q), len(groups), p.shape[2])).index_add(1, g, product)
