"""The convolution with one radial weight per path as ``torch.library`` operators with derivatives of every order.

`cg_conv` is what networks call. The operators ``atomml::cg_conv``, ``cg_conv_x``, ``cg_conv_y``, ``cg_conv_w``
and ``cg_conv_yw`` (the last two in one pass) are opaque to ``torch.compile`` and export (fake tensors give their
shapes); their derivatives are each other, see `atomml.kernels.reference_cg` for the equations. The sparse table
travels with every call as two constant tensors, which stay in main memory whatever the device of the operands.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from atomml.errors import AtommlError
from atomml.graph.atom_graph import EdgeIndex
from atomml.kernels import reference, reference_cg, torch_cg
from atomml.kernels.dispatch import choose
from atomml.kernels.ops import refuse_several_devices
from atomml.kernels.sparse_coupling import SparseCoupling
from atomml.shapes import Float

__all__ = ["cg_conv"]

_Grads = tuple[Tensor | None, ...]


def cg_conv(
    x: Float[Tensor, "_ _ _"],
    y: Float[Tensor, "_ _"],
    w: Float[Tensor, "_ _ _"],
    index: EdgeIndex,
    coupling: SparseCoupling,
) -> Float[Tensor, "_ _ _"]:
    """Convolution s_i[k,c] = Σ_{e: j→i} Σ_{(a,b,k,P,v)} v · w_e[P,c] · y_e[b] · x_j[a,c].

    Args:
        x: node features, [atoms, (lmax_x + 1)², channels].
        y: spherical harmonics, [edges, (lmax_y + 1)²].
        w: radial weights, one for each path, [edges, paths, channels].
        index: edges sorted by centre, and their transpose.
        coupling: the table of (a, b, k, P, v); the result has (lmax_out + 1)² components.

    Raises:
        AtommlError: shapes that do not fit together, tensors on several devices, an index out of range.
    """
    _check_operands(x, y, w, index, coupling)
    if not x.dtype == y.dtype == w.dtype:  # autocast gives x and w in half precision, y in single
        wide = torch.promote_types(torch.promote_types(x.dtype, y.dtype), w.dtype)
        x, y, w = x.to(wide), y.to(wide), w.to(wide)
    limits = [coupling.lmax_x, coupling.lmax_y, coupling.lmax_out]
    degrees = [degree for path in coupling.paths for degree in path]
    return _conv(x, y, w, *index, *coupling.tensors, limits, degrees)


def _check_operands(x: Tensor, y: Tensor, w: Tensor, index: EdgeIndex, coupling: SparseCoupling) -> None:
    n_edges, n_atoms = index.neighbor.shape[0], index.row_ptr.shape[0] - 1
    fits = (
        x.ndim == 3
        and x.shape[:2] == (n_atoms, coupling.dim_x)
        and y.shape == (n_edges, coupling.dim_y)
        and w.shape == (n_edges, len(coupling.paths), x.shape[2])
        and index.center.shape == index.transpose.shape == index.neighbor.shape
        and index.col_ptr.shape == index.row_ptr.shape
    )
    if not fits:
        raise AtommlError(
            f"Shapes do not fit: x {tuple(x.shape)}, y {tuple(y.shape)}, w {tuple(w.shape)}, {n_edges} edges, "
            f"{n_atoms} atoms.",
            fix=f"x is [atoms, {coupling.dim_x}, channels], y [edges, {coupling.dim_y}], "
            f"w [edges, {len(coupling.paths)}, channels]",
        )
    refuse_several_devices(x, y, w, *index)


def _check_index(index: EdgeIndex) -> None:
    """Kernels address memory by these numbers, hence nothing is taken on trust."""
    n_edges, n_atoms = index.neighbor.shape[0], index.row_ptr.shape[0] - 1

    def inside(numbers: Tensor, size: int) -> bool:
        if len(numbers) == 0:
            return True
        low, high = torch.aminmax(numbers)
        return int(low) >= 0 and int(high) < size

    def covers(pointer: Tensor) -> bool:
        return int(pointer[0]) == 0 and int(pointer[-1]) == n_edges and bool((pointer.diff() >= 0).all())

    if any(numbers.dtype != torch.int64 for numbers in index):
        raise AtommlError("The numbers of an index are int64.", fix="build the index by edge_index_of()")
    if not (inside(index.neighbor, n_atoms) and inside(index.center, n_atoms)):
        raise AtommlError(
            f"An edge points outside the {n_atoms} atoms.", fix="build the index by edge_index_of()"
        )
    if not (inside(index.transpose, n_edges) and covers(index.row_ptr) and covers(index.col_ptr)):
        raise AtommlError(
            f"row_ptr, col_ptr or transpose do not describe {n_edges} edges.",
            fix="build the index by edge_index_of()",
        )


@lru_cache(maxsize=64)
def _table(
    entries: Tensor, values: Tensor, limits: tuple[int, int, int], degrees: tuple[int, ...]
) -> SparseCoupling:
    """The table of these tensors; cached since to verify it can take longer than a small convolution."""
    paths = tuple(zip(degrees[::3], degrees[1::3], degrees[2::3], strict=True))
    return SparseCoupling(*limits, paths, entries.numpy(), values.numpy())


def _open(arguments: tuple[Any, ...]) -> tuple[EdgeIndex, SparseCoupling]:
    """Index and table of the trailing arguments of an operator."""
    *index, entries, values, limits, degrees = arguments
    return EdgeIndex(*index), _table(entries, values, tuple(limits), tuple(degrees))


_TABLE = (
    "Tensor neighbor, Tensor center, Tensor row_ptr, Tensor transpose, Tensor col_ptr, "
    "Tensor entries, Tensor values, int[] limits, int[] degrees"
)


def _schema(operands: str, result: str = "Tensor") -> str:
    return f"({operands}, {_TABLE}) -> {result}"


@torch.library.custom_op("atomml::cg_conv", mutates_args=(), schema=_schema("Tensor x, Tensor y, Tensor w"))
def _conv(x: Tensor, y: Tensor, w: Tensor, *rest: Any) -> Tensor:
    index, coupling = _open(rest)
    _check_index(index)  # the derivatives get the same index
    return _choose(x).cg_conv(x, y, w, index, coupling)


@torch.library.custom_op("atomml::cg_conv_x", mutates_args=(), schema=_schema("Tensor s, Tensor y, Tensor w"))
def _conv_x(s: Tensor, y: Tensor, w: Tensor, *rest: Any) -> Tensor:
    return _choose(s).cg_conv_x(s, y, w, *_open(rest))


@torch.library.custom_op("atomml::cg_conv_y", mutates_args=(), schema=_schema("Tensor x, Tensor s, Tensor w"))
def _conv_y(x: Tensor, s: Tensor, w: Tensor, *rest: Any) -> Tensor:
    return _choose(x).cg_conv_y(x, s, w, *_open(rest))


@torch.library.custom_op("atomml::cg_conv_w", mutates_args=(), schema=_schema("Tensor x, Tensor y, Tensor s"))
def _conv_w(x: Tensor, y: Tensor, s: Tensor, *rest: Any) -> Tensor:
    return _choose(x).cg_conv_w(x, y, s, *_open(rest))


@torch.library.custom_op(
    "atomml::cg_conv_yw",
    mutates_args=(),
    schema=_schema("Tensor x, Tensor y, Tensor w, Tensor s", "(Tensor, Tensor)"),
)
def _conv_yw(x: Tensor, y: Tensor, w: Tensor, s: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return _choose(x).cg_conv_yw(x, y, w, s, *_open(rest))


def _choose(like: Tensor) -> Any:
    """The module whose functions run for an operator on ``like``."""
    backend = choose(like)
    return backend if hasattr(backend, "cg_conv") else {reference: reference_cg}.get(backend, torch_cg)


@_conv.register_fake
def _fake_conv(x: Tensor, y: Tensor, w: Tensor, *rest: Any) -> Tensor:
    row_ptr, limits = rest[2], rest[7]
    return x.new_empty((row_ptr.shape[0] - 1, (limits[2] + 1) ** 2, x.shape[2]))


@_conv_x.register_fake
def _fake_conv_x(s: Tensor, y: Tensor, w: Tensor, *rest: Any) -> Tensor:
    col_ptr, limits = rest[4], rest[7]
    return s.new_empty((col_ptr.shape[0] - 1, (limits[0] + 1) ** 2, s.shape[2]))


@_conv_y.register_fake
def _fake_conv_y(x: Tensor, s: Tensor, w: Tensor, *rest: Any) -> Tensor:
    neighbor, limits = rest[0], rest[7]
    return x.new_empty((neighbor.shape[0], (limits[1] + 1) ** 2))


@_conv_w.register_fake
def _fake_conv_w(x: Tensor, y: Tensor, s: Tensor, *rest: Any) -> Tensor:
    neighbor, degrees = rest[0], rest[8]
    return x.new_empty((neighbor.shape[0], len(degrees) // 3, x.shape[2]))


@_conv_yw.register_fake
def _fake_conv_yw(x: Tensor, y: Tensor, w: Tensor, s: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return _fake_conv_y(x, s, w, *rest), _fake_conv_w(x, y, s, *rest)


# every operator takes three of the four quantities s, x, y, w and gives the gradient with respect to the fourth
_OPERATORS = {"s": _conv, "x": _conv_x, "y": _conv_y, "w": _conv_w}
_OPERANDS = {"s": ("x", "y", "w"), "x": ("s", "y", "w"), "y": ("x", "s", "w"), "w": ("x", "y", "s")}
_OPERANDS_YW = ("x", "y", "w", "s")


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.limits, ctx.degrees = inputs
    ctx.save_for_backward(*tensors)


def _saved(ctx: Any, operands: tuple[str, ...]) -> tuple[dict[str, Tensor], set[str], tuple[Any, ...]]:
    """Operands by name, those whose gradient is wanted, and the trailing arguments."""
    tensors, n = ctx.saved_tensors, len(operands)
    wanted = {name for name, needed in zip(operands, ctx.needs_input_grad[:n], strict=True) if needed}
    return dict(zip(operands, tensors[:n], strict=True)), wanted, (*tensors[n:], ctx.limits, ctx.degrees)


def _adjoints(known: dict[str, Tensor], wanted: set[str], rest: tuple[Any, ...]) -> dict[str, Tensor]:
    """Gradients of Σ_i s_i · S(x, y, w)_i with respect to the wanted quantities, in the others."""
    gradients = {}
    if {"y", "w"} <= wanted:
        gradients["y"], gradients["w"] = _conv_yw(*[known[name] for name in _OPERANDS_YW], *rest)
    for name in wanted - gradients.keys():
        gradients[name] = _OPERATORS[name](*[known[operand] for operand in _OPERANDS[name]], *rest)
    return gradients


def _register_derivatives(name: str) -> None:
    def backward(ctx: Any, cotangent: Tensor) -> _Grads:
        known, wanted, rest = _saved(ctx, _OPERANDS[name])
        gradients = _adjoints(known | {name: cotangent}, wanted, rest)
        return (*[gradients.get(operand) for operand in _OPERANDS[name]], *[None] * len(rest))

    _OPERATORS[name].register_autograd(backward, setup_context=_save)


def _backward_yw(ctx: Any, beta: Tensor, gamma: Tensor) -> _Grads:
    """Derivative of ⟨β, Sy(x, s, w)⟩ + ⟨γ, Sw(x, y, s)⟩ = ⟨s, S(x, β, w)⟩ + ⟨s, S(x, y, γ)⟩."""
    known, wanted, rest = _saved(ctx, _OPERANDS_YW)
    with_beta = _adjoints(known | {"y": beta}, wanted & {"x", "s"}, rest)
    with_gamma = _adjoints(known | {"w": gamma}, wanted & {"x", "s"}, rest)
    gradients = _adjoints(known | {"y": beta, "w": gamma}, wanted & {"y", "w"}, rest)
    gradients |= {operand: with_beta[operand] + with_gamma[operand] for operand in with_beta}
    return (*[gradients.get(operand) for operand in _OPERANDS_YW], *[None] * len(rest))


for _name in _OPERATORS:
    _register_derivatives(_name)
_conv_yw.register_autograd(_backward_yw, setup_context=_save)
