"""`Potential`: a network body with reference energies, units, forces and stress."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress
from torch import nn
from torch_geometric.data import Batch, Data

from atomml.errors import UnsupportedError
from atomml.graph.atom_graph import EdgeIndex, edge_index_of, edge_vectors, graph_from_ase
from atomml.kernels.cp_factors import CPFactors
from atomml.nn.constants import ConstantModule
from atomml.potentials.config import ModelConfig
from atomml.potentials.prediction import Prediction
from atomml.shapes import Float, Float64, Int64, Tensor

__all__ = ["Potential"]


class _References(ConstantModule):
    """Reference energies E0 in eV by species, never rounded below float64."""

    e0: Tensor

    def __init__(self, e0: Sequence[float]) -> None:
        super().__init__()
        self.add_constant("e0", np.asarray(e0, dtype=np.float64), always_float64=True)


class Potential(nn.Module):
    """E = Σ_i (E0[z_i] + scale · ε_i) with ε from the body, F = −∂E/∂r, σ = (1/V) ∂E/∂strain.

    Energies are summed in float64. Forces and stress come from one derivative with respect to the edge vectors
    r_ij = r_j − r_i: with g_ij = ∂E/∂r_ij,

        F_i = Σ_{e: centre i} g_e − Σ_{e: neighbour i} g_e,      σ = (1/V) Σ_e sym(r_e ⊗ g_e).

    Attributes:
        config: the configuration of the body.
        elements: atomic numbers that the model knows, in the order of its species.
        average_neighbors: constant that the body was built with.
        scale: eV per unit of the body's energy.
        factors: the CP factors of its tensor products, by their role.
        metadata: header of the model file that it came from.
    """

    def __init__(
        self,
        body: nn.Module,
        config: ModelConfig,
        *,
        elements: Sequence[int],
        e0: Sequence[float],
        scale: float,
        average_neighbors: float,
        factors: Mapping[str, CPFactors],
        repulsion: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.body, self.config, self.repulsion = body, config, repulsion
        self.elements = tuple(int(z) for z in elements)
        self.references = _References(e0)
        self.scale, self.average_neighbors = float(scale), float(average_neighbors)
        self.factors = dict(factors)
        self.metadata: dict[str, Any] = {}
        species = torch.full((len(chemical_symbols),), -1, dtype=torch.int64)
        species[list(self.elements)] = torch.arange(len(self.elements))
        self.species_of_z: Tensor
        self.register_buffer("species_of_z", species, persistent=False)

    @property
    def cutoff(self) -> float:
        """Radius of the neighbour graph in Å."""
        return self.config.cutoff

    @property
    def conservative(self) -> bool:
        """Whether forces are the derivative of the energy."""
        return bool(self.body.conservative)

    @property
    def e0(self) -> dict[int, float]:
        """Reference energies in eV by atomic number."""
        return dict(zip(self.elements, self.references.e0.tolist(), strict=True))

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def forward(
        self, graph: Data, *, forces: bool = True, stress: bool = False, create_graph: bool = False
    ) -> dict[str, Tensor]:
        """Evaluate a graph or a batch of B graphs with N atoms.

        Returns:
            ``energy`` [B] eV, ``energies`` [N] eV, ``features`` [N, C] and, when asked for, ``forces`` [N, 3]
            eV/Å and ``stress`` [B, 3, 3] eV/Å³ (NaN for a graph that is not periodic in three directions);
            all but the features float64. With ``create_graph`` the derivatives can be differentiated.

        Raises:
            UnsupportedError: an element the model does not know; stress from a direct-force model.
        """
        if stress and not self.conservative:
            raise UnsupportedError("A model with direct forces has no stress.", fix="ask for forces only")
        species = self._species(graph.z)
        index = edge_index_of(graph)
        batch = (
            graph.batch if hasattr(graph, "batch") and graph.batch is not None else torch.zeros_like(species)
        )
        derive = self.conservative and (forces or stress)
        with torch.enable_grad() if derive else torch.set_grad_enabled(torch.is_grad_enabled()):
            vectors = edge_vectors(graph).to(self.dtype).detach().requires_grad_(derive)
            energies, features, direct = self._energies(species, vectors, index, batch, len(graph.cell))
            out = {"energies": energies, "features": features}
            out["energy"] = energies.new_zeros(len(graph.cell)).index_add(0, batch, energies)
            if derive:
                pair = _pair_forces(energies, vectors, create_graph)
        if forces:
            out["forces"] = _forces(pair, index, len(species)) if direct is None else direct.double()
        if stress:
            out["stress"] = _stress(pair, vectors.double(), batch[index.center], graph)
        return out if create_graph or torch.is_grad_enabled() else {k: v.detach() for k, v in out.items()}

    def predict(
        self,
        atoms: Atoms | Sequence[Atoms],
        *,
        forces: bool = True,
        stress: bool = True,
        max_atoms: int = 2000,
    ) -> list[Prediction]:
        """Energy, forces and stress of one structure or many, evaluated in batches of at most ``max_atoms``.

        Returns:
            One `Prediction` for each structure; ``stress`` is None where there is no three-dimensional cell,
            or where the model has none.

        Raises:
            UnsupportedError: an element the model does not know.
            DataError: a structure that is not one (NaN, no atoms, impossible cell).
        """
        structures = [atoms] if isinstance(atoms, Atoms) else list(atoms)
        stress = stress and self.conservative
        return [
            prediction
            for chunk in _chunks(structures, max_atoms)
            for prediction in self._predict_batch(chunk, forces, stress)
        ]

    def _evaluate(self, structures: list[Atoms], forces: bool, stress: bool) -> dict[str, Any]:
        """Arrays of a batch of structures, named as the tensors of `forward`."""
        graph = Batch.from_data_list([graph_from_ase(a, self.cutoff) for a in structures]).to(self.device)
        with torch.no_grad():
            return {k: v.cpu().numpy() for k, v in self(graph, forces=forces, stress=stress).items()}

    def _predict_batch(self, structures: list[Atoms], forces: bool, stress: bool) -> Iterator[Prediction]:
        out = self._evaluate(structures, forces, stress)
        ends = np.cumsum([len(a) for a in structures])
        for k, (end, a) in enumerate(zip(ends, structures, strict=True)):
            rows = slice(end - len(a), end)
            yield Prediction(
                energy=float(out["energy"][k]),
                energies=out["energies"][rows],
                forces=out["forces"][rows] if forces else None,
                stress=full_3x3_to_voigt_6_stress(out["stress"][k])
                if stress and a.cell.rank == 3 and a.pbc.all()
                else None,
            )

    def _energies(
        self, species: Tensor, vectors: Tensor, index: EdgeIndex, batch: Tensor, n_graphs: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Atomic energies in eV (float64), features, and direct forces if the body has them."""
        body = self.body(species, vectors, index)
        energies = self.scale * body.energies.double()
        if self.body.intensive:
            energies = energies * torch.bincount(batch, minlength=n_graphs)[batch]
        if self.repulsion is not None:
            energies = energies + self.repulsion(vectors.norm(dim=1), species, index).double()
        return energies + self.references.e0[species], body.features, body.forces

    def _species(self, z: Int64[Tensor, " atoms"]) -> Int64[Tensor, " atoms"]:
        species = self.species_of_z[z]
        if bool((species < 0).any()):
            unknown = sorted({chemical_symbols[k] for k in z[species < 0].tolist()})
            raise UnsupportedError(
                f"This model does not know {', '.join(unknown)}.",
                fix=f"it was trained for {', '.join(chemical_symbols[k] for k in self.elements)}",
            )
        return species


def _pair_forces(
    energies: Float64[Tensor, " atoms"], vectors: Float[Tensor, "edges 3"], create_graph: bool
) -> Float64[Tensor, "edges 3"]:
    """g_e = ∂(Σ_i E_i)/∂r_e; zero where nothing depends on an edge."""
    if len(vectors) == 0:
        return vectors.double()
    (gradient,) = torch.autograd.grad(energies.sum(), vectors, create_graph=create_graph)
    return gradient.double()


def _forces(pair: Float64[Tensor, "edges 3"], index: EdgeIndex, n_atoms: int) -> Float64[Tensor, "atoms 3"]:
    zero = pair.new_zeros((n_atoms, 3))
    return zero.index_add(0, index.center, pair).index_add(0, index.neighbor, -pair)


def _stress(
    pair: Float64[Tensor, "edges 3"],
    vectors: Float64[Tensor, "edges 3"],
    graph_of_edge: Int64[Tensor, " edges"],
    graph: Data,
) -> Float64[Tensor, "graphs 3 3"]:
    outer = vectors[:, :, None] * pair[:, None, :]
    virial = pair.new_zeros((len(graph.cell), 3, 3)).index_add(0, graph_of_edge, outer)
    volume = torch.linalg.det(graph.cell).abs()
    periodic = graph.pbc.all(1) & (volume > 0)
    # dividing by a harmless number first keeps NaN out of the derivatives of the periodic graphs
    stress = 0.5 * (virial + virial.transpose(1, 2)) / torch.where(periodic, volume, 1.0)[:, None, None]
    return torch.where(periodic[:, None, None], stress, torch.nan)


def _chunks(structures: list[Atoms], max_atoms: int) -> Iterator[list[Atoms]]:
    chunk: list[Atoms] = []
    for atoms in structures:
        if chunk and sum(map(len, chunk)) + len(atoms) > max_atoms:
            yield chunk
            chunk = []
        chunk.append(atoms)
    if chunk:
        yield chunk
