"""The loss: masked sums and counts per term, so that it is the same on one process or on many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import nn
from torch_geometric.data import Data

from atomml.graph import atoms_per_graph
from atomml.shapes import Bool, Float, Float64, Tensor, ndarray
from atomml.training.config import AnyLossConfig, LikelihoodConfig, LossConfig

__all__ = [
    "TERMS",
    "combine",
    "has_lattice",
    "loss_sums",
    "penalty",
    "residuals",
    "vanish_by_symmetry",
    "weights_of",
]

TERMS = ("energy", "forces", "stress")
NO_FORCE, NO_LABEL = 1e-4, 1e-2  # eV/Å

_Array = TypeVar("_Array", Tensor, ndarray)


def penalty(x: Float[Tensor, "*shape"], kind: str, delta: float) -> Float[Tensor, "*shape"]:
    """ρ(x): x² (``mse``), |x| (``l1``), or ``huber``: x²/2 for |x| < δ, δ(|x| − δ/2) beyond."""
    if kind == "mse":
        return x * x
    if kind == "l1":
        return x.abs()
    return nn.functional.huber_loss(x, torch.zeros_like(x), reduction="none", delta=delta)


def has_lattice(graph: Data) -> Bool[Tensor, " graphs"]:
    """Graphs for which stress is defined: periodic in three directions with a cell of non-zero volume."""
    return graph.pbc.all(dim=-1) & (torch.linalg.det(graph.cell).abs() > 0)


def residuals(
    prediction: Mapping[str, Tensor], graph: Data
) -> dict[str, tuple[Float64[Tensor, " values"], Bool[Tensor, " values"]]]:
    """Prediction − label and the mask of labels that exist, flat, for every quantity in ``prediction``.

    Energy is per atom (eV/atom), forces by component (eV/Å), stress by component (eV/Å³). Where the label is
    absent (NaN) the difference is 0 and carries no gradient; a NaN prediction stays a NaN.
    """
    out: dict[str, tuple[Tensor, Tensor]] = {}
    n_atoms = atoms_per_graph(graph)
    for term in TERMS:
        if term not in prediction:
            continue
        label, value = getattr(graph, term), prediction[term]
        mask = torch.isfinite(label)
        if term == "stress":
            mask = mask & has_lattice(graph)[:, None, None]
        difference = torch.where(mask, value - torch.where(mask, label, 0.0), 0.0)
        if term == "energy":
            difference = difference / n_atoms
        out[term] = (difference.reshape(-1), mask.reshape(-1))
    return out


def vanish_by_symmetry(forces: _Array, labels: _Array) -> _Array:
    """Atoms [N] that have no force [N, 3] in eV/Å because symmetry forbids it: in an ideal crystal, or alone.

    There a conservative network is right whatever its weights are. Such errors say nothing about the others, and the
    likelihood of a Gaussian that is fitted to them grows without bound. Rounding leaves some 10⁻⁵ eV/Å of a
    forbidden force, and labels leave more.
    """
    found: _Array = (abs(forces) < NO_FORCE).all(1) & (abs(labels) < NO_LABEL).all(1)  # type: ignore[assignment]
    return found


def loss_sums(
    prediction: Mapping[str, Tensor],
    graph: Data,
    config: LossConfig,
    factors: Float64[Tensor, "sets 3"] | None = None,
) -> tuple[Float64[Tensor, " 3"], Float64[Tensor, " 3"]]:
    """Σ ρ(residual) and the number of labels, for energy, forces and stress; both zero for an absent term.

    With ``factors`` every ρ is multiplied by the factor of its term and of its graph's set
    (``graph.set_number``); the labels are counted as before.
    """
    delta = {"energy": config.delta_energy, "forces": config.delta_forces, "stress": config.delta_stress}
    zero = torch.zeros((), dtype=torch.float64, device=graph.pos.device)
    sums, counts = [zero] * 3, [zero] * 3
    for term, (difference, mask) in residuals(prediction, graph).items():
        k = TERMS.index(term)
        each = penalty(difference, config.kind, delta[term])
        if factors is not None:
            each = each * _factor_of_values(factors[:, k], graph, term).to(each.dtype)
        sums[k] = each.sum().to(torch.float64)
        counts[k] = mask.sum().to(torch.float64)
    return torch.stack(sums), torch.stack(counts)


def weights_of(config: AnyLossConfig, device: torch.device | str = "cpu") -> Float64[Tensor, " 3"]:
    """Weights of energy, forces and stress; 1 where `atomml.training.likelihood` has put them into the sums."""
    if isinstance(config, LikelihoodConfig):
        return torch.ones(3, dtype=torch.float64, device=torch.device(device))
    return torch.tensor(
        [config.energy, config.forces, config.stress], dtype=torch.float64, device=torch.device(device)
    )


def combine(
    sums: Float64[Tensor, " 3"], counts: Float64[Tensor, " 3"], weights: Float64[Tensor, " 3"]
) -> Float64[Tensor, ""]:
    """L = Σ_t weight_t · sum_t / count_t, where a term without labels in this batch adds nothing.

    With ``counts`` summed over all processes and ``sums`` of this process only, the sum of the losses (and of
    their gradients) over the processes is that of the joint batch.
    """
    return (weights * sums / counts.clamp(min=1.0)).sum()


def _factor_of_values(factor: Float64[Tensor, " sets"], graph: Data, term: str) -> Float64[Tensor, " values"]:
    """The factor of each value of a term, in the order of `residuals`."""
    per_graph = factor[graph.set_number]
    if term == "energy":
        return per_graph
    return per_graph.repeat_interleave(9) if term == "stress" else per_graph[graph.batch].repeat_interleave(3)
