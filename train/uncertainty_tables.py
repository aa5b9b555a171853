"""Means over the seeds, tables and figure of the comparison of uncertainty methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from atomml.training.report import markdown_table

SUMMED = {
    "energy": "E (meV/atom)",
    "forces": "F (meV/Å)",
    "nll_energy": "NLL E",
    "nll_forces": "NLL F",
    "ace_energy": "abs. CE E",
    "ce_forces": "CE F",
    "coverage_68": "F in 68 %",
    "coverage_95": "F in 95 %",
    "spearman_energy": "Spearman E",
    "spearman_forces": "Spearman F",
    "z_energy": "error/σ E",
    "z_forces": "error/σ F",
    "isotonic_ace_energy": "abs. CE E, map",
    "isotonic_ce_forces": "CE F, map",
}
"""What a table shows of one set, and its heading."""
CALIBRATIONS = {
    "likelihood": "calibrated by likelihood",
    "fractions": "calibrated by the fractions inside all intervals",
    "raw": "as the methods give it",
}
"""How the deviations of a table were scaled."""


def shown(record: Mapping[str, Any], which: str, name: str) -> dict[str, float]:
    """The numbers of `SUMMED` for one set: ``raw``, or with the calibration of that name."""
    accuracy = record["accuracy"][name]
    out = {"energy": 1e3 * accuracy["energy_per_atom_rmse"]}
    if "forces_rmse" in accuracy:
        out["forces"] = 1e3 * accuracy["forces_rmse"]
    m = record.get(which, {}).get(name, {})
    for quantity, keys in (("energy", ("nll", "ace", "spearman")), ("forces", ("nll", "ce", "spearman"))):
        if quantity in m:
            out |= {f"{key}_{quantity}": m[quantity][key] for key in keys}
            out[f"z_{quantity}"] = m[quantity]["z_rms"]
    if "forces" in m:
        out |= {key: m["forces"][key] for key in ("coverage_68", "coverage_95")}
    if name == "id" and "isotonic" in record and which != "raw":
        out |= {f"isotonic_{key}": value for key, value in record["isotonic"].items()}
    return out


def mean_and_deviation(values: Sequence[float]) -> list[float]:
    """Mean and standard deviation over the seeds."""
    x = np.array(values, dtype=float)
    return [float(x.mean()), float(x.std(ddof=1)) if len(x) > 1 else 0.0]


def over_seeds(
    records: Sequence[Mapping[str, Any]], of: Callable[[Mapping[str, Any]], Mapping[str, float]]
) -> dict[str, dict[str, list[float]]]:
    """Method → name → mean and deviation of what ``of`` returns for each record."""
    out: dict[str, dict[str, list[float]]] = {}
    for method in dict.fromkeys(r["method"] for r in records):
        each = [of(r) for r in records if r["method"] == method]
        out[method] = {key: mean_and_deviation([e[key] for e in each if key in e]) for key in each[0]}
    return out


def detection_of(record: Mapping[str, Any], name: str) -> dict[str, float]:
    """AUROC of both scores for one set from elsewhere: raw, calibrated, and of the disagreement of members alone.

    FPR95 of the calibrated ones.
    """
    out = {}
    for which, title in (("raw", ""), ("likelihood", " calibrated"), ("epistemic", " epistemic")):
        found = record.get("detection", {}).get(which, {}).get(name, {})
        for score, short in (("energy_std_per_atom", "σ_E"), ("forces_std_max", "σ_F")):
            if score in found:
                out[f"AUROC {short}{title}"] = found[score]["auroc"]
                if which == "likelihood":
                    out[f"FPR95 {short}{title}"] = found[score]["fpr_95"]
    return out


def summary_of(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means and deviations over the seeds for every set, with each of `CALIBRATIONS`, and of the detection."""
    sets = [name for name in records[0]["accuracy"] if name != "calibration"]
    out: dict[str, Any] = {
        which: {name: over_seeds(records, partial(shown, which=which, name=name)) for name in sets}
        for which in CALIBRATIONS
    }
    out["detection"] = {
        name: over_seeds(records, partial(detection_of, name=name)) for name in sets if name != "id"
    }
    return out


def table_of(
    rows: Mapping[str, Mapping[str, Sequence[float]]], titles: Mapping[str, str], cost: Mapping[str, Any]
) -> str:
    """A Markdown table: one row for each method, mean ± deviation over the seeds."""
    titles = {key: title for key, title in titles.items() if any(key in row for row in rows.values())}
    body = []
    for method, row in rows.items():
        cells = [_pair(*row[k]) if k in row else "–" for k in titles]
        if cost:
            cells.append(f"{cost[method]['times']:.1f}" if method in cost else "–")
        body.append([method, *cells])
    return markdown_table(["method", *titles.values(), *(["time"] if cost else [])], body)


def short_table(summary: Mapping[str, Any], cost: Mapping[str, Any]) -> str:
    """Accuracy, NLL, calibration errors, best AUROC of each set and cost; what a reader looks for first."""
    known = summary["likelihood"]["id"]
    rows = {}
    for method, row in known.items():
        fractions = summary["fractions"]["id"][method]
        keys = ("energy", "forces", "nll_energy", "nll_forces", "ace_energy", "ce_forces")
        found = {k: (fractions if "ce_" in k and k in fractions else row).get(k) for k in keys}
        rows[method] = {k: value for k, value in found.items() if value is not None}
        for name, detected in summary["detection"].items():
            each = [v for k, v in detected[method].items() if k.startswith("AUROC") and "calibrated" in k]
            if each:
                rows[method][f"AUROC {name}"] = max(each)
    titles = {
        k: SUMMED[k] for k in ("energy", "forces", "nll_energy", "nll_forces", "ace_energy", "ce_forces")
    }
    return table_of(rows, titles | {f"AUROC {name}": f"AUROC {name}" for name in summary["detection"]}, cost)


def tables_of(summary: Mapping[str, Any], cost: Mapping[str, Any]) -> str:
    """All tables as Markdown."""
    text = [
        "## Summary",
        "",
        "In distribution: errors, NLL calibrated by likelihood, calibration errors (CE) calibrated by",
    ]
    text += [
        "fractions; the better AUROC of σ_E/N and max σ_F; time of a prediction over that of the plain model.",
        "",
    ]
    text += [short_table(summary, cost), ""]
    for which, title in CALIBRATIONS.items():
        rows = {m: row for m, row in summary[which]["id"].items() if which == "likelihood" or len(row) > 2}
        text += [f"## In distribution, {title}", ""]
        text += [table_of(rows, SUMMED, cost if which == "likelihood" else {}), ""]
    for name, found in summary["detection"].items():
        titles = {key: key for row in found.values() for key in row}
        rows = {method: row for method, row in found.items() if row}
        text += [f"## {name}: told from in distribution", "", table_of(rows, titles, {}), ""]
        text += [f"## {name}: errors and deviations, {CALIBRATIONS['likelihood']}", ""]
        text += [table_of(summary["likelihood"][name], SUMMED, {}), ""]
    return "\n".join(text)


def goals_of(summary: Mapping[str, Any]) -> list[list[str]]:
    """What was aimed at and whether it was reached: goal, value, ``yes`` or ``no``."""
    usual, known = summary["likelihood"]["id"], summary["fractions"]["id"]
    rows: list[tuple[str, str, bool]] = []
    if "jef" in usual and "mse" in usual:
        for key, title in (("energy", "energy"), ("forces", "force")):
            value = usual["jef"][key][0] / usual["mse"][key][0]
            rows.append((f"jef: {title} RMSE ≤ 1.2 times that of mse", f"{value:.2f}", value <= 1.2))
    for method, row in usual.items():
        for key, title, most in (("ce_forces", "force CE", 1e-3), ("ace_energy", "energy absolute CE", 0.05)):
            for values, how in (
                (row, ", likelihood"),
                (known[method], ", fractions"),
                (row, ", monotone map"),
            ):
                found = values.get(f"isotonic_{key}" if "map" in how else key)
                if found is not None:
                    rows.append((f"{method}: {title} < {most:g}{how}", _number(found[0]), found[0] < most))
    for name, detected in summary["detection"].items():
        for method in ("mse ensemble", "jef ensemble"):
            if detected.get(method):
                best = max(v[0] for k, v in detected[method].items() if k.startswith("AUROC"))
                rows.append((f"{method}: AUROC ≥ 0.95, {name}", f"{best:.3f}", best >= 0.95))
    return [[goal, value, "yes" if met else "no"] for goal, value, met in rows]


def figure_of(records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> Figure:
    """Errors, calibration errors and detection of each method; a dot for each seed."""
    methods = list(dict.fromkeys(r["method"] for r in records))
    figure = Figure(figsize=(13.0, 1.3 + 0.36 * len(methods)), layout="constrained")
    axes = figure.subplots(1, 4, sharey=True)
    place = {method: -k for k, method in enumerate(methods)}
    base = summary["raw"]["id"].get("mse", summary["raw"]["id"][methods[0]])
    sets = list(summary["detection"])
    for r in records:
        y = place[r["method"]]
        for k, key in enumerate(("energy", "forces")):
            axes[0].plot(
                shown(r, "raw", "id")[key] / base[key][0], y, "os"[k], color=f"C{k}", ms=4, alpha=0.6
            )
        for axis, key in ((axes[1], "ace_energy"), (axes[2], "ce_forces")):
            for which, colour in (("raw", "0.7"), ("likelihood", "C0"), ("fractions", "C2")):
                found = shown(r, which, "id")
                if key in found:
                    axis.plot(found[key], y, "o", color=colour, ms=4, alpha=0.7)
            if f"isotonic_{key}" in found:
                axis.plot(found[f"isotonic_{key}"], y, "o", color="C3", mfc="none", ms=4)
        for k, name in enumerate(sets):
            found = {key: v for key, v in detection_of(r, name).items() if key.startswith("AUROC")}
            best = [v for key, v in found.items() if key.endswith("calibrated")]
            if best:
                axes[3].plot(max(best), y + 0.12 * (len(sets) / 2 - k), ".", color=f"C{k}", ms=5)
    titles = ("RMSE / mean of mse (○ energy, □ forces)", "absolute CE, energy", "CE, forces (χ²₃)")
    for axis, title in zip(axes, (*titles, "AUROC (better of σ_E/N, max σ_F)"), strict=True):
        axis.set_title(title, fontsize=9)
        axis.grid(axis="x", color="0.9")
    for axis, goal in ((axes[1], 0.05), (axes[2], 1e-3)):
        axis.axvline(goal, color="0.5", lw=0.8)
    axes[2].set_xscale("log")
    axes[0].set_yticks(list(place.values()), list(place), fontsize=8)
    for colour, label in (("0.7", "raw"), ("C0", "likelihood"), ("C2", "fractions"), ("C3", "monotone map")):
        axes[1].plot([], [], "o", color=colour, ms=4, label=label)
    for k, name in enumerate(sets):
        axes[3].plot([], [], ".", color=f"C{k}", label=name)
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    axes[3].legend(fontsize=7, frameon=False, loc="best")
    return figure


def _number(x: float) -> str:
    """Three digits, with an exponent where the number is very small or large."""
    if x == 0 or 1e-2 <= abs(x) < 1e4:
        return f"{x:.3f}" if abs(x) < 1 else f"{x:.2f}" if abs(x) < 10 else f"{x:.1f}"
    return f"{x:.1e}"


def _pair(mean: float, deviation: float) -> str:
    """Mean ± deviation, both with the digits that the deviation leaves meaningful; – where it is undefined."""
    if not np.isfinite([mean, deviation]).all():
        return "–"
    if deviation == 0:
        return _number(mean)
    digits = min(max(1 - int(np.floor(np.log10(deviation))), 0), 5)
    if abs(mean) >= 1e4:
        return f"{mean:.1e} ± {deviation:.0e}"
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}"
