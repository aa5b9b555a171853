"""`Journal`: rows and structures appended in blocks, each of which is on the disk whole or not at all."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.io.extxyz import write_extxyz

from atomml.errors import ConfigError, DataError
from atomml.files import write_atomically
from atomml.training.checkpoint import differences

__all__ = ["Journal", "discard", "rows_done"]

_VERSION = 1


class Journal:
    """``NAME.jsonl`` and ``NAME.extxyz`` of one folder, and ``NAME.state.json``, which says how much of them counts.

    A block is flushed to the disk before the state names it. What a kill leaves behind the last block is cut off when
    the work goes on.

    Args:
        folder: created if absent.
        name: of the files.
        settings: what decides the content; work goes on only with the same.
        resume: go on with what is there, if anything is.
        overwrite: discard what is there.

    Attributes:
        done: number of rows that are on the disk.

    Raises:
        ConfigError: there are results and neither ``resume`` nor ``overwrite``, or results of other settings.
        DataError: files that are shorter than they were, or cannot be written.
    """

    def __init__(
        self, folder: Path, name: str, settings: Mapping[str, Any], *, resume: bool, overwrite: bool
    ) -> None:
        self._state, self.rows, self.frames = _files(folder, name)
        self._settings = json.loads(json.dumps(settings))
        found = [path for path in _files(folder, name) if path.exists()]
        if self._state.exists() and not overwrite and rows_done(folder, name) == 0:
            found = []  # it failed before there was anything to keep
        if found and not (resume or overwrite):
            raise ConfigError(
                "The folder already has results.",
                where=str(found[0]),
                fix="--resume goes on with them, --overwrite discards them; or choose another folder",
            )
        if found and resume and not overwrite:
            self.done, sizes = self._resumed()
            for path, size in zip((self.rows, self.frames), sizes, strict=True):
                _cut(path, size)
            return
        self.done = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            discard(folder, name)
            for path in (self.rows, self.frames):
                path.write_bytes(b"")
        except OSError as error:
            raise _unwritable(folder, error) from error
        self._write_state([0, 0])

    def append(self, rows: Sequence[Mapping[str, Any]], frames: Sequence[Atoms]) -> None:
        """Add a block of rows and of structures, not necessarily as many.

        Raises:
            DataError: it cannot be written; what was there before counts as before.
        """
        text = io.StringIO()
        write_extxyz(text, list(frames))
        lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        try:
            sizes = [_append(path, s) for path, s in ((self.rows, lines), (self.frames, text.getvalue()))]
        except OSError as error:
            raise _unwritable(self.rows.parent, error) from error
        self.done += len(rows)
        self._write_state(sizes)

    def _write_state(self, sizes: Sequence[int]) -> None:
        state = {"version": _VERSION, "done": self.done, "bytes": list(sizes), "settings": self._settings}
        write_atomically(self._state, json.dumps(state, indent=1).encode())

    def _resumed(self) -> tuple[int, list[int]]:
        """Rows and sizes of the files that count."""
        state = _read_state(self._state)
        changed = differences(state["settings"], self._settings)
        if changed:
            raise ConfigError(
                "These results were made with other settings: "
                + "; ".join(f"{key} was {old!r}, now {new!r}" for key, (old, new) in changed.items())
                + ".",
                where=str(self._state.parent),
                fix="give the same settings, choose another folder, or --overwrite",
            )
        return state["done"], state["bytes"]


def discard(folder: Path, name: str) -> None:
    """Remove the files of a journal, first the state, without which nothing counts."""
    for path in _files(folder, name):
        path.unlink(missing_ok=True)


def rows_done(folder: Path, name: str) -> int:
    """How many rows are on the disk; 0 where there is no journal.

    Raises:
        DataError: the state is damaged or of another version.
    """
    state = _files(folder, name)[0]
    return int(_read_state(state)["done"]) if state.exists() else 0


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        found = {key: state[key] for key in ("version", "done", "bytes", "settings")}
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"It is not known how far these results go ({type(error).__name__}: {error}).",
            where=str(path),
            fix="--overwrite starts again",
        ) from error
    if found["version"] != _VERSION:
        raise DataError(
            f"The results are of version {found['version']}, this atomml writes {_VERSION}.",
            where=str(path),
            fix="go on with the version that started them, or --overwrite",
        )
    return found


def _files(folder: Path, name: str) -> tuple[Path, Path, Path]:
    """State, rows and structures."""
    return folder / f"{name}.state.json", folder / f"{name}.jsonl", folder / f"{name}.extxyz"


def _append(path: Path, text: str) -> int:
    """Flush ``text`` to the disk behind the rest; returns the size of the file."""
    with path.open("ab") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def _cut(path: Path, size: int) -> None:
    found = path.stat().st_size if path.exists() else 0
    if found < size:
        raise DataError(
            f"The file has {found} bytes, but {size} were written.",
            where=str(path),
            fix="restore the file, or start again with --overwrite",
        )
    os.truncate(path, size)


def _unwritable(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"Cannot write results ({error.strerror}).",
        where=str(folder),
        fix="free some space or choose another folder; --resume keeps what is finished",
    )
