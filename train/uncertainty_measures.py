"""What predicted deviations are worth: calibration on held-out frames, measures, and their tables and figure.

All functions work on the arrays of an `atomml.training.evaluation.Evaluation`, so that nothing has to be predicted
again to calibrate or measure in another way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from atomml.errors import DataError
from atomml.shapes import ndarray
from atomml.training.deviation_measures import deviation_measures, residuals_of, tell_apart
from atomml.training.evaluation import summary
from atomml.training.report import markdown_table
from atomml.uncertainty.calibration import Scale, fit_scale, scaled_cov

Arrays = Mapping[str, ndarray]
OF_ATOMS = ("numbers", "forces", "forces_label", "forces_cov")
QUANTITIES = ("energy", "forces", "stress")
KEPT = frozenset(
    ["count", "rmse", "per_atom_rmse", "nll", "per_atom_nll", "crps", "energy_score", "ce", "ace"]
    + ["coverage_68", "coverage_95", "z_rms", "sharpness", "spearman"]
)
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
}
"""What a table shows of one set, and its heading."""
CALIBRATIONS = {
    "likelihood": "calibrated by likelihood",
    "fractions": "calibrated by the fractions inside all intervals",
    "raw": "as the methods give it",
}
"""How the deviations of a table were scaled."""


def mixture_of(members: Sequence[Arrays]) -> dict[str, ndarray]:
    """Predictions of a deep ensemble from those of its members.

    μ = mean_m μ_m; variance = mean_m σ_m² + mean_m (μ_m − μ)², for forces as matrices; σ_m = 0 of members that
    predict no deviations.
    """
    out = {key: value for key, value in members[0].items() if key not in QUANTITIES}
    mean = {name: np.mean([m[name] for m in members], axis=0) for name in QUANTITIES}
    centred = {name: np.stack([m[name] for m in members]) - mean[name] for name in QUANTITIES}
    noise = {
        name: np.mean([m[name] ** power if name in m else 0 * m[like] for m in members], axis=0)
        for name, like, power in (("energy_std", "energy", 2), ("stress_std", "stress", 2))
    }
    cov = np.einsum("mni,mnj->nij", centred["forces"], centred["forces"]) / len(members)
    spread = (centred["energy"] ** 2).mean(0)
    return (
        out
        | mean
        | {
            "energy_std": np.sqrt(spread + noise["energy_std"]),
            "energy_std_epistemic": np.sqrt(spread),
            "energy_std_aleatoric": np.sqrt(noise["energy_std"]),
            "forces_cov": cov + np.mean([m.get("forces_cov", np.zeros_like(cov)) for m in members], axis=0),
            "stress_std": np.sqrt((centred["stress"] ** 2).mean(0) + noise["stress_std"]),
        }
    )


def take(arrays: Arrays, frames: ndarray) -> dict[str, ndarray]:
    """The arrays of the frames where the mask is true."""
    atoms = np.repeat(frames, arrays["n_atoms"])
    return {name: value[atoms if name in OF_ATOMS else frames] for name, value in arrays.items()}


def scales_of(arrays: Arrays, method: str) -> dict[str, Scale]:
    """`fit_scale` of every quantity that has labels.

    Raises:
        DataError: deviations that no factor makes right.
    """
    residuals = residuals_of(arrays).residuals
    parts = {name: residuals.labelled(name) for name in QUANTITIES}
    return {name: fit_scale(p.error, p.spread, method) for name, p in parts.items() if p is not None}


def scaled(arrays: Arrays, scales: Mapping[str, Scale]) -> dict[str, ndarray]:
    """The arrays with the deviations of a calibrated `BayesianPotential`: α²σ² + β², of energies α²σ² + N β²."""
    energy, forces, stress = (scales.get(name, Scale()) for name in QUANTITIES)
    floor = stress.beta**2 * (1 + np.eye(3)) / 2
    return dict(arrays) | {
        "energy_std": np.hypot(energy.alpha * arrays["energy_std"], energy.beta * np.sqrt(arrays["n_atoms"])),
        "forces_cov": scaled_cov(arrays["forces_cov"], forces.alpha, forces.beta),
        "stress_std": np.sqrt((stress.alpha * arrays["stress_std"]) ** 2 + floor),
    }


def scaled_by_others(arrays: Arrays, groups: ndarray, method: str) -> dict[str, ndarray]:
    """Each group (trajectory) calibrated on all the others, so that no frame is measured with its own calibration."""
    names = np.unique(groups)
    parts = [scaled(take(arrays, groups == g), scales_of(take(arrays, groups != g), method)) for g in names]
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    frames = np.argsort(np.concatenate([np.flatnonzero(groups == g) for g in names]))
    starts = np.cumsum(joined["n_atoms"]) - joined["n_atoms"]
    atoms = np.concatenate([np.arange(starts[k], starts[k] + joined["n_atoms"][k]) for k in frames])
    return {key: value[atoms if key in OF_ATOMS else frames] for key, value in joined.items()}


def measured(arrays: Arrays) -> dict[str, Any]:
    """The `KEPT` measures of energy, forces and stress; ``notes`` says what could not be measured."""
    found = deviation_measures(arrays)
    kept = {name: {k: v for k, v in m.items() if k in KEPT} for name, m in found.measures.items()}
    return kept | ({"notes": list(found.notes)} if found.notes else {})


def record_of(
    sets: Mapping[str, Arrays], others: Mapping[str, ndarray], calibrations: Mapping[str, str]
) -> dict[str, Any]:
    """Everything about one model from its predictions.

    Args:
        sets: ``calibration``, ``id`` and sets from elsewhere. Without ``calibration`` the frames of ``id`` are
            calibrated on each other, see `scaled_by_others`.
        others: groups of the frames of ``id``, for calibrations on the other groups: name → group of each frame.
        calibrations: what it is called in the results → method.
    """
    accuracy = {name: summary(dict(a), np.ones(len(a["n_atoms"]), dtype=bool))[0] for name, a in sets.items()}
    record: dict[str, Any] = {"accuracy": accuracy}
    if "energy_std" not in sets["id"]:
        return record
    elsewhere = {name: a for name, a in sets.items() if name not in ("calibration", "id")}
    record["raw"] = {name: measured(a) for name, a in (("id", sets["id"]), *elsewhere.items())}
    record["detection"] = {name: tell_apart(sets["id"], a) for name, a in elsewhere.items()}
    for title, method in calibrations.items():
        try:
            record[title] = _calibrated(sets, elsewhere, others, method)
        except DataError as error:
            record[title] = {"method": method, "note": str(error)}
    return record


def _calibrated(
    sets: Mapping[str, Arrays], elsewhere: Mapping[str, Arrays], others: Mapping[str, ndarray], method: str
) -> dict[str, Any]:
    """Scales, and measures of every set with them; of ``id`` also calibrated on its own other groups."""
    scales = scales_of(sets.get("calibration", sets["id"]), method)
    known = {f"id by {name}": scaled_by_others(sets["id"], groups, method) for name, groups in others.items()}
    known["id"] = scaled(sets["id"], scales) if "calibration" in sets else next(iter(known.values()))
    rest = {name: scaled(a, scales) for name, a in elsewhere.items()}
    return {
        "method": method,
        "scales": {name: [s.alpha, s.beta] for name, s in scales.items()},
        **{name: measured(a) for name, a in (known | rest).items()},
    }


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
    """AUROC and FPR95 of both scores for one set from elsewhere; calibration by a factor does not change them."""
    found = record.get("detection", {}).get(name, {})
    short = {"energy_std_per_atom": "E", "forces_std_max": "F"}
    return {
        f"{title} σ_{short[score]}": found[score][key]
        for score in found
        for key, title in (("auroc", "AUROC"), ("fpr_95", "FPR95"))
    }


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
        cells = [f"{_number(row[k][0])} ± {_number(row[k][1])}" if k in row else "–" for k in titles]
        if cost:
            cells.append(f"{cost[method]['times']:.1f}" if method in cost else "–")
        body.append([method, *cells])
    return markdown_table(["method", *titles.values(), *(["time"] if cost else [])], body)


def tables_of(summary: Mapping[str, Any], cost: Mapping[str, Any]) -> str:
    """All tables as Markdown."""
    text = []
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
    known: Mapping[str, Any] = summary["fractions"]["id"]
    rows: list[tuple[str, str, bool]] = []
    if "jef" in known and "mse" in known:
        for key, title in (("energy", "energy"), ("forces", "force")):
            value = known["jef"][key][0] / known["mse"][key][0]
            rows.append((f"jef: {title} RMSE ≤ 1.2 times that of mse", f"{value:.2f}", value <= 1.2))
    for method, row in known.items():
        for key, title, most in (("ce_forces", "force CE", 1e-3), ("ace_energy", "energy absolute CE", 0.05)):
            if key in row:
                rows.append((f"{method}: {title} < {most:g}", _number(row[key][0]), row[key][0] < most))
    for name, found in summary["detection"].items():
        for method in ("mse ensemble", "jef ensemble"):
            if found.get(method):
                best = max(found[method][f"AUROC σ_{q}"][0] for q in "EF")
                rows.append((f"{method}: AUROC ≥ 0.95, {name}", f"{best:.3f}", best >= 0.95))
    return [[goal, value, "yes" if met else "no"] for goal, value, met in rows]


def figure_of(records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> Figure:
    """Errors, calibration before and after, and detection of each method; a dot for each seed."""
    methods = list(dict.fromkeys(r["method"] for r in records))
    figure = Figure(figsize=(13.0, 0.9 + 0.33 * len(methods)), layout="constrained")
    axes = figure.subplots(1, 4, sharey=True)
    place = {method: -k for k, method in enumerate(methods)}
    base = summary["raw"]["id"].get("mse", summary["raw"]["id"][methods[0]])
    for r in records:
        before, after = shown(r, "raw", "id"), shown(r, "fractions", "id")
        for k, key in enumerate(("energy", "forces")):
            axes[0].plot(
                before[key] / base[key][0], place[r["method"]], "os"[k], color=f"C{k}", ms=4, alpha=0.6
            )
        for axis, key in ((axes[1], "ace_energy"), (axes[2], "ce_forces")):
            if key in after:
                axis.plot(before[key], place[r["method"]], "o", color="0.7", ms=4)
                axis.plot(after[key], place[r["method"]], "o", color="C2", ms=4, alpha=0.7)
        for k, name in enumerate(summary["detection"]):
            found = detection_of(r, name)
            if found:
                y = place[r["method"]] + 0.12 * (k - len(summary["detection"]) / 2)
                axes[3].plot(max(found["AUROC σ_E"], found["AUROC σ_F"]), y, ".", color=f"C{k}")
    titles = (
        "RMSE over that of mse: ○ energy, □ forces",
        "absolute CE of the energy",
        "CE of the forces (χ²₃)",
    )
    for axis, title in zip(axes, (*titles, "AUROC, better of σ_E/N and max σ_F"), strict=True):
        axis.set_title(title, fontsize=9)
        axis.grid(axis="x", color="0.9")
    axes[1].axvline(0.05, color="0.5", lw=0.8)
    axes[2].axvline(1e-3, color="0.5", lw=0.8)
    axes[1].set_xscale("log")
    axes[2].set_xscale("log")
    axes[0].set_yticks(list(place.values()), list(place))
    for k, name in enumerate(summary["detection"]):
        axes[3].plot([], [], ".", color=f"C{k}", label=name)
    axes[3].legend(fontsize=7, frameon=False, loc="lower left")
    return figure


def _number(x: float) -> str:
    """Two significant digits after the leading ones, without exponents where they are short."""
    if x == 0 or 1e-2 <= abs(x) < 1e4:
        return f"{x:.3f}" if abs(x) < 1 else f"{x:.2f}" if abs(x) < 10 else f"{x:.1f}"
    return f"{x:.1e}"
