"""Steps of molecular dynamics of many structures at once: velocity Verlet and Langevin (BAOAB)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from ase import Atoms, units

from atomml.shapes import Bool, Float64, Tensor
from atomml.simulate.batched.structures import Structures, tensors_of
from atomml.simulate.md_config import MDConfig
from atomml.simulate.md_integrators import degrees_of_freedom, start_velocities

__all__ = ["MDState", "Noise", "drift", "half_kick", "md_state", "ornstein_uhlenbeck", "temperatures"]


@dataclass(frozen=True, kw_only=True)
class MDState(Structures):
    """B structures in motion, in ASE's units (Å, eV, u).

    Attributes:
        momentum: of the atoms.
        mass: of the atoms.
        timestep: Δt.
        thermal: k_B T of the thermostat, eV; 0 without one.
        damping: exp(−γ Δt) of the thermostat; 1 without one.
        dof: degrees of freedom.
        bound: 1 where the centre of mass is held.
        hottest: temperature in K above which it has exploded.
    """

    of_atoms: ClassVar[tuple[str, ...]] = (*Structures.of_atoms, "momentum", "mass")
    momentum: Float64[Tensor, "atoms 3"]
    mass: Float64[Tensor, "atoms 1"]
    timestep: Float64[Tensor, " graphs"]
    thermal: Float64[Tensor, " graphs"]
    damping: Float64[Tensor, " graphs"]
    dof: Float64[Tensor, " graphs"]
    bound: Float64[Tensor, " graphs"]
    hottest: Float64[Tensor, " graphs"]


def md_state(
    atoms: Atoms, index: int, config: MDConfig, rng: np.random.Generator, device: torch.device
) -> MDState:
    """One structure with its first velocities, drawn from ``rng`` unless they are to be kept."""
    work = atoms.copy()
    if not config.keep_velocities:
        start_velocities(work, config, rng)
    step, langevin = config.timestep * units.fs, config.ensemble == "nvt"
    numbers = {
        "timestep": step,
        "thermal": units.kB * config.temperature if langevin else 0.0,
        "damping": np.exp(-config.friction / units.fs * step) if langevin else 1.0,
        "dof": degrees_of_freedom(work, config),
        "bound": float(langevin and len(work) > 1 and not work.constraints),
        "hottest": config.max_temperature,
    }
    columns: dict[str, Any] = {
        **tensors_of(work, index),
        "momentum": torch.from_numpy(np.array(work.get_momenta(), dtype=np.float64)),
        "mass": torch.from_numpy(work.get_masses().astype(np.float64))[:, None],
        **{name: torch.tensor([x], dtype=torch.float64) for name, x in numbers.items()},
    }
    return MDState(**{name: x.to(device) for name, x in columns.items()})


def half_kick(state: MDState, forces: Float64[Tensor, "atoms 3"]) -> MDState:
    """Half a step of momenta: p ← p + F Δt/2."""
    step = state.timestep[state.owner, None]
    return replace(state, momentum=state.momentum + 0.5 * step * forces * state.free)


def drift(state: MDState, share: float) -> MDState:
    """A step of positions, or a ``share`` of it: r ← r + p/m Δt."""
    step = share * state.timestep[state.owner, None]
    return replace(state, pos=state.pos + step * state.momentum / state.mass)


def ornstein_uhlenbeck(state: MDState, noise: Float64[Tensor, "atoms 3"]) -> MDState:
    """Friction and noise over a step: p ← c p + √((1 − c²) m k_B T) ξ with c = exp(−γ Δt).

    Where the centre of mass is held its motion is taken out: what is left is distributed as exp(−Σ p²/2m k_B T)
    among the momenta with Σ p = 0.

    Source: B. Leimkuhler and C. Matthews, Appl. Math. Res. Express 2013, 34 (2013).
    """
    owner, c = state.owner, state.damping[state.owner, None]
    size = ((1 - c**2) * state.mass * state.thermal[owner, None]).sqrt()
    p = c * state.momentum + size * noise * state.free
    share = state.bound[owner, None] * state.mass / state.sums(state.mass)[owner]
    return replace(state, momentum=p - share * state.sums(p)[owner])


def temperatures(state: MDState) -> Float64[Tensor, " graphs"]:
    """Σ p²/m / (dof k_B) in K."""
    kinetic = state.sums((state.momentum**2 / state.mass).sum(1))
    return kinetic / (state.dof * units.kB)


class Noise:
    """Standard normal numbers for each structure from its own generator, drawn for many steps at once.

    A structure's numbers do not depend on what else is drawn for.

    Args:
        generators: of all structures, by their number.
        ahead: steps for which numbers are drawn at a time.
    """

    def __init__(self, generators: Mapping[int, np.random.Generator], ahead: int = 64) -> None:
        self._generators, self._ahead = generators, ahead
        self._left = np.zeros((0, 0, 3))

    def __call__(self, state: MDState) -> Float64[Tensor, "atoms 3"]:
        """The numbers of the next step."""
        if len(self._left) == 0:
            drawn = [
                self._generators[k].standard_normal((self._ahead, n, 3))
                for k, n in zip(state.index.tolist(), state.counts.tolist(), strict=True)
            ]
            self._left = np.concatenate(drawn, axis=1)
        now, self._left = self._left[0], self._left[1:]
        return torch.from_numpy(now).to(state.pos.device)

    def select(self, keep: Bool[Tensor, " atoms"]) -> None:
        """Forget the atoms of structures that have left."""
        if len(self._left):
            self._left = self._left[:, keep.cpu().numpy()]
