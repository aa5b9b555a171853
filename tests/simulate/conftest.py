"""A smooth pairwise potential with the interface of `Potential`, whose every property is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.stress import full_3x3_to_voigt_6_stress

from atomml.errors import UnsupportedError
from atomml.graph.atom_graph import edge_vectors, graph_from_ase
from atomml.potentials.prediction import Prediction

DEPTH, STIFFNESS, R0, CUTOFF = 0.2, 1.5, 2.8, 6.0


class MorsePotential(torch.nn.Module):
    """E = Σ_i E0[z_i] + ½ Σ_e u(r_e) [D ((1 − e^{−a(r − r0)})² − 1)], u a C² polynomial envelope."""

    conservative = True
    cutoff = CUTOFF

    def __init__(self, elements=(3, 17, 29), flaw=""):
        super().__init__()
        self.elements, self.flaw = tuple(elements), flaw
        self.depth = torch.nn.Parameter(torch.tensor(DEPTH, dtype=torch.float64))
        self.conservative = flaw != "direct"

    @property
    def dtype(self):
        return self.depth.dtype

    @property
    def device(self):
        return self.depth.device

    @property
    def e0(self):
        return {z: -0.1 * z for z in self.elements}

    def pair_energy(self, r):
        x = r / self.cutoff
        envelope = 1 - 10 * x**3 + 15 * x**4 - 6 * x**5
        if self.flaw == "cutoff":
            envelope = torch.ones_like(x)
        well = self.depth * ((1 - torch.exp(-STIFFNESS * (r - R0))) ** 2 - 1)
        return envelope * well

    def forward(self, graph, *, forces=True, stress=False, create_graph=False):
        unknown = set(graph.z.tolist()) - set(self.elements)
        if unknown:
            raise UnsupportedError(f"unknown {unknown}")
        neighbor, center = graph.edge_index
        batch = getattr(graph, "batch", None)
        batch = torch.zeros_like(graph.z) if batch is None else batch
        with torch.enable_grad():
            vectors = edge_vectors(graph).to(self.dtype).requires_grad_()
            pair = 0.5 * self.pair_energy(vectors.norm(dim=1)).double()
            energies = (-0.1 * graph.z.double()).index_add(0, center, pair)
            if self.flaw == "extensive":
                energies = energies * (1 + 0.01 * len(graph.z))
            if self.flaw == "nan":
                energies = energies + float("nan")
            total = energies.sum()
            (grad,) = torch.autograd.grad(total, vectors) if len(vectors) else (torch.zeros(0, 3),)
        grad = grad.double() * (-1.0 if self.flaw == "sign" else 1.0)
        if self.flaw == "direct":
            grad = grad * (1 + 0.3 * vectors.detach()[:, :1] ** 2)
        size = graph.cell.shape[0]
        out = {"energy": torch.zeros(size, dtype=torch.float64).index_add(0, batch, energies)}
        out["energies"] = energies
        zero = torch.zeros(len(graph.z), 3, dtype=torch.float64)
        out["forces"] = zero.index_add(0, center, grad).index_add(0, neighbor, -grad)
        if self.flaw == "rotation":
            out["forces"] = out["forces"] * torch.tensor([1.0, 1.0, 1.01])
        if stress:
            outer = vectors.detach().double()[:, :, None] * grad[:, None, :]
            virial = torch.zeros(size, 3, 3, dtype=torch.float64).index_add(0, batch[center], outer)
            out["stress"] = virial / torch.linalg.det(graph.cell).abs()[:, None, None]
        return {k: v.detach() for k, v in out.items()}

    def predict(self, atoms, *, forces=True, stress=True, max_atoms=2000):
        results = []
        for a in [atoms] if isinstance(atoms, Atoms) else atoms:
            volume = bool(a.pbc.all()) and a.cell.rank == 3 and stress and self.conservative
            out = self(graph_from_ase(a, self.cutoff), forces=True, stress=volume)
            results.append(
                Prediction(
                    energy=float(out["energy"][0]),
                    energies=out["energies"].numpy(),
                    forces=out["forces"].numpy(),
                    stress=full_3x3_to_voigt_6_stress(out["stress"][0].numpy()) if volume else None,
                )
            )
        return results


@pytest.fixture
def make_potential():
    return MorsePotential


@pytest.fixture
def potential():
    return MorsePotential()


@pytest.fixture
def crystal():
    """A rattled, strained copper-like crystal of 8 atoms."""
    atoms = bulk("Cu", "fcc", a=3.8) * (2, 2, 2)
    strain = np.array([[1.01, 0.004, 0.0], [0.004, 0.99, 0.006], [0.0, 0.006, 1.0]])
    atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
    atoms.rattle(0.08, seed=3)
    return atoms


@pytest.fixture
def molecule():
    """Four atoms without a cell."""
    return Atoms("CuLiClCu", positions=[[0, 0, 0], [2.9, 0, 0], [0.1, 2.8, 0], [0.2, 0.3, 2.7]])
