"""FIRE for many structures at once, each with its own time step: positions, and the cell where it may change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from ase import Atoms

from atomml.shapes import Bool, Float64, Int64, Tensor
from atomml.simulate.batched.evaluate import Evaluation
from atomml.simulate.batched.structures import Ragged, Structures, tensors_of

__all__ = ["Downhill", "FireState", "downhill", "fire_state", "fire_step"]

FIRST_STEP, LONGEST_STEP = 0.1, 1.0
FASTER, SLOWER = 1.1, 0.5
FIRST_MIXING, MIXING_DECAY = 0.1, 0.99
PATIENCE = 5
LONGEST_MOVE = 0.2
"""Å, of all coordinates of a structure together."""


@dataclass(frozen=True, kw_only=True)
class FireState(Structures):
    """B structures on their way to a minimum.

    The coordinates are those of ASE's FrechetCellFilter: x, the positions in the undeformed cell, and, for n atoms,
    n times the logarithm U of the deformation:

        A = exp(U),      cell = cell₀ Aᵀ,      r = x Aᵀ.

    Attributes:
        start_cell: cell₀.
        x: coordinates of the atoms, Å.
        log_strain: U, zero where the cell is held.
        velocity, cell_velocity: of x and of n U.
        flexible: whether the cell may change.
        timestep, mixing: of FIRE.
        downhill_steps: since the last uphill one.
        steps: made so far.
        energy_first: eV, NaN before the first evaluation.
    """

    of_atoms: ClassVar[tuple[str, ...]] = (*Structures.of_atoms, "x", "velocity")
    start_cell: Float64[Tensor, "graphs 3 3"]
    x: Float64[Tensor, "atoms 3"]
    log_strain: Float64[Tensor, "graphs 3 3"]
    velocity: Float64[Tensor, "atoms 3"]
    cell_velocity: Float64[Tensor, "graphs 3 3"]
    flexible: Bool[Tensor, " graphs"]
    timestep: Float64[Tensor, " graphs"]
    mixing: Float64[Tensor, " graphs"]
    downhill_steps: Int64[Tensor, " graphs"]
    steps: Int64[Tensor, " graphs"]
    energy_first: Float64[Tensor, " graphs"]


@dataclass(frozen=True, kw_only=True)
class Downhill(Ragged):
    """−∂E/∂x [N, 3] and −∂E/∂(n U) [B, 3, 3]: the forces that FIRE follows and convergence is judged by."""

    of_atoms: ClassVar[tuple[str, ...]] = ("atoms",)
    atoms: Float64[Tensor, "atoms 3"]
    cell: Float64[Tensor, "graphs 3 3"]

    def largest_norm(self) -> Float64[Tensor, " graphs"]:
        """Largest norm of a row of each structure, as ASE's optimisers take it."""
        return torch.maximum(self.largest(self.atoms.norm(dim=1)), self.cell.norm(dim=2).amax(1))


def fire_state(atoms: Atoms, index: int, *, flexible: bool, device: torch.device) -> FireState:
    """One structure at rest, with number ``index``."""
    common = {name: x.to(device) for name, x in tensors_of(atoms, index).items()}
    cell, number = common["cell"], torch.full((1,), torch.nan, dtype=torch.float64, device=device)
    return FireState(
        **common,
        energy_first=number,
        start_cell=cell,
        x=common["pos"],
        log_strain=torch.zeros_like(cell),
        velocity=torch.zeros_like(common["pos"]),
        cell_velocity=torch.zeros_like(cell),
        flexible=torch.tensor([flexible], device=device),
        timestep=torch.full_like(number, FIRST_STEP),
        mixing=torch.full_like(number, FIRST_MIXING),
        downhill_steps=torch.zeros_like(common["index"]),
        steps=torch.zeros_like(common["index"]),
    )


def downhill(state: FireState, result: Evaluation) -> Downhill:
    """Forces on the coordinates of FIRE, from the deformation A = exp(U) and the virial W = −V σ.

        −∂E/∂x = F A,      −∂E/∂U = L(Uᵀ, W A⁻ᵀ),

    where L(X, E) = d/dt exp(X + t E) is the Fréchet derivative, read from exp of [[X, E], [0, X]].

    Source: E. B. Tadmor et al., Phys. Rev. B 59, 235 (1999); N. J. Higham, Functions of Matrices (2008), eq. 3.16.
    """
    forces = result.forces * state.free
    if not bool(state.flexible.any()):
        return Downhill(counts=state.counts, atoms=forces, cell=torch.zeros_like(state.cell))
    deformation = torch.linalg.matrix_exp(state.log_strain)
    volume = torch.linalg.det(state.cell).abs()[:, None, None]
    flexible = state.flexible[:, None, None]
    virial = torch.where(flexible, -volume * result.stress, 0.0)
    gradient = virial @ torch.linalg.matrix_exp(-state.log_strain).transpose(1, 2)  # W A⁻ᵀ
    size = gradient.flatten(1).norm(dim=1)[:, None, None].clamp_min(1e-300)
    u = state.log_strain.transpose(1, 2)
    block = torch.cat([torch.cat([u, gradient / size], 2), torch.cat([torch.zeros_like(u), u], 2)], 1)
    of_cell = size * torch.linalg.matrix_exp(block)[:, :3, 3:] / state.counts[:, None, None]
    of_atoms = torch.einsum("na,nab->nb", forces, deformation[state.owner])
    return Downhill(counts=state.counts, atoms=of_atoms, cell=of_cell)


def fire_step(state: FireState, force: Downhill) -> FireState:
    """One step of the fast inertial relaxation engine, with P = F·v over all coordinates of a structure.

        P > 0:  v ← (1 − α) v + α |v| F/|F|, and after five such steps τ ← min(1.1 τ, 1), α ← 0.99 α,
        else:   v ← 0, τ ← τ/2, α ← 0.1;
        v ← v + τ F,  Δ = τ v, shortened to 0.2 Å.

    Source: E. Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006), in the order and with the numbers of ASE.
    """
    owner, f, g = state.owner, force.atoms, force.cell
    v, w = state.velocity, state.cell_velocity

    def dot(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        return state.sums((a * b).sum(1)) + (c * d).sum((1, 2))

    power = dot(f, v, g, w)
    down, first = power > 0, state.steps == 0
    turn = torch.where(down, state.mixing * (dot(v, v, w, w) / dot(f, f, g, g)).sqrt(), 0.0)
    keep = torch.where(down, 1 - state.mixing, 0.0)
    faster, slower = down & (state.downhill_steps > PATIENCE), ~down & ~first
    tau, alpha = state.timestep, state.mixing
    tau = torch.where(faster, (tau * FASTER).clamp_max(LONGEST_STEP), torch.where(slower, tau * SLOWER, tau))
    alpha = torch.where(faster, alpha * MIXING_DECAY, torch.where(slower, FIRST_MIXING, alpha))
    v = keep[owner, None] * v + (turn + tau)[owner, None] * f
    w = keep[:, None, None] * w + (turn + tau)[:, None, None] * g
    scale = tau * (LONGEST_MOVE / (tau * dot(v, v, w, w).sqrt())).clamp_max(1.0)
    x = state.x + scale[owner, None] * v
    log_strain = state.log_strain + scale[:, None, None] * w / state.counts[:, None, None]
    deformation = torch.linalg.matrix_exp(log_strain).transpose(1, 2)
    flexible = state.flexible[:, None, None]
    moved = torch.einsum("na,nab->nb", x, deformation[owner])
    return replace(
        state,
        x=x,
        log_strain=log_strain,
        velocity=v,
        cell_velocity=w,
        timestep=tau,
        mixing=alpha,
        downhill_steps=torch.where(down, state.downhill_steps + 1, 0),
        steps=state.steps + 1,
        pos=torch.where(state.flexible[owner, None], moved, x),
        cell=torch.where(flexible, state.start_cell @ deformation, state.start_cell),
    )
