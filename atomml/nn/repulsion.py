"""Ziegler–Biersack–Littmark screened nuclear repulsion, as a prior for distances that no data covers."""

from __future__ import annotations

import numpy as np
import torch
from ase.data import covalent_radii
from torch import nn

from atomml.graph.atom_graph import EdgeIndex
from atomml.nn.cutoff import polynomial_envelope
from atomml.shapes import Float, Int64, Tensor

__all__ = ["ZBL"]

COULOMB = 14.399645478  # e²/(4πε₀) in eV Å
BOHR = 0.529177210903  # Å
COEFFICIENTS = ((0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162))


class ZBL(nn.Module):
    """E_i = ½ Σ_j (k Z_i Z_j / r) φ(r/a) u(r), a = 0.8854 a₀ / (Z_i^0.23 + Z_j^0.23).

    φ(x) = Σ_n c_n exp(−d_n x). The envelope u ends at ``reach`` times the sum of the covalent radii, or at the
    cutoff of the graph if that is nearer, so that bonds are left to the data. Source: Ziegler, Biersack,
    Littmark, The Stopping and Range of Ions in Solids (1985).
    """

    def __init__(self, elements: list[int], cutoff: float, reach: float = 0.9) -> None:
        super().__init__()
        z = np.asarray(elements)
        self.cutoff, self.reach = cutoff, reach
        self.z: Tensor
        self.radius: Tensor
        dtype = torch.get_default_dtype()
        self.register_buffer("z", torch.tensor(z, dtype=dtype), persistent=False)
        self.register_buffer("radius", torch.tensor(covalent_radii[z], dtype=dtype), persistent=False)

    def forward(
        self, r: Float[Tensor, " edges"], species: Int64[Tensor, " atoms"], index: EdgeIndex
    ) -> Float[Tensor, " atoms"]:
        """Repulsion energy of each atom in eV for edge lengths r in Å."""
        i, j = species[index.center], species[index.neighbor]
        zi, zj = self.z[i], self.z[j]
        x = r * (zi**0.23 + zj**0.23) / (0.8854 * BOHR)
        phi = torch.stack([c * torch.exp(-d * x) for c, d in COEFFICIENTS]).sum(0)
        end = torch.clamp(self.reach * (self.radius[i] + self.radius[j]), max=self.cutoff)
        pair = COULOMB * zi * zj / r * phi * polynomial_envelope(r / end, 1.0)
        # not new_zeros, whose length a recording would keep
        return torch.zeros_like(species, dtype=pair.dtype).index_add(0, index.center, 0.5 * pair)
