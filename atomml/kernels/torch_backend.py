"""The factorised convolution in plain torch, without temporaries that can be avoided.

The same four operations as `atomml.kernels.reference`. They run inside custom operators, where no autograd
graph is recorded, so every product can be taken in place; this is 3 to 5 times faster than the reference.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from atomml.kernels.reference import Index, Nodes, Ranks, Weights
from atomml.shapes import Tensor

__all__ = ["conv", "conv_p", "conv_q", "conv_w"]


def _scale_by_group(m: Tensor, w: Tensor, groups: Sequence[int]) -> Tensor:
    """m[e, r, c] *= w[e, g(r), c], in place."""
    start = 0
    for g, size in enumerate(groups):
        m[:, start : start + size] *= w[:, g, None]
        start += size
    return m


def conv(
    p: Nodes, q: Ranks, w: Weights, neighbor: Index, center: Index, n_centers: int, groups: Sequence[int]
) -> Nodes:
    """T: see `atomml.kernels.reference.conv`."""
    message = p.index_select(0, neighbor)
    message *= q[:, :, None]
    _scale_by_group(message, w, groups)
    return p.new_zeros((n_centers, *p.shape[1:])).index_add_(0, center, message)


def conv_p(
    s: Nodes, q: Ranks, w: Weights, neighbor: Index, center: Index, n_neighbors: int, groups: Sequence[int]
) -> Nodes:
    """Tp: see `atomml.kernels.reference.conv_p`."""
    return conv(s, q, w, center, neighbor, n_neighbors, groups)


def conv_q(
    p: Nodes, s: Nodes, w: Weights, neighbor: Index, center: Index, groups: Sequence[int]
) -> Ranks:
    """Tq: see `atomml.kernels.reference.conv_q`."""
    product = p.index_select(0, neighbor)
    product *= s.index_select(0, center)
    parts, start = [], 0
    for g, size in enumerate(groups):
        block = product[:, start : start + size]
        parts.append(torch.bmm(block, w[:, g, :, None]).squeeze(-1))
        start += size
    return torch.cat(parts, 1)


def conv_w(
    p: Nodes, q: Ranks, s: Nodes, neighbor: Index, center: Index, groups: Sequence[int]
) -> Weights:
    """Tw: see `atomml.kernels.reference.conv_w`."""
    product = p.index_select(0, neighbor)
    product *= s.index_select(0, center)
    parts, start = [], 0
    for size in groups:
        block = product[:, start : start + size]
        parts.append(torch.bmm(q[:, None, start : start + size], block))
        start += size
    return torch.cat(parts, 1)
