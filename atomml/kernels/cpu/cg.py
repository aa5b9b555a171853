"""The convolution with one radial weight per path in native code, for the tables that `supports` names.

The functions of `atomml.kernels.reference_cg`, and gradients in one call, see `atomml.kernels.trilinear`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import cast

import numpy as np

from atomml.errors import UnsupportedError
from atomml.graph.atom_graph import EdgeIndex
from atomml.kernels.cpu import gradients
from atomml.kernels.cpu.gradients import Layout
from atomml.kernels.cpu.library import Coupling
from atomml.kernels.reference_cg import Harmonics, Nodes, Weights
from atomml.kernels.sparse_coupling import SparseCoupling
from atomml.shapes import Tensor

__all__ = [
    "cg_conv",
    "cg_conv_backward",
    "cg_conv_backward2",
    "cg_conv_w",
    "cg_conv_x",
    "cg_conv_y",
    "cg_conv_yw",
    "supports",
]

MAX_DEGREE = 4  # of the components that the kernels are unrolled for


def cg_conv(x: Nodes, y: Harmonics, w: Weights, index: EdgeIndex, coupling: SparseCoupling) -> Nodes:
    """S: see `atomml.kernels.reference_cg.cg_conv`."""
    return gradients.conv(_layout(coupling), x, y, w, index)


def cg_conv_backward(
    s: Nodes,
    x: Nodes | None,
    y: Harmonics | None,
    w: Weights | None,
    wanted: Sequence[bool],
    index: EdgeIndex,
    coupling: SparseCoupling,
) -> list[Tensor | None]:
    """Gradients (Sx, Sy, Sw) that are wanted; an operand that none of them contains may be None."""
    return gradients.first_derivatives(_layout(coupling), s, x, y, w, wanted, index)


def cg_conv_backward2(
    s: Nodes,
    x: Nodes,
    y: Harmonics,
    w: Weights,
    alpha: Nodes | None,
    beta: Harmonics | None,
    gamma: Weights | None,
    wanted: Sequence[bool],
    index: EdgeIndex,
    coupling: SparseCoupling,
) -> list[Tensor | None]:
    """Gradients of α·Sx + β·Sy + γ·Sw in s, x, y, w that are wanted."""
    return gradients.second_derivatives(_layout(coupling), s, x, y, w, alpha, beta, gamma, wanted, index)


def cg_conv_x(s: Nodes, y: Harmonics, w: Weights, index: EdgeIndex, coupling: SparseCoupling) -> Nodes:
    """Sx: see `atomml.kernels.reference_cg.cg_conv_x`."""
    of_x, _, _ = cg_conv_backward(s, None, y, w, (True, False, False), index, coupling)
    return cast(Tensor, of_x)


def cg_conv_y(x: Nodes, s: Nodes, w: Weights, index: EdgeIndex, coupling: SparseCoupling) -> Harmonics:
    """Sy: see `atomml.kernels.reference_cg.cg_conv_y`."""
    _, of_y, _ = cg_conv_backward(s, x, None, w, (False, True, False), index, coupling)
    return cast(Tensor, of_y)


def cg_conv_w(x: Nodes, y: Harmonics, s: Nodes, index: EdgeIndex, coupling: SparseCoupling) -> Weights:
    """Sw: see `atomml.kernels.reference_cg.cg_conv_w`."""
    _, _, of_w = cg_conv_backward(s, x, y, None, (False, False, True), index, coupling)
    return cast(Tensor, of_w)


def cg_conv_yw(
    x: Nodes, y: Harmonics, w: Weights, s: Nodes, index: EdgeIndex, coupling: SparseCoupling
) -> tuple[Harmonics, Weights]:
    """Sy and Sw in one pass over the edges: see `atomml.kernels.reference_cg.cg_conv_yw`."""
    _, of_y, of_w = cg_conv_backward(s, x, y, w, (False, True, True), index, coupling)
    return cast(Tensor, of_y), cast(Tensor, of_w)


@lru_cache(maxsize=64)
def supports(coupling: SparseCoupling) -> bool:
    """Whether the native kernels take a table: degrees up to 4, coupled like real spherical harmonics.

    Components of orders m1, m2, m3 (negative: sine) couple only if |m2| is |m1| + |m3| or ||m1| − |m3||, and if the
    number of sines is even or odd like l1 + l2 + l3.
    """
    if max(coupling.lmax_x, coupling.lmax_y, coupling.lmax_out) > MAX_DEGREE:
        return False
    degrees = np.array(coupling.paths, dtype=np.int64).reshape(-1, 3)[coupling.entries[:, 3]]
    orders = coupling.entries[:, :3] - degrees * (degrees + 1)
    m1, m2, m3 = np.abs(orders).T
    sines = (orders < 0).sum(1)
    coupled = ((m2 == m1 + m3) | (m2 == np.abs(m1 - m3))) & ((sines - degrees.sum(1)) % 2 == 0)
    return bool(coupled.all())


@lru_cache(maxsize=64)
def _layout(coupling: SparseCoupling) -> Layout:
    """Sizes and C structure of a table.

    Raises:
        UnsupportedError: the native kernels do not take the table.
    """
    if not supports(coupling):
        raise UnsupportedError("The native kernels do not take this coupling.", fix='use_kernel("torch")')
    n_paths = len(coupling.paths)
    components = coupling.dim_out, coupling.dim_x, coupling.dim_y, n_paths
    arrays = (
        np.asarray(coupling.paths, dtype=np.int64).reshape(n_paths, 3),
        np.searchsorted(coupling.entries[:, 3], np.arange(n_paths + 1)).astype(np.int64),
        np.ascontiguousarray(coupling.entries),
        np.ascontiguousarray(coupling.values),
    )
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in arrays]
    struct = Coupling(coupling.dim_x, coupling.dim_y, coupling.dim_out, n_paths, *pointers)
    struct.arrays = arrays  # they live as long as the pointers to them
    return Layout("cg", components, (struct,))
