"""`LabelCache`: every label that was ever computed, in one append-only file that survives a kill at any moment.

A record of ``labels.jsonl`` (see `atomml.records`) is an outcome, or ``{"forget": "failures"}``. It is on the disk
before `LabelCache.put` returns. The last line can be torn (a kill, a full disk); opening the file cuts it off.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from atomml.errors import DataError
from atomml.labelling.config import AnyLabelCalculator
from atomml.labelling.identity import labeller_identity
from atomml.labelling.outcome import LabelOutcome, outcome_from_json, outcome_to_json
from atomml.records import RecordFile, record_of
from atomml.shapes import ndarray

__all__ = ["TOTALS", "LabelCache", "electronic_state", "identity_digest", "label_key", "structure_key"]

NAME = "labels.jsonl"
TOTALS = ("charge", "spin", "multiplicity")  # of the info of a structure
RESOLUTION = 1e-8  # Å: what extended XYZ writes


def label_key(atoms: Atoms, calculator: AnyLabelCalculator) -> str:
    """32 hexadecimal digits that stand for a structure and the calculator of its label.

    Elements in order, positions and cell to 1e-8 Å, periodicity, and where they are given initial magnetic
    moments, initial charges, and ``charge``, ``spin`` and ``multiplicity`` of the info; of the calculator all
    settings, its version and the hash of its model file. A structure that was moved, turned or sorted differently is
    another one.

    Raises:
        DataError: the model file of the calculator cannot be read.
    """
    return structure_key(atoms, identity_digest(calculator))


def identity_digest(calculator: AnyLabelCalculator) -> bytes:
    """Hash of `labeller_identity`, for many structures of one calculator."""
    text = json.dumps(labeller_identity(calculator), sort_keys=True)
    return hashlib.sha256(text.encode()).digest()


def structure_key(atoms: Atoms, identity: bytes) -> str:
    """See `label_key`."""
    digest = hashlib.sha256(b"atomml-label-1" + identity)
    for array in (atoms.numbers.astype(np.int64), np.asarray(atoms.pbc, dtype=bool)):
        digest.update(array.tobytes())
    for lengths in (atoms.positions, atoms.cell.array):
        digest.update(_rounded(lengths).tobytes())
    digest.update(json.dumps(electronic_state(atoms), sort_keys=True).encode())
    return digest.hexdigest()[:32]


def electronic_state(atoms: Atoms) -> dict[str, Any]:
    """What a structure says about its electrons; empty by default.

    ``magmoms`` and ``charges`` of the atoms, and of the info the total ``charge`` and the multiplicity, which is
    called ``spin`` or ``multiplicity``.
    """
    given = {"magmoms": atoms.get_initial_magnetic_moments(), "charges": atoms.get_initial_charges()}
    state: dict[str, Any] = {name: array.tolist() for name, array in given.items() if array.any()}
    return state | {name: _whole(atoms.info[name]) for name in TOTALS if name in atoms.info}


def _whole(value: Any) -> int | str:
    """A whole number, or the text of what is none."""
    try:
        return int(value) if int(value) == float(value) else str(value)
    except (TypeError, ValueError, OverflowError):
        return str(value)


def _rounded(lengths: ndarray) -> ndarray:
    return np.rint(np.asarray(lengths, dtype=np.float64) / RESOLUTION) + 0.0  # no negative zero


class LabelCache(RecordFile):
    """Outcomes by key, on disk; one process at a time.

    A context manager; `close` gives the folder free. Keys and places of the lines are in memory, outcomes are
    read when they are asked for.

    Args:
        folder: made if it is not there.

    Raises:
        DataError: another process uses the folder, or it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        busy = DataError(
            "Another process uses this label cache.", where=str(folder), fix="wait for it, or stop it"
        )
        super().__init__(
            self.folder / NAME,
            lock=self.folder / "lock",
            busy=busy,
            unwritable=partial(_refused, self.folder),
        )
        self._places: dict[str, tuple[int, int]] = {}
        self._failed: set[str] = set()
        self.problems = tuple(self._read())
        for problem in self.problems:
            warnings.warn(f"{self.path}: {problem}", stacklevel=2)

    problems: tuple[str, ...]
    """What was wrong with the file when it was opened: a torn last line (cut off), damaged lines (left out)."""

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def keys(self) -> tuple[str, ...]:
        """Of all labels and final failures, in the order of their arrival."""
        return tuple(self._places)

    def get(self, key: str) -> LabelOutcome | None:
        """A label or a final failure; None if there is neither.

        Raises:
            DataError: the file was altered or cannot be read.
        """
        if key not in self._places:
            return None
        place, size = self._places[key]
        try:
            record = record_of(os.pread(self.file.fileno(), size, place))
        except OSError as error:
            raise _refused(self.folder, error) from error
        if record is None:
            raise DataError(
                "A record of the label cache was altered while it was in use.", where=str(self.path)
            )
        return outcome_from_json(record)

    def put(self, outcome: LabelOutcome) -> None:
        """Write down an outcome; it is on the disk when this returns.

        Failures that another attempt may cure (time-out, died) are written too, but `get` does not know them.

        Raises:
            DataError: the disk is full or refuses; the file is as it was before.
        """
        self._keep(outcome_to_json(outcome))

    def forget_failures(self) -> int:
        """Try final failures again when they are asked for; returns how many there were."""
        count = len(self._failed)
        if count:
            self._keep({"forget": "failures"})
        return count

    def _keep(self, record: dict[str, Any]) -> None:
        place = self.size
        self._note(record, place, len(self.write_record(record)))

    def _note(self, record: dict[str, Any], place: int, size: int) -> None:
        if "forget" in record:
            for key in self._failed:
                del self._places[key]
            self._failed.clear()
            return
        outcome = outcome_from_json(record)
        if outcome.final:
            self._places[outcome.key] = (place, size)
            (self._failed.discard if outcome.failure is None else self._failed.add)(outcome.key)

    def _read(self) -> Iterator[str]:
        """Note every record; yields what is wrong with the file."""
        damaged = 0
        with self.path.open("rb") as file:
            for line in file:
                record = record_of(line)
                if record is not None:
                    self._note(record, self.size, len(line))
                elif line.endswith(b"\n"):
                    damaged += 1
                else:
                    self.file.truncate(self.size)
                    yield (
                        f"the last record was torn by a kill or a full disk; {len(line)} bytes were cut off, "
                        "the label will be computed again"
                    )
                    break
                self.size += len(line)
        if damaged:
            yield f"{damaged} damaged records were left out; their labels will be computed again"


def _refused(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"The label cache cannot be used ({error.strerror}); every label it had is kept.",
        where=str(folder),
        fix="free some space or choose another folder, then run the same again",
    )
