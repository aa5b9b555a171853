"""The node-factored convolution in native code."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from atomml.graph.atom_graph import EdgeIndex
from atomml.kernels.cpu.library import call, contiguous, edges_by_center, edges_by_neighbor, integers
from atomml.kernels.reference import Nodes, Ranks, Weights
from atomml.shapes import Float, Tensor

__all__ = ["conv", "conv_p", "conv_q", "conv_qw", "conv_w", "mix"]


def mix(
    matrix: Float[Tensor, "rows columns"], x: Float[Tensor, "atoms columns channels"]
) -> Float[Tensor, "atoms rows channels"]:
    """Mix: see `atomml.kernels.reference.mix`."""
    matrix, x = matrix.contiguous(), x.contiguous()
    n, columns, channels = x.shape
    out = x.new_empty((n, len(matrix), channels))
    call("mix", x.dtype, matrix, x, out, n, len(matrix), columns, channels, torch.get_num_threads())
    return out


def conv(p: Nodes, q: Ranks, w: Weights, index: EdgeIndex, groups: Sequence[int]) -> Nodes:
    """T: see `atomml.kernels.reference.conv`."""
    p, q, w, neighbor, row_ptr = contiguous(p, q, w, index.neighbor, index.row_ptr)
    edges = edges_by_center(neighbor, row_ptr, len(p))
    out = p.new_empty((edges.rows, *p.shape[1:]))
    sizes, channels, threads = integers(groups), p.shape[2], torch.get_num_threads()
    call("cp_conv", p.dtype, p, q, w, edges, out, sizes, len(groups), channels, threads)
    return out


def conv_p(s: Nodes, q: Ranks, w: Weights, index: EdgeIndex, groups: Sequence[int]) -> Nodes:
    """Tp: see `atomml.kernels.reference.conv_p`."""
    s, q, w, center, transpose, col_ptr = contiguous(s, q, w, index.center, index.transpose, index.col_ptr)
    edges = edges_by_neighbor(center, transpose, col_ptr, len(s))
    out = s.new_empty((edges.rows, *s.shape[1:]))
    sizes, channels, threads = integers(groups), s.shape[2], torch.get_num_threads()
    call("cp_conv", s.dtype, s, q, w, edges, out, sizes, len(groups), channels, threads)
    return out


def conv_q(p: Nodes, s: Nodes, w: Weights, index: EdgeIndex, groups: Sequence[int]) -> Ranks:
    """Tq: see `atomml.kernels.reference.conv_q`."""
    dq = p.new_empty((len(w), p.shape[1]))
    _adjoint(p, None, w, s, index, groups, dq, None)
    return dq


def conv_w(p: Nodes, q: Ranks, s: Nodes, index: EdgeIndex, groups: Sequence[int]) -> Weights:
    """Tw: see `atomml.kernels.reference.conv_w`."""
    dw = p.new_empty((len(q), len(groups), p.shape[2]))
    _adjoint(p, q, None, s, index, groups, None, dw)
    return dw


def conv_qw(
    p: Nodes, q: Ranks, w: Weights, s: Nodes, index: EdgeIndex, groups: Sequence[int]
) -> tuple[Ranks, Weights]:
    """Tq and Tw in one pass over the edges: see `atomml.kernels.reference.conv_qw`."""
    dq, dw = torch.empty_like(q, memory_format=torch.contiguous_format), w.new_empty(w.shape)
    _adjoint(p, q, w, s, index, groups, dq, dw)
    return dq, dw


def _adjoint(
    p: Tensor,
    q: Tensor | None,
    w: Tensor | None,
    s: Tensor,
    index: EdgeIndex,
    groups: Sequence[int],
    dq: Tensor | None,
    dw: Tensor | None,
) -> None:
    p, s, neighbor, row_ptr = contiguous(p, s, index.neighbor, index.row_ptr)
    q, w = (None if x is None else x.contiguous() for x in (q, w))
    edges = edges_by_center(neighbor, row_ptr, len(p))
    sizes, channels, threads = integers(groups), p.shape[2], torch.get_num_threads()
    call("cp_qw", p.dtype, p, q, w, s, edges, dq, dw, sizes, len(groups), channels, threads)
