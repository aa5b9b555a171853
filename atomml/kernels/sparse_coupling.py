"""Coupling tensors as sparse tables, path by path.

They serve the convolution with one radial weight per path,

    out_i[k, c] = Σ_{e: j→i} Σ_{(a, b, k, P, v)} v · w_e[P, c] · y_e[b] · x_j[a, c]

(operators in `atomml.kernels.ops_cg`). The numbers v are those of `atomml.kernels.coupling.path_tensors`,
components are numbered l² + m over the degrees 0..L, in the order of e3nn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Int32

from atomml.errors import UnsupportedError
from atomml.kernels.coupling import CouplingKind, Path, dimension, path_tensors
from atomml.shapes import Float64, Tensor, ndarray

__all__ = ["SparseCoupling", "sparse_coupling"]

_ZERO = 1e-12


@dataclass(frozen=True, eq=False)
class SparseCoupling:
    """The non-zero numbers of a coupling tensor, path by path.

    Attributes:
        lmax_x: highest degree of the features.
        lmax_y: highest degree of the spherical harmonics.
        lmax_out: highest degree of the output.
        paths: degrees (l1, l2, l3) of feature, harmonic and output of every path.
        entries: int32 [nnz, 4], columns a, b, k, path, sorted by (path, k, a, b); each component lies in the
            block of its path, so that entry ranges follow from the degrees.
        values: float64 [nnz], v of every entry.
        tensors: entries and values as tensors on the same memory.

    Raises:
        UnsupportedError: at construction, tables that do not have this form.
    """

    lmax_x: int
    lmax_y: int
    lmax_out: int
    paths: tuple[Path, ...]
    entries: Int32[ndarray, "nnz 4"]
    values: Float64[ndarray, " nnz"]
    tensors: tuple[Tensor, Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem:
            fix = "make it by sparse_coupling()"
            raise UnsupportedError(f"Not a table of a coupling: {problem}.", fix=fix)
        # made now and not when first needed, which may be while a network is traced without numbers
        object.__setattr__(self, "tensors", (torch.from_numpy(self.entries), torch.from_numpy(self.values)))

    @property
    def dim_x(self) -> int:
        """Number of components of a feature, (lmax_x + 1)²."""
        return dimension(self.lmax_x)

    @property
    def dim_y(self) -> int:
        """Number of spherical harmonics, (lmax_y + 1)²."""
        return dimension(self.lmax_y)

    @property
    def dim_out(self) -> int:
        """Number of components of the output, (lmax_out + 1)²."""
        return dimension(self.lmax_out)


def sparse_coupling(
    lmax: int, kind: CouplingKind, *, lmax_y: int | None = None, lmax_out: int | None = None
) -> SparseCoupling:
    """The coupling of features of degrees 0..lmax with harmonics of degrees 0..lmax_y, paths in lexicographic order.

    Args:
        lmax: highest degree of the features.
        kind: as in `atomml.kernels.coupling.coupling_tensor`.
        lmax_y: highest degree of the harmonics, by default ``lmax``.
        lmax_out: highest degree of the output, by default ``lmax``.

    Raises:
        UnsupportedError: an unknown kind or a negative degree.
    """
    limits = (lmax, lmax if lmax_y is None else lmax_y, lmax if lmax_out is None else lmax_out)
    dims = [dimension(limit) for limit in limits]
    all_paths, tensors = path_tensors(max(limits), kind)
    rows = [row for row, path in enumerate(all_paths) if all(map(int.__le__, path, limits))]
    dense = tensors[rows, : dims[0], : dims[1], : dims[2]]
    path, k, a, b = np.nonzero(np.abs(dense).transpose(0, 3, 1, 2) > _ZERO)
    return SparseCoupling(
        *limits,
        paths=tuple(all_paths[row] for row in rows),
        entries=np.stack([a, b, k, path], axis=1).astype(np.int32),
        values=dense[path, a, b, k],
    )


def _problem(table: SparseCoupling) -> str | None:
    """What makes a table unusable; kernels address memory by its entries, so nothing may be out of range."""
    entries, values, limits = table.entries, table.values, (table.lmax_x, table.lmax_y, table.lmax_out)
    if min(limits) < 0 or not all(_admissible(path, limits) for path in table.paths):
        return f"paths {table.paths} for degrees up to {limits}"
    if entries.ndim != 2 or entries.shape[1] != 4 or values.shape != entries.shape[:1]:
        return f"entries of shape {entries.shape}, values of shape {values.shape}"
    if entries.dtype != np.int32 or values.dtype != np.float64:
        return f"entries must be int32 and values float64, not {entries.dtype} and {values.dtype}"
    if len(entries) == 0:
        return None
    components, path = entries[:, :3].T, entries[:, 3]
    if entries.min() < 0 or path.max() >= len(table.paths):
        return "entries out of range"
    degrees = np.array(table.paths, dtype=np.int32).T[:, path]
    if not ((degrees**2 <= components) & (components < (degrees + 1) ** 2)).all():
        return "components outside the block of their path"
    a, b, k = components.astype(np.int64)
    key = ((path * np.int64(table.dim_out) + k) * table.dim_x + a) * table.dim_y + b
    return None if (np.diff(key) > 0).all() else "entries are not sorted by (path, k, a, b)"


def _admissible(path: Sequence[int], limits: Sequence[int]) -> bool:
    """|l1 − l2| ≤ l3 ≤ l1 + l2, and no degree above its limit."""
    l1, l2, l3 = path
    return abs(l1 - l2) <= l3 <= l1 + l2 and l1 <= limits[0] and l2 <= limits[1] and l3 <= limits[2]
