"""The loop: round after round, step after step; whatever ends it, it goes on from the last finished step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from atomml.active.begin import begin
from atomml.active.config import ActiveConfig
from atomml.active.explore.run import discard_units, explore
from atomml.active.gate import gate
from atomml.active.history import table, total
from atomml.active.journal import JOURNAL, Journal
from atomml.active.labels import CACHE, label, store_labels
from atomml.active.learn import calibrate_round, train_round
from atomml.active.report import write_report
from atomml.active.select import select
from atomml.active.settings import agree
from atomml.active.stop import stop_at_gate, stop_before_round
from atomml.active.work import Run
from atomml.errors import ConfigError
from atomml.files import full_disk
from atomml.labelling.cache import LabelCache

__all__ = ["run_active"]

Say = Callable[[str], None]


def run_active(
    config: ActiveConfig,
    *,
    resume: bool = False,
    forget_failures: bool = False,
    progress: bool = False,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Learn actively until a limit of ``config.stop`` is reached.

    Every finished step is a line of the journal; a run that was ended in any way goes on with ``resume`` and
    ends with the same journal, up to times. No label that reached the disk is asked for again.

    Args:
        config: as `atomml.active.config.load_active_config` gives it: all paths absolute, the recipe read.
        resume: go on with what is in ``config.run_dir``; begin if there is nothing.
        forget_failures: ask again for structures that could not be labelled.
        progress: show progress bars and the lines of the trainings.
        say: prints a line.

    Returns:
        ``reason`` of the end, ``rounds`` (one row each), ``model`` (path) and ``labels`` asked for.

    Raises:
        ConfigError: the folder is in use, or settings of finished steps have changed.
        SimulationError: nothing can be explored, everything has exploded, nothing can be labelled.
        DataError: data that cannot be used, a full disk, a damaged journal.
        AtommlError: what trainings and labellers raise. After any of these, ``resume`` goes on.
    """
    folder = Path(config.run_dir).expanduser().resolve()
    _refuse_used(folder, resume=resume)
    with full_disk(folder), Journal(folder) as journal:
        run = Run(config, folder, journal, say, progress)
        if journal.cut:
            say(f"The last line of the journal was not whole and was cut off ({journal.cut} bytes).")
        changed = agree(journal, config)
        for key, (old, new) in changed.items():
            say(f"Changed from here on: {key} from {old!r} to {new!r}")
        if forget_failures or any(key.startswith("label.") for key in changed):
            with LabelCache(folder / CACHE) as cache:
                cache.forget_failures()
        reason = _rounds(run)
        if journal.records[-1]["step"] != "stop" or journal.records[-1]["facts"]["reason"] != reason:
            journal.append(journal.records[-1]["round"], "stop", {"reason": reason})
        write_report(run)
        say(f"Ended: {reason}")
        model = run.model
        return {
            "reason": reason,
            "rounds": table(journal.records),
            "model": None if model is None else str(model.path),
            "labels": total(journal.records, "asked"),
        }


def _rounds(run: Run) -> str:
    """All rounds; returns why they ended."""
    start = run.step(0, "start", lambda: begin(run))
    round_ = 0
    if start["model"] is None:
        if not start["stores"].get("train"):
            _acquire(run, 0)
        _learn(run, 0)
    _report(run, 0)
    while True:
        round_ += 1
        reason = stop_before_round(run.journal.records, run.config.stop, round_)
        if reason is None:
            reason = _acquire(run, round_)
        if reason is not None:
            return reason
        if run.journal.find(round_, "label") is not None:
            _learn(run, round_)
        _report(run, round_)


def _acquire(run: Run, round_: int) -> str | None:
    """From candidates to labels; returns why the loop ends here, if it does."""
    explored = run.step(round_, "explore", lambda: explore(run, round_))
    discard_units(run, round_)
    gated = run.step(round_, "gate", lambda: gate(run, round_))
    run.say(_gate_line(round_, explored, gated))
    reason = stop_at_gate(run.journal.records, run.config.stop, round_)
    if reason is not None:
        return reason
    chosen = run.step(round_, "select", lambda: select(run, round_))
    rows = chosen["rows"]
    if not rows:
        for note in (*gated["notes"], *chosen["notes"]):
            run.say(f"Round {round_}: {note}")
        return None
    labels = run.step(round_, "label", lambda: label(run, round_, rows))
    stored = run.step(round_, "store", lambda: store_labels(run, round_, rows, labels["keys"]))
    run.say(_label_line(round_, labels, stored))
    return None


def _learn(run: Run, round_: int) -> None:
    run.step(round_, "train", lambda: train_round(run, round_))
    facts = run.step(round_, "calibrate", lambda: calibrate_round(run, round_))
    for note in facts["notes"]:
        run.say(f"Round {round_}: {note}")
    for part, errors in facts["errors"].items():
        if "forces_rmse" in errors:
            run.say(f"Round {round_}: {part} error of the forces {1e3 * errors['forces_rmse']:.1f} meV/Å")


def _report(run: Run, round_: int) -> None:
    def compute() -> dict[str, Any]:
        write_report(run)
        return {}

    run.step(round_, "report", compute)


def _gate_line(round_: int, explored: dict[str, Any], gated: dict[str, Any]) -> str:
    dropped = ", ".join(f"{count} {name}" for name, count in gated["dropped"].items()) or "none dropped"
    return (
        f"Round {round_}: {explored['candidates']} candidates; {gated['passed']} passed the gate ({dropped})"
    )


def _label_line(round_: int, labels: dict[str, Any], stored: dict[str, Any]) -> str:
    failed = "".join(f", {count} {name}" for name, count in labels["failed"].items())
    fresh = stored["fresh"] or {}
    error = f"; error before: {1e3 * fresh['forces_rmse']:.1f} meV/Å" if "forces_rmse" in fresh else ""
    return f"Round {round_}: {labels['labelled']} of {labels['asked']} labelled{failed}{error}"


def _refuse_used(folder: Path, *, resume: bool) -> None:
    ours = (folder / JOURNAL).is_file()
    used = folder.is_dir() and any(path.name != ".lock" for path in folder.iterdir())
    if ours and not resume and (folder / JOURNAL).stat().st_size > 0:
        raise ConfigError(
            "The run folder has active learning in it.",
            where=str(folder),
            fix="go on with --resume, or choose another run_dir",
        )
    if used and not ours:
        raise ConfigError(
            "The run folder has files of something else.", where=str(folder), fix="choose another run_dir"
        )
