"""What every network body gives to `Potential`."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from atomml.graph.atom_graph import EdgeIndex
from atomml.shapes import Float, Int64, Tensor

__all__ = ["Body", "BodyOutput"]


class BodyOutput(NamedTuple):
    """Result of a body, in the units in which it was trained.

    ``energies`` [N]: one number for each atom; ``features`` [N, P]: what the last linear
    layer sees, energies = bias + features · w; ``layers``: equivariant features
    [N, (L+1)², C] after each layer; ``forces`` [N, 3]: only from bodies that predict forces directly.
    """

    energies: Float[Tensor, " atoms"]
    features: Float[Tensor, "atoms channels"]
    layers: tuple[Float[Tensor, "atoms dim width"], ...] = ()
    forces: Float[Tensor, "atoms 3"] | None = None


class Body(Protocol):
    """A network from edge vectors to atomic energies.

    ``conservative``: forces are to be taken as the derivative of the energy. ``intensive``: the atomic energies
    sum to the energy per atom, not to the energy.
    """

    cutoff: float
    conservative: bool
    intensive: bool

    def __call__(
        self,
        species: Int64[Tensor, " atoms"],
        vectors: Float[Tensor, "edges 3"],
        index: EdgeIndex,
    ) -> BodyOutput:
        """``species`` counts the model's elements from 0; ``vectors`` are r_j − r_i in Å, sorted by centre i."""
        ...
