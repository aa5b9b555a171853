"""`data_report`: what is in a data set and what looks wrong with it, as Markdown, figures, CSV and JSON."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols, covalent_radii

from atomml.datasets.references import ReferenceEnergies, least_squares
from atomml.datasets.report_figures import element_bars, histogram, stress_against_volume
from atomml.datasets.report_text import report_markdown
from atomml.datasets.statistics import (
    duplicate_groups,
    formulas,
    max_force_norms,
    minimum_distances,
    outliers,
    residuals_per_atom,
    stress_sign_test,
    volumes,
)
from atomml.datasets.store import FrameStore
from atomml.errors import DataError
from atomml.shapes import ndarray

__all__ = ["data_report", "summarize"]

MOST_LISTED = 20
DISTANCE_FRAMES = 2000
EXACT_DECIMALS, NEAR_DECIMALS = 6, 2


def data_report(store: FrameStore, out_dir: str | Path) -> dict[str, Any]:
    """Write ``report.md``, ``report.json``, ``frames.csv`` (one line per frame) and figures to ``out_dir``.

    Returns:
        the content of ``report.json``, see `summarize`.

    Raises:
        DataError: the folder cannot be written.
    """
    summary, columns = summarize(store)
    out = Path(out_dir)
    try:
        out.mkdir(parents=True, exist_ok=True)
        figures = _write_figures(store, summary, columns, out)
        _write_csv(columns, out / "frames.csv")
        (out / "report.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False), encoding="utf-8")
        (out / "report.md").write_text(report_markdown(summary, figures), encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"The report could not be written ({error.strerror or error}).", where=str(out)
        ) from error
    return summary


def summarize(store: FrameStore) -> tuple[dict[str, Any], dict[str, ndarray]]:
    """Everything the report says (JSON values) and the per-frame columns it is drawn from."""
    names = formulas(store)
    references = least_squares(store) if np.isfinite(store.energy).any() else None
    nan = np.full(len(store), np.nan)
    columns: dict[str, ndarray] = {
        "id": store.ids.to_array(),
        "formula": names,
        "atoms": store.n_atoms,
        "energy_residual_per_atom": nan if references is None else residuals_per_atom(store, references),
        "max_force": max_force_norms(store),
        "volume_per_atom": volumes(store) / store.n_atoms,
        "stress_trace": np.trace(store.stress, axis1=1, axis2=2),
    }
    searched = np.unique(np.linspace(0, len(store) - 1, min(DISTANCE_FRAMES, len(store))).astype(np.int64))
    summary = {
        "sources": [str(info.get("source", store.folder or "memory")) for info in store.origins()],
        "fingerprint": store.fingerprint(),
        "frames": len(store),
        "atoms": len(store.numbers),
        "atoms_per_frame": _range(store.n_atoms),
        "periodic": {str(k): int((store.pbc.sum(axis=1) == k).sum()) for k in range(4)},
        "labels": store.label_counts(),
        "label_keys": _label_keys(store),
        "not_read": _not_read(store),
        "fixed_atoms": 0 if store.fixed is None else int(store.fixed.sum()),
        "elements": _elements(store),
        "compositions": _top(names),
        "references": None if references is None else references.to_dict(),
        "energy_residual_per_atom": _range(columns["energy_residual_per_atom"]),
        "forces": _forces(store),
        "volume_per_atom": _range(columns["volume_per_atom"]),
        "outliers": {
            key: _outliers(store, columns[key], names) for key in ("energy_residual_per_atom", "max_force")
        },
        "duplicates": {
            "exact": _duplicates(store, EXACT_DECIMALS),
            "near": _duplicates(store, NEAR_DECIMALS),
        },
        "minimum_distances": _distances(store, searched),
        "distance_frames": len(searched),
        "stress_sign": stress_sign_test(store),
        "tags": {name: _tag(column) for name, column in store.tags.items()},
    }
    return summary | {"warnings": _warnings(summary, references)}, columns


def _label_keys(store: FrameStore) -> dict[str, list[str]]:
    keys: dict[str, list[str]] = {}
    for info in store.origins():
        for label, entry in info.get("labels", {}).items():
            named = keys.setdefault(label, [])
            if entry["key"] is not None and entry["key"] not in named:
                named.append(entry["key"])
    return keys


def _not_read(store: FrameStore) -> dict[str, int]:
    total: Counter[str] = Counter()
    for info in store.origins():
        total.update(info.get("not_read", {}))
    return dict(sorted(total.items()))


def _range(values: ndarray) -> dict[str, float] | None:
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return None
    return {
        "min": float(finite.min()),
        "median": float(np.median(finite)),
        "max": float(finite.max()),
        "std": float(finite.std()),
    }


def _elements(store: FrameStore) -> dict[str, dict[str, int]]:
    elements, counts = store.element_counts()
    return {
        chemical_symbols[z]: {"atoms": int(column.sum()), "frames": int((column > 0).sum())}
        for z, column in zip(elements, counts.T, strict=True)
    }


def _top(names: ndarray) -> dict[str, Any]:
    unique, counts = np.unique(names, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MOST_LISTED]
    return {"different": len(unique), "most_frequent": {str(unique[k]): int(counts[k]) for k in order}}


def _forces(store: FrameStore) -> dict[str, float] | None:
    components = store.forces[np.isfinite(store.forces).all(axis=1)]
    if not len(components):
        return None
    norms = np.linalg.norm(components, axis=1)
    net = np.add.reduceat(store.forces, store.offsets[:-1], axis=0)
    net_norm = np.linalg.norm(net, axis=1) / store.n_atoms
    return {
        "rms_component": float(np.sqrt(np.mean(components**2))),
        "median_norm": float(np.median(norms)),
        "max_norm": float(norms.max()),
        "max_net_per_atom": float(net_norm[np.isfinite(net_norm)].max(initial=0.0)),
    }


def _outliers(store: FrameStore, values: ndarray, groups: ndarray) -> dict[str, Any]:
    rows, scores = outliers(np.asarray(values, dtype=np.float64), groups)
    listed = [
        {"frame": int(r), "id": store.ids[int(r)], "value": float(values[r]), "score": float(s)}
        for r, s in zip(rows[:MOST_LISTED], scores[:MOST_LISTED], strict=True)
    ]
    return {"count": len(rows), "largest": listed}


def _duplicates(store: FrameStore, decimals: int) -> dict[str, Any]:
    groups = duplicate_groups(store, decimals)
    return {
        "groups": len(groups),
        "redundant_frames": sum(len(g) - 1 for g in groups),
        "largest": [
            [store.ids[i] for i in g[:5]] for g in sorted(groups, key=len, reverse=True)[:MOST_LISTED]
        ],
    }


def _distances(store: FrameStore, rows: ndarray) -> dict[str, dict[str, Any]]:
    result = minimum_distances(store, rows)
    for pair, entry in result.items():
        a, b = (chemical_symbols.index(s) for s in pair.split("-"))
        entry["id"] = store.ids[entry["frame"]]
        entry["of_covalent"] = entry["distance"] / float(covalent_radii[a] + covalent_radii[b])
    return result


def _tag(column: ndarray) -> dict[str, Any]:
    if column.dtype.kind == "f":
        return {"kind": "number", "absent": int(np.isnan(column).sum()), "range": _range(column)}
    values, counts = np.unique(column, return_counts=True)
    result: dict[str, Any] = {"kind": "text" if column.dtype.kind == "U" else "integer or flag"}
    result["different"] = len(values)
    order = np.argsort(-counts, kind="stable") if len(values) > MOST_LISTED else np.arange(len(values))
    return result | {"values": {str(values[k]): int(counts[k]) for k in order[:MOST_LISTED]}}


def _warnings(summary: dict[str, Any], references: ReferenceEnergies | None) -> list[str]:
    found = []
    labels, frames, sign = summary["labels"], summary["frames"], summary["stress_sign"]
    found += [
        f"{frames - k} of {frames} frames have no {name}." for name, k in labels.items() if 0 < k < frames
    ]
    if labels["energy"] == 0:
        found.append("No frame has an energy.")
    if sign["verdict"] == "pressure":
        found.append(
            f"The stress follows the volume with the sign of a pressure (correlation "
            f"{sign['correlation']:+.2f}): read the file with stress_sign=pressure."
        )
    if sign["verdict"] == "unclear":
        found.append(f"The sign of the stress is unclear (correlation {sign['correlation']:+.2f}): check it.")
    exact = summary["duplicates"]["exact"]["redundant_frames"]
    if exact:
        found.append(f"{exact} frames repeat another frame's geometry exactly: mind the split.")
    for name, entry in summary["outliers"].items():
        if entry["count"]:
            found.append(f"{entry['count']} frames are outliers in {name}; the largest are listed.")
    close = {p: e for p, e in summary["minimum_distances"].items() if e["of_covalent"] < 0.6}
    found += [f"{p} come as close as {e['distance']:.2f} Å in {e['id']}." for p, e in close.items()]
    if references is not None and references.rank_deficient:
        found.append(references.caption().splitlines()[-1])
    if summary["not_read"]:
        found.append("Present in the source and not read: " + ", ".join(summary["not_read"]) + ".")
    return found


def _write_figures(
    store: FrameStore, summary: dict[str, Any], columns: dict[str, ndarray], out: Path
) -> dict[str, str]:
    figures = {"Elements": "elements.png"}
    elements = summary["elements"]
    element_bars(
        list(elements),
        [e["atoms"] for e in elements.values()],
        [e["frames"] for e in elements.values()],
        out / "elements.png",
    )
    if summary["labels"]["energy"]:
        figures["Energy per atom after least-squares reference energies"] = "energy.png"
        histogram(columns["energy_residual_per_atom"], out / "energy.png", xlabel="(E − Σ E0)/N (eV/atom)")
    if summary["labels"]["forces"]:
        figures["Force norms"] = "forces.png"
        histogram(np.linalg.norm(store.forces, axis=1), out / "forces.png", xlabel="|F| (eV/Å)", log_x=True)
    if summary["labels"]["stress"]:
        figures["Stress against volume"] = "stress.png"
        stress_against_volume(
            columns["volume_per_atom"], columns["stress_trace"], columns["formula"], out / "stress.png"
        )
    return figures


def _write_csv(columns: dict[str, ndarray], path: Path) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["frame", *columns])
        writer.writerows(
            [k, *row] for k, row in enumerate(zip(*(c.tolist() for c in columns.values()), strict=True))
        )
