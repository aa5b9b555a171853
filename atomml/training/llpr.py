"""Last-layer prediction rigidity after a training: the posterior of the last linear layer from the training frames.

With rows φ = s Σ_i f_i / N for the energy per atom of a structure and φ = −s ∂(Σ_i f_i)/∂r for a component of a
force (s: eV per unit of the body's energy), each divided by the RMS error of its kind on these frames,

    G = Σ φ φᵀ,      Cov(W) = (G + ς² 1)⁻¹.

Source: Bigi, Chong, Ceriotti, Grasselli, Mach. Learn.: Sci. Technol. 5, 045018 (2024); the rows of forces are added
because a covariance from energies alone says little about forces.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch_geometric.data import Data

from atomml.graph import atoms_per_graph
from atomml.potentials import Potential
from atomml.shapes import Float64, Tensor
from atomml.uncertainty.last_layer import GramAccumulator, posterior_factor
from atomml.uncertainty.posterior import LastLayer

__all__ = ["estimated_scales", "fit_llpr"]

FRAMES_FOR_SCALES = 30
CHUNK = 64  # directions in one evaluation, which bounds the memory of their derivatives


def fit_llpr(
    potential: Potential,
    graphs: Callable[[], Iterable[Data]],
    force_graphs: Iterable[Data],
    say: Callable[[object], None],
) -> LastLayer:
    """The posterior of the last layer of ``potential``.

    Args:
        potential: trained.
        graphs: batches of all training frames, anew at each call.
        force_graphs: batches whose forces enter as well.
        say: prints.
    """
    force_graphs = list(force_graphs)
    size = potential.last_layer().shape[0]
    gram = GramAccumulator(size, potential.device)
    energy_error, force_error = _errors(potential, graphs())
    for graph in graphs():
        with torch.no_grad():
            out = potential(graph, forces=False)
        known = torch.isfinite(graph.energy)
        summed = _summed(out["features"].double() * potential.scale, graph)
        gram.add_energies(summed[known], atoms_per_graph(graph)[known], 1 / energy_error**2)
    for graph in force_graphs:
        jacobian = _force_rows(potential, graph)
        gram.add(jacobian[torch.isfinite(graph.forces).flatten()], 1 / force_error**2)
    factor, regularizer = posterior_factor(gram.gram)
    say(
        f"LLPR: {size} features, {gram.rows} rows (errors {1e3 * energy_error:.3g} meV/atom, "
        f"{1e3 * force_error:.3g} meV/Å), regularizer {regularizer:.2g}"
    )
    posterior = LastLayer(potential, factor.cpu().numpy(), "llpr")
    return estimated_scales(posterior, (force_graphs or list(graphs()))[:FRAMES_FOR_SCALES])


def estimated_scales(posterior: LastLayer, graphs: Iterable[Data]) -> LastLayer:
    """The posterior with κ of every element and κ_s such that the estimated spread is the derived one on average."""
    potential = posterior.potential
    n = len(potential.elements)
    derived, estimated = torch.zeros(2, n, dtype=torch.float64)
    stress = torch.zeros(2, dtype=torch.float64)
    for graph in graphs:
        periodic = bool((graph.pbc.all(1) & (torch.linalg.det(graph.cell).abs() > 0)).any())
        options = {"forces": True, "stress": periodic, "members": False}
        exact = {k: v.detach().cpu() for k, v in posterior(graph, exact=True, **options).items()}
        species = potential.species_of_z[graph.z].cpu()
        derived.index_add_(0, species, exact["forces_cov_epistemic"].diagonal(dim1=1, dim2=2).mean(1))
        estimated.index_add_(0, species, exact["energies_var_epistemic"])
        if periodic:
            cheap = posterior(graph, exact=False, **options)["stress_var_epistemic"].detach().cpu()
            both = [x.diagonal(dim1=1, dim2=2).nansum() for x in (exact["stress_var_epistemic"], cheap)]
            stress += torch.stack([both[0], both[1] / float(posterior.per_stress) ** 2])
    common = derived.sum() / estimated.sum()
    per_force = torch.where(estimated > 0, derived / estimated.clamp(min=1e-300), common).sqrt()
    return LastLayer(
        potential,
        posterior.factor.cpu().numpy(),
        posterior.method,
        per_force=per_force.numpy(),
        per_stress=math.sqrt(stress[0] / stress[1]) if stress[1] > 0 else 1.0,
    )


def _errors(potential: Potential, graphs: Iterable[Data]) -> tuple[float, float]:
    """RMS errors of the energy per atom in eV and of a force component in eV/Å; 1 where there is no label."""
    squares = torch.zeros(2, 2, dtype=torch.float64)
    for graph in graphs:
        out = {k: v.detach() for k, v in potential(graph, forces=True).items()}
        errors = ((out["energy"] - graph.energy) / atoms_per_graph(graph), out["forces"] - graph.forces)
        for k, error in enumerate(errors):
            known = error[torch.isfinite(error)]
            squares[k] += torch.tensor([float(known.square().sum()), known.numel()], dtype=torch.float64)
    rms = [math.sqrt(total / count) if count else 1.0 for total, count in squares.tolist()]
    return rms[0], rms[1]


def _force_rows(potential: Potential, graph: Data) -> Float64[Tensor, "components features"]:
    """−s ∂(Σ_i f_i)/∂r, a row for each component of each atom."""
    size = potential.last_layer().shape[0]
    one = torch.eye(size, dtype=torch.float64, device=potential.device)
    parts = [
        potential(graph, forces=True, along=one[:, start : start + CHUNK])["forces_along"].detach()
        for start in range(0, size, CHUNK)
    ]
    return torch.cat(parts).flatten(1).T


def _summed(features: Tensor, graph: Data) -> Tensor:
    return features.new_zeros((graph.num_graphs, features.shape[1])).index_add(0, graph.batch, features)
