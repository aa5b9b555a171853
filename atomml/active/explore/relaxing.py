"""Relaxations with the model of the round, whose path gives candidates; of known structures or generated ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ase import Atoms
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE

from atomml.active.explore.config import CrystalsExplorer, Relaxation, RelaxExplorer
from atomml.active.explore.moves import displaced
from atomml.active.explore.units import Explored, NotFatal, Unit, calculator_of, geometry, reason_of
from atomml.active.history import ModelFile
from atomml.datasets.frame import Frame
from atomml.errors import SimulationError
from atomml.simulate.calculator import has_volume
from atomml.simulate.sampling.config import ExplosionConfig
from atomml.simulate.sampling.guard import Guard
from atomml.simulate.sampling.structures import random_stream

__all__ = ["CrystalsUnit", "RelaxUnit"]

VOLUME_FACTOR = 4.0  # change of volume that ends a relaxation


@dataclass(frozen=True)
class RelaxUnit(Unit):
    """One relaxation."""

    model: ModelFile
    atoms: Atoms
    explorer: RelaxExplorer
    tags: dict[str, Any]

    def explore(self) -> Explored:
        """The recorded frames."""
        atoms = displaced(self.atoms, self.explorer.displacement, random_stream(self.seed, self.name))
        return relaxation_path(atoms, self.model, self.explorer, self.tags)


@dataclass(frozen=True)
class CrystalsUnit(Unit):
    """Crystals of one composition or chemical system, and their relaxations if asked for.

    Attributes:
        model: relaxes them; not needed otherwise.
        formula: one of those of ``explorer``; None: of its chemical system, or whatever the crystal model draws.
    """

    model: ModelFile | None
    explorer: CrystalsExplorer
    formula: str | None
    tags: dict[str, Any]

    def explore(self) -> Explored:
        """The crystals, and the frames of their relaxations."""
        from atomml.crystals.generate import generate

        explorer = self.explorer
        crystals = generate(
            explorer.model,
            n=explorer.n,
            steps=explorer.steps,
            seed=int(random_stream(self.seed, self.name).integers(2**31)),
            formula=self.formula,
            chemical_system=explorer.chemical_system,
            z=explorer.z,
            max_atoms=explorer.max_atoms,
        )
        frames: list[Frame] = []
        problems: list[str] = []
        for k, atoms in enumerate(crystals):
            tags = self.tags | {"crystal": k, "formula": atoms.get_chemical_formula()}
            frames.append(geometry(atoms, tags))
            if explorer.relax is not None and self.model is not None:
                try:
                    path = relaxation_path(atoms, self.model, explorer.relax, tags)
                except NotFatal as error:
                    path = Explored([], "failed", reason_of(error))
                frames += path.frames
                problems += [path.reason] if path.reason else []
        reason = f"{len(problems)} of {len(crystals)} crystals: {problems[0]}" if problems else ""
        return Explored(frames, "exploded" if problems else "done", reason)


def relaxation_path(atoms: Atoms, model: ModelFile, how: Relaxation, tags: dict[str, Any]) -> Explored:
    """The first, every so-manieth and the last frame of a relaxation; what overlaps or runs away ends it.

    Raises:
        UnsupportedError: an element that the model does not know.
    """
    work = atoms.copy()
    work.info, work.calc = {}, calculator_of(model, deviations=False)
    guard = Guard(work, ExplosionConfig(), np.inf)
    found = Explored([])
    step = 0

    def record() -> None:
        found.frames.append(geometry(work, tags | {"step": step}))

    try:
        guard.check(work, 0.0)
        target = FrechetCellFilter(work) if how.cell and has_volume(work) else work
        optimiser = FIRE(target, logfile=None)
        for converged in optimiser.irun(fmax=how.fmax, steps=how.steps):
            step = int(optimiser.nsteps)
            guard.check(work, 0.0)
            if has_volume(atoms):
                refuse_other_volume(work, atoms)
            if step % how.record_every == 0 or converged or step == how.steps:
                record()
    except SimulationError as error:
        return replace(found, status="exploded", reason=reason_of(error))
    return found


def refuse_other_volume(work: Atoms, start: Atoms) -> None:
    """End a relaxation whose cell runs away.

    Raises:
        SimulationError: the volume changed more than fourfold.
    """
    ratio = work.get_volume() / start.get_volume()
    if not 1 / VOLUME_FACTOR < ratio < VOLUME_FACTOR:
        raise SimulationError(f"the volume changed by a factor of {ratio:.3g}")
