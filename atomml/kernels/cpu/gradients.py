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
    index = _contiguous(index)
    shapes = _shapes(layout, index, x.shape[-1])
    x, y, w = _checked("xyw", (x, y, w), shapes[1:], x.dtype)
    out = x.new_empty(shapes[0])
    edges = edges_by_center(index.neighbor, index.row_ptr, shapes[1][0])
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
    index = _contiguous(index)
    shapes = _shapes(layout, index, s.shape[-1])
    operands = _checked("sxyw", (s, x, y, w), shapes, s.dtype)
    edges = _edges(index, center=wanted[1] or wanted[2], neighbor=wanted[0])
    results = [s.new_empty(shape) if want else None for shape, want in zip(shapes[1:], wanted, strict=True)]
    call(f"{layout.family}_backward", s.dtype, *operands, *edges, *results, *_rest(layout, s))
    return results


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
    index = _contiguous(index)
    shapes = _shapes(layout, index, s.shape[-1])
    operands = _checked("sxyw", (s, x, y, w), shapes, s.dtype)
    cotangents = _checked("αβγ", (alpha, beta, gamma), shapes[1:], s.dtype)
    edges = _edges(index, center=wanted[0] or wanted[2] or wanted[3], neighbor=wanted[1])
    results = [s.new_empty(shape) if want else None for shape, want in zip(shapes, wanted, strict=True)]
    call(f"{layout.family}_backward2", s.dtype, *operands, *cotangents, *edges, *results, *_rest(layout, s))
    return results


def _shapes(layout: Layout, index: EdgeIndex, channels: int) -> list[tuple[int, ...]]:
    """Shapes of s, x, y, w."""
    of_s, of_x, of_y, of_w = layout.components
    n_edges = index.neighbor.shape[0]
    return [
        (index.row_ptr.shape[0] - 1, of_s, channels),
        (index.col_ptr.shape[0] - 1, of_x, channels),
        (n_edges, of_y),
        (n_edges, of_w, channels),
    ]


def _checked(
    names: str, operands: Sequence[_Optional], shapes: Sequence[tuple[int, ...]], dtype: torch.dtype
) -> list[Any]:
    """The operands in row-major order.

    Raises:
        DataError: an operand has another shape, dtype or device.
    """
    checked: list[_Optional] = []
    for name, operand, shape in zip(names, operands, shapes, strict=True):
        if operand is None:
            checked.append(None)
            continue
        if operand.shape != shape or operand.dtype != dtype or not operand.is_cpu:
            raise DataError(
                f"{name} is {tuple(operand.shape)}, {operand.dtype} on {operand.device}.",
                where="native kernels",
                fix=f"it must be {shape}, {dtype} on cpu",
            )
        checked.append(operand.contiguous())
    return checked


def _contiguous(index: EdgeIndex) -> EdgeIndex:
    """The index in row-major order.

    Raises:
        DataError: numbers of another type than int64, or not as many as there are edges.
    """
    n_edges = index.neighbor.shape
    good = index.center.shape == n_edges and index.transpose.shape == n_edges
    for part in index:
        good = good and part.dtype == torch.int64 and part.ndim == 1 and part.is_cpu
    if not good:
        fix = "build it by edge_index_of()"
        raise DataError("The numbers of an index are int64, in main memory, one for each edge.", fix=fix)
    return EdgeIndex(*[part.contiguous() for part in index])


def _edges(index: EdgeIndex, *, center: bool, neighbor: bool) -> tuple[Edges | None, Edges | None]:
    """By centre and by neighbour, where they are needed."""
    n_centers, n_neighbors = index.row_ptr.shape[0] - 1, index.col_ptr.shape[0] - 1
    by_center = edges_by_center(index.neighbor, index.row_ptr, n_neighbors) if center else None
    if not neighbor:
        return by_center, None
    return by_center, edges_by_neighbor(index.center, index.transpose, index.col_ptr, n_centers)


def _rest(layout: Layout, like: Tensor) -> tuple[Any, ...]:
    return *layout.structure, like.shape[-1], torch.get_num_threads()
