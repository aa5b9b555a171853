"""The data report as Markdown."""

from __future__ import annotations

from typing import Any

__all__ = ["report_markdown"]


def report_markdown(summary: dict[str, Any], figures: dict[str, str]) -> str:
    """Markdown of `atomml.datasets.report.summarize`'s result; ``figures`` maps titles to file names."""
    sections = [
        _head(summary),
        _warnings(summary["warnings"]),
        _labels(summary),
        _elements(summary),
        _compositions(summary["compositions"]),
        _distributions(summary),
        _outliers(summary["outliers"]),
        _duplicates(summary["duplicates"]),
        _distances(summary),
        _stress(summary["stress_sign"]),
        _tags(summary["tags"]),
        *(f"## {title}\n\n![{title}]({file})" for title, file in figures.items()),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def table(header: list[str], rows: list[list[Any]]) -> str:
    """A Markdown table; floats with five significant digits."""

    def line(cells: list[Any]) -> str:
        shown = (f"{c:.5g}" if isinstance(c, float) else str(c).replace("|", "\\|") for c in cells)
        return "| " + " | ".join(shown) + " |"

    return "\n".join([line(header), line(["---"] * len(header)), *(line(row) for row in rows)])


def _head(s: dict[str, Any]) -> str:
    size = s["atoms_per_frame"]
    sources = ", ".join(f"`{name}`" for name in s["sources"][:10])
    sources += f" and {len(s['sources']) - 10} more" if len(s["sources"]) > 10 else ""
    periodic = ", ".join(f"{k} in {count} frames" for k, count in s["periodic"].items() if count)
    return (
        f"# Data report\n\nSource: {sources}  \nFingerprint: `{s['fingerprint'][:16]}`\n\n"
        f"{s['frames']} frames, {s['atoms']} atoms ({size['min']:.0f} to {size['max']:.0f} per frame), "
        f"{s['fixed_atoms']} of them fixed. Periodic directions: {periodic}."
    )


def _warnings(warnings: list[str]) -> str:
    lines = "\n".join(f"- {w}" for w in warnings) or "None."
    return f"## To look at\n\n{lines}"


def _labels(s: dict[str, Any]) -> str:
    rows = [
        [name, f"{count}/{s['frames']}", ", ".join(s["label_keys"].get(name, [])) or "-"]
        for name, count in s["labels"].items()
    ]
    return "## Labels\n\n" + table(["label", "frames", "key in the source"], rows)


def _elements(s: dict[str, Any]) -> str:
    e0 = (s["references"] or {}).get("energies", {})
    rows = [
        [symbol, e["atoms"], e["frames"], f"{e0[symbol]:.4f}" if symbol in e0 else "-"]
        for symbol, e in s["elements"].items()
    ]
    note = ""
    if s["references"] and s["references"]["rank_deficient"]:
        note = "\n\nThe compositions do not determine every E0; the values are those of minimum norm."
    header = ["element", "atoms", "frames", "E0 by least squares (eV)"]
    return "## Elements\n\n" + table(header, rows) + note


def _compositions(c: dict[str, Any]) -> str:
    rows = [[name, count] for name, count in c["most_frequent"].items()]
    title = f"## Compositions\n\n{c['different']} different; the most frequent:\n\n"
    return title + table(["formula", "frames"], rows)


def _distributions(s: dict[str, Any]) -> str:
    rows = [
        [name, r["min"], r["median"], r["max"], r["std"]]
        for name, r in (
            ("(E - sum E0)/N, eV/atom", s["energy_residual_per_atom"]),
            ("volume per atom, Å³", s["volume_per_atom"]),
        )
        if r is not None
    ]
    text = "## Distributions\n\n" + table(["quantity", "min", "median", "max", "std"], rows)
    f = s["forces"]
    if f is not None:
        text += (
            f"\n\nForces: RMS of a component {f['rms_component']:.4g}, median norm {f['median_norm']:.4g}, "
            f"largest norm {f['max_norm']:.4g}, largest net force per atom {f['max_net_per_atom']:.2g} eV/Å."
        )
    return text


def _outliers(entries: dict[str, Any]) -> str:
    rows = [
        [name, o["id"], o["value"], f"{o['score']:+.1f}"] for name, e in entries.items() for o in e["largest"]
    ]
    counts = ", ".join(f"{e['count']} in {name}" for name, e in entries.items())
    title = f"## Outliers\n\nRobust score beyond 8 within one composition (at least 8 frames): {counts}."
    return title + ("\n\n" + table(["quantity", "frame", "value", "score"], rows) if rows else "")


def _duplicates(d: dict[str, Any]) -> str:
    rows = [
        [name, tolerance, d[name]["groups"], d[name]["redundant_frames"]]
        for name, tolerance in (("exact", "1e-6 Å"), ("near", "0.01 Å"))
    ]
    return "## Duplicates\n\n" + table(["kind", "rounded to", "groups", "redundant frames"], rows)


def _distances(s: dict[str, Any]) -> str:
    rows = [[p, e["distance"], e["of_covalent"], e["id"]] for p, e in s["minimum_distances"].items()]
    rows = sorted(rows, key=lambda row: row[2])[:60]
    title = (
        f"## Shortest distances\n\nOver {s['distance_frames']} frames; closest pairs first, at most 60.\n\n"
    )
    return title + table(["pair", "Å", "of the covalent radii", "frame"], rows) if rows else ""


def _stress(t: dict[str, Any]) -> str:
    meaning = {
        "ase": "it has ASE's sign (negative when compressed).",
        "pressure": "it has the sign of a pressure. Read the file with stress_sign=pressure.",
        "unclear": "neither sign is clear.",
        "no stress": "there is none.",
        "too few volumes": "the frames of each composition have too few different volumes to tell.",
    }[t["verdict"]]
    text = f"## Sign of the stress\n\nFrom its trace against the volume per atom: {meaning}"
    if t["correlation"] is not None:
        text += f" Correlation {t['correlation']:+.2f} over {t['frames']} frames."
    return text


def _tags(tags: dict[str, Any]) -> str:
    if not tags:
        return ""
    rows = []
    for name, tag in tags.items():
        if "values" in tag:
            shown = ", ".join(f"{v or '(absent)'} ({n})" for v, n in list(tag["values"].items())[:8])
            more = ", ..." if tag["different"] > 8 else ""
            rows.append([name, tag["kind"], tag["different"], shown + more])
        else:
            span = tag["range"]
            text = f"{span['min']:.5g} to {span['max']:.5g}" if span else "all absent"
            rows.append([name, tag["kind"], "-", f"{text}; absent in {tag['absent']}"])
    return "## Tags\n\n" + table(["tag", "kind", "different values", "values (frames)"], rows)
