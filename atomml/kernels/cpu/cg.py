"""The convolution with one radial weight per path in native code, for degrees up to 4."""

from __future__ import annotations

import ctypes

import numpy as np
import torch

from atomml.graph.atom_graph import EdgeIndex
from atomml.kernels import torch_cg
from atomml.kernels.cpu.library import Coupling, call, contiguous, edges_by_center, edges_by_neighbor
from atomml.kernels.reference_cg import Harmonics, Nodes, Weights
from atomml.kernels.sparse_coupling import SparseCoupling
from atomml.shapes import Tensor

__all__ = ["cg_conv", "cg_conv_w", "cg_conv_x", "cg_conv_y", "cg_conv_yw"]

MAX_DEGREE = 4
"""The kernels are unrolled for components of degrees 0 to 4; higher ones take the torch functions."""


def cg_conv(x: Nodes, y: Harmonics, w: Weights, index: EdgeIndex, coupling: SparseCoupling) -> Nodes:
    """S: see `atomml.kernels.reference_cg.cg_conv`."""
    if _too_high(coupling):
        return torch_cg.cg_conv(x, y, w, index, coupling)
    x, y, w, neighbor, row_ptr = contiguous(x, y, w, index.neighbor, index.row_ptr)
    edges = edges_by_center(neighbor, row_ptr, len(x))
    out = x.new_empty((edges.rows, coupling.dim_out, x.shape[2]))
    table, threads = _Table(coupling), torch.get_num_threads()
    call("cg_conv", x.dtype, x, y, w, edges, table.struct, out, x.shape[2], 0, threads)
    return out


def cg_conv_x(s: Nodes, y: Harmonics, w: Weights, index: EdgeIndex, coupling: SparseCoupling) -> Nodes:
    """Sx: see `atomml.kernels.reference_cg.cg_conv_x`."""
    if _too_high(coupling):
        return torch_cg.cg_conv_x(s, y, w, index, coupling)
    s, y, w, center, transpose, col_ptr = contiguous(s, y, w, index.center, index.transpose, index.col_ptr)
    edges = edges_by_neighbor(center, transpose, col_ptr, len(s))
    out = s.new_empty((edges.rows, coupling.dim_x, s.shape[2]))
    table, threads = _Table(coupling), torch.get_num_threads()
    call("cg_conv", s.dtype, s, y, w, edges, table.struct, out, s.shape[2], 1, threads)
    return out


def cg_conv_y(x: Nodes, s: Nodes, w: Weights, index: EdgeIndex, coupling: SparseCoupling) -> Harmonics:
    """Sy: see `atomml.kernels.reference_cg.cg_conv_y`."""
    if _too_high(coupling):
        return torch_cg.cg_conv_y(x, s, w, index, coupling)
    dy = x.new_empty((len(w), coupling.dim_y))
    _adjoint(x, None, w, s, index, coupling, dy, None)
    return dy


def cg_conv_w(x: Nodes, y: Harmonics, s: Nodes, index: EdgeIndex, coupling: SparseCoupling) -> Weights:
    """Sw: see `atomml.kernels.reference_cg.cg_conv_w`."""
    if _too_high(coupling):
        return torch_cg.cg_conv_w(x, y, s, index, coupling)
    dw = x.new_empty((len(y), len(coupling.paths), x.shape[2]))
    _adjoint(x, y, None, s, index, coupling, None, dw)
    return dw


def cg_conv_yw(
    x: Nodes, y: Harmonics, w: Weights, s: Nodes, index: EdgeIndex, coupling: SparseCoupling
) -> tuple[Harmonics, Weights]:
    """Sy and Sw in one pass over the edges: see `atomml.kernels.reference_cg.cg_conv_yw`."""
    if _too_high(coupling):
        return torch_cg.cg_conv_yw(x, y, w, s, index, coupling)
    dy, dw = x.new_empty(y.shape), x.new_empty(w.shape)
    _adjoint(x, y, w, s, index, coupling, dy, dw)
    return dy, dw


def _adjoint(
    x: Tensor,
    y: Tensor | None,
    w: Tensor | None,
    s: Tensor,
    index: EdgeIndex,
    coupling: SparseCoupling,
    dy: Tensor | None,
    dw: Tensor | None,
) -> None:
    x, s, neighbor, row_ptr = contiguous(x, s, index.neighbor, index.row_ptr)
    y, w = (None if operand is None else operand.contiguous() for operand in (y, w))
    edges = edges_by_center(neighbor, row_ptr, len(x))
    table, threads = _Table(coupling), torch.get_num_threads()
    call("cg_yw", x.dtype, x, y, w, s, edges, table.struct, dy, dw, x.shape[2], threads)


def _too_high(coupling: SparseCoupling) -> bool:
    return max(coupling.lmax_x, coupling.lmax_y, coupling.lmax_out) > MAX_DEGREE


class _Table:
    """``AtommlCoupling`` of a table, together with the arrays that it points to."""

    def __init__(self, coupling: SparseCoupling) -> None:
        n_paths = len(coupling.paths)
        self.degrees = np.asarray(coupling.paths, dtype=np.int64).reshape(n_paths, 3)
        self.first = np.searchsorted(coupling.entries[:, 3], np.arange(n_paths + 1)).astype(np.int64)
        self.entries = np.ascontiguousarray(coupling.entries)
        self.values = np.ascontiguousarray(coupling.values)
        pointers = [
            ctypes.c_void_p(array.ctypes.data)
            for array in (self.degrees, self.first, self.entries, self.values)
        ]
        self.struct = Coupling(coupling.dim_x, coupling.dim_y, coupling.dim_out, n_paths, *pointers)
