"""Conditions on tags, such as ``T >= 1000 and system == LiCl``; parsed, never evaluated as code."""

from __future__ import annotations

import operator
import re

import numpy as np

from atomml.datasets.store import FrameStore
from atomml.errors import DataError
from atomml.shapes import Bool, Int64, ndarray

__all__ = ["rows_where"]

OPERATORS = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
TERM = re.compile(r"^\s*([\w.:-]+)\s*(>=|<=|==|!=|>|<)\s*(.+?)\s*$")


def rows_where(store: FrameStore, condition: str) -> Int64[ndarray, " rows"]:
    """Rows that meet every term of ``condition``.

    Args:
        store: the data set.
        condition: terms ``TAG OP VALUE`` joined by "and"; OP is one of >= <= == != > <; a list of values
            ``a|b`` with == or != means any or none of them. The tags are those of the store, ``formula``,
            ``n_atoms``, ``fmax``, ``energy_per_atom``, ``volume_per_atom`` and ``has_Li`` (true or false).
            The last is there for any element.

    Raises:
        DataError: cannot be parsed, an unknown tag, a number compared with text.
    """
    mask = np.ones(len(store), dtype=bool)
    for term in re.split(r"\s+and\s+", condition):
        mask &= _term(store, term, condition)
    return np.flatnonzero(mask).astype(np.int64)


def _term(store: FrameStore, term: str, condition: str) -> Bool[ndarray, " frames"]:
    from atomml.datasets.splits import tag_values

    match = TERM.match(term)
    if match is None:
        raise DataError(
            f"The condition {term!r} cannot be read.", where=condition, fix="write TAG >= VALUE [and ...]"
        )
    name, symbol, text = match.groups()
    column = tag_values(store, name)
    values = [_value(part.strip().strip("'\""), column, name, condition) for part in text.split("|")]
    if len(values) > 1 and symbol not in ("==", "!="):
        raise DataError(f"{symbol} takes one value, not {text!r}.", where=condition, fix="use == or !=")
    hits = np.stack([OPERATORS[symbol](column, value) for value in values])
    result = hits.all(axis=0) if symbol == "!=" else hits.any(axis=0)
    return np.asarray(result, dtype=bool)


def _value(text: str, column: ndarray, name: str, condition: str) -> str | float | bool:
    if column.dtype.kind == "U":
        return text
    if column.dtype.kind == "b":
        return text.lower() in ("true", "t", "1")
    try:
        return float(text)
    except ValueError as error:
        raise DataError(f"The tag {name!r} is a number, {text!r} is not.", where=condition) from error
