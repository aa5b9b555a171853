"""What is known about the weights, and the spread of the predictions that follows from it.

Every posterior maps a graph to the mean prediction and the epistemic variances around it:

    ``energy_var_epistemic`` [B], ``energies_var_epistemic`` [N], ``forces_cov_epistemic`` [N, 3, 3],
    ``stress_var_epistemic`` [B, 3, 3] by component,

beside the means and the aleatoric variances of `atomml.potentials.Potential`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import nn
from torch_geometric.data import Data

from atomml.errors import ConfigError
from atomml.graph import graph_of_atoms
from atomml.nn.constants import ConstantModule
from atomml.potentials import Potential
from atomml.shapes import Float64, Tensor, ndarray
from atomml.uncertainty.last_layer import linear_var, sample_heads
from atomml.uncertainty.predictive import Mixture, RunningMixture

__all__ = ["LastLayer", "Members", "PointEstimate", "Posterior"]

MEANS = ("energy", "energies", "forces", "stress")
DRAWS = 16
NOISE = {"energy": "energy_var", "energies": "energies_var", "forces": "forces_cov"}


@runtime_checkable
class Posterior(Protocol):
    """Mean prediction and epistemic variances of a graph."""

    method: str

    def __call__(
        self, graph: Data, *, forces: bool, stress: bool, exact: bool, members: bool
    ) -> dict[str, Tensor]:
        """``exact``: derive what could be estimated; ``members``: also the prediction of each member."""
        ...

    @property
    def potential(self) -> Potential:
        """A potential that has the elements, the cutoff and the mean weights."""
        ...


class PointEstimate(nn.Module):
    """One set of weights: nothing is known about their uncertainty."""

    method = "heads"

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential = potential

    def forward(
        self, graph: Data, *, forces: bool, stress: bool, exact: bool, members: bool
    ) -> dict[str, Tensor]:
        """The potential's own prediction."""
        return _known(self.potential(graph, forces=forces, stress=stress))


class Members(nn.Module):
    """M sets of weights of one network: a deep ensemble, or samples of a Gaussian over the weights.

    μ* = mean_m μ_m;  aleatoric = mean_m σ_m²;  epistemic C = mean_m (μ_m − μ*)(μ_m − μ*)ᵀ. The mean force is −∇ of
    the mean energy, because both are means over the same members.

    A few members span a few directions only: C of the force on an atom is singular for M ≤ 3 and far too narrow in
    some direction for M < 10. It is therefore drawn towards a sphere of the same trace, (1 − w) C + w (tr C/3) 1
    with w = 3/(M + 3), which turns with the structure as C does (for 5 members the likelihood of errors from the
    distribution of the members improves by 2.5 per atom, for 16 by 0.01).

    Args:
        potentials: at least two, with the same elements and cutoff.
        method: how they were made: ``ensemble``, ``swag``, ``ivon`` or ``laplace_diagonal``.
        stretch: factor of the members' deviations from their mean. Members whose weights were drawn 1/stretch as far
            from the mean as the posterior says give, for large stretch, the spread of the linearised network.

    Raises:
        ConfigError: one member, members that do not fit together, or a stretch that is not positive.
    """

    def __init__(
        self, potentials: Sequence[Potential], method: str = "ensemble", *, stretch: float = 1.0
    ) -> None:
        super().__init__()
        self.stretch = float(stretch)
        if len(potentials) < 2:
            raise ConfigError(
                f"An ensemble of {len(potentials)} has no spread.",
                where=method,
                fix="give two or more members",
            )
        first = potentials[0]
        for k, other in enumerate(potentials):
            if other.elements != first.elements or other.config != first.config:
                raise ConfigError(
                    f"Member {k} has other elements or another network than member 0.",
                    where=method,
                    fix="train all members with one configuration on the same elements",
                )
        if not 0.0 < self.stretch < math.inf:
            raise ConfigError(f"The stretch must be positive and finite, not {stretch}.", where=method)
        self.members, self.method = nn.ModuleList(potentials), method

    @property
    def potential(self) -> Potential:
        """The first member."""
        return self.members[0]  # type: ignore[return-value]

    def forward(
        self, graph: Data, *, forces: bool, stress: bool, exact: bool, members: bool
    ) -> dict[str, Tensor]:
        """Mean and spread of the members, evaluated one after the other.

        Raises:
            DataError: a member returns a NaN or infinity; names it.
        """
        mixtures = {
            "energy": RunningMixture(),
            "energies": RunningMixture(),
            "forces": RunningMixture(vectors=True),
            "stress": RunningMixture(undefined=_without_volume(graph)),
        }
        each: list[dict[str, Tensor]] = []
        stress_var: Tensor | float = 0.0
        for k, member in enumerate(self.members):
            one = member(graph, forces=forces, stress=stress)
            for name in (name for name in mixtures if name in one):
                mixtures[name].add(one[name], one.get(NOISE.get(name, "")))
            if "stress_var" in one:
                stress_var = stress_var + (one["stress_var"] - stress_var) / (k + 1)
            if members:
                each.append({name: one[name] for name in ("energy", "forces", "stress") if name in one})
        out = {} if isinstance(stress_var, float) else {"stress_var": stress_var}
        for name, mixture in mixtures.items():
            if mixture.count:
                out |= _moments(
                    name, mixture.result(), self.stretch, len(self.members), noisy="energy_var" in one
                )
        return out | (_members(each, out, self.stretch) if members else {})


class LastLayer(ConstantModule):
    """A Gaussian over the weights of the last linear layer, Cov(W) = A Aᵀ, around the weights of ``potential``.

    With the features f_i of atom i and s eV per unit of the body's energy:

        Var(E_i) = s² ‖Aᵀ f_i‖²,      Var(E) = s² ‖Aᵀ Σ_i f_i‖²,      Cov(F_i) = s² J_i A Aᵀ J_iᵀ,  J = −∂(Σ f)/∂r.

    The exact covariance of forces takes one backward pass for each column of A. The estimate that costs nothing
    is Cov(F_i) ≈ κ² Var(E_i) 1, with κ (1/Å) such that both have the same mean over training structures, element by
    element; likewise Var(σ) ≈ κ_s² Σ_i Var(E_i) / V² for each component of the stress.

    Args:
        potential: the mean.
        factor: A [P, R] in float64.
        method: ``llpr`` or ``heads`` (a shallow ensemble, A from the spread of its heads).
        per_force: κ by species, in 1/Å.
        per_stress: κ_s, without unit.

    Raises:
        ConfigError: a factor that does not fit the last layer, or κ that do not fit the elements.
    """

    factor: Tensor
    per_force: Tensor
    per_stress: Tensor

    def __init__(
        self,
        potential: Potential,
        factor: Float64[ndarray, "features rank"],
        method: str,
        *,
        per_force: Float64[ndarray, " species"] | None = None,
        per_stress: float = 1.0,
    ) -> None:
        super().__init__()
        self.potential, self.method = potential, method
        size = self.potential.last_layer().shape[0]
        if factor.shape[0] != size:
            raise ConfigError(f"The covariance has {factor.shape[0]} rows for {size} features.", where=method)
        per_force = np.ones(len(potential.elements)) if per_force is None else per_force
        if len(per_force) != len(potential.elements):
            raise ConfigError(
                f"There are {len(per_force)} scales of forces for {len(potential.elements)} elements.",
                where=method,
            )
        for name, value in (("factor", factor), ("per_force", per_force), ("per_stress", per_stress)):
            self.add_constant(name, np.asarray(value, dtype=np.float64), always_float64=True)

    def forward(
        self, graph: Data, *, forces: bool, stress: bool, exact: bool, members: bool
    ) -> dict[str, Tensor]:
        """The potential's prediction and its spread; forces and stress estimated unless ``exact``.

        ``members`` of a shallow ensemble are its heads, which makes the spread exact too; those of a Gaussian are 16
        draws.
        """
        heads = self.method == "heads"
        exact = (exact or (members and heads)) and (forces or stress)
        none = self.factor[:, :0]
        draws = self.draws() if members and not heads else none
        directions = torch.cat([self.factor if exact else none, draws], 1)
        derive = directions.shape[1] > 0 and (forces or stress)
        raw = self.potential(graph, forces=forces, stress=stress, along=directions if derive else None)
        out = _known(raw)
        features = self.potential.scale * raw["features"].double()
        owner = graph_of_atoms(graph)
        summed = features.new_zeros((len(graph.cell), features.shape[1])).index_add(0, owner, features)
        atomic = linear_var(features, self.factor)
        out |= {
            "energies_var_epistemic": atomic,
            "energy_var_epistemic": linear_var(summed, self.factor),
        }
        rank = self.factor.shape[1]
        if members:
            chosen = slice(0, rank) if heads else slice(len(directions.T) - draws.shape[1], None)
            out |= _members_along(out, raw, summed @ (self.factor if heads else draws), chosen)
        if exact:
            return out | _derived(raw, rank)
        return out | self._estimated(graph, atomic, owner, forces, stress)

    def _estimated(
        self, graph: Data, atomic: Tensor, owner: Tensor, forces: bool, stress: bool
    ) -> dict[str, Tensor]:
        """Covariances of forces and variances of stress from the variances of the atomic energies."""
        out = {}
        if forces:
            variance = self.per_force[self.potential.species_of_z[graph.z]] ** 2 * atomic
            out["forces_cov_epistemic"] = variance[:, None, None] * torch.eye(3).to(variance)
        if stress:
            total = atomic.new_zeros(len(graph.cell)).index_add(0, owner, atomic)
            volume = torch.linalg.det(graph.cell).abs()
            variance = (self.per_stress**2 * total / volume**2)[:, None, None].expand(-1, 3, 3)
            out["stress_var_epistemic"] = torch.where(_without_volume(graph), torch.nan, variance)
        return out

    def draws(self) -> Float64[Tensor, "features draws"]:
        """(W_m − W) / √M of M = 16 draws from the Gaussian, recentred; the same at every call."""
        generator = torch.Generator(self.factor.device).manual_seed(0)
        none = self.factor.new_zeros(len(self.factor))
        return sample_heads(none, self.factor, DRAWS, generator=generator) / math.sqrt(DRAWS)


def _members_along(
    out: dict[str, Tensor], raw: dict[str, Tensor], whole: Tensor, chosen: slice
) -> dict[str, Tensor]:
    """Predictions of M members from their deviations divided by √M, of energies in ``whole`` [B, M]."""
    root = math.sqrt(whole.shape[1])
    found = {"energy_members": out["energy"][:, None] + root * whole}
    for name in ("forces", "stress"):
        if f"{name}_along" in raw:
            found[f"{name}_members"] = out[name] + root * raw[f"{name}_along"][chosen]
    return found


def _derived(raw: dict[str, Tensor], rank: int) -> dict[str, Tensor]:
    """Covariances of forces and variances of stress from the derivatives along the columns of A."""
    out = {}
    if "forces_along" in raw:
        along = raw["forces_along"][:rank]
        out["forces_cov_epistemic"] = torch.einsum("rni,rnj->nij", along, along)
    if "stress_along" in raw:
        out["stress_var_epistemic"] = raw["stress_along"][:rank].square().sum(0)
    return out


def _known(out: dict[str, Tensor]) -> dict[str, Tensor]:
    """Means and predicted noise of a potential's output, without what only the loss needs."""
    return {name: out[name] for name in (*MEANS, *NOISE.values(), "stress_var") if name in out}


def _moments(name: str, mixture: Mixture, stretch: float, members: int, *, noisy: bool) -> dict[str, Tensor]:
    """Mean, epistemic and, where members predict noise, aleatoric (co)variance of one quantity."""
    moment = "cov" if name == "forces" else "var"
    epistemic = stretch**2 * mixture.epistemic
    if name == "forces":
        epistemic = _rounded(epistemic, members)
    out = {name: mixture.mean, f"{name}_{moment}_epistemic": epistemic}
    return out | ({NOISE[name]: mixture.aleatoric} if noisy and name in NOISE else {})


def _rounded(covariance: Float64[Tensor, "atoms 3 3"], members: int) -> Float64[Tensor, "atoms 3 3"]:
    """(1 − w) Σ + w (tr Σ/3) 1 with w = 3/(M + 3), see `Members`."""
    w = 3 / (members + 3)
    mean = covariance.diagonal(dim1=1, dim2=2).mean(1)
    return (1 - w) * covariance + w * mean[:, None, None] * torch.eye(3).to(covariance)


def _members(each: Sequence[dict[str, Tensor]], mean: dict[str, Tensor], stretch: float) -> dict[str, Tensor]:
    """Predictions of each member: energy [B, M], forces [M, N, 3], stress [M, B, 3, 3]."""
    out = {
        f"{name}_members": mean[name] + stretch * (torch.stack([one[name] for one in each]) - mean[name])
        for name in each[0]
    }
    return out | {"energy_members": out["energy_members"].T}


def _without_volume(graph: Data) -> Tensor:
    """Graphs that have no stress, to be broadcast to it."""
    volume = torch.linalg.det(graph.cell).abs()
    return ~(graph.pbc.all(1) & (volume > 0))[:, None, None].expand(-1, 3, 3)
