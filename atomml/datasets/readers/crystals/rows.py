"""Rows of a CSV file with line breaks in quoted fields: where they end, and their columns as values."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from atomml.datasets.frame import Tag
from atomml.errors import DataError
from atomml.shapes import ndarray

__all__ = ["Table", "column_names", "parse_rows", "row_ends", "typed"]

CHUNK = 4 << 20
LONGEST_TEXT = 300  # characters of a tag
INTEGER = re.compile(r"[-+]?(?:0|[1-9]\d{0,17})")
REAL = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?inf")
FLAGS = {"True": True, "False": False, "true": True, "false": False}
MISSING = {"", "nan", "NaN", "None", "null"}  # in a column of numbers; "NaN" is also sodium nitride


@dataclass(frozen=True)
class Table:
    """Rows of a CSV file.

    Attributes:
        names: of the columns.
        columns: the text of every cell, by column.
        rows: number of each row in the file, counting from 0.
    """

    names: list[str]
    columns: dict[str, list[str]]
    rows: list[int]


def row_ends(file: BinaryIO | io.BytesIO, where: str) -> Iterator[ndarray]:
    """Offsets (from here) after each row, in blocks; a line break between double quotes ends no row.

    Raises:
        DataError: the last quote does not close.
    """
    odd = before = 0
    last = b"\n"
    while chunk := file.read(CHUNK):
        data = np.frombuffer(chunk, dtype=np.uint8)
        quotes, breaks = np.flatnonzero(data == ord('"')), np.flatnonzero(data == ord("\n"))
        outside = ((np.searchsorted(quotes, breaks) + odd) & 1) == 0
        yield breaks[outside] + (before + 1)
        odd, before, last = (odd + len(quotes)) & 1, before + len(chunk), chunk[-1:]
    if odd:
        raise DataError(
            "The last double quote is not closed.", where=where, fix="fetch the file again: it ends too early"
        )
    if last != b"\n":
        yield np.array([before])


def column_names(line: bytes, where: str) -> list[str]:
    """Names in the first row; a nameless column is ``Unnamed: K``, as pandas says.

    Raises:
        DataError: not UTF-8, or a name that occurs twice.
    """
    try:
        text = line.decode("utf-8-sig")
        names = next(csv.reader(io.StringIO(text), strict=True), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"The first row is not CSV ({error}).", where=where, fix="save it as UTF-8 CSV"
        ) from error
    named = [name.strip() or f"Unnamed: {k}" for k, name in enumerate(names)]
    if len(set(named)) < len(named):
        twice = next(name for name in named if named.count(name) > 1)
        raise DataError(f"Two columns are named {twice!r}.", where=where, fix="rename one")
    return named


def parse_rows(data: bytes, names: Sequence[str], wanted: Sequence[str], *, first: int, where: str) -> Table:
    """The rows in ``data``, which begins and ends between rows.

    Args:
        data: UTF-8.
        names: of all columns.
        wanted: columns to decode.
        first: number of the first row.
        where: the file, for messages.

    Raises:
        DataError: rows with more or fewer cells, irregular quotes, not UTF-8.
    """
    from pyarrow import ArrowException, string
    from pyarrow import csv as arrow

    starts = np.concatenate([[0], *row_ends(io.BytesIO(data), where)]).astype(np.int64)
    rows = [first + k for k in range(len(starts) - 1) if data[starts[k] : starts[k + 1]].strip(b"\r\n")]
    if not rows:
        return Table(list(names), {name: [] for name in wanted}, [])
    try:
        table = arrow.read_csv(
            io.BytesIO(data),
            arrow.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=list(names)),
            arrow.ParseOptions(newlines_in_values=True),
            arrow.ConvertOptions(
                column_types=dict.fromkeys(names, string()),
                include_columns=list(wanted),
                strings_can_be_null=False,
            ),
        )
    except (ArrowException, UnicodeDecodeError) as error:
        raise DataError(
            f"This part of the file is not regular CSV ({error}).",
            where=f"{where}, rows {rows[0]} to {rows[-1]} (counting from 0)",
            fix="check the quotes and the number of cells",
        ) from error
    if table.num_rows != len(rows):
        raise DataError(
            f"The quotes are irregular: {table.num_rows} rows are read where {len(rows)} are expected.",
            where=f"{where}, rows {rows[0]} to {rows[-1]} (counting from 0)",
            fix="put fields with quotes or line breaks into double quotes",
        )
    return Table(list(names), {name: table[name].to_pylist() for name in wanted}, rows)


def typed(values: Sequence[str]) -> list[Tag | None] | None:
    """A column as flags, integers, numbers or text, whichever all its values are; None for lists and long text.

    Empty cells are None; in a column of numbers or flags "nan", "None" and "null" are too. Numbers with leading
    zeros are text.
    """
    present = [v for v in values if v not in MISSING]
    if present and all(v in FLAGS for v in present):
        return [FLAGS.get(v) for v in values]
    if present and all(INTEGER.fullmatch(v) for v in present):
        return [None if v in MISSING else int(v) for v in values]
    if present and all(REAL.fullmatch(v) for v in present) and not any(_padded(v) for v in present):
        return [None if v in MISSING else float(v) for v in values]
    if any(len(v) > LONGEST_TEXT or "\n" in v for v in values):
        return None
    if present and all(v[0] in "[{" for v in present):
        return None
    return [v or None for v in values]


def _padded(value: str) -> bool:
    digits = value.lstrip("+-")
    return len(digits) > 1 and digits[0] == "0" and digits[1].isdigit()
