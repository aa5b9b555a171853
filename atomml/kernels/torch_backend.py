"""The factorised convolution in plain torch, a block of edges at a time.

The same operations as `atomml.kernels.reference`. They run inside custom operators, where no autograd
graph is recorded, so every product can be taken in place, in a buffer small enough to stay in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch

from atomml.graph.atom_graph import EdgeIndex
from atomml.kernels.reference import Nodes, Ranks, Weights, mix
from atomml.kernels.torch_cg import cg_conv, cg_conv_w, cg_conv_x, cg_conv_y, cg_conv_yw
from atomml.shapes import Tensor

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
    "mix",
]

BLOCK_BYTES = 1 << 20
"""Size of the buffer of one block of edges: a megabyte fits the second-level cache of common processors."""


def conv(p: Nodes, q: Ranks, w: Weights, index: EdgeIndex, groups: Sequence[int]) -> Nodes:
    """T: see `atomml.kernels.reference.conv`."""
    return _messages(p, q, w, groups, index.neighbor, index.center, len(index.row_ptr) - 1)


def conv_p(s: Nodes, q: Ranks, w: Weights, index: EdgeIndex, groups: Sequence[int]) -> Nodes:
    """Tp: see `atomml.kernels.reference.conv_p`."""
    return _messages(s, q, w, groups, index.center, index.neighbor, len(index.col_ptr) - 1)


def conv_q(p: Nodes, s: Nodes, w: Weights, index: EdgeIndex, groups: Sequence[int]) -> Ranks:
    """Tq: see `atomml.kernels.reference.conv_q`."""
    out = p.new_empty((len(w), p.shape[1]))
    members = _members(groups, p)
    for edges, product in _products(p, s, index):
        _adjoint_q(product, w, edges, groups, members, out)
    return out


def conv_w(p: Nodes, q: Ranks, s: Nodes, index: EdgeIndex, groups: Sequence[int]) -> Weights:
    """Tw: see `atomml.kernels.reference.conv_w`."""
    out = p.new_empty((len(q), len(groups), p.shape[2]))
    members = _members(groups, p)
    for edges, product in _products(p, s, index):
        out[edges] = torch.bmm(members * q[edges, None], product)
    return out


def conv_qw(
    p: Nodes, q: Ranks, w: Weights, s: Nodes, index: EdgeIndex, groups: Sequence[int]
) -> tuple[Ranks, Weights]:
    """Tq and Tw in one pass over the edges: see `atomml.kernels.reference.conv_qw`."""
    dq, dw = torch.empty_like(q), torch.empty_like(w)
    members = _members(groups, p)
    for edges, product in _products(p, s, index):
        _adjoint_q(product, w, edges, groups, members, dq)
        dw[edges] = torch.bmm(members * q[edges, None], product)
    return dq, dw


def _messages(
    x: Tensor, q: Ranks, w: Weights, groups: Sequence[int], source: Tensor, target: Tensor, n: int
) -> Nodes:
    out = x.new_zeros((n, *x.shape[1:]))
    blocks = _ranks_of(groups)
    for edges, message in _gathered(x, source):
        message *= q[edges, :, None]
        for g, ranks in enumerate(blocks):
            message[:, ranks] *= w[edges, g, None]
        out.index_add_(0, target[edges], message)
    return out


def _adjoint_q(
    product: Tensor, w: Weights, edges: slice, groups: Sequence[int], members: Tensor, out: Ranks
) -> None:
    by_group = torch.bmm(w[edges], product.transpose(1, 2))
    out[edges] = by_group[:, 0] if len(groups) == 1 else (members * by_group).sum(1)


def _gathered(x: Tensor, rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of x[rows] in one buffer that is written again for each block."""
    n = len(rows)
    step = max(1, BLOCK_BYTES // (x.element_size() * x.shape[1] * x.shape[2]))
    buffer = x.new_empty((min(n, step), *x.shape[1:]))
    for start in range(0, n, step):
        block = slice(start, min(start + step, n))
        part = buffer[: block.stop - start]
        torch.index_select(x, 0, rows[block], out=part)
        yield block, part


def _products(p: Tensor, s: Tensor, index: EdgeIndex) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of p[neighbor] · s[center]."""
    for (edges, left), (_, right) in zip(
        _gathered(p, index.neighbor), _gathered(s, index.center), strict=True
    ):
        left *= right
        yield edges, left


def _ranks_of(groups: Sequence[int]) -> list[slice]:
    """The ranks of each group."""
    ends = list(accumulate(groups))
    return [slice(end - size, end) for end, size in zip(ends, groups, strict=True)]


def _members(groups: Sequence[int], like: Tensor) -> Tensor:
    """[G, R], one where rank r belongs to group g."""
    out = like.new_zeros((len(groups), sum(groups)))
    for g, ranks in enumerate(_ranks_of(groups)):
        out[g, ranks] = 1
    return out
