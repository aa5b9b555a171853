"""The four-operator family as ``torch.library`` operators with derivatives of every order.

`cp_conv` and `mix` are what networks call. The operators ``atomml::cp_conv``, ``cp_conv_p``, ``cp_conv_q`` and
``cp_conv_w`` are opaque to ``torch.compile`` and export (fake tensors give their shapes); their derivatives
are each other, see `atomml.kernels.reference` for the equations. ``cp_conv_qw`` is two of them in one pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from atomml.errors import AtommlError
from atomml.graph.atom_graph import EdgeIndex
from atomml.kernels.dispatch import choose
from atomml.shapes import Float

__all__ = ["cp_conv", "mix"]

_Grads = tuple[Tensor | None, ...]


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
    wide = torch.promote_types(matrix.dtype, x.dtype)
    return _mix(matrix.to(wide), x.to(wide))


def refuse_several_devices(*tensors: Tensor) -> None:
    """Stop before a kernel follows an address into the memory of another device.

    Raises:
        AtommlError: names the devices.
    """
    devices = {tensor.device for tensor in tensors}
    if len(devices) > 1:
        raise AtommlError(
            f"The tensors are on several devices: {', '.join(sorted(map(str, devices)))}.",
            fix="move the graph to the device of the model: graph.to(device)",
        )


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
        and index.neighbor.shape == index.center.shape == (n_edges,)
        and p.shape[0] == index.row_ptr.shape[0] - 1
    )
    if not fits:
        raise AtommlError(
            f"Shapes do not fit: p {tuple(p.shape)}, q {tuple(q.shape)}, w {tuple(w.shape)}, "
            f"{index.neighbor.shape[0]} edges, {index.row_ptr.shape[0] - 1} atoms, groups {tuple(groups)}.",
            fix="p is [atoms, rank, channels], q [edges, rank], w [edges, len(groups), channels]",
        )
    refuse_several_devices(p, q, w, *index)
    if not p.dtype == q.dtype == w.dtype:  # autocast gives p and w in half precision, q in single
        wide = torch.promote_types(torch.promote_types(p.dtype, q.dtype), w.dtype)
        p, q, w = p.to(wide), q.to(wide), w.to(wide)
    return _conv(p, q, w, *index, list(groups))


_INDEX = "Tensor neighbor, Tensor center, Tensor row_ptr, Tensor transpose, Tensor col_ptr, int[] groups"


def _schema(operands: str, result: str = "Tensor") -> str:
    return f"({operands}, {_INDEX}) -> {result}"


def _split(index: tuple[Any, ...]) -> tuple[EdgeIndex, list[int]]:
    return EdgeIndex(*index[:5]), index[5]


@torch.library.custom_op("atomml::cp_conv", mutates_args=(), schema=_schema("Tensor p, Tensor q, Tensor w"))
def _conv(p: Tensor, q: Tensor, w: Tensor, *index: Any) -> Tensor:
    return choose(p).conv(p, q, w, *_split(index))


@torch.library.custom_op("atomml::cp_conv_p", mutates_args=(), schema=_schema("Tensor s, Tensor q, Tensor w"))
def _conv_p(s: Tensor, q: Tensor, w: Tensor, *index: Any) -> Tensor:
    return choose(s).conv_p(s, q, w, *_split(index))


@torch.library.custom_op("atomml::cp_conv_q", mutates_args=(), schema=_schema("Tensor p, Tensor s, Tensor w"))
def _conv_q(p: Tensor, s: Tensor, w: Tensor, *index: Any) -> Tensor:
    return choose(p).conv_q(p, s, w, *_split(index))


@torch.library.custom_op("atomml::cp_conv_w", mutates_args=(), schema=_schema("Tensor p, Tensor q, Tensor s"))
def _conv_w(p: Tensor, q: Tensor, s: Tensor, *index: Any) -> Tensor:
    return choose(p).conv_w(p, q, s, *_split(index))


@torch.library.custom_op(
    "atomml::cp_conv_qw",
    mutates_args=(),
    schema=_schema("Tensor p, Tensor q, Tensor w, Tensor s", "(Tensor, Tensor)"),
)
def _conv_qw(p: Tensor, q: Tensor, w: Tensor, s: Tensor, *index: Any) -> tuple[Tensor, Tensor]:
    return choose(p).conv_qw(p, q, w, s, *_split(index))


@torch.library.custom_op("atomml::cp_mix", mutates_args=(), schema="(Tensor matrix, Tensor x) -> Tensor")
def _mix(matrix: Tensor, x: Tensor) -> Tensor:
    return choose(x).mix(matrix, x)


@_conv.register_fake
def _fake_conv(p: Tensor, q: Tensor, w: Tensor, *index: Any) -> Tensor:
    return p.new_empty((index[2].shape[0] - 1, p.shape[1], p.shape[2]))


@_conv_p.register_fake
def _fake_conv_p(s: Tensor, q: Tensor, w: Tensor, *index: Any) -> Tensor:
    return s.new_empty((index[4].shape[0] - 1, s.shape[1], s.shape[2]))


@_conv_q.register_fake
def _fake_conv_q(p: Tensor, s: Tensor, w: Tensor, *index: Any) -> Tensor:
    return p.new_empty((index[0].shape[0], p.shape[1]))


@_conv_w.register_fake
def _fake_conv_w(p: Tensor, q: Tensor, s: Tensor, *index: Any) -> Tensor:
    return p.new_empty((index[0].shape[0], len(index[5]), p.shape[2]))


@_conv_qw.register_fake
def _fake_conv_qw(p: Tensor, q: Tensor, w: Tensor, s: Tensor, *index: Any) -> tuple[Tensor, Tensor]:
    return p.new_empty(q.shape), p.new_empty(w.shape)


@_mix.register_fake
def _fake_mix(matrix: Tensor, x: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], matrix.shape[0], x.shape[2]))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor | tuple[Tensor, ...]) -> None:
    *tensors, groups = inputs
    ctx.save_for_backward(*tensors)
    ctx.groups = groups


# four operators take three of the quantities s, p, q, w and give the gradient with respect to the fourth
_OPERATORS = {"s": _conv, "p": _conv_p, "q": _conv_q, "w": _conv_w}
_OPERANDS = {"s": ("p", "q", "w"), "p": ("s", "q", "w"), "q": ("p", "s", "w"), "w": ("p", "q", "s")}


def _register_derivatives(name: str) -> None:
    operands = _OPERANDS[name]

    def backward(ctx: Any, cotangent: Tensor) -> _Grads:
        first, second, third, *index = ctx.saved_tensors
        known = dict(zip(operands, (first, second, third), strict=True)) | {name: cotangent}
        wanted = {o for o, needed in zip(operands, ctx.needs_input_grad[:3], strict=True) if needed}
        gradients: dict[str, Tensor] = {}
        if {"q", "w"} <= wanted:
            q, w = _conv_qw(known["p"], known["q"], known["w"], known["s"], *index, ctx.groups)
            gradients = {"q": q, "w": w}
        for o in wanted - set(gradients):
            gradients[o] = _OPERATORS[o](*[known[x] for x in _OPERANDS[o]], *index, ctx.groups)
        return (*map(gradients.get, operands), *[None] * 6)

    _OPERATORS[name].register_autograd(backward, setup_context=_save)


for _name in _OPERATORS:
    _register_derivatives(_name)


def _backward_qw(ctx: Any, dq: Tensor, dw: Tensor) -> _Grads:
    """Derivatives of ⟨dq, Tq(p, s, w)⟩ + ⟨dw, Tw(p, q, s)⟩ = F(p, dq, w, s) + F(p, q, dw, s), F = ⟨s, T⟩."""
    p, q, w, s, *index = ctx.saved_tensors
    rest = (*index, ctx.groups)
    need_p, need_q, need_w, need_s = ctx.needs_input_grad[:4]
    grad_q, grad_w = _conv_qw(p, dq, dw, s, *rest) if need_q or need_w else (None, None)
    grad_p = _conv_p(s, dq, w, *rest) + _conv_p(s, q, dw, *rest) if need_p else None
    grad_s = _conv(p, dq, w, *rest) + _conv(p, q, dw, *rest) if need_s else None
    return (grad_p, grad_q, grad_w, grad_s, *[None] * 6)


_conv_qw.register_autograd(_backward_qw, setup_context=_save)


def _save_mix(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward_mix(ctx: Any, cotangent: Tensor) -> _Grads:
    matrix, x = ctx.saved_tensors
    need_matrix, need_x = ctx.needs_input_grad
    grad_matrix = torch.einsum("nrc,nac->ra", cotangent, x) if need_matrix else None
    return grad_matrix, _mix(matrix.T, cotangent) if need_x else None


_mix.register_autograd(_backward_mix, setup_context=_save_mix)
