"""The convolution with one radial weight per path on the GPU: the functions that `atomml.kernels.dispatch` calls.

The equations are in `atomml.kernels.reference_cg`; the kernels are written for each coupling by
`atomml.kernels.triton.cg_source`.
"""

from __future__ import annotations

from functools import lru_cache

from atomml.graph.atom_graph import EdgeIndex
from atomml.kernels.reference_cg import Harmonics, Nodes, Weights
from atomml.kernels.sparse_coupling import SparseCoupling
from atomml.kernels.triton.cg_source import edge_source, node_source, output_parts
from atomml.kernels.triton.launch import Kernel, accumulator, device_of, kernel_from_source, launch
from atomml.kernels.triton.tiles import cg_edge_tiles, cg_node_tiles
from atomml.shapes import Tensor

__all__ = ["cg_conv", "cg_conv_w", "cg_conv_x", "cg_conv_y", "cg_conv_yw"]


def cg_conv(x: Nodes, y: Harmonics, w: Weights, index: EdgeIndex, coupling: SparseCoupling) -> Nodes:
    """S: one program owns a node, so that no two programs write to the same place."""
    return _sum_at_nodes(x, y, w, index, coupling, adjoint=False)


def cg_conv_x(s: Nodes, y: Harmonics, w: Weights, index: EdgeIndex, coupling: SparseCoupling) -> Nodes:
    """Sx: S along the transposed edges, with input and output of the coupling exchanged."""
    return _sum_at_nodes(s, y, w, index, coupling, adjoint=True)


def cg_conv_y(x: Nodes, s: Nodes, w: Weights, index: EdgeIndex, coupling: SparseCoupling) -> Harmonics:
    """Sy."""
    y_bar = x.new_empty((len(index.neighbor), coupling.dim_y))
    _at_edges(x, None, w, s, y_bar, None, index, coupling)
    return y_bar


def cg_conv_w(x: Nodes, y: Harmonics, s: Nodes, index: EdgeIndex, coupling: SparseCoupling) -> Weights:
    """Sw."""
    w_bar = x.new_empty((len(index.neighbor), len(coupling.paths), x.shape[2]))
    _at_edges(x, y, None, s, None, w_bar, index, coupling)
    return w_bar


def cg_conv_yw(
    x: Nodes, y: Harmonics, w: Weights, s: Nodes, index: EdgeIndex, coupling: SparseCoupling
) -> tuple[Harmonics, Weights]:
    """Sy and Sw, which share the products x_a s_k and their sums over paths."""
    y_bar, w_bar = x.new_empty(y.shape), x.new_empty(w.shape)
    _at_edges(x, y, w, s, y_bar, w_bar, index, coupling)
    return y_bar, w_bar


def _sum_at_nodes(
    x: Tensor, y: Tensor, w: Tensor, index: EdgeIndex, coupling: SparseCoupling, *, adjoint: bool
) -> Tensor:
    row_ptr, order, source, dim_out = (
        (index.col_ptr, index.transpose, index.center, coupling.dim_x)
        if adjoint
        else (index.row_ptr, index.neighbor, index.neighbor, coupling.dim_out)
    )
    n_nodes, channels = len(row_ptr) - 1, x.shape[2]
    out = x.new_empty((n_nodes, dim_out, channels))
    widest = max(coupling.dim_x, coupling.dim_out)
    tiles = cg_node_tiles(n_nodes, len(source), widest, channels, x.itemsize, device_of(x))
    operands = [tensor.contiguous() for tensor in (x, y, w, row_ptr, order, source)]
    for kernel in node_kernels(coupling, adjoint):
        launch(
            kernel,
            tiles.programs,
            tiles.warps,
            x,
            out,
            *operands,
            tiles.items,
            C=channels,
            ORDERED=adjoint,
            ACC=accumulator(x.dtype),
            BE=tiles.edges,
            BC=tiles.channels,
        )
    return out


def _at_edges(
    x: Tensor,
    y: Tensor | None,
    w: Tensor | None,
    s: Tensor,
    y_bar: Tensor | None,
    w_bar: Tensor | None,
    index: EdgeIndex,
    coupling: SparseCoupling,
) -> None:
    """Write the adjoints that are asked for; an operand or result that is not needed may be None."""
    n_edges, channels = len(index.neighbor), x.shape[2]
    widest = max(coupling.dim_x, coupling.dim_y, coupling.dim_out)
    tiles = cg_edge_tiles(n_edges, widest, channels, x.itemsize, device_of(x))
    operands = (x, x if y is None else y, x if w is None else w, s, index.neighbor, index.center)
    launch(
        edge_kernel(coupling),
        tiles.programs,
        tiles.warps,
        x,
        *[x if result is None else result for result in (y_bar, w_bar)],
        *[tensor.contiguous() for tensor in operands],
        n_edges,
        C=channels,
        WITH_Y=y_bar is not None,
        WITH_W=w_bar is not None,
        ACC=accumulator(x.dtype),
        BE=tiles.edges,
        BC=tiles.channels,
    )


@lru_cache(maxsize=64)
def node_kernels(coupling: SparseCoupling, adjoint: bool) -> list[Kernel]:
    """The kernels of S or Sx, one for each part of the output degrees."""
    lmax = coupling.lmax_x if adjoint else coupling.lmax_out
    sources = [node_source(coupling, degrees, adjoint=adjoint) for degrees in output_parts(lmax)]
    return [kernel_from_source("node_kernel", source) for source in sources]


@lru_cache(maxsize=64)
def edge_kernel(coupling: SparseCoupling) -> Kernel:
    """The kernel of Sy and Sw."""
    return kernel_from_source("edge_kernel", edge_source(coupling))
