"""What the records of a journal say: which labels and models there are, how far the loop is, one row a round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from atomml.active.journal import Record

__all__ = [
    "STEPS",
    "ModelFile",
    "RoundRow",
    "latest_model",
    "next_step",
    "rounds_of",
    "stores",
    "table",
    "total",
]

STEPS = ("start", "explore", "gate", "select", "label", "store", "train", "calibrate", "report")
"""In the order of a round; ``start`` in round 0 only. ``stop`` and ``settings`` can come between any two."""
RoundRow = dict[str, Any]


class ModelFile(NamedTuple):
    """A model of the loop.

    Attributes:
        path: of the file.
        fingerprint: of its weights and its calibration.
        device: where it computes.
    """

    path: Path
    fingerprint: str
    device: str = "cpu"


def stores(records: Sequence[Record], part: str) -> list[str]:
    """Folders, relative to that of the run, with the frames of a part (train, calibration, test), in order."""
    return [r["facts"]["stores"][part]["path"] for r in records if part in r["facts"].get("stores", {})]


def latest_model(records: Sequence[Record], folder: Path, device: str = "cpu") -> ModelFile | None:
    """The calibrated model of the last finished training, or the one of the start."""
    found = [r["facts"]["model"] for r in records if r["step"] in ("start", "calibrate")]
    last = next((entry for entry in reversed(found) if entry is not None), None)
    return None if last is None else ModelFile(folder / last["path"], last["fingerprint"], device)


def total(records: Sequence[Record], key: str) -> int:
    """Sum of a number of the labelling over all rounds: asked, labelled."""
    return sum(r["facts"][key] for r in records if r["step"] == "label")


def rounds_of(records: Sequence[Record]) -> dict[int, dict[str, Record]]:
    """Records by round and step."""
    out: dict[int, dict[str, Record]] = {}
    for record in records:
        out.setdefault(record["round"], {})[record["step"]] = record
    return out


def next_step(records: Sequence[Record]) -> tuple[int, str]:
    """Round and step that come after the last finished one; a stop counts as none."""
    done = [r for r in records if r["step"] in STEPS]
    if not done:
        return 0, "start"
    last = done[-1]
    if last["step"] == "report":
        return last["round"] + 1, "explore"
    if last["step"] == "start":
        return 0, "report" if last["facts"]["model"] else "train" if last["facts"]["stores"] else "explore"
    nothing = last["step"] == "select" and not last["facts"]["rows"]
    return last["round"], "report" if nothing else STEPS[STEPS.index(last["step"]) + 1]


def table(records: Sequence[Record]) -> list[RoundRow]:
    """One row for each round, with what is known of it; None for what is not, or not yet."""
    return [_row(number, steps) for number, steps in rounds_of(records).items()]


def _row(number: int, steps: dict[str, Record]) -> RoundRow:
    facts = {step: record["facts"] for step, record in steps.items()}
    gate, label = facts.get("gate", {}), facts.get("label", {})
    row: RoundRow = {
        "round": number,
        "candidates": facts.get("explore", {}).get("candidates"),
        "dropped": gate.get("dropped"),
        "confident_share": gate.get("confident_share"),
        "passed": gate.get("passed"),
        "selected": len(facts["select"]["rows"]) if "select" in facts else None,
        "labelled": label.get("labelled"),
        "failed": label.get("failed"),
        "train_frames": facts.get("train", {}).get("frames"),
    }
    fresh = facts.get("store", {}).get("fresh") or {}
    row |= {f"fresh_{key}": fresh.get(key) for key in ("energy_per_atom_rmse", "forces_rmse")}
    errors = facts.get("calibrate", {}).get("errors", {})
    for part in ("calibration", "test"):
        found = errors.get(part, {})
        row |= {f"{part}_{key}": found.get(key) for key in ("energy_per_atom_rmse", "forces_rmse", "z_rms")}
    row["seconds"] = round(sum(r["timing"].get("seconds", 0.0) for r in steps.values()), 1)
    row["note"] = "; ".join(_notes(facts))
    return row


def _notes(facts: dict[str, dict[str, Any]]) -> Iterator[str]:
    for step in ("start", "explore", "gate", "select", "calibrate", "stop"):
        yield from facts.get(step, {}).get("notes", ())
    if "stop" in facts:
        yield facts["stop"]["reason"]
