"""`Potential`: a network body with reference energies, units, forces and stress."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import nn
from torch_geometric.data import Data

from atomml.errors import UnsupportedError
from atomml.graph.atom_graph import EdgeIndex, edge_index_of, edge_vectors, graph_of_atoms
from atomml.kernels.cp_factors import CPFactors
from atomml.nn.constants import ConstantModule
from atomml.nn.noise import NoiseHeads
from atomml.potentials.body import BodyOutput
from atomml.potentials.config import ModelConfig
from atomml.potentials.noise_config import HeadsConfig
from atomml.potentials.predictor import Predictor
from atomml.shapes import Float, Float64, Int64, Tensor

__all__ = ["Potential"]

FIRST_SPREAD = 0.1
"""Size of what the heads of an untrained shallow ensemble differ by, in units of the scale."""


class _References(ConstantModule):
    """Reference energies E0 in eV by species, never rounded below float64."""

    e0: Tensor

    def __init__(self, e0: Sequence[float]) -> None:
        super().__init__()
        self.add_constant("e0", np.asarray(e0, dtype=np.float64), always_float64=True)


class Potential(Predictor):
    """E = Σ_i (E0[z_i] + scale · ε_i) with ε from the body, F = −∂E/∂r, σ = (1/V) ∂E/∂strain.

    Energies are summed in float64. Forces and stress come from one derivative with respect to the edge vectors
    r_ij = r_j − r_i: with g_ij = ∂E/∂r_ij,

        F_i = Σ_{e: centre i} g_e − Σ_{e: neighbour i} g_e,      σ = (1/V) Σ_e sym(r_e ⊗ g_e).

    With K > 1 ``heads`` the network is a shallow ensemble: its members have the energies

        ε_k = ε + features · (spread_k − mean over k of spread)

    around the body's, so that their mean is ε whatever ``spread`` [P, K] has learnt. Mean and spread have weights of
    their own: where they share them, Adam's steps follow the larger gradient, that of the spread.

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
        noise: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.body, self.config, self.repulsion, self.noise = body, config, repulsion, noise
        self.elements = tuple(int(z) for z in elements)
        self.references = _References(e0)
        self.scale, self.average_neighbors = float(scale), float(average_neighbors)
        self.factors = dict(factors)
        self.metadata: dict[str, Any] = {}
        self.spread: nn.Parameter | None = None
        if self.heads > 1:
            size = len(self.last_layer())
            self.spread = nn.Parameter(FIRST_SPREAD / math.sqrt(size) * torch.randn(size, self.heads))
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

    @property
    def heads(self) -> int:
        """Number of energy heads."""
        return self.config.heads if isinstance(self.config, HeadsConfig) else 1

    def last_layer(self) -> Float[Tensor, " features"]:
        """Weights w of the last linear layer: the energies are scale · (bias + features · w).

        Raises:
            UnsupportedError: a network without such a layer.
        """
        if not hasattr(self.body, "last_layer"):
            raise UnsupportedError(
                f"A network of kind {self.config.kind} has no linear last layer.", fix="use kind: tdn or race"
            )
        return cast(Any, self.body).last_layer()

    def forward(
        self,
        graph: Data,
        *,
        forces: bool = True,
        stress: bool = False,
        create_graph: bool = False,
        noise_feedback: float = 1.0,
        along: Float[Tensor, "features directions"] | None = None,
    ) -> dict[str, Tensor]:
        """Evaluate a graph or a batch of B graphs with N atoms.

        Args:
            graph: structures with their neighbours.
            forces: compute them.
            stress: compute it.
            create_graph: let the derivatives be differentiated.
            noise_feedback: factor of the gradient that passes from the predicted deviations, and from what heads
                differ in, to the body.
            along: directions d_r [P, R] in the space of the last layer's weights: the energies scale · Σ_i f_i·d_r
                and their derivatives, one more backward pass for each, are added as ``energies_along`` [N, R],
                ``forces_along`` [R, N, 3] and ``stress_along`` [R, B, 3, 3].

        Returns:
            ``energy`` [B] eV, ``energies`` [N] eV, ``features`` [N, P] and, when asked for, ``forces`` [N, 3]
            eV/Å and ``stress`` [B, 3, 3] eV/Å³ (NaN for a graph that is not periodic in three directions);
            all but the features float64. ``energy_members`` [B, K] and ``energies_members`` [N, K] for several heads.
            With predicted deviations ``energy_var`` [B], ``energies_var`` [N], ``stress_var`` [B, 2] and
            ``forces_cov``, ``forces_precision`` [N, 3, 3], ``forces_log_det`` [N]; see `atomml.nn.noise`.

        Raises:
            UnsupportedError: an element the model does not know; stress from a direct-force model, or ``along``.
        """
        if along is not None:
            self.last_layer()  # refuses a network without one
        if stress and not self.conservative:
            raise UnsupportedError("A model with direct forces has no stress.", fix="ask for forces only")
        species = self._species(graph.z)
        structure = _Structure(
            species,
            edge_index_of(graph),
            graph_of_atoms(graph),
            graph,
        )
        derive = self.conservative and (forces or stress)
        with torch.enable_grad() if derive else torch.set_grad_enabled(torch.is_grad_enabled()):
            vectors = edge_vectors(graph).to(self.dtype).detach().requires_grad_(derive)
            energies, body = self._energies(structure, vectors)
            out = {"energies": energies, "features": body.features, "energy": structure.sums(energies)}
            if self.heads > 1:
                members = energies[:, None] + self._off_mean(body.features, noise_feedback)
                out |= {"energies_members": members, "energy_members": structure.sums(members)}
            projected = (
                None if along is None else self.scale * (body.features @ along.to(self.dtype)).double()
            )
            if derive:
                pair = _pair_forces(energies, vectors, create_graph, keep=projected is not None)
            if projected is not None:
                out |= _derivatives_along(projected, vectors, structure, forces, stress)
        if forces:
            out["forces"] = structure.forces(pair) if body.forces is None else body.forces.double()
        if stress:
            out["stress"] = structure.stress(pair, vectors)
        if self.noise is not None:
            out |= self._noise(body, structure, noise_feedback)
        return out if create_graph or torch.is_grad_enabled() else {k: v.detach() for k, v in out.items()}

    def _off_mean(self, features: Tensor, feedback: float) -> Float64[Tensor, "atoms heads"]:
        """Energies of the heads less their mean, in eV."""
        spread = cast(Tensor, self.spread)
        return self.scale * (_scaled_gradient(features, feedback) @ (spread - spread.mean(1, True))).double()

    def _noise(self, body: BodyOutput, structure: _Structure, feedback: float) -> dict[str, Tensor]:
        layers = [_scaled_gradient(x, feedback) for x in body.layers]
        noise = cast(NoiseHeads, self.noise)(
            layers, structure.species, structure.batch, len(structure.graph.cell)
        )
        return {
            "energy_var": noise.energy_var,
            "energies_var": noise.energies_var,
            "forces_cov": noise.forces.covariance,
            "forces_precision": noise.forces.precision,
            "forces_log_det": noise.forces.log_det,
            "stress_var": noise.stress_var,
        }

    def _energies(
        self, structure: _Structure, vectors: Tensor
    ) -> tuple[Float64[Tensor, " atoms"], BodyOutput]:
        """Atomic energies in eV, and what the body says in its own units."""
        species, index = structure.species, structure.index
        body: BodyOutput = self.body(species, vectors, index)
        energies = self.scale * body.energies.double()
        if self.body.intensive:
            energies = (
                energies
                * torch.bincount(structure.batch, minlength=len(structure.graph.cell))[structure.batch]
            )
        if self.repulsion is not None:
            energies = energies + self.repulsion(vectors.norm(dim=1), species, index).double()
        return energies + self.references.e0[species], body

    def _species(self, z: Int64[Tensor, " atoms"]) -> Int64[Tensor, " atoms"]:
        species = self.species_of_z[z]
        if bool((species < 0).any()):
            unknown = sorted({chemical_symbols[k] for k in z[species < 0].tolist()})
            raise UnsupportedError(
                f"This model does not know {', '.join(unknown)}.",
                fix=f"it was trained for {', '.join(chemical_symbols[k] for k in self.elements)}",
            )
        return species


@dataclass(frozen=True)
class _Structure:
    """A batch: species and graph of each atom, pairs, and how derivatives with respect to pairs become others."""

    species: Int64[Tensor, " atoms"]
    index: EdgeIndex
    batch: Int64[Tensor, " atoms"]
    graph: Data

    def sums(self, x: Float64[Tensor, "atoms ..."]) -> Float64[Tensor, "graphs ..."]:
        """Σ_i x_i over the atoms of each graph."""
        return x.new_zeros((len(self.graph.cell), *x.shape[1:])).index_add(0, self.batch, x)

    def forces(self, pair: Float64[Tensor, "edges 3"]) -> Float64[Tensor, "atoms 3"]:
        zero = pair.new_zeros((len(self.species), 3))
        return zero.index_add(0, self.index.center, pair).index_add(0, self.index.neighbor, -pair)

    def stress(
        self, pair: Float64[Tensor, "edges 3"], vectors: Float[Tensor, "edges 3"]
    ) -> Float64[Tensor, "graphs 3 3"]:
        graph = self.graph
        outer = vectors.double()[:, :, None] * pair[:, None, :]
        virial = pair.new_zeros((len(graph.cell), 3, 3)).index_add(0, self.batch[self.index.center], outer)
        volume = torch.linalg.det(graph.cell).abs()
        periodic = graph.pbc.all(1) & (volume > 0)
        # dividing by a harmless number first keeps NaN out of the derivatives of the periodic graphs
        stress = 0.5 * (virial + virial.transpose(1, 2)) / torch.where(periodic, volume, 1.0)[:, None, None]
        return torch.where(periodic[:, None, None], stress, torch.nan)


def _scaled_gradient(x: Float[Tensor, "*shape"], factor: float) -> Float[Tensor, "*shape"]:
    """The same numbers, with ``factor`` times their gradient."""
    if factor == 1.0:
        return x
    return x.detach() if factor == 0.0 else x.detach() + factor * (x - x.detach())


def _pair_forces(
    energies: Float64[Tensor, " atoms"], vectors: Float[Tensor, "edges 3"], create_graph: bool, *, keep: bool
) -> Float64[Tensor, "edges 3"]:
    """g_e = ∂(Σ_i E_i)/∂r_e; zero where nothing depends on an edge. ``keep``: there are more derivatives to come."""
    if len(vectors) == 0:
        return vectors.double()
    (gradient,) = torch.autograd.grad(
        energies.sum(), vectors, create_graph=create_graph, retain_graph=create_graph or keep
    )
    return gradient.double()


def _derivatives_along(
    projected: Float64[Tensor, "atoms directions"],
    vectors: Float[Tensor, "edges 3"],
    structure: _Structure,
    forces: bool,
    stress: bool,
) -> dict[str, Tensor]:
    """Energies, forces and stress of each column of ``projected``."""
    out = {"energies_along": projected}
    if not (forces or stress):
        return out
    pairs = [_pair_forces(column, vectors, False, keep=True) for column in projected.T]
    if forces:
        out["forces_along"] = torch.stack([structure.forces(pair) for pair in pairs])
    if stress:
        out["stress_along"] = torch.stack([structure.stress(pair, vectors) for pair in pairs])
    return out
