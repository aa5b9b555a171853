"""Scalar columns of parquet files, and scalars inside of structs and JSON texts, as tags of frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from atomml.datasets.packing import tag_column
from atomml.datasets.readers.aselmdb.tags import LONGEST_TEXT, MOST_TAGS
from atomml.datasets.readers.parquet.columns import is_text
from atomml.datasets.safe.bounded import parse_json
from atomml.errors import DataError
from atomml.shapes import ndarray

__all__ = ["JSON_TEXT", "read_tags", "tag_fields"]

DEPTH = 3  # of structs
FORMULAS = ("composition", "composition_reduced")  # one field per element, which the frame has anyway
_NO_TAG = object()
JSON_TEXT = "metadata"  # name of a text column whose JSON is taken apart


def tag_fields(kind: Any, name: str, depth: int = DEPTH) -> Iterator[tuple[str, bool]]:
    """Names of the scalars in a column of this type (dotted inside of structs) and whether they can be tags."""
    import pyarrow as pa

    if pa.types.is_struct(kind) and depth > 0 and name.rpartition(".")[2] not in FORMULAS:
        for k in range(kind.num_fields):
            field = kind.field(k)
            yield from tag_fields(field.type, f"{name}.{field.name}", depth - 1)
        return
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    scalar = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
    times = (pa.types.is_timestamp, pa.types.is_date)
    yield name, is_text(value) or any(test(value) for test in (*scalar, *times))


def read_tags(
    columns: dict[str, Any], chosen: tuple[str, ...] | None, not_read: Counter[str], where: str
) -> dict[str, ndarray]:
    """Tags of the rows of a batch: text ("" where null), flags, integers or numbers (NaN where null).

    Args:
        columns: arrow arrays by name; nested ones are named with dots.
        chosen: tags to keep; None for all.
        not_read: counts the rows of columns that are left out.
        where: file, for messages.

    Raises:
        DataError: more columns than a table of tags has.
    """
    tags: dict[str, ndarray] = {}
    for name, array in columns.items():
        is_json = name == JSON_TEXT and is_text(array.type)
        parsed = _json_columns(array, name, not_read) if is_json else None
        for key, column in ({name: array} if parsed is None else parsed).items():
            present = len(column) if isinstance(column, np.ndarray) else len(column) - column.null_count
            made = None if chosen is not None and key not in chosen else _tag(column)
            if made is None:
                not_read[key] += present
            else:
                tags[key] = made
    if len(tags) > MOST_TAGS:
        raise DataError(
            f"There are more than {MOST_TAGS} scalar columns.",
            where=where,
            fix="name those to keep in the option `tags`",
        )
    return tags


def _tag(array: Any) -> ndarray | None:
    """The column in numpy; None for one that holds long texts."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(array, np.ndarray):
        return array
    kind = array.type
    if pa.types.is_dictionary(kind):
        array = array.dictionary_decode()
        kind = array.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        array = array.cast(pa.string())
    if is_text(array.type):
        longest = pc.max(pc.utf8_length(array)).as_py() or 0
        return (
            None if longest > LONGEST_TEXT else np.array(pc.fill_null(array, "").to_pylist(), dtype=np.str_)
        )
    if pa.types.is_boolean(kind) and array.null_count == 0:
        return array.to_numpy(zero_copy_only=False)
    if pa.types.is_integer(kind) and array.null_count == 0 and kind != pa.uint64():
        return array.to_numpy(zero_copy_only=False).astype(np.int64)
    if pa.types.is_boolean(kind):
        array = array.cast(pa.uint8())
    return pc.fill_null(array.cast(pa.float64(), safe=False), float("nan")).to_numpy(zero_copy_only=False)


def _json_columns(array: Any, name: str, not_read: Counter[str]) -> dict[str, ndarray] | None:
    """Scalars of the JSON objects in a text column, by dotted names; None if a text is no such object."""
    rows: list[dict[str, Any]] = []
    for text in array.to_pylist():
        try:
            cell = {} if not text else parse_json(text.encode(), where=name, nan=True)
        except DataError:
            return None
        if not isinstance(cell, dict):
            return None
        rows.append(dict(_scalars(cell, name, DEPTH)))
    names = dict.fromkeys(key for row in rows for key in row)
    not_read.update(key for row in rows for key, value in row.items() if value is _NO_TAG)
    columns = {key: [None if row.get(key) is _NO_TAG else row.get(key) for row in rows] for key in names}
    return {key: tag_column(values) for key, values in columns.items() if any(v is not None for v in values)}


def _scalars(cell: dict[str, Any], prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    for key, value in cell.items():
        if isinstance(value, dict) and depth > 1:
            yield from _scalars(value, f"{prefix}.{key}", depth - 1)
        elif isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= LONGEST_TEXT):
            yield f"{prefix}.{key}", value
        elif value is not None:
            yield f"{prefix}.{key}", _NO_TAG
