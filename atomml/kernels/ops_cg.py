"""The convolution with one radial weight per path as operators with derivatives of every order.

`cg_conv` is what networks call; equations in `atomml.kernels.reference_cg`. The operators behind it,
``atomml::cg_conv``, ``atomml::cg_backward`` and ``atomml::cg_backward2``, are made by `atomml.kernels.trilinear`.
The sparse table travels with every call as two constant tensors, which stay in main memory whatever the device
of the operands.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from atomml.errors import AtommlError
from atomml.graph.atom_graph import EdgeIndex
from atomml.kernels import cpu, torch_backend
from atomml.kernels.checks import promoted, refuse_several_devices
from atomml.kernels.coupling import dimension
from atomml.kernels.dispatch import choose
from atomml.kernels.sparse_coupling import SparseCoupling
from atomml.kernels.trilinear import Family, register
from atomml.shapes import Float

__all__ = ["cg_conv"]


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
    limits = [coupling.lmax_x, coupling.lmax_y, coupling.lmax_out]
    degrees = [degree for path in coupling.paths for degree in path]
    return _conv(*promoted(x, y, w), *index, *coupling.tensors, limits, degrees)


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


def _coupling(
    entries: Tensor, values: Tensor, limits: Sequence[int], degrees: Sequence[int]
) -> SparseCoupling:
    """The table that travelled as the trailing arguments of an operator."""
    return _table(entries, values, tuple(limits), tuple(degrees))


@lru_cache(maxsize=64)
def _table(
    entries: Tensor, values: Tensor, limits: tuple[int, int, int], degrees: tuple[int, ...]
) -> SparseCoupling:
    """Cached since to verify a table can take longer than a small convolution."""
    paths = tuple(zip(degrees[::3], degrees[1::3], degrees[2::3], strict=True))
    return SparseCoupling(*limits, paths, entries.numpy(), values.numpy())


def _backend(x: Tensor, coupling: SparseCoupling) -> ModuleType:
    chosen = choose(x)
    return torch_backend if chosen is cpu and not cpu.supports(coupling) else chosen


_LIBRARY: Any = torch.library.Library("atomml", "FRAGMENT")  # type: ignore[no-untyped-call]
_conv = register(
    _LIBRARY,
    Family(
        name="cg",
        conv="cg_conv",
        conv_x="cg_conv_x",
        conv_y="cg_conv_y",
        conv_w="cg_conv_w",
        conv_yw="cg_conv_yw",
        schema="Tensor entries, Tensor values, int[] limits, int[] degrees",
        structure=_coupling,
        width=lambda x, entries, values, limits, degrees: dimension(limits[2]),
        backend=_backend,
    ),
)
