"""A folder of generated crystals: reading its rows and structures together, one by one or all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.io.extxyz import read_extxyz

from atomml.errors import DataError

__all__ = [
    "GENERATED",
    "RELAXED",
    "Row",
    "iterate_generated",
    "iterate_records",
    "read_generated",
    "read_records",
]

GENERATED, RELAXED = "structures", "relaxed"
"""Names of the files: ``structures.jsonl`` and ``structures.extxyz``, ``relaxed.jsonl`` and ``relaxed.extxyz``."""

Row = dict[str, Any]


def iterate_records(folder: str | Path, name: str = GENERATED) -> Iterator[Row]:
    """The rows of ``NAME.jsonl``, of crystals and of what failed to be one (``"valid": false`` and a reason).

    Raises:
        DataError: no such file, or a line that is not JSON.
    """
    path = Path(folder) / f"{name}.jsonl"
    if not path.exists():
        raise DataError(
            "There are no generated crystals in this folder.",
            where=str(path),
            fix="give the folder that `atomml crystals generate` wrote",
        )
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise DataError(
                    f"The line is not JSON ({error}).",
                    where=f"{path}, line {number}",
                    fix="a run that was killed repairs its files when it goes on with --resume",
                ) from error


def iterate_generated(folder: str | Path, name: str = GENERATED) -> Iterator[tuple[Atoms, Row]]:
    """Valid crystals with their rows, in the order of their index; only one of them is in memory at a time.

    ``atoms.info`` has the row.

    Raises:
        DataError: as `iterate_records`, or files that do not belong together.
    """
    path = Path(folder) / f"{name}.extxyz"
    rows = (row for row in iterate_records(folder, name) if row["valid"])
    for row, atoms in zip_longest(rows, _frames(path)):
        if row is None or atoms is None or atoms.info.get("index") != row["index"]:
            raise DataError(
                "Table and structures do not belong together"
                + ("." if row is None else f": crystal {row['index']} is not where it should be."),
                where=str(path),
                fix="do not edit one of the files of a folder; a killed run repairs them with --resume",
            )
        atoms.info |= row
        yield atoms, row


def _frames(path: Path) -> Iterator[Atoms]:
    if not path.exists() or path.stat().st_size == 0:  # for ASE an empty file is an error
        return
    with path.open(encoding="utf-8") as file:
        yield from read_extxyz(file, index=slice(None))


def read_records(folder: str | Path, name: str = GENERATED) -> list[Row]:
    """All rows at once, see `iterate_records`."""
    return list(iterate_records(folder, name))


def read_generated(folder: str | Path, name: str = GENERATED) -> tuple[list[Atoms], list[Row]]:
    """All valid crystals and their rows at once, see `iterate_generated`."""
    pairs = list(iterate_generated(folder, name))
    return [atoms for atoms, _ in pairs], [row for _, row in pairs]
