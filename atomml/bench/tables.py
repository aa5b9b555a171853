"""Results of measurements as tables on a terminal and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from rich.table import Table

__all__ = ["as_csv", "data_tables", "kernel_tables", "missing_table", "potential_tables"]

Result = dict[str, Any]
MODES = {
    "forward": "forward",
    "backward": "forward + backward",
    "double": "forward, backward, double backward",
}


def kernel_tables(result: Result) -> list[Table]:
    """Times and fractions of the floor, then one table of ratios for each comparison."""
    settings, limits = result["settings"], result["ceilings"]
    title = (
        f"Convolution: {settings['edges']} edges, {settings['degree']} neighbours, {settings['channels']} channels,"
        f" {settings['dtype']}, {settings['threads']} threads on {settings['device']}"
    )
    caption = (
        f"ceilings {limits['gflops']:.0f} GFLOP/s ({limits['flops_by']}), {limits['gbytes']:.0f} GB/s; a fraction is"
        " the time at the ceiling over the time taken,\nfor memory above 100 % where operands stay in a cache"
    )
    times = Table("L", "what", "case", title=title, caption=caption)
    columns = ["ms", "GFLOP/s", "of arithmetic", "of memory"]
    predicted = any("predicted_ms" in row for row in result["rows"])
    for column in [*columns, *(["predicted ms, H100"] if predicted else [])]:
        times.add_column(column, justify="right")
    for row in result["rows"]:
        cells = [str(row["lmax"]), MODES[row["mode"]], row["case"], f"{row['ms']:.3g}"]
        cells += [_number(row.get("gflops")), _percent(row.get("compute_fraction"))]
        cells += [
            _percent(row.get("memory_fraction")),
            *([_number(row.get("predicted_ms"))] if predicted else []),
        ]
        times.add_row(*cells)
    comparisons = dict.fromkeys(ratio["comparison"] for ratio in result["ratios"])
    return [times, *(_kernel_ratios(result, comparison) for comparison in comparisons)]


def data_tables(result: Result) -> list[Table]:
    """Microseconds per frame of every access, and the ratios that matter."""
    title = f"Reading {result['frames']} frames of {result['atoms_per_frame']:.0f} atoms"
    times = Table("access", title=title)
    times.add_column("µs per frame", justify="right")
    for row in result["rows"]:
        times.add_row(row["case"], f"{row['us_per_frame']:.4g}")
    ratios = Table("time of", "over that of", title="Ratios")
    ratios.add_column("median (quartiles)", justify="right")
    for r in result["ratios"]:
        ratios.add_row(r["numerator"], r["denominator"], _ratio(r))
    return [times, ratios]


def _kernel_ratios(result: Result, comparison: str) -> Table:
    table = Table("L", "time of", "over that of", title=comparison)
    for mode in dict.fromkeys(row["mode"] for row in result["rows"]):
        table.add_column(MODES[mode], justify="right")
    found: dict[tuple[str, ...], list[str]] = {}
    for r in result["ratios"]:
        if r["comparison"] == comparison:
            found.setdefault((str(r["lmax"]), r["numerator"], r["denominator"]), []).append(_ratio(r))
    for key, cells in found.items():
        table.add_row(*key, *cells)
    return table


def potential_tables(result: Result) -> list[Table]:
    """For every task the cost of every model and its ratio to ours; then the scaling."""
    tables = [_task_table(result, task) for task in dict.fromkeys(row["task"] for row in result["rows"])]
    return tables + [_sweep_table(name, sweep) for name, sweep in result.get("scaling", {}).items()]


def _task_table(result: Result, task: str) -> Table:
    rows = [row for row in result["rows"] if row["task"] == task]
    ratios = {(r["numerator"], r["denominator"]): r for r in result["ratios"] if r["task"] == task}
    bases = list(dict.fromkeys(denominator for _, denominator in ratios))
    first = rows[0]
    title = f"{task}: {first['atoms']} atoms, {first['neighbors']:.0f} neighbours, float32, "
    table = Table("model", title=title + f"{result['machine']['threads']} threads")
    for column in ["µs per atom", *(f"over {base}" for base in bases), "share of a step", "peak MB"]:
        table.add_column(column, justify="right")
    for row in rows:
        engine = f" ({row['engine']})" if row.get("engine") in ("native", "torch") else ""
        over = [_ratio(ratios.get((row["model"], base))) for base in bases]
        shares = ", ".join(f"{name} {_percent(value)}" for name, value in row["shares"].items())
        peak = f"{row['peak_bytes'] / 1e6:.0f}"
        table.add_row(row["model"] + engine, f"{row['us_per_atom']:.4g}", *over, shares, peak)
    return table


def _sweep_table(name: str, sweep: Result) -> Table:
    table = Table(name, "atoms", "neighbours", "engine", title=f"TDN compiled, silicon, against {name}")
    for column in ("µs per atom", "over the first", "peak MB"):
        table.add_column(column, justify="right")
    first = sweep["rows"][0]["name"] if sweep["rows"] else ""
    ratios = {r["numerator"]: r for r in sweep["ratios"] if r["denominator"] == first}
    for row in sweep["rows"]:
        cells = [f"{row['value']:g}", str(row["atoms"]), f"{row['neighbors']:.0f}", row["engine"]]
        table.add_row(
            *cells,
            f"{row['us_per_atom']:.4g}",
            _ratio(ratios.get(row["name"])),
            f"{row['peak_bytes'] / 1e6:.0f}",
        )
    return table


def missing_table(missing: Sequence[dict[str, str]]) -> Table | None:
    """What could not be measured and why; None when nothing is missing."""
    if not missing:
        return None
    table = Table("not available", "for", "reason")
    for entry in missing:
        table.add_row(entry["name"], entry["what"], entry["reason"])
    return table


def as_csv(rows: Sequence[Result]) -> bytes:
    """Rows without their raw measurements; columns in the order in which they first appear."""
    plain = [{k: v for k, v in row.items() if not isinstance(v, list | dict)} for row in rows]
    names = list(dict.fromkeys(name for row in plain for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(plain)
    return text.getvalue().encode()


def _ratio(r: Result | None) -> str:
    return "" if r is None else f"{r['median']:.3g} ({r['low']:.3g} to {r['high']:.3g})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"
