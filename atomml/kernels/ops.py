"""The node-factored convolution as operators with derivatives of every order, and the change to rank space.

`cp_conv` and `mix` are what networks call; equations in `atomml.kernels.reference`. The operators behind them,
``atomml::cp_conv``, ``atomml::cp_backward`` and ``atomml::cp_backward2``, are made by `atomml.kernels.trilinear`
with x = p and y = q.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from atomml.errors import AtommlError
from atomml.graph.atom_graph import EdgeIndex
from atomml.kernels.checks import promoted, refuse_several_devices
from atomml.kernels.dispatch import choose
from atomml.kernels.trilinear import Family, register
from atomml.shapes import Float

__all__ = ["cp_conv", "mix", "refuse_several_devices"]


def mix(
    matrix: Float[Tensor, "rows columns"], x: Float[Tensor, "atoms columns channels"]
) -> Float[Tensor, "atoms rows channels"]:
    """M(x)[n, r, c] = Σ_a matrix[r, a] · x[n, a, c]: from components to ranks or back, at each node.

    Raises:
        AtommlError: shapes that do not fit together, tensors on several devices.
    """
    if matrix.shape[1] != x.shape[1]:
        raise AtommlError(
            f"Shapes do not fit: matrix {tuple(matrix.shape)}, x {tuple(x.shape)}.",
            fix="matrix is [rows, columns], x [atoms, columns, channels]",
        )
    refuse_several_devices(matrix, x)
    return _mix(*promoted(matrix, x))  # type: ignore[no-any-return]


def cp_conv(
    p: Float[Tensor, "_ _ _"],
    q: Float[Tensor, "_ _"],
    w: Float[Tensor, "_ _ _"],
    index: EdgeIndex,
    groups: Sequence[int],
) -> Float[Tensor, "_ _ _"]:
    """Factorised convolution s_i[r,c] = Σ_{e: j→i} q_e[r] · w_e[g(r),c] · p_j[r,c].

    Args:
        p: node features in rank space, p = Aᵀx, [atoms, rank, channels].
        q: spherical harmonics in rank space, q = Bᵀy, [edges, rank].
        w: radial weights, one set per path group, [edges, groups, channels].
        index: edges sorted by centre, and their transpose.
        groups: number of ranks in each path group; they sum to the rank.

    Raises:
        AtommlError: shapes that do not fit together, tensors on several devices, an index out of range.
    """
    n_edges, rank = q.shape
    fits = (
        p.shape[1] == rank == sum(groups)
        and w.shape == (n_edges, len(groups), p.shape[2])
        and index.neighbor.shape == index.center.shape == index.transpose.shape == (n_edges,)
        and p.shape[0] == index.row_ptr.shape[0] - 1
        and index.row_ptr.shape == index.col_ptr.shape
    )
    if not fits:
        raise AtommlError(
            f"Shapes do not fit: p {tuple(p.shape)}, q {tuple(q.shape)}, w {tuple(w.shape)}, "
            f"{index.neighbor.shape[0]} edges, {index.row_ptr.shape[0] - 1} atoms, groups {tuple(groups)}.",
            fix="p is [atoms, rank, channels], q [edges, rank], w [edges, len(groups), channels]",
        )
    refuse_several_devices(p, q, w, *index)
    return _conv(*promoted(p, q, w), *index, list(groups))


def _mix_kernel(matrix: Tensor, x: Tensor) -> Tensor:
    return choose(x).mix(matrix, x)  # type: ignore[no-any-return]


def _mix_fake(matrix: Tensor, x: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], matrix.shape[0], x.shape[2]))


def _save_mix(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward_mix(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
    matrix, x = ctx.saved_tensors
    need_matrix, need_x = ctx.needs_input_grad
    grad_matrix = torch.einsum("nrc,nac->ra", cotangent, x) if need_matrix else None
    return grad_matrix, _mix(matrix.T, cotangent) if need_x else None


_LIBRARY: Any = torch.library.Library("atomml", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define("cp_mix(Tensor matrix, Tensor x) -> Tensor")
_LIBRARY.impl("cp_mix", _mix_kernel, "CompositeExplicitAutograd")
torch.library.register_fake("atomml::cp_mix", _mix_fake, lib=_LIBRARY)
torch.library.register_autograd("atomml::cp_mix", _backward_mix, setup_context=_save_mix, lib=_LIBRARY)
_mix = torch.ops.atomml.cp_mix.default
_conv = register(
    _LIBRARY,
    Family(
        name="cp",
        conv="conv",
        conv_x="conv_p",
        conv_y="conv_q",
        conv_w="conv_w",
        conv_yw="conv_qw",
        schema="int[] groups",
        structure=lambda groups: groups,
        width=lambda p, groups: p.shape[1],
        backend=lambda p, groups: choose(p),
    ),
)
