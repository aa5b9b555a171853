"""Tensor products through CP factors: the convolution over neighbours and the product of a node with itself."""

from __future__ import annotations

from atomml.graph.atom_graph import EdgeIndex
from atomml.kernels.cp_factors import CPFactors
from atomml.kernels.ops import cp_conv, mix
from atomml.nn.constants import ConstantModule
from atomml.shapes import Float, Float64, Tensor, ndarray

__all__ = ["CPConvolution", "SelfProduct", "output_scale"]


def output_scale(factors: CPFactors) -> Float64[ndarray, " dim"]:
    """Factor for each output component that gives unit variance for independent unit-variance operands.

    Var(out_k) = Σ_ab M_abk²; the same for all components of one degree, so equivariance is untouched.
    """
    gram = (factors.a.T @ factors.a) * (factors.b.T @ factors.b)
    variance = ((factors.d @ gram) * factors.d).sum(1)
    lmax = factors.lmax
    for degree in range(lmax + 1):
        components = slice(degree**2, (degree + 1) ** 2)
        variance[components] = variance[components].mean()
    return 1 / variance**0.5


class _Factors(ConstantModule):
    """A [d,R], B [d,R] and D [d,R], the last one scaled so that the product of unit operands has unit variance."""

    a: Tensor
    b: Tensor
    d: Tensor

    def __init__(self, factors: CPFactors) -> None:
        super().__init__()
        self.groups = factors.groups
        self.add_constant("a", factors.a)
        self.add_constant("b", factors.b)
        self.add_constant("d", output_scale(factors)[:, None] * factors.d)


class CPConvolution(_Factors):
    """out_i[k,c] = Σ_{e: j→i} Σ_ab M_abk y_e[b] w_e[g,c] x_j[a,c] with M_abk = Σ_r A_ar B_br D_kr.

    A and D act once per node and B once per edge; only R multiply-adds per edge and channel remain.
    """

    def harmonics_to_rank(self, y: Float[Tensor, "edges dim"]) -> Float[Tensor, "edges rank"]:
        """Q = Bᵀ y."""
        return y @ self.b

    def forward(
        self,
        x: Float[Tensor, "atoms dim channels"],
        q: Float[Tensor, "edges rank"],
        w: Float[Tensor, "edges groups channels"],
        index: EdgeIndex,
    ) -> Float[Tensor, "atoms dim channels"]:
        """Convolved features: D · cp_conv(Aᵀx, q, w)."""
        return mix(self.d, cp_conv(mix(self.a.T, x), q, w, index, self.groups))


class SelfProduct(_Factors):
    """out[k,c] = Σ_ab M_abk x[a,c] z[b,c] = D · ((Aᵀx) ∘ (Bᵀz)), channel by channel at each node."""

    def forward(
        self, x: Float[Tensor, "atoms dim channels"], z: Float[Tensor, "atoms dim channels"]
    ) -> Float[Tensor, "atoms dim channels"]:
        """Products of two node features; a power of neighbour sums is a many-body feature."""
        return mix(self.d, mix(self.a.T, x) * mix(self.b.T, z))
