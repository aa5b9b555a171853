"""Settings of a sampling run: from a few crystals to labelled, decorrelated frames of hot and strained ones."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from atomml.calculators import CalculatorConfig
from atomml.config import Config

__all__ = [
    "CellConfig",
    "DynamicsConfig",
    "ExplosionConfig",
    "LabelConfig",
    "RelaxConfig",
    "SampleConfig",
    "SelectionConfig",
    "StrainConfig",
    "StructuresConfig",
    "SubstitutionConfig",
]

Prototype = Literal[
    "rocksalt",
    "cesiumchloride",
    "zincblende",
    "wurtzite",
    "li3mx6_c2m",
    "li3mx6_p3m1",
    "li2mx6_p3m1",
    "li2mx4_spinel",
    "li3ox_antiperovskite",
]
Positive = Annotated[float, Field(gt=0)]


class StructuresConfig(Config):
    """The crystals to begin with."""

    files: list[str] = []
    """Files or folders that atomml reads: CIF, extended XYZ, a native data folder, tables of crystals. Labels are
    not needed. FILE@INDEX chooses frames as in ASE: @0, @-1, @::10. Looked for as they are, then beside the
    configuration."""
    prototypes: list[Prototype] = Field(default=[], examples=[["rocksalt"]])
    """Crystals made by the program: rocksalt, cesiumchloride, zincblende, wurtzite (LiCl), li3mx6_c2m (Li3InCl6),
    li3mx6_p3m1 (Li3YCl6), li2mx6_p3m1 (Li2ZrCl6), li2mx4_spinel (Li2MgCl4), li3ox_antiperovskite (Li3OCl). Other
    elements come in by substitution."""


class SubstitutionConfig(Config):
    """Elements of the same charge in each other's place; the cell is scaled by ionic radii."""

    species: list[list[str]] = Field(default=[], examples=[[["F", "Cl", "Br", "I"]]])
    """Sets of elements that may replace each other: [[F, Cl, Br, I], [Sc, Y, In]]. All elements of a set must have
    the same charge. Each element of a structure that is in a set is replaced by every element of the set."""
    variants: Literal["all"] | Annotated[int, Field(ge=0)] = "all"
    """How many replaced versions of each structure: all, or this number chosen at random. The structure itself is
    always kept."""
    mixed: int = Field(default=0, ge=0)
    """So many more versions of each structure in which two elements of one set share sites at random, and elements of
    the other sets are replaced at random. Structures whose sites cannot be shared get none."""
    charges: dict[str, int] = {}
    """Charges of ions for elements that have several: {Fe: 2}. Others are known: halides -1, Li +1, Y +3 ..."""
    duplicates: Literal["drop", "keep"] = "drop"
    """drop: of structures that are the same crystal (pymatgen's StructureMatcher, volumes scaled) the first stays."""


class CellConfig(Config):
    """Size of the simulated cell: the structure is repeated until it is large enough."""

    min_length: float = Field(default=7.0, ge=0)
    """Smallest distance between opposite faces, Å."""
    min_atoms: int = Field(default=16, ge=1)
    """Fewest atoms."""
    max_atoms: int = Field(default=200, ge=1)
    """Most atoms. A structure that is larger as it is, is left out and reported; repetition stops before it."""


class RelaxConfig(Config):
    """Relaxation of each cell before dynamics."""

    steps: int = Field(default=200, ge=0)
    """Most steps of the optimiser (FIRE); 0: no relaxation. One that runs out of steps is used as it is."""
    fmax: float = Field(default=0.03, gt=0)
    """Largest force at the end, eV/Å (with the cell, also the stress in the filter's units)."""
    cell: bool = True
    """Relax the cell too."""
    rattle: float = Field(default=0.02, ge=0)
    """Normal displacement before, Å: lets a structure leave a saddle point."""


class StrainConfig(Config):
    """Strain of each run: cell' = cell (1 + ε), ε symmetric."""

    runs: int = Field(default=2, ge=1)
    """Runs with different strain for each structure and temperature."""
    isotropic: tuple[float, float] = (-0.03, 0.04)
    """Range of the linear isotropic strain. It is divided into as many parts as there are runs, and each run draws
    from its own, so that compressed and expanded cells always occur."""
    shear: float = Field(default=0.01, ge=0)
    """Standard deviation of the components beside the isotropic strain: normal, cut at three deviations, without a
    change of volume to first order."""
    values: list[float | tuple[float, float, float, float, float, float]] = []
    """Instead of random ones, these strains, a run for each: a number (isotropic) or six (xx yy zz yz xz xy of the
    tensor, not the engineering shear)."""

    @model_validator(mode="after")
    def _sensible(self) -> StrainConfig:
        low, high = self.isotropic
        if low > high:
            raise ValueError("the first number of isotropic is the smaller one")
        numbers = [low, high, 3 * self.shear, *(x for v in self.values for x in _numbers(v))]
        if max(abs(x) for x in numbers) > 0.4:
            raise ValueError("strains are fractions (0.03 is 3 %) and at most 0.4")
        return self


class DynamicsConfig(Config):
    """Molecular dynamics of each run."""

    temperatures: list[Positive] = Field(default=[300.0, 600.0, 1000.0, 1500.0, 2100.0], min_length=1)
    """Temperatures in K; each structure runs at every one."""
    replicas: int = Field(default=1, ge=1)
    """Runs with other velocities for each structure, temperature and strain."""
    timestep: float | None = Field(default=None, gt=0)
    """Time step in fs; by default 0.5 with hydrogen, 1 up to neon (Li, F), 2 for heavier elements only."""
    equilibration: float = Field(default=500.0, ge=0)
    """Time before the first frame, fs."""
    sampling: float = Field(default=2000.0, gt=0)
    """Time over which frames are taken, fs."""
    interval: float = Field(default=20.0, gt=0)
    """Time between recorded frames, fs; the selection takes some of them."""
    ensemble: Literal["nvt", "npt"] = "nvt"
    """nvt keeps the strained cell; npt (isotropic, Martyna-Tobias-Klein) lets the volume follow the pressure, and
    the strain is only where it starts."""
    thermostat: Literal["langevin", "nose-hoover"] = "langevin"
    """Of nvt. Langevin equilibrates fast, also from a perfect crystal."""
    friction: float = Field(default=0.01, gt=0)
    """Langevin friction in 1/fs."""
    pressure: float = 0.0
    """Of npt, GPa."""
    first_temperature: float = Field(default=2.0, gt=0)
    """First velocities have this multiple of the temperature: a crystal at rest turns half of its kinetic energy
    into potential energy at once."""


class ExplosionConfig(Config):
    """When a run is stopped because it has left physical territory. Its last frames are never labelled."""

    max_force: float = Field(default=100.0, gt=0)
    """Largest norm of a force, eV/Å."""
    min_distance: float = Field(default=0.5, ge=0, lt=1)
    """Shortest distance of two atoms as a fraction of the sum of their covalent radii."""
    max_temperature: float | None = Field(default=None, gt=0)
    """Highest instantaneous temperature, K; by default ten times the target plus 3000 K."""
    keep_before: bool = False
    """Use the frames of an exploded run that were taken well before its end."""
    margin: float = Field(default=100.0, ge=0)
    """With keep_before: frames within this time before the explosion are left out too, fs."""


class SelectionConfig(Config):
    """Which recorded frames are labelled."""

    correlation_times: float = Field(default=1.0, ge=0)
    """Smallest spacing of the frames of a run, in units of the time 2τ after which its potential energy is
    statistically independent (τ: integrated autocorrelation time); 0: only min_spacing counts."""
    min_spacing: float = Field(default=0.0, ge=0)
    """Smallest spacing in fs, whatever the autocorrelation."""
    per_run: int | None = Field(default=None, ge=1)
    """Most frames of a run, spread evenly over it."""
    fmax_min: float = Field(default=0.0, ge=0)
    """Frames whose largest force is below this are left out, eV/Å."""
    fmax_max: float | None = Field(default=None, gt=0)
    """Frames whose largest force is above this are left out, eV/Å: by the driving calculator before labels are
    computed, by the labels themselves afterwards."""
    min_difference: float = Field(default=0.02, ge=0)
    """Near-duplicates: a frame whose radial fingerprint differs from a chosen one of the same composition by less
    than this fraction of the fingerprint's length is dropped, across all runs."""
    max_frames: int | None = Field(default=None, ge=1)
    """Most frames in all, by farthest-point selection: the most different ones."""
    fingerprint_cutoff: float = Field(default=6.0, gt=0)
    """Largest distance in the fingerprint, Å."""
    relaxed: bool = True
    """Label the relaxed structures too (tag sampled = false); limits of force do not apply to them."""

    @model_validator(mode="after")
    def _sensible(self) -> SelectionConfig:
        if self.fmax_max is not None and self.fmax_max <= self.fmax_min:
            raise ValueError("fmax_max must be above fmax_min")
        return self


class LabelConfig(Config):
    """The labels and what is written about them."""

    calculator: CalculatorConfig | None = None
    """Calculator of the labels, with the keys of the group `calculator`; null: the one that drives the dynamics.
    Labels are always computed on the geometry that is stored."""
    batch: int = Field(default=100, ge=1)
    """Frames that are labelled and saved together: what a kill can cost."""
    level_of_theory: str | None = None
    """For the header of the data; by default the name and version of the calculator."""
    licence: str | None = None
    """For the header of the data."""
    extxyz: bool = False
    """Write frames.extxyz too."""


class SampleConfig(Config):
    """A sampling run.

    Structures, substitution, cells, relaxation, strain, dynamics at several temperatures, decorrelated
    selection, labels.
    """

    run_dir: str = Field(examples=["runs/sample"])
    """Folder of the run: the data (frames), report.md, summary.json, and what a killed run goes on from."""
    seed: int = Field(default=0, ge=0)
    """Of all random choices. Each run has its own stream, derived from this and the run's name: results depend
    neither on the number of processes nor on which other runs there are."""
    structures: StructuresConfig = StructuresConfig()
    substitution: SubstitutionConfig = SubstitutionConfig()
    cell: CellConfig = CellConfig()
    calculator: CalculatorConfig
    relax: RelaxConfig = RelaxConfig()
    strain: StrainConfig = StrainConfig()
    dynamics: DynamicsConfig = DynamicsConfig()
    explosion: ExplosionConfig = ExplosionConfig()
    selection: SelectionConfig = SelectionConfig()
    labels: LabelConfig = LabelConfig()

    @model_validator(mode="after")
    def _has_structures(self) -> SampleConfig:
        if not self.structures.files and not self.structures.prototypes:
            raise ValueError("structures: name files or prototypes")
        return self


def _numbers(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)
