"""Report of a sampling run: what every step left, temperatures, correlation times, exploded runs, a figure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from atomml.calculators import calculator_name
from atomml.datasets.store import FrameStore, label_summary
from atomml.files import write_atomically
from atomml.simulate.sampling.config import SampleConfig
from atomml.simulate.sampling.plan import row_of
from atomml.simulate.sampling.select import Choice, Pool
from atomml.simulate.sampling.stress import stress_by_temperature
from atomml.simulate.sampling.structures import Starts

__all__ = ["write_report"]

COUNTED = {
    "recorded": "recorded in runs",
    "within_force_limits": "within the limits of force",
    "decorrelated": "far enough apart in time",
    "different": "no near-duplicate",
    "chosen": "chosen",
    "relaxed": "relaxed structures added",
}


def write_report(
    folder: Path,
    config: SampleConfig,
    starts: Starts,
    relaxed: Sequence[Pool],
    runs: Sequence[Pool],
    choice: Choice,
    store: FrameStore,
    stress_check: Mapping[str, Any],
) -> dict[str, Any]:
    """Write ``summary.json``, ``report.md`` and ``sampling.png``; returns the summary."""
    from atomml.simulate.sampling.figure import draw_sampling

    summary = _summary(config, starts, relaxed, runs, choice, store, stress_check)
    text = json.dumps(summary, indent=1, ensure_ascii=False) + "\n"
    write_atomically(folder / "summary.json", text.encode())
    write_atomically(folder / "report.md", _markdown(summary).encode())
    draw_sampling(folder / "sampling.png", runs, store)
    return summary


def _summary(
    config: SampleConfig,
    starts: Starts,
    relaxed: Sequence[Pool],
    runs: Sequence[Pool],
    choice: Choice,
    store: FrameStore,
    stress_check: Mapping[str, Any],
) -> dict[str, Any]:
    labelled = Counter(np.asarray(store.tags["traj"]).tolist())
    rows = [_run_row(pool, labelled[pool.name]) for pool in runs]
    summary: dict[str, Any] = {
        "calculator": calculator_name(config.calculator),
        "labels_by": calculator_name(config.labels.calculator or config.calculator),
        "frames": len(store),
        "atoms": len(store.numbers),
        "labels": store.label_counts(),
        "label_summary": label_summary(store),
        "fingerprint": store.fingerprint(),
        "counts": dict(choice.counts),
        "skipped": store.info.get("skipped", {}),
        "stress_sign": stress_by_temperature(store),
        "stress_check": dict(stress_check),
        "structures": [row_of(start) for start in starts.kept],
        "dropped": [{"name": name, "reason": reason} for name, reason in starts.dropped],
        "relaxed": [{"name": pool.name, **pool.record} for pool in relaxed],
        "temperatures": [_temperature_row(t, rows, store) for t in config.dynamics.temperatures],
        "runs": rows,
        "seed": config.seed,
    }
    return summary | {"warnings": _warnings(summary)}


def _run_row(pool: Pool, frames: int) -> dict[str, Any]:
    """A trajectory: its record and the number of labelled frames."""
    return {"name": pool.name, "frames": frames, **pool.record}


def _temperature_row(kelvin: float, runs: Sequence[Mapping[str, Any]], store: FrameStore) -> dict[str, Any]:
    mine = [r for r in runs if r["T"] == kelvin]
    told = [r for r in mine if r["sampled_steps"]]
    frames = np.flatnonzero((np.asarray(store.tags["T"]) == kelvin) & np.asarray(store.tags["sampled"]))
    fmax = np.asarray(store.tags["fmax"])[frames]
    row: dict[str, Any] = {
        "T": kelvin,
        "runs": len(mine),
        "exploded": sum(r["status"] == "exploded" for r in mine),
        "failed": sum(r["status"] == "failed" for r in mine),
        "independent": sum(r["independent"] for r in told),
        "frames": len(frames),
    }
    if told:
        row["temperature_mean"] = float(np.mean([r["temperature_mean"] for r in told]))
        row["tau_fs"] = float(np.median([r["tau_fs"] for r in told]))
        row["tau_resolved"] = sum(r["tau_resolved"] for r in told)
    if len(frames):
        row |= {
            "fmax_median": float(np.median(fmax)),
            "fmax_95": float(np.quantile(fmax, 0.95)),
            "fmax_largest": float(fmax.max()),
        }
    return row


def _warnings(summary: Mapping[str, Any]) -> list[str]:
    found = []
    lost = [r for r in summary["runs"] if r["status"] != "done"]
    if lost:
        found.append(f"{len(lost)} of {len(summary['runs'])} runs exploded or failed.")
    unrelaxed = [r["name"] for r in summary["relaxed"] if r["status"] == "not converged"]
    if unrelaxed:
        found.append(
            f"{len(unrelaxed)} structures ran out of relaxation steps, first {unrelaxed[0]}: their frames "
            "with sampled = false are not minima."
        )
    gone = [r for r in summary["relaxed"] if r["status"] == "failed"]
    if gone:
        found.append(f"{len(gone)} structures failed to relax and were left out, first {gone[0]['name']}.")
    short = [r for r in summary["runs"] if r["sampled_steps"] and not r["tau_resolved"]]
    if short:
        found.append(
            f"{len(short)} runs are shorter than 20 correlation times of their energy: their frames are "
            "correlated more than the figures say, or the run was not in equilibrium. Sample longer."
        )
    for row in summary["temperatures"]:
        mean = row.get("temperature_mean")
        if mean is not None and abs(mean - row["T"]) > 0.1 * row["T"]:
            found.append(f"The runs at {row['T']:g} K had a mean temperature of {mean:.0f} K.")
    check = summary["stress_check"]
    if check["verdict"] in ("opposite sign", "differs"):
        found.append(
            f"The labelled stress is not the derivative of the energy ({check['verdict']}): {check['label']:.4f} "
            f"against {check['from_energy']:.4f} eV/Å³ for {check['frame']}. Do not train on it before you know why."
        )
    if summary["skipped"]:
        found.append(f"{sum(e['frames'] for e in summary['skipped'].values())} frames were not labelled.")
    return found


def _markdown(summary: Mapping[str, Any]) -> str:
    sign = summary["stress_sign"]
    correlation = "" if sign["correlation"] is None else f" (correlation {sign['correlation']:+.2f})"
    lines = [
        "# Sampling",
        "",
        f"{summary['frames']} frames, {summary['atoms']} atoms: {summary['label_summary']}.",
        f"Dynamics by {summary['calculator']}, labels by {summary['labels_by']}. Fingerprint of the frames: "
        f"`{summary['fingerprint']}`.",
        f"Stress against the derivative of the energy: {summary['stress_check']['verdict']}. Sign by volume, "
        f"within each temperature: {sign['verdict']}{correlation}.",
        "",
        *(f"- ! {warning}" for warning in summary["warnings"]),
        "",
        "![Temperatures, forces and energies](sampling.png)",
        "",
        "## Frames",
        "",
        *_table(("step", "frames"), [(COUNTED[k], n) for k, n in summary["counts"].items()]),
        *(f"- not labelled: {e['frames']} × {reason}" for reason, e in summary["skipped"].items()),
        "",
        "## Temperatures",
        "",
        "Reached: mean over the sampling time of the runs. τ: integrated autocorrelation time of the potential "
        "energy, median. Independent: sampling time over 2τ, all runs. Forces: largest of each frame.",
        "",
        *_table(
            (
                "T / K",
                "runs",
                "exploded",
                "failed",
                "reached / K",
                "τ / fs",
                "independent",
                "frames",
                "fmax median",
                "95 %",
                "largest / eV/Å",
            ),
            [_temperature_cells(row) for row in summary["temperatures"]],
        ),
        "",
        *_exploded(summary),
        "## Structures",
        "",
        *_structures(summary),
        *(f"- left out: {row['name']} {row['reason']}" for row in summary["dropped"]),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _temperature_cells(row: Mapping[str, Any]) -> tuple[Any, ...]:
    def number(key: str, places: int) -> str:
        return f"{row[key]:.{places}f}" if key in row else ""

    counts = f"{row['T']:g}", row["runs"], row["exploded"], row["failed"]
    middle = number("temperature_mean", 0), number("tau_fs", 1), number("independent", 0), row["frames"]
    return *counts, *middle, number("fmax_median", 2), number("fmax_95", 2), number("fmax_largest", 2)


def _exploded(summary: Mapping[str, Any]) -> list[str]:
    lost = [r for r in summary["runs"] if r["status"] != "done"]
    if not lost:
        return []
    rows = [(r["name"], r["status"], f"{r['time_fs']:g}", r["frames"], r["reason"]) for r in lost]
    head = ("run", "status", "after / fs", "frames used", "reason")
    return ["## Runs that did not end", "", *_table(head, rows), ""]


def _structures(summary: Mapping[str, Any]) -> list[str]:
    relaxed = {r["name"]: r for r in summary["relaxed"]}
    rows = []
    for s in summary["structures"]:
        r = relaxed.get(s["name"], {})
        ratio = f"{r['volume_ratio']:.3f}" if "volume_ratio" in r else ""
        why = f"{r.get('status', 'as given')} {r.get('reason', '')}".strip()
        rows.append((s["name"], s["formula"], s["provenance"], s["substitution"], why, ratio))
    head = ("name", "cell", "from", "substitution", "relaxation", "volume after/before")
    return [*_table(head, rows), ""]


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    lines += [" | ".join(str(cell).replace("|", "/") for cell in row) for row in rows]
    return [f"| {line} |" for line in lines]
