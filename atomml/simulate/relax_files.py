"""Files of a relaxation: the results, and a journal of what is finished that survives a kill and a full disk."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ase import Atoms
from ase.io.extxyz import write_extxyz

from atomml.errors import ConfigError, DataError
from atomml.files import write_atomically
from atomml.records import RecordFile, record_of
from atomml.simulate.relax import RelaxResult
from atomml.training.checkpoint import differences

__all__ = ["Finished", "RelaxJournal", "write_finished", "write_relaxed"]

VERSION = 1


class Finished(NamedTuple):
    """A structure that is done: its row of the table, and its frame as extended XYZ."""

    row: dict[str, Any]
    frame: str


class RelaxJournal(RecordFile):
    """Finished structures in ``path``, one line each; every one is on the disk before the next is relaxed.

    Lines are those of `atomml.records`: the settings, the structures in the order in which they were done, and that
    the results are written. A line that a kill left half is cut off. One process at a time; the lock ends with the
    process. A context manager.

    Args:
        path: of the file; its folder is made if absent.
        settings: what decides the results; a relaxation goes on only with the same.
        resume: go on with what is there, if anything is.
        overwrite: discard what is there. Without either only results that are written are.

    Attributes:
        done: what is finished, by the index of the structure.

    Raises:
        ConfigError: an unfinished relaxation and neither ``resume`` nor ``overwrite``; other settings; another
            process has it.
        DataError: the file cannot be written.
    """

    def __init__(
        self, path: Path, settings: Mapping[str, Any], *, resume: bool, overwrite: bool = False
    ) -> None:
        busy = ConfigError(
            "Another process relaxes structures into this file.",
            where=str(path),
            fix="wait for it or stop it, or choose another --out",
        )
        super().__init__(path, lock=path, busy=busy, unwritable=partial(_unwritable, path))
        self.done = dict[int, Finished]()
        now = json.loads(json.dumps(settings))
        try:
            self._read(now, resume=resume, overwrite=overwrite)
            if not self.size:
                self.write_record({"version": VERSION, "settings": now})
        except BaseException:
            self.close()
            raise

    def append(self, result: RelaxResult) -> None:
        """Add a finished structure.

        Raises:
            DataError: it cannot be written (the disk is full); what is finished is safe.
        """
        finished = _finished(result)
        self.write_record({"row": finished.row, "frame": finished.frame})
        self.done[result.index] = finished

    def write(self, path: Path) -> list[Path]:
        """Write the results in the order of the structures, see `write_relaxed`, and that they are written."""
        paths = write_finished([self.done[index] for index in sorted(self.done)], path)
        self.write_record({"written": True})
        return paths

    def _read(self, now: dict[str, Any], *, resume: bool, overwrite: bool) -> None:
        content = self.path.read_bytes()
        content = content[: content.rfind(b"\n") + 1]
        head, *lines = [record_of(line) for line in content.splitlines(keepends=True)] or [None]
        records = [record for record in lines if record is not None]
        found = {record["row"]["index"]: _read_back(record) for record in records if "row" in record}
        written = any("written" in record for record in records)
        if overwrite or not found or (written and not resume):
            return  # and begin anew
        if not resume:
            raise ConfigError(
                f"There is an unfinished relaxation: {len(found)} structures are done.",
                where=str(self.path),
                fix="--resume goes on with the rest, --overwrite discards them, --out FILE writes elsewhere",
            )
        _refuse_other(head or {}, now, self.path)
        self.done, self.size = found, len(content)


def write_relaxed(results: Sequence[RelaxResult], path: str | Path) -> list[Path]:
    """Write the structures to ``path`` (extended XYZ) and the table beside it as .csv and .json.

    Structures that failed are written too, as they were when they failed, marked ``relax_error``.

    Raises:
        DataError: a file cannot be written.
    """
    return write_finished([_finished(result) for result in results], Path(path))


def write_finished(finished: Sequence[Finished], path: Path) -> list[Path]:
    """See `write_relaxed`."""
    rows, table = [one.row for one in finished], io.StringIO(newline="")
    writer = csv.DictWriter(table, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    outputs = {
        path: "".join(one.frame for one in finished),
        path.with_suffix(".csv"): table.getvalue(),
        path.with_suffix(".json"): json.dumps(rows, indent=2),
    }
    for target, text in outputs.items():
        write_atomically(target, text.encode())
    return list(outputs)


def _finished(result: RelaxResult) -> Finished:
    frame: Atoms = result.atoms.copy()
    frame.calc = result.atoms.calc
    frame.info |= {
        "relax_index": result.index,
        "converged": result.converged,
        "relax_steps": result.steps,
    }
    if result.error is not None:
        frame.info["relax_error"] = result.error.splitlines()[0]
    text = io.StringIO()
    write_extxyz(text, [frame])
    return Finished(result.row(), text.getvalue())


def _read_back(record: Mapping[str, Any]) -> Finished:
    """With the columns in their order, which the lines do not keep."""
    row = record["row"]
    return Finished({f.name: row[f.name] for f in fields(RelaxResult) if f.name in row}, record["frame"])


def _refuse_other(head: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    if head.get("version") != VERSION:
        raise DataError(
            "The first line of this file is damaged or of another version of atomml.",
            where=str(path),
            fix="go on with the version that began it, or --overwrite",
        )
    changed = differences(head["settings"], now)
    if changed:
        changes = "; ".join(f"{key}: was {old!r}, now {new!r}" for key, (old, new) in changed.items())
        raise ConfigError(
            f"The relaxation to resume was another one ({changes}).",
            where=str(path),
            fix="give the same model, structures and settings, or --overwrite, or another --out",
        )


def _unwritable(path: Path, error: OSError) -> DataError:
    return DataError(
        f"Cannot write what is finished ({error.strerror}); what was finished before is safe.",
        where=str(path),
        fix="free some space, then go on with --resume",
    )
