"""Rows of a check, and the report: Markdown, JSON and a figure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atomml.files import write_atomically
from atomml.simulate.check_figure import draw_curves

__all__ = ["CheckReport", "CheckRow", "Curve", "larger", "limited"]


@dataclass(frozen=True)
class CheckRow:
    """One line of the report.

    Attributes:
        name: what was tested.
        value: the figure found; NaN when there is none.
        limit: largest value that passes; None for information only.
        unit: unit of both.
        passed: None when nothing is decided: information, or not applicable.
        comment: how it was measured, and what to do about a failure.
    """

    name: str
    value: float
    limit: float | None
    unit: str
    passed: bool | None
    comment: str = ""


@dataclass(frozen=True)
class Curve:
    """A line for the figure.

    Attributes:
        panel: title of the panel it belongs to.
        label: its name in the legend.
        x, y: points.
        xlabel, ylabel: axis titles.
    """

    panel: str
    label: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    xlabel: str
    ylabel: str


@dataclass(frozen=True)
class CheckReport:
    """All rows and curves of a run of the checks.

    Attributes:
        rows: in the order in which they were run.
        curves: equation of state, dimers, energy along the dynamics, speed.
        about: model, elements, structures used, seconds.
        folder: where the files are, or None.
    """

    rows: tuple[CheckRow, ...]
    curves: tuple[Curve, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    @property
    def passed(self) -> bool:
        """Whether no row failed."""
        return all(row.passed is not False for row in self.rows)

    @property
    def failed(self) -> tuple[CheckRow, ...]:
        """The rows that failed."""
        return tuple(row for row in self.rows if row.passed is False)

    def to_json(self) -> dict[str, Any]:
        """JSON values only; NaN is null."""
        rows = [asdict(row) for row in self.rows]
        for row in rows:
            row["value"] = row["value"] if math.isfinite(row["value"]) else None
        return {"passed": self.passed, "rows": rows, "about": self.about}

    def markdown(self) -> str:
        """The report as Markdown."""
        lines = ["# Check of a potential", ""]
        lines += [f"- {key}: {value}" for key, value in self.about.items()]
        verdict = "passed" if self.passed else f"**{len(self.failed)} checks failed**"
        lines += ["", f"Result: {verdict}.", "", "| check | value | limit | unit | result | comment |"]
        lines.append("|---|---|---|---|---|---|")
        lines += [_markdown_row(row) for row in self.rows]
        if self.curves:
            lines += ["", "![Curves](check.png)"]
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> None:
        """Write ``check.md``, ``check.json``, ``check.png`` and the curves as ``check_curves.csv``."""
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "check.md", self.markdown().encode())
        write_atomically(folder / "check.json", json.dumps(self.to_json(), indent=2).encode())
        write_atomically(folder / "check_curves.csv", _curves_csv(self.curves).encode())
        if self.curves:
            panels = [(c.panel, c.label, c.x, c.y, c.xlabel, c.ylabel) for c in self.curves]
            draw_curves(folder / "check.png", panels)


def larger(a: float, b: float) -> float:
    """The larger of two figures; NaN if either is (Python's max would drop it)."""
    return float(np.maximum(a, b))


def limited(name: str, value: float, limit: float, unit: str, comment: str = "") -> CheckRow:
    """A row that passes when value ≤ limit; NaN fails."""
    return CheckRow(name, float(value), limit, unit, bool(value <= limit), comment)


def _markdown_row(row: CheckRow) -> str:
    result = {True: "pass", False: "**FAIL**", None: "info"}[row.passed]
    value = f"{row.value:.3g}" if math.isfinite(row.value) else "–"
    limit = "–" if row.limit is None else f"{row.limit:g}"
    comment = row.comment.replace("|", "\\|").replace("\n", " ")
    return f"| {row.name} | {value} | {limit} | {row.unit} | {result} | {comment} |"


def _curves_csv(curves: Iterable[Curve]) -> str:
    lines = ["panel,label,xlabel,x,ylabel,y"]
    for c in curves:
        head = (c.panel, c.label, c.xlabel)
        lines += [
            ",".join((*(f'"{text}"' for text in head), f"{x:.10g}", f'"{c.ylabel}"', f"{y:.12g}"))
            for x, y in zip(c.x.tolist(), c.y.tolist(), strict=True)
        ]
    return "\n".join(lines) + "\n"
