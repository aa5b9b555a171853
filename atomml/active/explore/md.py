"""Molecular dynamics with the model of the round, ended early where the model becomes too uncertain."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.io import read

from atomml.active.explore.config import MDExplorer
from atomml.active.explore.units import Explored, Unit, calculator_of, geometry, reason_of
from atomml.active.history import ModelFile
from atomml.errors import DataError, SimulationError
from atomml.simulate.md import MDResult, run_md

__all__ = ["MDUnit"]


@dataclass(frozen=True)
class MDUnit(Unit):
    """One run; killed, it goes on from its last state.

    Attributes:
        model: the model of the round.
        atoms: where it begins, strained already.
        explorer: settings; ``limits.stop_above`` filled in.
        kelvin: temperature.
        pressure: GPa; None: constant volume.
        tags: of its frames.
    """

    model: ModelFile
    atoms: Atoms
    explorer: MDExplorer
    kelvin: float
    pressure: float | None
    tags: dict[str, Any]

    def explore(self) -> Explored:
        """The recorded frames."""
        files = self.folder.with_name(f".{self.folder.name}.md.tmp")
        status, reason = "done", ""
        try:
            result = self._run(files)
            stopped = result.summary["stopped_by"]
            if stopped is not None:
                status, reason = "stopped", "a force has become too uncertain"
        except SimulationError as error:
            status, reason = "exploded", reason_of(error)
        frames = _recorded(files / "trajectory.extxyz")
        return Explored(
            [geometry(a, self.tags | {"step": int(a.info["step"])}) for a in frames], status, reason
        )

    def _run(self, files: Path) -> MDResult:
        try:
            return self._go(files, resume=(files / "state.npz").exists())
        except DataError:  # what a kill left cannot be gone on from
            shutil.rmtree(files, ignore_errors=True)
            return self._go(files, resume=False)

    def _go(self, files: Path, *, resume: bool) -> MDResult:
        explorer, limits = self.explorer, self.explorer.limits
        watched = limits.stop_above is not None or limits.warn_above is not None
        how = {"ensemble": "nvt"} if self.pressure is None else {"ensemble": "npt", "pressure": self.pressure}
        return run_md(
            self.atoms,
            calculator_of(self.model, deviations=watched),
            temperature=self.kelvin,
            steps=explorer.steps,
            out_dir=files,
            resume=resume,
            timestep=explorer.timestep,
            friction=explorer.friction,
            limits=limits.model_dump(),
            log_every=explorer.record_every,
            seed=self.seed,
            figure=False,
            **how,
        )


def _recorded(trajectory: Path) -> list[Atoms]:
    if not trajectory.exists() or trajectory.stat().st_size == 0:
        return []
    return list(read(trajectory, index=":", format="extxyz"))
