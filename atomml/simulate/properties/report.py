"""Files of a property: JSON with provenance, CSV and a figure."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from atomml._version import __version__
from atomml.files import write_atomically
from atomml.training.report import save_figure

__all__ = ["Property", "write_property"]


@runtime_checkable
class Property(Protocol):
    """A result with numbers and a table."""

    @property
    def summary(self) -> dict[str, Any]:
        """JSON values."""

    @property
    def columns(self) -> Mapping[str, NDArray[np.float64]]:
        """Columns of equal length."""


def write_property(
    folder: str | Path,
    name: str,
    result: Property | Mapping[str, Property],
    figure: Figure,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Write ``name``.json, .csv and .png; returns the JSON.

    Args:
        folder: made if there is none.
        name: of the files.
        result: one, or several by a name each (elements): then the JSON has a key and the table columns for each.
        figure: of it.
        provenance: model, settings, structure; the version is added.

    Raises:
        DataError: a file cannot be written.
    """
    folder = Path(folder)
    if isinstance(result, Mapping):
        summary: dict[str, Any] = {key: r.summary for key, r in result.items()}
        columns = {f"{key}_{c}": x for key, r in result.items() for c, x in r.columns.items()}
    else:
        summary, columns = dict(result.summary), dict(result.columns)
    document = summary | {"provenance": {"atomml": __version__, **provenance}}
    text = json.dumps(_without_nan(document), indent=1, ensure_ascii=False) + "\n"
    write_atomically(folder / f"{name}.json", text.encode())
    write_atomically(folder / f"{name}.csv", _csv(list(columns), list(columns.values())).encode())
    save_figure(figure, folder / f"{name}.png")
    return document


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: None."""
    if isinstance(value, Mapping):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _csv(header: Sequence[str], columns: Sequence[NDArray[np.float64]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([repr(float(x)) for x in row] for row in zip(*columns, strict=True))
    return text.getvalue()
