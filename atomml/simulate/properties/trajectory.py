"""Trajectories for analysis: positions at even times, unwrapped, with the drift of the whole removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from atomml.errors import ConfigError, DataError
from atomml.shapes import Float64, Int64, ndarray
from atomml.simulate.calculator import has_volume
from atomml.simulate.commands import read_structures
from atomml.simulate.md_log import read_log

__all__ = ["Trajectory", "read_trajectory", "trajectory_of"]

FAR = 0.4  # of a lattice vector between frames: unwrapping would guess


@dataclass(frozen=True)
class Trajectory:
    """Frames of one run.

    Attributes:
        numbers: atomic numbers [N].
        displacements: of every atom since the first frame in Å, [frames, N, 3], relative to the cell, without the
            motion of the centre of mass.
        interval: time between frames in fs.
        temperature: K, None if unknown.
        volume: mean, Å³.
        source: where it came from.
    """

    numbers: Int64[ndarray, " atoms"]
    displacements: Float64[ndarray, "frames atoms 3"]
    interval: float
    temperature: float | None
    volume: float
    source: str


def trajectory_of(
    frames: Sequence[Atoms],
    *,
    interval: float,
    temperature: float | None = None,
    wrapped: bool | None = None,
    source: str = "frames",
) -> Trajectory:
    """Unwrapped displacements of consecutive frames.

    Steps are Δs·h, with fractional coordinates s and the cell h of the later frame, and summed, so that a cell that
    breathes adds nothing (compare the scheme of von Bülow, Bullerjahn and Hummer, J. Chem. Phys. 153, 021101, 2020).

    Args:
        frames: of one run, in order and evenly spaced.
        interval: time between frames, fs.
        temperature: K, if known.
        wrapped: whether atoms are put back into the cell: then whole lattice vectors are taken from every step. None:
            where a step is longer than half a lattice vector, which must then be a jump.
        source: for messages.

    Raises:
        DataError: fewer than two frames, other atoms in some frame, not periodic, a number that is not finite, or
            frames too far apart to tell a jump by a lattice vector from motion.
        ConfigError: no positive interval.
    """
    if not (np.isfinite(interval) and interval > 0):
        raise ConfigError(f"The time between frames must be positive, not {interval!r} fs.", where=source)
    numbers = _same_atoms(frames, source)
    cells = np.array([a.cell.array for a in frames])
    scaled = np.array([a.cell.scaled_positions(a.positions) for a in frames])
    if not (np.isfinite(scaled).all() and np.isfinite(cells).all()):
        raise DataError("A position is not a finite number.", where=source)
    steps = np.diff(scaled, axis=0)
    if wrapped is not False:
        jumps = np.rint(steps)
        steps -= jumps
        if (wrapped or jumps.any()) and np.abs(steps).max() > FAR:
            raise DataError(
                f"An atom moved by {np.abs(steps).max():.2f} of the cell between frames: "
                "whether it crossed the boundary cannot be told.",
                where=source,
                fix="write frames more often, or say that positions are not wrapped (wrapped=False, --unwrapped)",
            )
    moved = np.zeros((len(frames), len(numbers), 3))
    np.cumsum(np.einsum("tni,tij->tnj", steps, cells[1:]), axis=0, out=moved[1:])
    masses = frames[0].get_masses()
    moved -= np.einsum("n,tnj->tj", masses / masses.sum(), moved)[:, None]
    volume = float(np.abs(np.linalg.det(cells)).mean())
    return Trajectory(numbers, moved, float(interval), temperature, volume, source)


def read_trajectory(
    path: str | Path,
    *,
    interval: float | None = None,
    temperature: float | None = None,
    skip: float = 0.0,
    wrapped: bool | None = None,
) -> Trajectory:
    """A trajectory from the folder of `run_md`, or from a file.

    Args:
        path: a run folder, whose frames have times, whose log.csv has temperatures, and whose positions are never
            wrapped; or any file that ASE reads.
        interval: time between frames of a file, fs; by default from ``time_fs`` in its frames.
        temperature: K; by default the mean of the log.
        skip: time at the beginning that is left out, ps.
        wrapped: of a file, see `trajectory_of`.

    Raises:
        DataError: nothing to read, uneven times, nothing left, or what `trajectory_of` refuses.
        ConfigError: a file without times and no ``interval``, or a negative ``skip``.
    """
    path = Path(path)
    is_run = path.is_dir()
    frames = read_structures(path / "trajectory.extxyz" if is_run else path)
    frames, interval = _evenly_spaced(frames, interval, str(path))
    first = round(1000 * skip / interval)
    if skip < 0 or len(frames) - first < 2:
        raise DataError(
            f"Of {len(frames)} frames fewer than two are left after {skip:g} ps.",
            where=str(path),
            fix="skip less, or run longer",
        )
    if is_run and temperature is None:
        temperature = _mean_temperature(path / "log.csv", 1000 * skip)
    return trajectory_of(
        frames[first:],
        interval=interval,
        temperature=temperature,
        wrapped=False if is_run else wrapped,
        source=str(path),
    )


def _same_atoms(frames: Sequence[Atoms], source: str) -> NDArray[np.int64]:
    if len(frames) < 2:
        raise DataError(
            f"Motion needs two frames at least, not {len(frames)}.",
            where=source,
            fix="give the trajectory of a run, all of its frames",
        )
    numbers = frames[0].numbers
    for k, atoms in enumerate(frames):
        if not np.array_equal(atoms.numbers, numbers):
            raise DataError(
                f"Frame {k} has other atoms than frame 0 ({atoms.get_chemical_formula()}, "
                f"not {frames[0].get_chemical_formula()}), or in another order.",
                where=source,
                fix="give the frames of one run",
            )
        if not has_volume(atoms):
            raise DataError(
                "Diffusion needs frames that are periodic in three directions.",
                where=f"{source}, frame {k}, pbc {atoms.pbc.tolist()}",
                fix="give the frames their cell and pbc = True",
            )
    return np.array(numbers, dtype=np.int64)


def _evenly_spaced(frames: list[Atoms], interval: float | None, source: str) -> tuple[list[Atoms], float]:
    """Frames and the time between them; a last one that came early, at the end of a run, is left out."""
    if interval is not None or len(frames) < 2:
        return frames, 1.0 if interval is None else interval
    if not all("time_fs" in a.info for a in frames):
        raise ConfigError(
            "These frames do not say at which time they were.",
            where=source,
            fix="give the time between frames in fs (interval=..., --interval)",
        )
    times = np.array([float(a.info["time_fs"]) for a in frames])
    steps = np.diff(times)
    if len(steps) > 1 and steps[-1] < steps[0] - 1e-6:
        frames, steps = frames[:-1], steps[:-1]
    if steps[0] <= 0 or np.ptp(steps) > 1e-6 * times[-1]:
        raise DataError(
            f"Frames are not evenly spaced in time: {steps.min():g} to {steps.max():g} fs.",
            where=source,
            fix="give one run with frames at even times",
        )
    return frames, float(steps[0])


def _mean_temperature(path: Path, after: float) -> float | None:
    if not path.exists():
        return None
    rows: list[dict[str, Any]] = [r for r in read_log(path) if r["time_fs"] >= after]
    values = np.array([r["temperature_K"] for r in rows])
    return float(values.mean()) if len(values) and np.isfinite(values).all() else None
