"""Files of a run: log table, trajectory, restart state. All can be cut back to the last complete state."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.extxyz import write_extxyz
from numpy.typing import NDArray

from atomml.errors import ConfigError, DataError
from atomml.files import write_atomically
from atomml.records import lock_folder
from atomml.simulate.md_config import MDConfig
from atomml.simulate.md_log import Record, format_row

__all__ = [
    "FileRecorder",
    "State",
    "forget_deviations",
    "frame_of",
    "load_state",
    "locked",
    "refuse_other_run",
    "save_state",
]

_VERSION = 1
_RESULTS = ("state.npz", "summary.json", "md.png", "last_good.extxyz")
"""What an older run may have left beside log and trajectory; a new one begins without."""
_MAY_CHANGE = {"steps", "state_every", "limits"}
"""Settings that may be others when a run goes on."""


@dataclass(frozen=True)
class State:
    """A complete point of a run: what the next step depends on, and how long the files were then.

    Attributes:
        step: number of finished steps.
        settings: the run's settings, to refuse a restart with others.
        arrays: positions, momenta, cell, numbers, masses and the integrator's own (keys "integrator:...").
        log_bytes, trajectory_bytes: file sizes at that step.
        model: fingerprint of the potential; None in states of versions that did not write it.
    """

    step: int
    settings: dict[str, Any]
    arrays: dict[str, NDArray[Any]]
    log_bytes: int
    trajectory_bytes: int
    model: str | None = None


def save_state(path: Path, state: State) -> None:
    """Write a restart state as one .npz without pickled objects."""
    header = {
        "version": _VERSION,
        "step": state.step,
        "settings": state.settings,
        "log_bytes": state.log_bytes,
        "trajectory_bytes": state.trajectory_bytes,
        "model": state.model,
    }
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {"header": np.array(json.dumps(header)), **state.arrays}
    np.savez(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def load_state(path: Path) -> State:
    """Read what `save_state` wrote.

    Raises:
        DataError: no state there, or a file that is not one.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(str(arrays.pop("header")))
        version = header.pop("version")
    except FileNotFoundError as error:
        raise DataError(
            "There is no run to resume here.", where=str(path), fix="start it without --resume"
        ) from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"This is not a restart state of atomml ({error}).", where=str(path), fix="start the run again"
        ) from error
    if version != _VERSION:
        raise DataError(
            f"The restart state has version {version}, this atomml writes {_VERSION}.",
            where=str(path),
            fix="resume with the version that started the run",
        )
    return State(arrays=arrays, **header)


def locked(folder: Path | None, *, resume: bool) -> AbstractContextManager[BinaryIO | None]:
    """Keep other processes out of the folder of a run; the lock ends with the process, however that ends.

    Raises:
        ConfigError: another process is at work in it.
        DataError: it cannot be made.
    """
    if folder is None or (resume and not folder.is_dir()):
        return nullcontext()
    return lock_folder(folder)


def refuse_other_run(state: State, atoms: Atoms, config: MDConfig, model: str, folder: Path) -> None:
    """Refuse to go on with another structure, other settings or another model than the run began with.

    Raises:
        ConfigError: says what is different.
    """
    now = config.model_dump(mode="json")
    differ = [k for k in now if k not in _MAY_CHANGE and now[k] != state.settings.get(k)]
    if differ:
        changes = "; ".join(f"{k}: was {state.settings.get(k)!r}, now {now[k]!r}" for k in differ)
        raise ConfigError(
            f"The run to resume had other settings ({changes}).",
            where=str(folder),
            fix="resume with the same settings, or start a new run in another folder from its last frame",
        )
    same_numbers = np.array_equal(state.arrays["numbers"], atoms.numbers)
    if not same_numbers or not np.array_equal(state.arrays["masses"], atoms.get_masses()):
        raise ConfigError(
            "The run to resume has other atoms than this structure.",
            where=str(folder),
            fix="give the structure file that the run was started from",
        )
    if state.model not in (None, model):
        raise ConfigError(
            f"The run to resume had another model (fingerprint {state.model}, this one {model}).",
            where=str(folder),
            fix="give the model file, the dtype and the calibration that the run was started with, and deviations "
            "only if it had them, or start a new run in another folder from its last frame",
        )


def frame_of(atoms: Atoms, info: Mapping[str, Any] | None = None) -> Atoms:
    """A copy with the results of its calculator, to be written by ASE.

    Energy, forces and stress are stored as ASE has them. Deviations, which ASE has no place for and would drop, are
    the array ``forces_std`` [N, 3] in eV/Å and ``info["energy_std"]`` in eV. Constraints, which an integrator may
    have added, are removed.
    """
    frame, found = atoms.copy(), atoms.calc.results
    frame.set_constraint()
    results = {k: v for k, v in found.items() if k in ("energy", "forces", "stress")}
    frame.calc = SinglePointCalculator(frame, **results)
    forget_deviations(frame)
    if "forces_std" in found:
        frame.set_array("forces_std", found["forces_std"], float, (3,))
    if "energy_std" in found:
        frame.info["energy_std"] = found["energy_std"]
    frame.info.update(info or {})
    return frame


def forget_deviations(atoms: Atoms) -> None:
    """Remove the deviations that an earlier `frame_of` left: they are not those of the next positions or model."""
    atoms.info.pop("energy_std", None)
    atoms.arrays.pop("forces_std", None)


class FileRecorder:
    """Appends rows and frames to ``log.csv`` and ``trajectory.extxyz`` in a folder.

    A new run first removes what an older one left, so that nothing of it can be resumed or mistaken for a result.

    Args:
        folder: created if absent.
        columns: of the log.
        state: the state to continue from; both files are cut back to their length at that state.

    Raises:
        ConfigError: the log to continue has other columns.
        DataError: a file to continue is missing or shorter than the state says; a file cannot be written.
    """

    def __init__(self, folder: Path, columns: Sequence[str], state: State | None = None) -> None:
        self.log_path, self.trajectory_path = folder / "log.csv", folder / "trajectory.extxyz"
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.glob(".*.tmp"):  # of a process that was killed while it wrote
                path.unlink()
        if state is None:
            self._begin(folder, columns)
        else:
            _same_columns(self.log_path, columns)
            _cut(self.log_path, state.log_bytes)
            _cut(self.trajectory_path, state.trajectory_bytes)

    def _begin(self, folder: Path, columns: Sequence[str]) -> None:
        for name in _RESULTS:
            with _writing(folder / name):
                (folder / name).unlink(missing_ok=True)
        with _writing(self.log_path):
            self.log_path.write_text(",".join(columns) + "\n", encoding="utf-8")
        with _writing(self.trajectory_path):
            self.trajectory_path.write_bytes(b"")

    def write(self, record: Record, frame: Atoms) -> None:
        """Append one row and one frame.

        Raises:
            DataError: the disk is full; names the file. What a state refers to is untouched.
        """
        text = io.StringIO()
        write_extxyz(text, [frame])
        for path, line in ((self.log_path, format_row(record)), (self.trajectory_path, text.getvalue())):
            with _writing(path), path.open("a", encoding="utf-8") as file:
                file.write(line)

    def sizes(self) -> tuple[int, int]:
        """Bytes of the log and of the trajectory, both flushed to disk.

        Raises:
            DataError: the disk is full, which some file systems only say now; names the file.
        """
        for path in (self.log_path, self.trajectory_path):
            with _writing(path), path.open("rb") as file:
                os.fsync(file.fileno())
        return self.log_path.stat().st_size, self.trajectory_path.stat().st_size


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn what the system says about ``path`` into an error that says how to go on."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"Cannot write this file of the run ({error.strerror}).",
            where=str(path),
            fix="free some disk space; --resume then goes on from the last restart state",
        ) from error


def _same_columns(path: Path, columns: Sequence[str]) -> None:
    """Refuse to go on with a model with deviations after one without, or the other way round."""
    if not path.exists():
        return  # `_cut` says so
    with path.open(encoding="utf-8") as file:
        before = file.readline().strip()
    if before != ",".join(columns):
        raise ConfigError(
            f"The log to continue has the columns {before}, this run {','.join(columns)}.",
            where=str(path),
            fix="resume with the model that the run was started with, with or without deviations as then",
        )


def _cut(path: Path, size: int) -> None:
    actual = path.stat().st_size if path.exists() else -1
    if actual < size:
        raise DataError(
            "This file of the run is missing or shorter than at the last restart state.",
            where=str(path),
            fix="restore it, or start the run again in another folder",
        )
    with _writing(path):
        os.truncate(path, size)
