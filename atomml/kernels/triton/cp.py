"""The factorised convolution on the GPU: the functions that `atomml.kernels.dispatch` calls.

The equations are in `atomml.kernels.reference`, the kernels in `atomml.kernels.triton.cp_kernels`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch

from atomml.graph.atom_graph import EdgeIndex
from atomml.kernels.reference import Nodes, Ranks, Weights, mix
from atomml.kernels.triton.cp_kernels import edge_kernel, node_kernel
from atomml.kernels.triton.launch import accumulator, device_of, launch
from atomml.kernels.triton.tiles import cp_edge_tiles, cp_node_tiles
from atomml.shapes import Tensor

__all__ = ["conv", "conv_p", "conv_q", "conv_qw", "conv_w", "mix"]

UNROLL = 4
"""Ranks whose loads are in flight together in ``edge_kernel``."""

MAX_REGISTERS = 168
"""Registers that a thread may take: without it the compiler spills a few to fit more programs on the device."""


def conv(p: Nodes, q: Ranks, w: Weights, index: EdgeIndex, groups: Sequence[int]) -> Nodes:
    """T: one program owns a node, so that no two programs write to the same place."""
    return _sum_at_nodes(p, q, w, index.row_ptr, None, index.neighbor, groups)


def conv_p(s: Nodes, q: Ranks, w: Weights, index: EdgeIndex, groups: Sequence[int]) -> Nodes:
    """Tp: T along the transposed edges."""
    return _sum_at_nodes(s, q, w, index.col_ptr, index.transpose, index.center, groups)


def conv_q(p: Nodes, s: Nodes, w: Weights, index: EdgeIndex, groups: Sequence[int]) -> Ranks:
    """Tq."""
    q = p.new_empty((len(index.neighbor), p.shape[1]))
    _at_edges(p, None, w, s, q, None, index, groups)
    return q


def conv_w(p: Nodes, q: Ranks, s: Nodes, index: EdgeIndex, groups: Sequence[int]) -> Weights:
    """Tw."""
    w = p.new_empty((len(index.neighbor), len(groups), p.shape[2]))
    _at_edges(p, q, None, s, None, w, index, groups)
    return w


def conv_qw(
    p: Nodes, q: Ranks, w: Weights, s: Nodes, index: EdgeIndex, groups: Sequence[int]
) -> tuple[Ranks, Weights]:
    """Tq and Tw, with one reading of p and s."""
    q_bar, w_bar = torch.empty_like(q, memory_format=torch.contiguous_format), p.new_empty(w.shape)
    _at_edges(p, q, w, s, q_bar, w_bar, index, groups)
    return q_bar, w_bar


def _sum_at_nodes(
    p: Tensor,
    q: Tensor,
    w: Tensor,
    row_ptr: Tensor,
    order: Tensor | None,
    source: Tensor,
    groups: Sequence[int],
) -> Tensor:
    n_nodes, channels = len(row_ptr) - 1, p.shape[2]
    out = p.new_empty((n_nodes, *p.shape[1:]))
    tiles = cp_node_tiles(n_nodes, len(source), p.shape[1], channels, p.itemsize, device_of(p))
    launch(
        node_kernel,
        tiles.programs,
        tiles.warps,
        p,
        out,
        *_contiguous(p, q, w, row_ptr, source if order is None else order, source),
        group_map(tuple(groups), p.device),
        tiles.items,
        C=channels,
        R=p.shape[1],
        G=len(groups),
        ORDERED=order is not None,
        ACC=accumulator(p.dtype),
        BE=tiles.edges,
        BR=tiles.ranks,
        BC=tiles.channels,
        maxnreg=MAX_REGISTERS,
    )
    return out


def _at_edges(
    p: Tensor,
    q: Tensor | None,
    w: Tensor | None,
    s: Tensor,
    q_bar: Tensor | None,
    w_bar: Tensor | None,
    index: EdgeIndex,
    groups: Sequence[int],
) -> None:
    """Write the adjoints that are asked for; an operand or result that is not needed may be None."""
    n_edges, (_, rank, channels) = len(index.neighbor), p.shape
    tiles = cp_edge_tiles(n_edges, channels, p.itemsize, device_of(p))
    launch(
        edge_kernel,
        tiles.programs,
        tiles.warps,
        p,
        *[p if result is None else result for result in (q_bar, w_bar)],
        *_contiguous(p, p if q is None else q, p if w is None else w, s, index.neighbor, index.center),
        group_map(tuple(groups), p.device),
        n_edges,
        C=channels,
        R=rank,
        G=len(groups),
        WITH_Q=q_bar is not None,
        WITH_W=w_bar is not None,
        ACC=accumulator(p.dtype),
        BE=tiles.edges,
        BC=tiles.channels,
        UNROLL=UNROLL,
        maxnreg=MAX_REGISTERS,
    )


@lru_cache(maxsize=64)
def group_map(groups: tuple[int, ...], device: torch.device) -> Tensor:
    """Group of every rank, and -1 after the last; kept, since to copy it to a GPU takes longer than to use it."""
    of_rank = [g for g, size in enumerate(groups) for _ in range(size)]
    return torch.tensor([*of_rank, -1], dtype=torch.int32, device=device)


def _contiguous(*tensors: Tensor) -> list[Tensor]:
    return [tensor.contiguous() for tensor in tensors]
