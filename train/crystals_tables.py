"""Tables and figures of what `crystals.py` measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from atomml.files import replace_file
from atomml.training.report import markdown_table, save_figure

Record = Mapping[str, Any]
FILTERS = {"strict": "both valid (SMACT)", "prediction": "prediction valid", "none": "no filter"}
"""Filters of a match rate, as `atomml.crystals.evaluate.matching.prediction_metrics` has them, and their headings."""


def write_results(content: Mapping[str, Any], out: Path) -> None:
    """``out`` (.json), and tables (.md) and figure (.png) beside it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(out, json.dumps(content, indent=1).encode())
    title = f"# {content['command']}\n\n{facts_of(content)}\n"
    out.with_suffix(".md").write_text(title + tables_of(content["records"]), encoding="utf-8")
    save_figure(figure_of(content["records"]), out.with_suffix(".png"))


def facts_of(content: Mapping[str, Any]) -> str:
    """What was measured, on what and where."""
    machine, model = content["machine"], content["model"]
    rows = [
        ("version", f"{content['version']}, commit {machine['commit']}, torch {machine['torch']}"),
        ("machine", f"{machine['processor']}, {machine['cores']} cores, load {machine['load_average']}"),
        (
            "data",
            "; ".join(f"{name}: {value[:16]}…" for name, value in content["data"]["fingerprint"].items()),
        ),
        ("test", f"{content['data']['test']} crystals"),
    ]
    if model is not None:
        trained = f"{model['parameters']} parameters, {model['epochs']} epochs, {model['minutes']} min"
        rows.append(("model", f"{model['fingerprint'][:16]}…, {trained}"))
    return markdown_table(["", ""], rows)


def tables_of(records: Sequence[Record]) -> str:
    """A section with a table for each kind of measurement that there is."""
    parts = []
    for task, (title, table) in SECTIONS.items():
        found = [r for r in records if r["task"] == task]
        if found:
            parts.append(f"\n## {title}\n\n{table(found)}\n")
    return "".join(parts)


def prediction_table(records: Sequence[Record]) -> str:
    """Match rates of all references with each filter (95 %, Wilson); distances and METRe without one."""
    names = [name for name in FILTERS if any(name in _filters(r) for r in records)]
    header = ["method", "steps", *(f"matched %, {FILTERS[name]}" for name in names)]
    header += ["RMSE", "cRMSE", "METRe %", "its cRMSE", "not made"]
    rows = []
    for r in records:
        found = _filters(r)
        plain = found.get("none", {})
        metre = plain.get("metre", {})
        rows.append(
            [
                _method(r),
                r["steps"] or "–",
                *(_percent(found.get(name, {}).get("match")) for name in names),
                *(_number(plain.get(key)) for key in ("rmse", "crmse")),
                _percent(metre.get("match")),
                _number(metre.get("crmse")),
                r.get("failed", 0),
            ]
        )
    return markdown_table(header, rows)


def generation_table(records: Sequence[Record]) -> str:
    """Shares of all crystals (95 %, Wilson), coverage, and Wasserstein distances of the valid ones from the test."""
    shares: dict[str, Callable[[Record], Any]] = {
        "valid structure %": lambda m: m["validity"]["structure"],
        "valid composition %": lambda m: m["validity"]["composition"],
        "unique %": lambda m: m["uniqueness"]["unique"],
        "not in training %": lambda m: m["novelty"]["novel"],
        "P1 %": lambda m: m["symmetry"]["0.1"]["p1"],
        "COV-R %": lambda m: m["coverage"]["recall"],
        "COV-P %": lambda m: m["coverage"]["precision"],
    }
    distances = {
        "W density (g/cm³)": "density",
        "W volume (Å³/atom)": "volume_per_atom",
        "W elements": "elements",
        "W atoms": "atoms",
    }
    rows = []
    for r in records:
        m = r.get("metrics", {})
        row: list[object] = [_method(r), r["steps"] or "–"]
        for name, of in shares.items():
            known = r["method"] == "model" or name != "not in training %"
            row.append(_percent(_found(of, m)) if known else "–")
        row += [
            _number(m.get("distributions", {}).get(key, {}).get("wasserstein")) for key in distances.values()
        ]
        rows.append([*row, r.get("failed", 0)])
    return markdown_table(["crystals", "steps", *shares, *distances, "not made"], rows)


def guidance_table(records: Sequence[Record]) -> str:
    """Density asked for and found."""
    header = ["density asked for (g/cm³)", "guidance", "made", "mean", "deviation", "mean error"]
    rows = [
        [
            _number(r["target"]),
            r["guidance"],
            f"{r['made']} of {r['n']}",
            *(_number(r[k]) for k in header[3:5]),
            _number(r["error"]),
        ]
        for r in records
    ]
    return markdown_table(header, rows)


def speed_table(records: Sequence[Record]) -> str:
    """Crystals per second, and how many times as fast as the calls of a diffusion (quartiles)."""
    rows = [
        [r["method"], _number(r["crystals_per_second"]), "{:.1f} ({:.1f}–{:.1f})".format(*r["times_faster"])]
        for r in records
    ]
    return markdown_table([f"batches of {records[0]['batch']}", "crystals per second", "times as fast"], rows)


def memory_table(records: Sequence[Record]) -> str:
    """Peak memory of a generation to files."""
    return markdown_table(
        ["generated", "steps", "peak (MiB)"],
        [[r["method"], r["steps"], f"{r['peak_mib']:.0f}"] for r in records],
    )


SECTIONS: dict[str, tuple[str, Callable[[Sequence[Record]], str]]] = {
    "prediction": ("Structure prediction", prediction_table),
    "generation": ("Generation", generation_table),
    "guidance": ("Guided by the density", guidance_table),
    "speed": ("Speed", speed_table),
    "memory": ("Memory", memory_table),
}


def figure_of(records: Sequence[Record]) -> Figure:
    """A panel or two for each kind of measurement that there is."""
    by_task = {task: [r for r in records if r["task"] == task] for task in SECTIONS}
    panels: list[tuple[Callable[[Axes, Sequence[Record]], None], Sequence[Record]]] = [
        *((panel, by_task["prediction"]) for panel in (_match_panel, _rmse_panel) if by_task["prediction"]),
        *((panel, by_task[task]) for task, panel in PANELS.items() if by_task[task]),
    ]
    figure = Figure(figsize=(4.6 * max(len(panels), 1), 3.8), layout="constrained")
    for axes, (panel, found) in zip(
        figure.subplots(1, max(len(panels), 1), squeeze=False)[0], panels, strict=False
    ):
        panel(axes, found)
        axes.grid(color="0.92")
    return figure


def _match_panel(axes: Axes, records: Sequence[Record]) -> None:
    """Match rate without a filter against the number of steps, with its interval; baselines as lines."""
    for k, (method, found) in enumerate(_curves(records).items()):
        shares = [_filters(r)["none"]["match"] for r in found]
        y = [100 * s["fraction"] for s in shares]
        if found[0]["steps"] is None:
            axes.axhline(y[0], color=f"C{k}", ls="--", lw=1, label=method)
            continue
        ends = [[100 * abs(s["interval_95"][end] - s["fraction"]) for s in shares] for end in (0, 1)]
        axes.errorbar(
            [r["steps"] for r in found],
            y,
            yerr=ends,
            marker="o",
            ms=4,
            capsize=2,
            color=f"C{k}",
            label=method,
        )
    _by_steps(axes, "matched (%)")
    axes.set_ylim(bottom=0)
    _legend(axes)


def _rmse_panel(axes: Axes, records: Sequence[Record]) -> None:
    for k, (method, found) in enumerate(_curves(records).items()):
        pairs = [
            (r["steps"], _filters(r)["none"]["rmse"])
            for r in found
            if _filters(r)["none"]["rmse"] is not None
        ]
        if pairs and pairs[0][0] is None:
            axes.axhline(pairs[0][1], color=f"C{k}", ls="--", lw=1)
        elif pairs:
            axes.plot(*zip(*pairs, strict=True), "o-", ms=4, color=f"C{k}", label=method)
    _by_steps(axes, "RMSE of the matched ((V/N)¹ᐟ³)")


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=7, frameon=False)


def _by_steps(axes: Axes, label: str) -> None:
    axes.set_xscale("log")
    axes.set_xlabel("steps")
    axes.set_ylabel(label)


def _generation_panel(axes: Axes, records: Sequence[Record]) -> None:
    """A row of dots for each set: valid, unique, coverage."""
    kinds: dict[str, Callable[[Record], Any]] = {
        "valid structure": lambda m: m["validity"]["structure"],
        "unique": lambda m: m["uniqueness"]["unique"],
        "COV-R": lambda m: m["coverage"]["recall"],
        "COV-P": lambda m: m["coverage"]["precision"],
    }
    for k, (name, of) in enumerate(kinds.items()):
        points = [(_found(of, r.get("metrics", {})), -row) for row, r in enumerate(records)]
        pairs = [(100 * s["fraction"], y) for s, y in points if s is not None and s["fraction"] is not None]
        if pairs:
            axes.plot(*zip(*pairs, strict=True), "osD^"[k], ms=5, color=f"C{k}", label=name, alpha=0.8)
    labels = [_method(r) + (f", {r['steps']} steps" if r["steps"] else "") for r in records]
    axes.set_yticks([-k for k in range(len(records))], labels, fontsize=7)
    axes.set_xlabel("share (%)")
    _legend(axes)


def _guidance_panel(axes: Axes, records: Sequence[Record]) -> None:
    made = [r for r in records if r["made"]]
    for k, strength in enumerate(sorted({r["guidance"] for r in made})):
        found = [r for r in made if r["guidance"] == strength]
        x, y, deviation = ([r[key] for r in found] for key in ("target", "mean", "deviation"))
        axes.errorbar(
            x, y, yerr=deviation, fmt="o-", ms=4, capsize=2, color=f"C{k}", label=f"guidance {strength:g}"
        )
    if made:
        targets = [r["target"] for r in made]
        axes.plot(targets, targets, "--", color="0.5", lw=1, label="asked for")
    axes.set_xlabel("density asked for (g/cm³)")
    axes.set_ylabel("density (mean ± deviation)")
    _legend(axes)


def _speed_panel(axes: Axes, records: Sequence[Record]) -> None:
    axes.barh([r["method"] for r in records], [r["crystals_per_second"] for r in records])
    axes.set_xscale("log")
    axes.set_xlabel("crystals per second")
    axes.invert_yaxis()


def _memory_panel(axes: Axes, records: Sequence[Record]) -> None:
    axes.plot([r["n"] for r in records], [r["peak_mib"] for r in records], "o-")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("crystals")
    axes.set_ylabel("peak memory (MiB)")


PANELS: dict[str, Callable[[Axes, Sequence[Record]], None]] = {
    "generation": _generation_panel,
    "guidance": _guidance_panel,
    "speed": _speed_panel,
    "memory": _memory_panel,
}


def _curves(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records with metrics by method, in ascending order of the steps."""
    found: dict[str, list[Record]] = {}
    for r in records:
        if "metrics" in r:
            found.setdefault(_method(r), []).append(r)
    return {name: sorted(each, key=lambda r: r["steps"] or 0) for name, each in found.items()}


def _method(r: Record) -> str:
    return f"{r['trained']}, seed {r['seed']}" if "trained" in r else str(r["method"])


def _filters(r: Record) -> Mapping[str, Any]:
    found: Mapping[str, Any] = r["metrics"]["prediction"]["filters"] if "metrics" in r else {}
    return found


def _found(of: Callable[[Record], Any], metrics: Record) -> Any:
    """What ``of`` finds in metrics; None where a part was not made."""
    try:
        return of(metrics)
    except (KeyError, TypeError):
        return None


def _percent(share: Mapping[str, Any] | None) -> str:
    if share is None or share["fraction"] is None:
        return "–"
    low, high = (100 * x for x in share["interval_95"])
    return f"{100 * share['fraction']:.1f} ({low:.1f}–{high:.1f})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
