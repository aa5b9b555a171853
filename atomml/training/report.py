"""Markdown, figures and tables that say how good a potential is."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from atomml.files import replace_file
from atomml.shapes import Float64, ndarray
from atomml.training.deviations_report import (
    MEASURES,
    SCORES,
    OutsideSet,
    deviation_figures,
    deviation_warnings,
    measure_columns,
)
from atomml.training.evaluation import Evaluation
from atomml.training.evaluation_files import write_arrays

__all__ = [
    "evaluation_json",
    "evaluation_section",
    "learning_curve",
    "markdown_table",
    "metrics_table",
    "outside_section",
    "parity_figure",
    "png_of",
    "save_figure",
    "write_evaluation",
    "write_run_report",
]

ELEMENT_COLUMNS = {
    "atoms": "atoms",
    "MAE": "forces_mae",
    "RMSE": "forces_rmse",
    "RMS σ": "forces_std",
    "coverage of 68 %": "coverage_68",
    "coverage of 95 %": "coverage_95",
}
UNITS = {"energy": "eV", "energy_per_atom": "eV/atom", "forces": "eV/Å", "stress": "eV/Å³"}


def png_of(figure: Figure) -> bytes:
    """A figure drawn without a display and without matplotlib's global state."""
    FigureCanvasAgg(figure)
    image = io.BytesIO()
    figure.savefig(image, dpi=130, format="png")
    return image.getvalue()


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, whole or not at all.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    replace_file(path, png_of(figure))


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; numbers are given four significant digits."""

    def cell(value: object) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(map(cell, row)) + " |" for row in rows])


def parity_figure(evaluation: Evaluation, e0: Mapping[int, float] | None = None) -> Figure:
    """Prediction against label: energy per atom (less the reference energies, if given), forces, stress."""
    e = evaluation
    shift: ndarray = np.zeros(len(e.energy))
    if e0:
        table = np.zeros(256)
        table[list(e0)] = list(e0.values())
        shift = np.bincount(
            np.repeat(np.arange(len(e.energy)), e.n_atoms), weights=table[e.numbers], minlength=len(shift)
        )
    panels = [
        ("energy_per_atom", (e.energy_label - shift) / e.n_atoms, (e.energy - shift) / e.n_atoms),
        ("forces", e.forces_label.ravel(), e.forces.ravel()),
        ("stress", e.stress_label.ravel(), e.stress.ravel()),
    ]
    panels = [panel for panel in panels if np.isfinite(panel[1]).any()]
    figure = Figure(figsize=(4.2 * len(panels), 4.0), layout="constrained")
    for axes, (name, label, value) in zip(np.ravel(figure.subplots(1, len(panels))), panels, strict=True):
        _parity(axes, label, value)
        rmse = evaluation.metrics[f"{name}_rmse"]
        title = "energy per atom − E0" if name == "energy_per_atom" and e0 else name.replace("_", " ")
        axes.set_title(f"{title}: RMSE {rmse:.3g} {UNITS[name]}", fontsize=9)
        axes.set_xlabel(f"label ({UNITS[name]})")
        axes.set_ylabel(f"prediction ({UNITS[name]})")
    return figure


def _parity(axes: Axes, label: Float64[ndarray, " n"], value: Float64[ndarray, " n"]) -> None:
    known = np.isfinite(label) & np.isfinite(value)
    x, y = label[known], value[known]
    low = min(x.min(), y.min())
    axes.axline((low, low), slope=1, color="0.6", linewidth=0.8, zorder=0)
    if len(x) > 5000:
        axes.hexbin(x, y, gridsize=80, bins="log", mincnt=1, cmap="viridis", linewidths=0)
    else:
        axes.plot(x, y, ".", markersize=3, alpha=0.6, color="#1f77b4")
    axes.set_aspect("equal", adjustable="datalim")
    axes.locator_params(nbins=5)


def learning_curve(records: Sequence[Mapping[str, Any]]) -> Figure:
    """Losses, validation errors and learning rate against the epoch, from the epoch lines of a log."""
    epochs = [r for r in records if r["kind"] == "epoch"]
    x = [r["epoch"] for r in epochs]
    figure = Figure(figsize=(12.0, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for key in ("train_loss", "valid_loss"):
        if key in epochs[-1]:
            left.plot(x, [r[key] for r in epochs], label=key.replace("_", " "))
    left.legend(frameon=False)
    left.set_ylabel("loss")
    for key, label in (
        ("energy_per_atom", "energy, meV/atom"),
        ("forces", "forces, meV/Å"),
        ("stress", "stress, meV/Å³"),
    ):
        values = [1e3 * r.get(f"{key}_rmse", np.nan) for r in epochs]
        if np.isfinite(values).any():
            middle.plot(x, values, label=label)
    if middle.lines:
        middle.legend(frameon=False)
    middle.set_ylabel("validation RMSE")
    right.plot(x, [r["lr"] for r in epochs], color="0.3")
    right.set_ylabel("learning rate")
    for axes in (left, middle):
        if any(np.nanmax(line.get_ydata()) > 0 for line in axes.lines):
            axes.set_yscale("log")
    for axes in (left, middle, right):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    return figure


def metrics_table(evaluations: Mapping[str, Evaluation]) -> Table:
    """MAE and RMSE of every quantity with labels, for each part, for the terminal."""
    table = Table("part", "quantity", "labels", "MAE", "RMSE", "unit")
    for part, e in evaluations.items():
        for name, unit in UNITS.items():
            if f"{name}_mae" in e.metrics:
                count = e.counts["energy" if name == "energy_per_atom" else name]
                mae, rmse = (f"{e.metrics[f'{name}_{kind}']:.5g}" for kind in ("mae", "rmse"))
                table.add_row(part, name.replace("_", " "), str(count), mae, rmse, unit)
    return table


def evaluation_section(name: str, evaluation: Evaluation) -> str:
    """Markdown of one evaluated part: all metrics, the measures of deviations, by element, by tag."""
    e = evaluation
    lines = [f"## {name}", "", f"{e.counts['frames']} frames, {e.counts['atoms']} atoms.", ""]
    rows = [
        [q.replace("_", " "), e.metrics[f"{q}_mae"], e.metrics[f"{q}_rmse"], UNITS[q]]
        for q in UNITS
        if f"{q}_mae" in e.metrics
    ]
    lines += [markdown_table(["quantity", "MAE", "RMSE", "unit"], rows), ""] if rows else []
    lines += _deviations_lines(name, e)
    if e.elements:
        present = set().union(*e.elements.values())
        columns = {title: key for title, key in ELEMENT_COLUMNS.items() if key in present}
        rows = [[s, *(m.get(key, "") for key in columns.values())] for s, m in e.elements.items()]
        lines += ["Forces by element (eV/Å)", "", markdown_table(["element", *columns], rows), ""]
    for tag, groups in e.tags.items():
        keys = [f"{q}_rmse" for q in UNITS if q != "energy" and f"{q}_rmse" in e.metrics]
        rows = [[value, m["frames"], *(m.get(k, "") for k in keys)] for value, m in groups.items()]
        lines += [f"By `{tag}` (RMSE)", ""]
        header = [
            f"{k.removesuffix('_rmse').replace('_', ' ')} ({UNITS[k.removesuffix('_rmse')]})" for k in keys
        ]
        lines += [markdown_table([tag, "frames", *header], rows), ""]
    return "\n".join(lines)


def _deviations_lines(name: str, e: Evaluation) -> list[str]:
    """Markdown of the measures of deviations; nothing without deviations."""
    if e.energy_std is None:
        return []
    calibration = "none" if e.calibration is None else f"`{e.calibration}`"
    lines = [f"Deviations (calibration: {calibration})", ""]
    columns = measure_columns(e.deviations)
    if columns:
        keys = [key for key in MEASURES if any(key in m for m in columns.values())]
        rows = [[MEASURES[key], *(m.get(key, "") for m in columns.values())] for key in keys]
        lines += [markdown_table(["measure", *columns], rows), ""]
    warnings = deviation_warnings(name, e)
    return lines + [f"- {line}" for line in warnings] + ([""] if warnings else [])


def outside_section(outside: OutsideSet) -> str:
    """Markdown of structures from elsewhere: whether deviations tell them apart, and how right they are there."""
    rows = [[SCORES[name], m["auroc"], m["fpr_95"], m["aupr"]] for name, m in outside.detection.items()]
    table = markdown_table(["score", "AUROC", "FPR at 95 % found", "AUPR"], rows)
    return evaluation_section("Out of distribution", outside.evaluation) + f"\n{table}\n"


def evaluation_json(evaluation: Evaluation) -> dict[str, Any]:
    """The numbers of an evaluation, without the arrays; undefined measures of deviations are None."""
    e = evaluation
    numbers = {**e.metrics, "counts": e.counts, "by_element": e.elements, "by_tag": e.tags}
    if e.energy_std is None:
        return numbers
    measures = {
        quantity: {key: None if math.isnan(x) else x for key, x in m.items()}
        for quantity, m in e.deviations.items()
    }
    return numbers | {"deviations": measures, "notes": list(e.notes), "calibration": e.calibration}


def write_evaluation(
    evaluation: Evaluation,
    out_dir: Path,
    *,
    name: str = "evaluation",
    e0: Mapping[int, float] | None = None,
    provenance: Mapping[str, Any] | None = None,
    outside: OutsideSet | None = None,
) -> dict[str, Any]:
    """Write ``<name>.md``, ``.json``, ``.npz``, ``_frames.csv`` and figures; returns the JSON.

    Args:
        evaluation: what to write.
        out_dir: folder; made if there is none.
        name: start of the names of all files.
        e0: reference energies by atomic number, subtracted in the parity plot.
        provenance: version, model, data.
        outside: structures out of distribution; their files are named ``<name>_ood``.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    numbers = evaluation_json(evaluation) | {"provenance": dict(provenance or {})}
    write_arrays(evaluation, out_dir, name)
    text = evaluation_section("Errors", evaluation) + "\n"
    text += _figures(evaluation, out_dir, name, e0) + "\n\n"
    if outside is not None:
        numbers["ood"] = evaluation_json(outside.evaluation) | {"detection": outside.detection}
        write_arrays(outside.evaluation, out_dir, f"{name}_ood")
        text += outside_section(outside) + "\n"
        text += _figures(outside.evaluation, out_dir, f"{name}_ood", e0) + "\n\n"
    text += _provenance(provenance or {})
    replace_file(out_dir / f"{name}.md", ("# Evaluation\n\n" + text).encode())
    replace_file(out_dir / f"{name}.json", json.dumps(numbers, indent=1).encode())
    return numbers


def _figures(
    evaluation: Evaluation, folder: Path, name: str, e0: Mapping[int, float] | None, link: str = ""
) -> str:
    """Save the figures of an evaluation; returns the Markdown that shows them."""
    figures = {"parity": parity_figure(evaluation, e0)} if evaluation.metrics else {}
    figures |= deviation_figures(evaluation)
    for end, figure in figures.items():
        save_figure(figure, folder / f"{name}_{end}.png")
    return "\n".join(f"![{end.replace('_', ' ')}]({link}{name}_{end}.png)" for end in figures)


def write_run_report(
    run_dir: Path,
    *,
    evaluations: Mapping[str, Evaluation],
    records: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
    provenance: Mapping[str, Any],
    e0: Mapping[int, float] | None,
    figures: bool = True,
) -> dict[str, Any]:
    """Write ``report.md``, ``metrics.json``, and ``figures/`` with the arrays beside; returns the metrics.

    Args:
        run_dir: folder of the run.
        evaluations: by part, ``valid`` and ``test``.
        records: lines of ``log.jsonl``.
        summary: facts for the head of the report (sizes, parameters, labels, reference energies).
        provenance: version, seed, data fingerprint.
        e0: reference energies by atomic number, subtracted in the parity plot.
        figures: draw something.
    """
    metrics: dict[str, Any] = {name: evaluation_json(e) for name, e in evaluations.items()}
    metrics |= {"training": dict(summary), "provenance": dict(provenance)}
    folder = run_dir / "figures"
    folder.mkdir(exist_ok=True)
    lines = [
        "# Training report",
        "",
        markdown_table(["", ""], [[k, _text(v)] for k, v in summary.items() if k != "sets"]),
        "",
        *_sets_section(summary.get("sets", {})),
    ]
    if figures:
        save_figure(learning_curve(records), folder / "learning_curve.png")
        lines += ["![learning curve](figures/learning_curve.png)", ""]
    lines += ["Numbers: `metrics.csv`, `log.jsonl`.", ""]
    for name, evaluation in evaluations.items():
        write_arrays(evaluation, folder, name)
        drawn = [_figures(evaluation, folder, name, e0, "figures/"), ""] if figures else []
        lines += [evaluation_section(name, evaluation), *drawn]
        lines += [f"Numbers: `metrics.json`, `figures/{name}_frames.csv`, `figures/{name}.npz`.", ""]
    lines.append(_provenance(provenance))
    replace_file(run_dir / "report.md", "\n".join(lines).encode())
    replace_file(run_dir / "metrics.json", json.dumps(metrics, indent=1).encode())
    return metrics


def _sets_section(sets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Markdown of the sets of a co-training; nothing for one set."""
    if not sets:
        return []
    header = ["set", "frames", "share", "per epoch", "loss factors", "references", "shift (eV/atom)"]
    rows = [
        [
            name,
            _text(s["frames"]),
            s["share"],
            s["per epoch"],
            _text(s["loss factors"]),
            s["references"],
            s["shift"],
        ]
        for name, s in sets.items()
    ]
    return ["## Sets", "", markdown_table(header, rows), "", "Energies, shifts and notes: `sets.json`.", ""]


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_text(v)}" for k, v in value.items())
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _provenance(provenance: Mapping[str, Any]) -> str:
    rows = [[key, f"`{_text(value)}`"] for key, value in provenance.items()]
    return "## Provenance\n\n" + markdown_table(["", ""], rows) + "\n" if rows else ""
