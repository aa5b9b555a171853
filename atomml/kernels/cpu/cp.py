"""The node-factored convolution in native code.

The functions of `atomml.kernels.reference`, and gradients in one call, see `atomml.kernels.trilinear`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch

from atomml.graph.atom_graph import EdgeIndex
from atomml.kernels.cpu import gradients
from atomml.kernels.cpu.gradients import Layout
from atomml.kernels.cpu.library import call, integers
from atomml.kernels.reference import Nodes, Ranks, Weights
from atomml.shapes import Float, Tensor

__all__ = ["conv", "conv_backward", "conv_backward2", "conv_p", "conv_q", "conv_qw", "conv_w", "mix"]


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
    return gradients.conv(_layout(groups), p, q, w, index)


def conv_backward(
    s: Nodes,
    p: Nodes | None,
    q: Ranks | None,
    w: Weights | None,
    wanted: Sequence[bool],
    index: EdgeIndex,
    groups: Sequence[int],
) -> list[Tensor | None]:
    """Gradients (Tp, Tq, Tw) that are wanted; an operand that none of them contains may be None."""
    return gradients.first_derivatives(_layout(groups), s, p, q, w, wanted, index)


def conv_backward2(
    s: Nodes,
    p: Nodes,
    q: Ranks,
    w: Weights,
    alpha: Nodes | None,
    beta: Ranks | None,
    gamma: Weights | None,
    wanted: Sequence[bool],
    index: EdgeIndex,
    groups: Sequence[int],
) -> list[Tensor | None]:
    """Gradients of α·Tp + β·Tq + γ·Tw in s, p, q, w that are wanted."""
    return gradients.second_derivatives(_layout(groups), s, p, q, w, alpha, beta, gamma, wanted, index)


def conv_p(s: Nodes, q: Ranks, w: Weights, index: EdgeIndex, groups: Sequence[int]) -> Nodes:
    """Tp: see `atomml.kernels.reference.conv_p`."""
    of_p, _, _ = conv_backward(s, None, q, w, (True, False, False), index, groups)
    return cast(Tensor, of_p)


def conv_q(p: Nodes, s: Nodes, w: Weights, index: EdgeIndex, groups: Sequence[int]) -> Ranks:
    """Tq: see `atomml.kernels.reference.conv_q`."""
    _, of_q, _ = conv_backward(s, p, None, w, (False, True, False), index, groups)
    return cast(Tensor, of_q)


def conv_w(p: Nodes, q: Ranks, s: Nodes, index: EdgeIndex, groups: Sequence[int]) -> Weights:
    """Tw: see `atomml.kernels.reference.conv_w`."""
    _, _, of_w = conv_backward(s, p, q, None, (False, False, True), index, groups)
    return cast(Tensor, of_w)


def conv_qw(
    p: Nodes, q: Ranks, w: Weights, s: Nodes, index: EdgeIndex, groups: Sequence[int]
) -> tuple[Ranks, Weights]:
    """Tq and Tw in one pass over the edges: see `atomml.kernels.reference.conv_qw`."""
    _, of_q, of_w = conv_backward(s, p, q, w, (False, True, True), index, groups)
    return cast(Tensor, of_q), cast(Tensor, of_w)


def _layout(groups: Sequence[int]) -> Layout:
    rank = sum(groups)
    return Layout("cp", (rank, rank, rank, len(groups)), (integers(groups), len(groups)))
