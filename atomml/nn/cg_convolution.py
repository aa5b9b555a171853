"""Convolution over neighbours with one radial weight for each path of degrees, through a sparse coupling."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import nn

from atomml.graph.atom_graph import EdgeIndex
from atomml.kernels.ops_cg import cg_conv
from atomml.kernels.sparse_coupling import SparseCoupling
from atomml.shapes import Float, Tensor

__all__ = ["CGConvolution", "unit_variance"]


def unit_variance(coupling: SparseCoupling) -> SparseCoupling:
    """The coupling scaled so that independent unit-variance x, y, w give a message of unit variance.

    Var(out_k) = Σ_P Σ_ab v_abkP², the same for all components k of one degree, so that one factor for each
    output degree is enough and equivariance is untouched. For 3j symbols, whose squares sum to 1, the factor is
    √((2 l3 + 1) / number of paths to l3), the component and element normalisation of e3nn.
    """
    k = coupling.entries[:, 2]
    degree = np.sqrt(k).astype(np.int64)
    total = np.bincount(degree, coupling.values**2)
    variance = total / (2 * np.arange(len(total)) + 1)
    return replace(coupling, values=coupling.values / np.sqrt(variance[degree]))


class CGConvolution(nn.Module):
    """out_i[k,c] = Σ_{e: j→i} Σ_{(a,b,k,P,v)} v · w_e[P,c] · y_e[b] · x_j[a,c].

    Every path P = (l1, l2, l3) has a weight of its own on every edge and channel, as in NequIP
    (doi:10.1038/s41467-022-29939-5) and MACE (arXiv:2206.07697). With random unit-variance operands a message has
    unit variance; a sum over neighbours is to be divided by the root of their mean number.

    Args:
        coupling: the paths and their numbers, see `atomml.kernels.sparse_coupling.sparse_coupling`.
    """

    def __init__(self, coupling: SparseCoupling) -> None:
        super().__init__()
        self.coupling = unit_variance(coupling)

    @property
    def n_paths(self) -> int:
        """Number of radial weights for each edge and channel."""
        return len(self.coupling.paths)

    def forward(
        self,
        x: Float[Tensor, "atoms dim_x channels"],
        y: Float[Tensor, "edges dim_y"],
        w: Float[Tensor, "edges paths channels"],
        index: EdgeIndex,
    ) -> Float[Tensor, "atoms dim_out channels"]:
        """Convolved features, of degrees 0..lmax_out.

        Raises:
            AtommlError: shapes that do not fit together, tensors on several devices, an index out of range.
        """
        return cg_conv(x, y, w, index, self.coupling)
