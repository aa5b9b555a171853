"""The journal of a loop: one line for each finished step, on the disk before the next begins."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from atomml.errors import ConfigError, DataError
from atomml.records import RecordFile, is_locked, record_of

__all__ = ["JOURNAL", "Journal", "Record", "is_running", "read_journal"]

JOURNAL, LOCK = "journal.jsonl", ".lock"
VERSION = 1
Record = dict[str, Any]
"""``number``, ``round``, ``step``, ``facts`` that an equal run has too, and ``timing``, which differs."""


class Journal(RecordFile):
    """Append-only records in ``folder/journal.jsonl``; only one process can have it open.

    Lines are those of `atomml.records`. A last line that is not whole, which a kill or a full disk leaves, is cut off
    at opening (`cut` bytes); damage anywhere else is an error.

    Args:
        folder: made if absent.

    Raises:
        ConfigError: another process has it open.
        DataError: a damaged line before the last, a journal of another version, a folder that cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        busy = ConfigError(
            "Another process is at work in this folder.",
            where=str(folder),
            fix="wait for it or stop it; `atomml active status` shows what it does",
        )
        super().__init__(
            folder / JOURNAL, lock=folder / LOCK, busy=busy, unwritable=partial(_unwritable, folder / JOURNAL)
        )
        self.records, self.size = _parse(self.path)
        self.cut = self.path.stat().st_size - self.size
        self.file.truncate(self.size)

    def append(
        self, round_: int, step: str, facts: Mapping[str, Any], timing: Mapping[str, Any] | None = None
    ) -> Record:
        """Add a finished step; it is on the disk when this returns.

        Raises:
            DataError: it cannot be written; the journal is as it was before.
        """
        record = {"number": len(self.records), "version": VERSION, "round": round_, "step": step}
        line = self.write_record(record | {"facts": dict(facts), "timing": dict(timing or {})})
        record = record_of(line) or {}  # exactly what a later reader gets
        self.records.append(record)
        return record

    def find(self, round_: int, step: str) -> Record | None:
        """The record of a finished step."""
        return find(self.records, round_, step)


def find(records: list[Record], round_: int, step: str) -> Record | None:
    """The record of a finished step; None if it is not finished."""
    return next((r for r in records if (r["round"], r["step"]) == (round_, step)), None)


def read_journal(folder: Path) -> list[Record]:
    """All whole records, at any time, also while a loop runs; nothing is changed.

    Raises:
        DataError: no journal there, or a damaged one.
    """
    path = folder / JOURNAL
    if not path.is_file():
        raise DataError(
            "There is no active learning in this folder.", where=str(folder), fix="give its run_dir"
        )
    return _parse(path)[0]


def is_running(folder: Path) -> bool:
    """Whether a process has the journal open."""
    return is_locked(folder / LOCK)


def _parse(path: Path) -> tuple[list[Record], int]:
    """Whole records, and the size of the file up to their end."""
    content = path.read_bytes() if path.exists() else b""
    records: list[Record] = []
    size = 0
    lines = content.splitlines(keepends=True)
    for number, line in enumerate(lines):
        record = record_of(line)
        if record is None or record["number"] != number:
            if number == len(lines) - 1:
                break
            raise DataError(
                "A line of the journal is damaged.",
                where=f"{path}, line {number + 1}",
                fix="restore the file from a copy; what follows the line cannot be trusted without it",
            )
        if record["version"] != VERSION:
            raise DataError(
                f"The journal has version {record['version']}, this atomml writes {VERSION}.",
                where=str(path),
                fix="go on with the version that started it",
            )
        records.append(record)
        size += len(line)
    return records, size


def _unwritable(path: Path, error: OSError) -> DataError:
    return DataError(
        f"The journal cannot be written ({error.strerror}); what is finished is safe.",
        where=str(path),
        fix="free some space, then go on with --resume",
    )
