"""Units of work of a sampling run: each is computed in one process and saved as one store, complete or absent.

The folder of a unit is named after a hash of everything its content depends on, so that a run that goes on, or
one with other settings of selection, finds what is already done.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from atomml.calculators import AnyCalculator, calculator_name, make_calculator
from atomml.datasets.frame import Frame, Skipped
from atomml.datasets.packing import pack_frames
from atomml.datasets.store import FrameStore
from atomml.errors import ConfigError, SimulationError, UnsupportedError
from atomml.processes import completed, worker_pool
from atomml.simulate.sampling.config import DynamicsConfig, ExplosionConfig, RelaxConfig
from atomml.simulate.sampling.dynamics import Outcome, frame_of_atoms, relax_start, run_trajectory
from atomml.simulate.sampling.stress import stress_check
from atomml.simulate.sampling.structures import random_stream

__all__ = ["LabelUnit", "RelaxUnit", "RunUnit", "Unit", "Workers", "digest_of"]

FORMAT = 1  # changes when the same settings give other numbers


@dataclass(frozen=True)
class Unit:
    """A piece of work.

    Attributes:
        name: for messages and random numbers.
        folder: where its store appears.
        calculator: how the forces are computed.
    """

    name: str
    folder: Path
    calculator: AnyCalculator

    def done(self) -> bool:
        """Whether it is complete."""
        return (self.folder / "header.json").is_file()


@dataclass(frozen=True)
class RelaxUnit(Unit):
    """Relax a cell."""

    atoms: Atoms
    relax: RelaxConfig
    limits: ExplosionConfig
    seed: int
    tags: dict[str, Any]

    def compute(self) -> FrameStore:
        """The relaxed cell, or no frame."""
        rng = random_stream(self.seed, "relax", self.name)
        calculator = make_calculator(self.calculator)
        return _packed(
            self, relax_start(self.atoms, calculator, self.relax, self.limits, rng, dict(self.tags))
        )


@dataclass(frozen=True)
class RunUnit(Unit):
    """Run one trajectory."""

    atoms: Atoms
    dynamics: DynamicsConfig
    limits: ExplosionConfig
    kelvin: float
    seed: int
    tags: dict[str, Any]

    def compute(self) -> FrameStore:
        """The recorded frames."""
        rng = random_stream(self.seed, "dynamics", self.name)
        calculator = make_calculator(self.calculator)
        outcome = run_trajectory(
            self.atoms, calculator, self.dynamics, self.kelvin, self.limits, rng, dict(self.tags)
        )
        return _packed(self, outcome)


@dataclass(frozen=True)
class LabelUnit(Unit):
    """Label some frames.

    Attributes:
        frames: geometry and tags; their own labels are not used.
        fmax_max: sampled frames whose labelled force is above this are skipped, eV/Å.
        fmax_min: likewise below.
        check: compare the stress of one frame with the energy's derivative.
    """

    frames: FrameStore
    fmax_min: float
    fmax_max: float | None
    check: bool

    def compute(self) -> FrameStore:
        """The frames with new labels; those that failed are counted as skipped."""
        calculator = make_calculator(self.calculator, skin=0.0)
        labelled = [self._label(k, calculator) for k in range(len(self.frames))]
        info: dict[str, Any] = {"calculator": calculator_name(self.calculator)}
        if self.check:
            info["stress_check"] = _checked([f for f in labelled if isinstance(f, Frame)], calculator)
        return pack_frames(labelled, info, where=self.name)

    def _label(self, k: int, calculator: Any) -> Frame | Skipped:
        name, tags = self.frames.ids[k], self.frames.tags_of(k)
        old = float(tags.pop("fmax"))
        atoms = self.frames[k]
        atoms.info = {}
        atoms.calc = calculator
        try:
            frame = frame_of_atoms(atoms, {**tags, "fmax_driver": old}, name)
        except (UnsupportedError, ConfigError):
            raise
        except Exception as error:
            return Skipped(name, f"the labelling calculator failed: {type(error).__name__}")
        if not (np.isfinite(frame.energy) and np.isfinite(np.asarray(frame.forces)).all()):
            return Skipped(name, "the label is not finite")
        fmax = float(frame.tags["fmax"])
        if tags["sampled"] and not self.fmax_min <= fmax <= (self.fmax_max or np.inf):
            return Skipped(name, "the labelled force is outside the limits")
        return frame


def _checked(frames: Sequence[Frame], calculator: Any) -> dict[str, Any]:
    """`stress_check` of the frame with the largest pressure."""
    pressures = [(abs(float(np.trace(f.stress))), k) for k, f in enumerate(frames) if f.stress is not None]
    if not pressures:
        return {"verdict": "no stress"}
    try:
        return stress_check(frames[max(pressures)[1]], calculator)
    except Exception as error:
        return {"verdict": f"the calculator failed: {type(error).__name__}"}


def digest_of(*parts: Any) -> str:
    """16 hexadecimal digits that stand for JSON values, structures and arrays."""
    digest = hashlib.sha256(f"atomml-sampling-{FORMAT}".encode())
    for part in parts:
        if isinstance(part, Atoms):
            arrays = (
                part.numbers.astype(np.int64),
                part.positions,
                part.cell.array,
                part.pbc,
                part.get_masses(),
            )
            for array in arrays:
                digest.update(np.ascontiguousarray(array).tobytes())
            digest.update(json.dumps([c.todict() for c in part.constraints], default=_plain).encode())
        elif isinstance(part, np.ndarray):
            digest.update(np.ascontiguousarray(part).tobytes())
        else:
            digest.update(json.dumps(part, sort_keys=True).encode())
        digest.update(b"\x00")
    return digest.hexdigest()[:16]


def _plain(value: Any) -> Any:
    return np.asarray(value).tolist()


def _packed(unit: Unit, outcome: Outcome) -> FrameStore:
    info = {"unit": unit.name, "record": outcome.record, "calculator": calculator_name(unit.calculator)}
    return pack_frames(outcome.frames, info, where=unit.name)


class Workers:
    """Computes units and saves them: in this process with one thread, or in several of one thread each.

    A context manager: the processes live as long as it, so that they load a model once.

    Args:
        number: of processes; 1: this one.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def run(self, units: Sequence[Any]) -> Iterator[Any]:
        """The units that were not done, each when it is.

        Raises:
            AtommlError: what a unit refuses (an unknown element, a missing package).
            SimulationError: a process died.
        """
        todo = [unit for unit in units if not unit.done()]
        if self.number <= 1 or (len(todo) < 2 and self._pool is None):
            with _one_thread():
                for unit in todo:
                    _compute(unit)
                    yield unit
            return
        if self._pool is None:
            self._pool = worker_pool(self.number, _use_one_thread)
        yield from completed(self._pool, _compute, todo, ahead=2 * self.number, died=_died)


def _died(unit: Unit) -> SimulationError:
    return SimulationError(
        "A process died (out of memory, or killed).",
        where=unit.name,
        fix="run the same command with --resume; use fewer workers if memory is short",
    )


def _compute(unit: Any) -> None:
    with warnings.catch_warnings():
        # scipy's own estimate of the error of a matrix logarithm near the unit matrix, 1e-13, and pymatgen's
        # remark about the constraint that holds the centre of mass
        warnings.filterwarnings("ignore", message="logm result may be inaccurate")
        warnings.filterwarnings("ignore", message="Only FixAtoms and FixCartesian")
        store = unit.compute()
    store.save(unit.folder, overwrite=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    """The number of threads decides the order of sums in torch, so it must not differ between runs."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _use_one_thread() -> None:
    import torch

    torch.set_num_threads(1)
