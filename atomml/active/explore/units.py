"""Units of exploration: each gives frames with where they come from, is complete or absent, and never fatal."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from atomml.active.history import ModelFile
from atomml.datasets.frame import Frame
from atomml.datasets.packing import pack_frames
from atomml.datasets.store import FrameStore
from atomml.errors import AtommlError, DataError, SimulationError, UnsupportedError
from atomml.simulate.calculator import Calculator
from atomml.simulate.sampling.units import digest_of

__all__ = [
    "Explored",
    "NotFatal",
    "Unit",
    "calculator_of",
    "geometry",
    "is_calibrated",
    "potential_at",
    "reason_of",
    "unit_folder",
]

NotFatal = (SimulationError, DataError, UnsupportedError)


@dataclass
class Explored:
    """What a unit found.

    Attributes:
        frames: candidates.
        status: done, stopped (the model became too uncertain), exploded, failed.
        reason: of anything but done.
    """

    frames: list[Frame]
    status: str = "done"
    reason: str = ""


@dataclass(frozen=True)
class Unit:
    """A piece of exploration.

    Attributes:
        name: unique in the round; begins with the kind.
        folder: where its frames appear.
        seed: of its random stream, together with the name.
    """

    name: str
    folder: Path
    seed: int

    def done(self) -> bool:
        """Whether it is complete."""
        return (self.folder / "header.json").is_file()

    def compute(self) -> FrameStore:
        """Its frames; a structure that cannot be explored gives none, and a reason."""
        try:
            found = self.explore()
        except NotFatal as error:
            found = Explored([], "failed", reason_of(error))
        record = {"unit": self.name, "status": found.status, "reason": found.reason}
        tagged = [
            frame._replace(id=f"{self.name}#{k}", tags={**frame.tags, "unit": self.name})
            for k, frame in enumerate(found.frames)
        ]
        return pack_frames(tagged, {"record": record}, where=self.name)

    def explore(self) -> Explored:
        """What it does."""
        raise NotImplementedError


def reason_of(error: AtommlError) -> str:
    """The first sentence of an error, without what differs from one structure to the next where possible."""
    return " ".join(error.what.split())[:200]


def geometry(atoms: Atoms, tags: dict[str, Any]) -> Frame:
    """A structure without labels, its atoms wrapped into the cell."""
    copy = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    if np.any(copy.pbc):
        copy.wrap()
    return Frame(
        np.array(copy.numbers),
        np.array(copy.positions, dtype=np.float64),
        np.array(copy.cell.array, dtype=np.float64),
        np.array(copy.pbc, dtype=bool),
        tags=tags,
    )


def unit_folder(parent: Path, *what: Any) -> Path:
    """The folder of a unit, named after everything that its content depends on."""
    plain = [part if isinstance(part, Atoms) else json.loads(json.dumps(part, default=str)) for part in what]
    return parent / digest_of("explore", *plain)


@lru_cache(maxsize=2)
def potential_at(model: ModelFile) -> Any:
    """The potential of a file, loaded once by each process."""
    from atomml.uncertainty.model_file import load_model

    return load_model(model.path, device=model.device)


def is_calibrated(model: ModelFile) -> bool:
    """Whether the deviations of a model were scaled to errors, so that a limit on them means something."""
    return getattr(potential_at(model), "calibration", None) is not None


def calculator_of(model: ModelFile, *, deviations: bool) -> Calculator:
    """A new calculator, without memory of earlier structures."""
    return Calculator(potential_at(model), deviations=None if deviations else False)
