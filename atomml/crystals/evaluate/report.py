"""Files of an evaluation: metrics.json, structures.csv, report.md and its figures."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from atomml.crystals.evaluate.shares import share_text
from atomml.files import write_atomically
from atomml.training.report import markdown_table, save_figure

__all__ = ["finite", "report_text", "write_report"]

SHARES = {
    "validity": "Validity",
    "uniqueness": "Uniqueness",
    "novelty": "Novelty",
    "coverage": "Coverage",
    "stability": "Stability",
}
MOST_NAMED = 12
NAMES = {
    "p1": "space group P1",
    "recall": "COV-R (recall)",
    "precision": "COV-P (precision)",
    "valid": "structure and composition valid",
    "structure": "structure valid",
    "structure_strict": "structure valid, images included",
    "composition": "composition valid (SMACT)",
    "composition_unknown": "composition unknown to SMACT",
    "stable_unique_novel": "S.U.N. (stable, unique, novel)",
    "metastable_unique_novel": "metastable S.U.N.",
}
FILTERS = {
    "strict": "strict: both structures and compositions valid",
    "prediction": "structure of the prediction valid",
    "none": "none",
}


def write_report(
    out: Path,
    metrics: Mapping[str, Any],
    columns: Mapping[str, Sequence[Any]],
    figures: Mapping[str, Figure],
) -> None:
    """Write all files; a number that is not finite becomes null, or an empty cell.

    Raises:
        DataError: a file cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        save_figure(figure, out / f"{name}.png")
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in row] for row in zip(*columns.values(), strict=True))
    write_atomically(out / "structures.csv", text.getvalue().encode())
    report = report_text(metrics, list(figures))
    write_atomically(out / "report.md", report.encode())
    write_atomically(out / "metrics.json", json.dumps(metrics, indent=1, allow_nan=False).encode())


def finite(value: Any) -> Any:
    """The same content for JSON: what is not finite becomes None, numpy's numbers become Python's."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else ""
    return "" if value is None else value


def report_text(metrics: Mapping[str, Any], figures: Sequence[str] = ()) -> str:
    """Markdown of what `evaluate_crystals` returns."""
    lines = [f"# {metrics['n']} crystals", "", f"`{metrics['generated']}`, task {metrics['task']}.", ""]
    lines += ["Shares are counts of all crystals, with Wilson's interval of 95 %.", ""]
    if "prediction" in metrics:
        lines += _prediction(metrics["prediction"])
    for key, title in SHARES.items():
        if isinstance(metrics.get(key), Mapping):
            lines += [f"## {title}", "", _shares(metrics[key]), "", *_remarks(metrics[key])]
    if "symmetry" in metrics:
        lines += _symmetry(metrics["symmetry"])
    if "distributions" in metrics:
        rows = [
            [name, d["wasserstein"], d["generated"], d["reference"]]
            for name, d in metrics["distributions"].items()
        ]
        header = ["property", "Wasserstein distance", "generated", "reference"]
        lines += ["## Distributions of valid crystals", "", markdown_table(header, rows), ""]
    lines += [f"![{name}]({name}.png)\n" for name in figures]
    skipped = [[key, value] for key, value in metrics["not_done"].items()]
    if skipped:
        lines += ["## Not done", "", markdown_table(["what", "why"], skipped), ""]
    rows = [[key, f"`{value}`"] for key, value in {**metrics["settings"], **metrics["versions"]}.items()]
    lines += ["## Settings and versions", "", markdown_table(["", ""], rows), ""]
    return "\n".join(lines)


def _is_share(value: Any) -> bool:
    return isinstance(value, Mapping) and "interval_95" in value


def _shares(section: Mapping[str, Any]) -> str:
    rows = [
        [NAMES.get(key, key.replace("_", " ")), share_text(value)]
        for key, value in section.items()
        if _is_share(value)
    ]
    return markdown_table(["", "crystals"], rows)


def _remarks(section: Mapping[str, Any]) -> list[str]:
    """Numbers and counted reasons of a section, one line each."""
    lines = []
    for key, value in section.items():
        name = key.replace("_", " ")
        if isinstance(value, float):
            lines.append(f"- {name}: {value:.4g}")
        elif isinstance(value, int):
            lines.append(f"- {name}: {value}")
        elif isinstance(value, Mapping) and value and not _is_share(value):
            lines.append(f"- {name}: {_listed(value)}")
    return [*lines, ""] if lines else []


def _listed(values: Mapping[str, Any]) -> str:
    """Counted reasons as ``reason (count)``, other values as ``name: value``; only the first ones."""
    parts = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            parts.append(f"{key}: {_listed(value)}" if value else "")
        else:
            parts.append(f"{key} ({value})" if isinstance(value, int) else f"{key}: {value}")
    shown = [part for part in parts if part]
    rest = len(shown) - MOST_NAMED
    return ", ".join(shown[:MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _prediction(found: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, rates in found["filters"].items():
        for kind, r in (("own predictions", rates), ("METRe: all predictions", rates.get("metre"))):
            if r is not None:
                rmse = "–" if r["rmse"] is None else r["rmse"]
                rows.append([FILTERS[name], kind, share_text(r["match"]), rmse, r["crmse"]])
    header = ["filter", "compared with", "matched", "RMSE", "cRMSE"]
    failed = found["failed_pairs"]
    remarks = [f"{found['references']} references, {found['predictions']} predictions."]
    if failed["count"]:
        why = ", ".join(f"{reason} ({count})" for reason, count in failed["reasons"].items())
        remarks.append(f"{failed['count']} pairs were not compared and count as unmatched: {why}.")
    if isinstance(found.get("metre"), str):
        remarks.append(f"METRe {found['metre']}.")
    return ["## Structure prediction", "", markdown_table(header, rows), "", *remarks, ""]


def _symmetry(found: Mapping[str, Any]) -> list[str]:
    rows = []
    for symprec, section in found.items():
        text = _listed(section["space_groups"])
        rows.append([symprec, share_text(section["p1"]), section["unknown"]["count"], text])
    header = ["tolerance (Å)", "P1", "unknown", "space groups"]
    return ["## Symmetry", "", markdown_table(header, rows), ""]
