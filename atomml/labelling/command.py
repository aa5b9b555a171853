"""Labels of structures in files: read, labelled with progress, written with their provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import ase.io
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from atomml.config import load_config
from atomml.datasets.frame import Frame, Skipped
from atomml.datasets.packing import pack_frames
from atomml.datasets.readers import load_frames
from atomml.datasets.store import FrameStore
from atomml.datasets.store_writer import check_output
from atomml.errors import DataError
from atomml.labelling.cache import LabelCache
from atomml.labelling.config import LabellerConfig
from atomml.labelling.identity import labeller_identity, labeller_name, located_labeller
from atomml.labelling.label import label_structures
from atomml.labelling.outcome import ADVICE, LabelOutcome

__all__ = ["check_out", "label_files", "load_labeller"]


def load_labeller(path: Path, overrides: Mapping[str, Any] | None = None) -> LabellerConfig:
    """A labeller from a YAML file; the files it names are looked for beside it too.

    Raises:
        ConfigError: the file cannot be used, or there is no such model.
    """
    return located_labeller(load_config(LabellerConfig, path, overrides), path.parent)


def check_out(out: Path, overwrite: bool) -> None:
    """Refuse before anything is computed what could not be written afterwards.

    Raises:
        DataError: it exists and ``overwrite`` is false, or it is a folder without data.
    """
    if out.is_dir() or not out.suffix:
        check_output(out, overwrite)
    elif out.exists() and not overwrite:
        raise DataError(
            "The output exists already.", where=str(out), fix="choose another name or --overwrite"
        )


def label_files(
    paths: Sequence[Path],
    labeller: LabellerConfig,
    out: Path,
    cache: LabelCache,
    *,
    executor: Executor | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Label all structures of some files and write those that have a label.

    Frames keep their names and tags; labels that they had are not used.

    Args:
        paths: files or native data folders; labels are not needed.
        labeller: the reference.
        out: extended XYZ, or a native data folder if the name has no suffix.
        cache: where labels are kept.
        executor: see `label_structures`.
        overwrite: replace what is at ``out``.

    Returns:
        structures, labelled, computed, labeller, seconds and failures by kind: JSON values.

    Raises:
        DataError: a file cannot be read or written, or no structure could be labelled.
        AtommlError: as `label_structures`.
    """
    store = load_frames(list(paths), require_energy=False)
    names = [str(name) for name in store.ids]
    with _progress(len(store)) as bar:
        task = bar.add_task("labels", total=len(store))
        outcomes = label_structures(
            [store[k] for k in range(len(store))],
            labeller,
            cache=cache,
            executor=executor,
            on_outcome=lambda index, outcome: bar.advance(task),
        )
    summary = _summary(outcomes, names, labeller)
    if not summary["labelled"]:
        raise DataError(
            f"None of {len(store)} structures could be labelled: {outcomes[0].message}",
            where=summary["labeller"],
            fix=ADVICE[outcomes[0].failure or "error"],
        )
    _write(_labelled(store, names, outcomes, labeller), out, overwrite)
    return summary


def _summary(
    outcomes: Sequence[LabelOutcome], names: Sequence[str], labeller: LabellerConfig
) -> dict[str, Any]:
    failures: dict[str, dict[str, Any]] = {}
    for name, outcome in zip(names, outcomes, strict=True):
        if outcome.failure is not None:
            words = {"message": outcome.message, "advice": ADVICE[outcome.failure]}
            failures.setdefault(outcome.failure, {**words, "structures": []})["structures"].append(name)
    for failure in failures.values():
        failure["count"] = len(failure["structures"])
    return {
        "structures": len(outcomes),
        "labelled": sum(outcome.failure is None for outcome in outcomes),
        "computed": sum(outcome.failure is None and not outcome.cached for outcome in outcomes),
        "labeller": labeller_name(labeller.calculator),
        "seconds": sum(outcome.seconds for outcome in outcomes if not outcome.cached),
        "failures": failures,
    }


def _labelled(
    store: FrameStore, names: Sequence[str], outcomes: Sequence[LabelOutcome], labeller: LabellerConfig
) -> FrameStore:
    def frames() -> list[Frame | Skipped]:
        found: list[Frame | Skipped] = []
        for k, (name, outcome) in enumerate(zip(names, outcomes, strict=True)):
            if outcome.frame is None:
                found.append(Skipped(name, f"the label failed: {outcome.failure}"))
                continue
            tags = {**store.tags_of(k), **dict(outcome.frame.tags)}
            found.append(outcome.frame._replace(id=name, tags=tags))
        return found

    info = {
        "level_of_theory": labeller_name(labeller.calculator),
        "labeller": labeller_identity(labeller.calculator),
    }
    return pack_frames(frames(), info, where="labels")


def _write(store: FrameStore, out: Path, overwrite: bool) -> None:
    if out.is_dir() or not out.suffix:
        store.save(out, overwrite=overwrite)
        return
    temporary = out.with_name(f".{out.name}.tmp{out.suffix}")
    try:
        ase.io.write(temporary, [store[k] for k in range(len(store))])
        temporary.replace(out)
    except (OSError, ValueError) as error:
        temporary.unlink(missing_ok=True)
        raise DataError(
            f"The labelled structures could not be written ({error}); the labels are in the cache.",
            where=str(out),
            fix="choose another file (extended XYZ) and run the same again: nothing is computed twice",
        ) from error


def _progress(total: int) -> Progress:
    """A bar on a terminal; nothing elsewhere."""
    console = Console(stderr=True)
    columns = (TextColumn("labels"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal or total == 0)
