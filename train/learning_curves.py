"""Learning curves of ways to choose labels: means over seeds, differences from random choice, tables, figure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import t as student

from atomml.files import replace_file
from atomml.shapes import ndarray
from atomml.training.report import markdown_table, save_figure

Measures = Mapping[str, str]
"""Keys of a point, and their titles."""


def summary_of(
    points: Sequence[Mapping[str, Any]], measures: Measures
) -> dict[str, dict[str, dict[str, list[float | None]]]]:
    """Method → labelled → measure → four numbers over the seeds.

    Mean and its standard error; mean of the difference from random of the same seed, and the half width of its
    interval of 95 % by Student's t (None for one seed).
    """
    out: dict[str, dict[str, dict[str, list[float | None]]]] = {}
    by_key = {(p["method"], p["labelled"], p["seed"]): p for p in points}
    for method in dict.fromkeys(p["method"] for p in points):
        out[method] = {}
        for size in sorted({p["labelled"] for p in points if p["method"] == method}):
            seeds = [s for m, n, s in by_key if (m, n) == (method, size)]
            both = [s for s in seeds if ("random", size, s) in by_key]
            found: dict[str, list[float | None]] = {}
            for key in measures:
                values = np.array([by_key[method, size, s][key] for s in seeds])
                pairs = np.array(
                    [by_key[method, size, s][key] - by_key["random", size, s][key] for s in both]
                )
                found[key] = [*_mean_and_error(values), *_mean_and_interval(pairs)]
            out[method][str(size)] = found
    return out


def verdicts(summary: Mapping[str, Any], key: str = "forces") -> dict[str, str]:
    """In words, for each method: in how many rounds its error differs from that of random choice.

    A difference counts if its interval of 95 % does not hold 0; see `summary_of`.
    """
    words = {}
    for method in (m for m in summary if m != "random"):
        found = [cell[key] for cell in list(summary[method].values())[1:]]
        lower = sum(e is not None and d + e < 0 for _, _, d, e in found)
        higher = sum(e is not None and d - e > 0 for _, _, d, e in found)
        rest = len(found) - lower - higher
        words[method] = (
            f"lower in {lower} of {len(found)} rounds, higher in {higher}, no difference in {rest}"
        )
    return words


def text_of(summary: Mapping[str, Any], measures: Measures) -> str:
    """Tables of every measure, and the verdicts."""
    text = []
    for key, title in measures.items():
        sizes = list(next(iter(summary.values())))
        rows = [
            [
                m,
                *(
                    f"{s[key][0]:.1f} ± {s[key][1]:.1f}"
                    if key != "energy"
                    else f"{s[key][0]:.2f} ± {s[key][1]:.2f}"
                    for s in found.values()
                ),
            ]
            for m, found in summary.items()
        ]
        text += [f"## {title}, mean ± standard error over the seeds", ""]
        text += [markdown_table(["method", *(f"{n} labelled" for n in sizes)], rows), ""]
    text += ["## Against random choice", ""]
    for key, title in measures.items():
        text += [f"- {title}: " + "; ".join(f"{m} {w}" for m, w in verdicts(summary, key).items())]
    return "\n".join(text) + "\n"


def figure_of(summary: Mapping[str, Any], measures: Measures) -> Figure:
    """Learning curves with standard errors."""
    figure = Figure(figsize=(3.4 * len(measures), 3.2), layout="constrained")
    for axes, (key, title) in zip(figure.subplots(1, len(measures)), measures.items(), strict=True):
        for k, (method, found) in enumerate(summary.items()):
            x = np.array([int(size) for size in found]) + 0.6 * (k - 2)
            mean, error = np.array([cell[key][:2] for cell in found.values()]).T
            axes.errorbar(
                x,
                mean,
                error,
                marker="o",
                ms=3,
                lw=1,
                color="k" if method == "random" else f"C{k}",
                label=method,
            )
        axes.set(xlabel="labelled frames", yscale="log")
        axes.set_title(title, fontsize=9)
    figure.axes[0].legend(frameon=False, fontsize=8)
    return figure


def write_results(content: Mapping[str, Any], measures: Measures, out: Path) -> None:
    """``out`` (.json), and tables (.md) and figure (.png) beside it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    summary = summary_of(content["points"], measures)
    replace_file(
        out, json.dumps({**content, "summary": summary, "verdicts": verdicts(summary)}, indent=1).encode()
    )
    out.with_suffix(".md").write_text(text_of(summary, measures), encoding="utf-8")
    save_figure(figure_of(summary, measures), out.with_suffix(".png"))


def _mean_and_error(values: ndarray) -> list[float]:
    if len(values) < 2:
        return [float(values.mean()) if len(values) else float("nan"), 0.0]
    return [float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))]


def _mean_and_interval(values: ndarray) -> list[float | None]:
    mean, error = _mean_and_error(values)
    return [mean, error * float(student.ppf(0.975, len(values) - 1)) if len(values) > 1 else None]
