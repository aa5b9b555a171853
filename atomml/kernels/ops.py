"""The four-operator family as ``torch.library`` operators with derivatives of every order.

`cp_conv` is what networks call. The operators ``atomml::cp_conv``, ``cp_conv_p``, ``cp_conv_q`` and
``cp_conv_w`` are opaque to ``torch.compile`` and export (fake tensors give their shapes); their derivatives
are each other, see `atomml.kernels.reference` for the equations.
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

__all__ = ["cp_conv"]

_Grads = tuple[Tensor | None, ...]


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
        AtommlError: shapes that do not fit together.
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
    if not p.dtype == q.dtype == w.dtype:  # autocast gives p and w in half precision, q in single
        wide = torch.promote_types(torch.promote_types(p.dtype, q.dtype), w.dtype)
        p, q, w = p.to(wide), q.to(wide), w.to(wide)
    return _conv(p, q, w, *index, list(groups))


_INDEX = "Tensor neighbor, Tensor center, Tensor row_ptr, Tensor transpose, Tensor col_ptr, int[] groups"


def _schema(operands: str) -> str:
    return f"({operands}, {_INDEX}) -> Tensor"


@torch.library.custom_op("atomml::cp_conv", mutates_args=(), schema=_schema("Tensor p, Tensor q, Tensor w"))
def _conv(p: Tensor, q: Tensor, w: Tensor, *index: Any) -> Tensor:
    neighbor, center, row_ptr, _, _, groups = index
    return choose().conv(p, q, w, neighbor, center, row_ptr.shape[0] - 1, groups)


@torch.library.custom_op("atomml::cp_conv_p", mutates_args=(), schema=_schema("Tensor s, Tensor q, Tensor w"))
def _conv_p(s: Tensor, q: Tensor, w: Tensor, *index: Any) -> Tensor:
    neighbor, center, _, _, col_ptr, groups = index
    return choose().conv_p(s, q, w, neighbor, center, col_ptr.shape[0] - 1, groups)


@torch.library.custom_op("atomml::cp_conv_q", mutates_args=(), schema=_schema("Tensor p, Tensor s, Tensor w"))
def _conv_q(p: Tensor, s: Tensor, w: Tensor, *index: Any) -> Tensor:
    neighbor, center, _, _, _, groups = index
    return choose().conv_q(p, s, w, neighbor, center, groups)


@torch.library.custom_op("atomml::cp_conv_w", mutates_args=(), schema=_schema("Tensor p, Tensor q, Tensor s"))
def _conv_w(p: Tensor, q: Tensor, s: Tensor, *index: Any) -> Tensor:
    neighbor, center, _, _, _, groups = index
    return choose().conv_w(p, q, s, neighbor, center, groups)


@_conv.register_fake
def _fake_conv(p: Tensor, q: Tensor, w: Tensor, *index: Any) -> Tensor:
    row_ptr = index[2]
    return p.new_empty((row_ptr.shape[0] - 1, p.shape[1], p.shape[2]))


@_conv_p.register_fake
def _fake_conv_p(s: Tensor, q: Tensor, w: Tensor, *index: Any) -> Tensor:
    col_ptr = index[4]
    return s.new_empty((col_ptr.shape[0] - 1, s.shape[1], s.shape[2]))


@_conv_q.register_fake
def _fake_conv_q(p: Tensor, s: Tensor, w: Tensor, *index: Any) -> Tensor:
    return p.new_empty((index[0].shape[0], p.shape[1]))


@_conv_w.register_fake
def _fake_conv_w(p: Tensor, q: Tensor, s: Tensor, *index: Any) -> Tensor:
    return p.new_empty((index[0].shape[0], len(index[5]), p.shape[2]))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, groups = inputs
    ctx.save_for_backward(*tensors)
    ctx.groups = groups


# every operator takes three of the four quantities s, p, q, w and gives the gradient with respect to the fourth
_OPERATORS = {"s": _conv, "p": _conv_p, "q": _conv_q, "w": _conv_w}
_OPERANDS = {"s": ("p", "q", "w"), "p": ("s", "q", "w"), "q": ("p", "s", "w"), "w": ("p", "q", "s")}


def _register_derivatives(name: str) -> None:
    operands = _OPERANDS[name]

    def backward(ctx: Any, cotangent: Tensor) -> _Grads:
        first, second, third, *index = ctx.saved_tensors
        known = dict(zip(operands, (first, second, third), strict=True)) | {name: cotangent}
        gradients = [
            _OPERATORS[o](*[known[x] for x in _OPERANDS[o]], *index, ctx.groups) if needed else None
            for o, needed in zip(operands, ctx.needs_input_grad[:3], strict=True)
        ]
        return (*gradients, *[None] * 6)

    _OPERATORS[name].register_autograd(backward, setup_context=_save)


for _name in _OPERATORS:
    _register_derivatives(_name)
