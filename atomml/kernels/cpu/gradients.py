"""How both families of convolutions call their native kernels: S(x, y, w), and gradients of F = Σ_i s_i S(x, y, w)_i.

The equations are in `atomml.kernels.trilinear`. Everything that a kernel follows into memory is checked here or,
where it is a number of the index, in the kernel itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from atomml.errors import DataError
from atomml.graph.atom_graph import EdgeIndex
from atomml.kernels.cpu.library import Edges, call, edges_by_center, edges_by_neighbor
from atomml.shapes import Tensor

__all__ = ["Layout", "conv", "first_derivatives", "second_derivatives"]

_Optional = Tensor | None


class Layout(NamedTuple):
    """Sizes of one convolution, and what its kernels take beside the operands.

    Attributes:
        family: first part of the name of the kernels.
        components: of s [atoms, components, channels], x [atoms, …, channels], y [edges, …], w [edges, …, channels].
        structure: arguments for C.
    """

    family: str
    components: tuple[int, int, int, int]
    structure: tuple[Any, ...]


def conv(layout: Layout, x: Tensor, y: Tensor, w: Tensor, index: EdgeIndex) -> Tensor:
    """S(x, y, w)."""
    shapes, (_, x, y, w) = _checked(layout, index, (None, x, y, w))
    index = _contiguous(index)
    out = x.new_empty(shapes[0])
    edges = edges_by_center(index.neighbor, index.row_ptr, len(x))
    call(f"{layout.family}_conv", x.dtype, x, y, w, edges, out, *_rest(layout, x))
    return out


def first_derivatives(
    layout: Layout,
    s: Tensor,
    x: _Optional,
    y: _Optional,
    w: _Optional,
    wanted: Sequence[bool],
    index: EdgeIndex,
) -> list[_Optional]:
    """Gradients of F in x, y, w, those that are wanted; an operand that no wanted gradient contains may be None."""
    shapes, operands = _checked(layout, index, (s, x, y, w))
    return _gradients("backward", layout, operands, shapes[1:], index, wanted, center=any(wanted[1:]))


def second_derivatives(
    layout: Layout,
    s: Tensor,
    x: Tensor,
    y: Tensor,
    w: Tensor,
    alpha: _Optional,
    beta: _Optional,
    gamma: _Optional,
    wanted: Sequence[bool],
    index: EdgeIndex,
) -> list[_Optional]:
    """Gradients of F(s, α, y, w) + F(s, x, β, w) + F(s, x, y, γ) in s, x, y, w, those that are wanted."""
    shapes, operands = _checked(layout, index, (s, x, y, w))
    _, (_, *cotangents) = _checked(layout, index, (s, alpha, beta, gamma))
    center = wanted[0] or wanted[2] or wanted[3]
    return _gradients("backward2", layout, [*operands, *cotangents], shapes, index, wanted, center=center)


def _gradients(
    name: str,
    layout: Layout,
    operands: Sequence[_Optional],
    shapes: Sequence[tuple[int, ...]],
    index: EdgeIndex,
    wanted: Sequence[bool],
    *,
    center: bool,
) -> list[_Optional]:
    s, index, n_atoms = operands[0], _contiguous(index), len(index.col_ptr) - 1
    assert s is not None  # every gradient contains it
    results = [s.new_empty(shape) if want else None for shape, want in zip(shapes, wanted, strict=True)]
    by_center: Edges | None = edges_by_center(index.neighbor, index.row_ptr, n_atoms) if center else None
    by_neighbor = (
        edges_by_neighbor(index.center, index.transpose, index.col_ptr, len(s)) if wanted[-3] else None
    )
    call(f"{layout.family}_{name}", s.dtype, *operands, by_center, by_neighbor, *results, *_rest(layout, s))
    return results


def _checked(
    layout: Layout, index: EdgeIndex, operands: Sequence[_Optional]
) -> tuple[list[tuple[int, ...]], list[Any]]:
    """Shapes of s, x, y, w, and these operands in row-major order.

    Raises:
        DataError: an operand has another shape, dtype or device.
    """
    n_edges, channels = (
        len(index.neighbor),
        next(o.shape[-1] for o in operands if o is not None and o.ndim == 3),
    )
    rows = (len(index.row_ptr) - 1, len(index.col_ptr) - 1, n_edges, n_edges)
    shapes: list[tuple[int, ...]] = [
        (n, size) if name == "y" else (n, size, channels)
        for name, n, size in zip("sxyw", rows, layout.components, strict=True)
    ]
    dtype = next(o.dtype for o in operands if o is not None)
    for name, operand, shape in zip("sxyw", operands, shapes, strict=True):
        if operand is not None and (operand.shape != shape or operand.dtype != dtype or not operand.is_cpu):
            raise DataError(
                f"{name} is {tuple(operand.shape)}, {operand.dtype} on {operand.device}.",
                where=f"kernels {layout.family}",
                fix=f"it must be {shape}, {dtype} on cpu",
            )
    return shapes, [None if operand is None else operand.contiguous() for operand in operands]


def _contiguous(index: EdgeIndex) -> EdgeIndex:
    """The index in row-major order.

    Raises:
        DataError: numbers of another type than int64, or not as many as there are edges.
    """
    n_edges = len(index.neighbor)
    whole = len(index.center) == len(index.transpose) == n_edges
    if not whole or not all(part.dtype == torch.int64 and part.ndim == 1 and part.is_cpu for part in index):
        raise DataError(
            "The numbers of an index are int64, in main memory.", fix="build it by edge_index_of()"
        )
    return EdgeIndex(*[part.contiguous() for part in index])


def _rest(layout: Layout, like: Tensor) -> tuple[Any, ...]:
    return *layout.structure, like.shape[-1], torch.get_num_threads()
