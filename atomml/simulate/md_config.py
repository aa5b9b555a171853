"""Settings of a molecular dynamics run, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from ase import Atoms
from pydantic import Field, model_validator

from atomml.config import Config
from atomml.errors import ConfigError, SimulationError
from atomml.simulate.calculator import has_volume
from atomml.simulate.deviations import HOW

__all__ = ["Limits", "MDConfig", "default_timestep", "refuse_bad_setup"]


class Limits(Config):
    """When a run ends early: as exploded, far beyond real dynamics, or because the model has become too uncertain."""

    max_force: float = Field(default=200.0, gt=0)
    """Largest norm of a force, eV/Å."""
    max_temperature: float | None = Field(default=None, gt=0)
    """Highest instantaneous temperature, K; by default ten times the target plus 3000 K."""
    min_distance: float = Field(default=0.3, ge=0)
    """Shortest distance between two atoms, Å."""
    stop_above: float | None = Field(default=None, gt=0)
    """End the run, without an error, once the deviation σ_F = √(tr Σ / 3) of the force on an atom is larger, eV/Å;
    for models with an uncertainty. The frame is kept, and the run can go on from it with another limit."""
    warn_above: float | None = Field(default=None, gt=0)
    """Warn of every atom whose σ_F is larger, eV/Å, and again when it has doubled."""


class MDConfig(Config):
    """A molecular dynamics run."""

    ensemble: Literal["nve", "nvt", "npt"] = "nvt"
    """nve: velocity Verlet. nvt: Langevin or Nosé-Hoover chain. npt: Martyna-Tobias-Klein (thermostat and
    barostat chains, time-reversible, samples the exact isothermal-isobaric ensemble)."""
    thermostat: Literal["langevin", "nose-hoover"] = "langevin"
    """Thermostat of nvt. npt always uses the Nosé-Hoover chain of Martyna, Tobias and Klein."""
    temperature: float = Field(ge=0)
    """Target temperature in K; also the temperature of the first velocities. In nve a structure at rest
    gives half of it to the potential energy, so the mean temperature is about half."""
    steps: int = Field(ge=0)
    """Number of steps, counted from the start of the run, a resumed part included."""
    timestep: float = Field(gt=0)
    """Time step in fs."""
    pressure: float = 0.0
    """Target pressure of npt in GPa."""
    flexible_cell: bool = False
    """npt: let lengths and angles change too, instead of the volume only. Not for liquids."""
    friction: float = Field(default=0.01, gt=0)
    """Langevin friction in 1/fs."""
    thermostat_time: float | None = Field(default=None, gt=0)
    """Nosé-Hoover time in fs; by default 100 time steps."""
    barostat_time: float | None = Field(default=None, gt=0)
    """Barostat time in fs; by default 1000 time steps."""
    seed: int = Field(default=0, ge=0)
    """Seed of the first velocities and of the Langevin noise."""
    keep_velocities: bool = False
    """Start from the velocities in the structure instead of random ones."""
    log_every: int = Field(default=10, ge=1)
    """Steps between rows of the log and frames of the trajectory."""
    state_every: int = Field(default=100, ge=1)
    """Steps between restart states (rounded up to a row of the log)."""
    limits: Limits = Limits()
    """When to end early, and when to warn."""

    @model_validator(mode="after")
    def _sensible(self) -> MDConfig:
        if self.temperature == 0 and self.ensemble != "nve":
            raise ValueError(f"temperature must be above 0 K in {self.ensemble}")
        return self

    @property
    def max_temperature(self) -> float:
        """The limit in force, K."""
        given = self.limits.max_temperature
        return 10.0 * self.temperature + 3000.0 if given is None else given


def default_timestep(atoms: Atoms) -> float:
    """Time step in fs for the lightest atom: about a twentieth of its shortest vibration.

    0.5 fs with hydrogen, 1 fs up to neon, 2 fs for heavier elements only.
    """
    lightest = float(np.min(atoms.get_masses()))
    if lightest < 3.0:
        return 0.5
    return 1.0 if lightest < 21.0 else 2.0


def refuse_bad_setup(atoms: Atoms, config: MDConfig, given: Sequence[str]) -> None:
    """Combinations that cannot run; ``given`` are the calculator's properties.

    Raises:
        ConfigError: a limit on deviations that the calculator does not give.
        SimulationError: npt without a volume, without a stress or with constraints; an atom without mass.
    """
    where = atoms.get_chemical_formula()
    limited = [name for name in ("stop_above", "warn_above") if getattr(config.limits, name) is not None]
    if limited and "forces_std" not in given:
        raise ConfigError(
            f"{' and '.join(limited)} limit the deviations of forces, and this model gives none.",
            where="limits",
            fix=f"leave the limit out, or {HOW}",
        )
    if np.any(atoms.get_masses() <= 0):
        raise SimulationError("An atom has no mass.", where=where, fix="give every atom a positive mass")
    if config.ensemble != "npt":
        return
    if not has_volume(atoms):
        raise SimulationError(
            "Constant pressure needs a structure that is periodic in three directions.",
            where=f"{where}, pbc {atoms.pbc.tolist()}",
            fix="use nvt, or give the structure a cell and pbc = True",
        )
    if "stress" not in given:
        raise SimulationError(
            "Constant pressure needs a model with a stress; this one predicts forces directly.",
            where=where,
            fix="use nvt, or a conservative model",
        )
    if atoms.constraints:
        raise SimulationError(
            "Constant pressure cannot be combined with constraints.",
            where=where,
            fix="remove the constraints or use nvt",
        )
