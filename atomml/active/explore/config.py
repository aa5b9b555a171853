"""Settings of the ways to find structures that the model may not know."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from atomml.config import Config
from atomml.simulate.md_config import Limits

__all__ = [
    "AnyExplorer",
    "CrystalsExplorer",
    "Explorer",
    "FilesExplorer",
    "MDExplorer",
    "RattleExplorer",
    "RelaxExplorer",
    "StrainExplorer",
]

Strain = float | tuple[float, float, float, float, float, float]


class _FromStructures(Config):
    """What explorers that begin with known structures have in common."""

    begin: Literal["structures", "labelled"] = "structures"
    """Where it begins: the structures of ``start``, or frames that are labelled already (not those for
    calibration)."""
    starts: PositiveInt | None = None
    """So many of them, drawn anew in each round; null: all structures, or 8 labelled frames."""


class MDExplorer(_FromStructures):
    """Molecular dynamics with the model of the round."""

    kind: Literal["md"] = "md"
    """Which way: md, rattle, strain, relax, crystals or files."""
    temperatures: list[PositiveFloat] = Field(default=[300.0, 600.0, 1000.0], min_length=1)
    """K; a run at each."""
    pressures: list[float] = []
    """GPa; a run at each at constant pressure. Empty: constant volume."""
    strains: list[Strain] = [0.0]
    """A run in each strained cell: a number (isotropic) or six (xx yy zz yz xz xy of the tensor)."""
    replicas: PositiveInt = 1
    """Runs with other velocities."""
    steps: PositiveInt = 1000
    """Steps of each run."""
    record_every: PositiveInt = 20
    """Steps between the frames that are candidates."""
    timestep: PositiveFloat | None = None
    """fs; by default 0.5 with hydrogen, 1 up to neon, 2 for heavier elements only."""
    friction: PositiveFloat = 0.01
    """Of the Langevin thermostat, 1/fs."""
    limits: Limits = Limits()
    """When a run ends early. ``stop_above`` ends it once the model is too uncertain, by default at
    ``gate.force_std_max``; beyond the other limits it has exploded. What was recorded before is kept for the gate."""

    @model_validator(mode="after")
    def _cell(self) -> MDExplorer:
        if not self.strains:
            raise ValueError("strains: give at least 0.0")
        if self.steps < self.record_every:
            raise ValueError("record_every is larger than steps: nothing would be recorded")
        return self


class RattleExplorer(_FromStructures):
    """Random displacements of the atoms."""

    kind: Literal["rattle"] = "rattle"
    """Which way."""
    n: PositiveInt = 10
    """Structures from each start."""
    displacement: tuple[float, float] = (0.02, 0.2)
    """Standard deviation of each coordinate, Å: drawn evenly from this range for each structure."""

    @model_validator(mode="after")
    def _ordered(self) -> RattleExplorer:
        low, high = self.displacement
        if not 0 <= low <= high:
            raise ValueError("displacement: two numbers, the smaller one first, none negative")
        return self


class StrainExplorer(_FromStructures):
    """Random strains of the cell; atoms move along."""

    kind: Literal["strain"] = "strain"
    """Which way."""
    n: PositiveInt = 10
    """Structures from each start."""
    isotropic: tuple[float, float] = (-0.06, 0.08)
    """Range of the linear isotropic strain, divided into ``n`` parts of which each structure draws from its own."""
    shear: float = Field(default=0.02, ge=0)
    """Standard deviation of the other components."""
    displacement: float = Field(default=0.02, ge=0)
    """Standard deviation of a random displacement of the atoms besides, Å."""

    @model_validator(mode="after")
    def _sensible(self) -> StrainExplorer:
        low, high = self.isotropic
        if low > high or max(abs(low), abs(high), 3 * self.shear) > 0.4:
            raise ValueError("isotropic: the smaller number first; strains are fractions and at most 0.4")
        return self


class Relaxation(Config):
    """A relaxation whose path gives candidates."""

    steps: PositiveInt = 100
    """Most steps of the optimiser (FIRE)."""
    fmax: PositiveFloat = 0.05
    """Largest force at the end, eV/Å."""
    cell: bool = True
    """Relax the cell too, where there is one."""
    record_every: PositiveInt = 10
    """Steps between recorded frames; the last one is always recorded."""


class RelaxExplorer(_FromStructures, Relaxation):
    """Relaxations with the model of the round; the frames on the way are candidates."""

    kind: Literal["relax"] = "relax"
    """Which way."""
    displacement: float = Field(default=0.1, ge=0)
    """Standard deviation of a random displacement of the atoms before, Å."""


class CrystalsExplorer(Config):
    """Crystals drawn by a generative model."""

    kind: Literal["crystals"] = "crystals"
    """Which way."""
    model: str = "demo"
    """Crystal model file, or "demo"; looked for as it is, then beside the configuration."""
    formulas: list[str] = Field(default=[], examples=[["LiCl"]])
    """Compositions; ``n`` crystals of each."""
    chemical_system: str | None = None
    """Instead of formulas: no other elements than these, Li-Cl."""
    n: PositiveInt = 16
    """Crystals, of each formula."""
    steps: PositiveInt = 100
    """Calls of the network for each."""
    z: PositiveInt | None = None
    """Formula units in the cell; null: as many as in the crystals that the model was trained on."""
    max_atoms: PositiveInt | None = None
    """Most atoms in the cell."""
    relax: Relaxation | None = None
    """Relax each crystal with the potential of the round; the frames on the way are candidates as well."""

    @model_validator(mode="after")
    def _one_wish(self) -> CrystalsExplorer:
        if self.formulas and self.chemical_system is not None:
            raise ValueError("give formulas or chemical_system, not both")
        if self.z is not None and (not self.formulas or self.max_atoms is not None):
            raise ValueError("z needs formulas, and says how many atoms: leave out max_atoms")
        return self


class FilesExplorer(Config):
    """A pool of structures in files."""

    kind: Literal["files"] = "files"
    """Which way."""
    files: list[str] = Field(min_length=1, examples=[["pool.extxyz"]])
    """Files or native data folders; labels in them are not looked at. Looked for as they are, then beside the
    configuration."""
    n: PositiveInt | None = None
    """So many of them, drawn anew in each round; null: all."""


AnyExplorer = MDExplorer | RattleExplorer | StrainExplorer | RelaxExplorer | CrystalsExplorer | FilesExplorer
Explorer = Annotated[AnyExplorer, Field(discriminator="kind")]
