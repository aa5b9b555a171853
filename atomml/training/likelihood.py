"""The likelihood of the labels as a loss: masked sums and counts per term, as `atomml.training.loss` has them.

    −log p = ½ [dᵀ Σ⁻¹ d + log det Σ]

teaches two things: the deviations Σ, for given errors d, and the mean, for given Σ. During the warm-up, and with
``balance: mean`` afterwards, the two are taught apart,

    L = weight · ½ [d̄ᵀ Σ⁻¹ d̄ + log det Σ] + weight of the mean · ρ(d),            d̄ without gradient,

with ρ the loss ``mean`` in the warm-up and, afterwards, ρ(d) = ½ dᵀ W d per component with W = Σ̄⁻¹ (σ̄²)^β ⟨σ̄²⟩^(1−β):
the likelihood's weighting of the errors among each other in the units of ``mean``. Otherwise the energies, known to
10 meV, outweigh forces known to 50 meV/Å many times over, the gradient grows by 1/σ² when the warm-up ends, and
the forces get worse. Optimal Σ and the optimum of the mean for given Σ are the same for any such scaling.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, cast

import torch
from torch_geometric.data import Data

from atomml.graph import atoms_per_graph, graph_of_atoms
from atomml.shapes import Bool, Float64, Tensor
from atomml.training.config import LikelihoodConfig
from atomml.training.loss import TERMS, penalty, residuals, vanish_by_symmetry
from atomml.uncertainty.likelihood import energy_nll, force_nll, stress_nll

__all__ = ["Labels", "Phase", "labels_of", "likelihood_sums", "phase_of"]

Phase = Literal["warmup", "joint", "validation"]
"""``warmup``: errors alone teach the mean; ``joint``: the likelihood; ``validation``: its plain value."""


class Labels(NamedTuple):
    """Errors of one quantity: of structures [B], atoms [N, 3] or structures [B, 3, 3], and which of them count."""

    term: str
    error: Float64[Tensor, "values ..."]
    mask: Bool[Tensor, " values"]
    graph: Tensor
    n_atoms: Tensor


def phase_of(config: LikelihoodConfig, progress: float) -> Phase:
    """What a step does when ``progress`` (0 to 1) of the training is done."""
    return "warmup" if progress < config.warmup else "joint"


def likelihood_sums(
    prediction: Mapping[str, Tensor],
    graph: Data,
    config: LikelihoodConfig,
    factors: Float64[Tensor, "sets 3"] | None = None,
    *,
    phase: Phase = "validation",
) -> tuple[Float64[Tensor, " 3"], Float64[Tensor, " 3"]]:
    """Σ of the weighted loss and the number of labelled structures, atoms and structures, for `loss.combine`.

    With ``normalization: structure`` all counts are the number of structures. ``factors`` as in `loss.loss_sums`.
    """
    zero = torch.zeros((), dtype=torch.float64, device=graph.pos.device)
    sums, counts = [zero] * 3, [zero] * 3
    whole = config.normalization == "structure"
    for k, term in enumerate(TERMS):
        if term not in prediction:
            continue
        labels = labels_of(term, prediction[term], graph)
        values = _loss(labels, prediction, config, phase)
        if factors is not None:
            values = values * factors[graph.set_number[labels.graph], k]
        sums[k] = values.sum()
        counts[k] = torch.full_like(zero, graph.num_graphs) if whole else labels.mask.sum().to(torch.float64)
    return torch.stack(sums), torch.stack(counts)


def labels_of(term: str, value: Tensor, graph: Data) -> Labels:
    """Errors of a prediction of ``term``: energies in eV, forces and stress with all components of their labels.

    Forces that `vanish_by_symmetry` do not count.
    """
    error, mask = residuals({term: value}, graph)[term]
    owner = graph_of_atoms(graph) if term == "forces" else torch.arange(graph.num_graphs, device=error.device)
    n_atoms = atoms_per_graph(graph).to(error.dtype)
    if term == "energy":
        return Labels(term, error * n_atoms, mask, owner, n_atoms)
    shape = (-1, 3) if term == "forces" else (-1, 3, 3)
    known = mask.reshape(shape).flatten(1).all(1)
    if term == "forces":
        known = known & ~vanish_by_symmetry(value.detach(), graph.forces)
    # with one component missing there is no likelihood; the others must not count either
    error = torch.where(known.reshape(-1, *[1] * (len(shape) - 1)), error.reshape(shape), 0.0)
    return Labels(term, error, known, owner, n_atoms)


def _loss(
    labels: Labels, prediction: Mapping[str, Tensor], config: LikelihoodConfig, phase: Phase
) -> Float64[Tensor, " values"]:
    """Weighted loss of each structure or atom."""
    weight, mean_weight = getattr(config, labels.term), getattr(config.mean, labels.term)
    apart = phase == "warmup" or (phase == "joint" and config.balance == "mean")
    beta = config.beta if phase == "joint" and not apart else 0.0
    nll = _nll(labels, prediction, config, detach=apart, beta=beta)
    if nll is None:
        return mean_weight * _penalty(labels, config)
    if not apart:
        return weight * nll
    mean = _penalty(labels, config) if phase == "warmup" else _weighted(labels, prediction, config.beta)
    return weight * nll + mean_weight * mean


def _nll(
    labels: Labels, prediction: Mapping[str, Tensor], config: LikelihoodConfig, *, detach: bool, beta: float
) -> Tensor | None:
    """−log p of each structure or atom; None where the network predicts no deviation."""
    term, error, mask = labels.term, labels.error, labels.mask
    if term == "energy" and (variance := _energy_variance(prediction)) is not None:
        return energy_nll(error, variance, lambda_=config.lambda_energy, mask=mask, detach=detach, beta=beta)
    if term == "forces" and "forces_precision" in prediction:
        precision, log_det = prediction["forces_precision"], prediction["forces_log_det"]
        return force_nll(
            error, precision, log_det, lambda_=config.lambda_forces, mask=mask, detach=detach, beta=beta
        )
    if term == "stress" and "stress_var" in prediction:
        return stress_nll(error, prediction["stress_var"], mask=mask, detach=detach, beta=beta)
    return None


def _penalty(labels: Labels, config: LikelihoodConfig) -> Float64[Tensor, " values"]:
    """ρ of the energy per atom, and mean ρ over the components of a force or a stress."""
    per_atom = labels.error / labels.n_atoms if labels.term == "energy" else labels.error
    each = penalty(per_atom, config.mean.kind, getattr(config.mean, f"delta_{labels.term}"))
    return each if each.ndim == 1 else each.flatten(1).mean(1)


def _weighted(labels: Labels, prediction: Mapping[str, Tensor], beta: float) -> Float64[Tensor, " values"]:
    """½ dᵀ W d per component with W = Σ⁻¹ (σ̄²)^β ⟨σ̄²⟩^(1−β), which has no gradient; energies per atom."""
    error, mask = labels.error, labels.mask
    if labels.term == "forces":
        precision = prediction["forces_precision"].detach()
        quadratic = torch.einsum("ni,nij,nj->n", error, precision, error) / 3
        variance = prediction["forces_cov"].detach().diagonal(dim1=1, dim2=2).mean(1)
    elif labels.term == "energy":
        variance = cast(Tensor, _energy_variance(prediction)).detach() / labels.n_atoms**2
        quadratic = (error / labels.n_atoms).square() / variance
    else:
        both = prediction["stress_var"].detach()
        trace = error.diagonal(dim1=1, dim2=2).sum(1).square() / 3
        quadratic = (trace / both[:, 0] + (error.square().sum((1, 2)) - trace) / both[:, 1]) / 9
        variance = (both[:, 0] + 5 * both[:, 1]) / 6
    typical = torch.where(mask, variance, 0.0).sum() / mask.sum().clamp(min=1)
    return 0.5 * quadratic * variance**beta * typical ** (1 - beta)


def _energy_variance(prediction: Mapping[str, Tensor]) -> Tensor | None:
    """Variance of the energy in eV²: what the network predicts plus the spread of its heads."""
    noise, members = prediction.get("energy_var"), prediction.get("energy_members")
    if members is None:
        return noise
    spread = members.var(1, correction=0)
    return spread if noise is None else noise + spread
