"""Sampling: from crystals to labelled, decorrelated frames of hot and strained ones, resumable at any point."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from ase.io.extxyz import write_extxyz

from atomml.calculators import calculator_identity, calculator_name, located
from atomml.config import load_config
from atomml.datasets.packing import merge_skipped
from atomml.datasets.store import UNITS, FrameStore
from atomml.datasets.store_files import read_header
from atomml.datasets.store_writer import write_parts
from atomml.errors import ConfigError, DataError
from atomml.files import full_disk, replace_file
from atomml.records import lock_folder
from atomml.simulate.progress import progress_bar
from atomml.simulate.sampling.config import SampleConfig
from atomml.simulate.sampling.plan import label_units, plain, relax_units, run_units_of
from atomml.simulate.sampling.report import write_report
from atomml.simulate.sampling.select import Choice, Pool, choose_frames
from atomml.simulate.sampling.structures import Start, make_starts
from atomml.simulate.sampling.units import LabelUnit, Workers

__all__ = ["SampleResult", "load_sample_config", "run_sampling"]

CONFIG, FRAMES = "config.yaml", "frames"
WORK = ("relaxed", "trajectories", "labels")
OUTPUTS = (FRAMES, "frames.extxyz", "report.md", "summary.json", "sampling.png", CONFIG)


@dataclass(frozen=True)
class SampleResult:
    """What a run leaves.

    Attributes:
        store: the labelled frames, mapped from ``folder/frames``.
        summary: counts, temperatures, correlation times, exploded runs; also in ``folder/summary.json``.
        folder: the run folder.
    """

    store: FrameStore
    summary: dict[str, Any]
    folder: Path


def load_sample_config(
    path: str | Path, overrides: Mapping[str, Any] | None = None
) -> tuple[SampleConfig, Path]:
    """A configuration file, after ``overrides`` ({"dynamics.sampling": 500}), and the folder it is in.

    Raises:
        ConfigError: see `atomml.config.load_config`.
    """
    return load_config(SampleConfig, path, overrides), Path(path).resolve().parent


def run_sampling(
    config: SampleConfig,
    *,
    base: str | Path = ".",
    workers: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> SampleResult:
    """Sample structures and label them, into ``config.run_dir``.

    The frames do not depend on the number of workers, nor on interruptions: what is complete in the run folder
    is reused if nothing that it depends on has changed, the rest is computed. So other temperatures, more
    replicas or another selection can be asked for later, with ``resume``.

    Args:
        config: the run.
        base: where relative paths of structures and models are looked for too.
        workers: processes, one thread each.
        resume: go on with what is in the run folder.
        overwrite: discard what is in the run folder.
        progress: show progress bars.

    Raises:
        ConfigError: the run folder is in use, or the configuration asks for something impossible.
        DataError: structures that cannot be read; no frame was sampled, or none could be labelled; the disk is full:
            what is finished is safe, and ``resume`` goes on.
        UnsupportedError: an element that the calculator does not know, a package that is not installed.
        SimulationError: npt for a structure or a calculator that cannot do it; a process died.
    """
    config = _located(config, Path(base))
    folder = Path(config.run_dir).expanduser()
    _refuse_used(folder, resume=resume, overwrite=overwrite)
    with full_disk(folder), lock_folder(folder):
        _prepare(folder, config, anew=overwrite and not resume)
        return _sampled(config, Path(base), folder, workers, progress=progress)


def _sampled(config: SampleConfig, base: Path, folder: Path, workers: int, *, progress: bool) -> SampleResult:
    """All steps of a run, in a folder that is ready."""
    starts = make_starts(config, base)
    with Workers(workers) as processes:
        job = _Job(config, folder, processes, progress)
        ready, relaxed = _relax(job, starts.kept)
        runs = _run(job, ready)
        pools = [*relaxed, *runs] if config.selection.relaxed else runs
        choice = choose_frames(pools, config.selection)
        _refuse_nothing(choice, runs)
        store, check = _label(job, pools, choice)
    summary = write_report(folder, config, starts, relaxed, runs, choice, store, check)
    return SampleResult(store, summary, folder)


def _located(config: SampleConfig, base: Path) -> SampleConfig:
    labels = config.labels
    if labels.calculator is not None:
        labels = labels.model_copy(update={"calculator": located(labels.calculator, base)})
    return config.model_copy(update={"calculator": located(config.calculator, base), "labels": labels})


def _refuse_used(folder: Path, *, resume: bool, overwrite: bool) -> None:
    used = folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir())
    ours = (folder / CONFIG).is_file()
    if used and not ours:
        raise ConfigError(
            "The run folder has files of something else.", where=str(folder), fix="choose another run_dir"
        )
    if used and not (resume or overwrite):
        raise ConfigError(
            "The run folder has a run in it.",
            where=str(folder),
            fix="--resume goes on with it, --overwrite discards it",
        )


def _prepare(folder: Path, config: SampleConfig, *, anew: bool) -> None:
    """Write down the configuration; remove what is to be made anew, and what a kill left half."""
    if anew:
        for name in (*WORK, *OUTPUTS):
            _remove(folder / name)
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    replace_file(folder / CONFIG, text.encode())
    for place in (folder, *(folder / name for name in WORK)):
        for rubbish in (*place.glob(".*.tmp"), *place.glob(".*.old")):
            _remove(rubbish)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


class _Job(NamedTuple):
    """What all steps of a run need."""

    config: SampleConfig
    folder: Path
    workers: Workers
    progress: bool

    def work(self, units: Sequence[Any], label: str) -> None:
        """Compute the units that are not done."""
        with progress_bar(len(units), label, show=self.progress) as advance:
            advance(sum(unit.done() for unit in units))
            for _ in self.workers.run(units):
                advance(1)


def _pools(units: Sequence[Any], *, sampled: bool) -> list[Pool]:
    records = [read_header(unit.folder)["info"]["record"] for unit in units]
    return [Pool(u.name, u.folder, r, sampled) for u, r in zip(units, records, strict=True)]


def _relax(job: _Job, starts: Sequence[Start]) -> tuple[list[Start], list[Pool]]:
    """The cells that runs start from, and the relaxations."""
    if job.config.relax.steps == 0:
        return list(starts), []
    units = relax_units(job.config, starts, job.folder / "relaxed")
    job.work(units, "relaxation")
    pools = _pools(units, sampled=False)
    ready = [
        replace(start, atoms=plain(pool.frames()[0]))
        for start, pool in zip(starts, pools, strict=True)
        if pool.record["status"] != "failed"
    ]
    if not ready:
        raise DataError(
            "No structure could be relaxed.",
            where=f"{pools[0].name}: {pools[0].record['reason']}",
            fix="check the structures and the calculator, or set relax.steps to 0",
        )
    return ready, pools


def _run(job: _Job, starts: Sequence[Start]) -> list[Pool]:
    units = run_units_of(job.config, starts, job.folder / "trajectories")
    job.work(units, "dynamics")
    return _pools(units, sampled=True)


def _refuse_nothing(choice: Choice, runs: Sequence[Pool]) -> None:
    if choice.counts["chosen"] == 0:
        lost = [p for p in runs if p.record["status"] != "done"]
        why = f"{lost[0].name}: {lost[0].record['reason']}" if lost else f"counts {choice.counts}"
        raise DataError(
            f"No frame of {len(runs)} runs is left ({len(lost)} of them exploded or failed).",
            where=why,
            fix="loosen selection, lower dynamics.timestep or the temperatures, or use another calculator",
        )


class _Stores:
    """Stores opened one after another, every time anew, so that their files do not stay open."""

    def __init__(self, units: Sequence[LabelUnit]) -> None:
        self.units = units

    def __iter__(self) -> Iterator[FrameStore]:
        return (FrameStore.open(unit.folder, verify=False) for unit in self.units)


def _label(job: _Job, pools: Sequence[Pool], choice: Choice) -> tuple[FrameStore, dict[str, Any]]:
    """The labelled frames, and how one of their stresses compares with the energy."""
    config, folder = job.config, job.folder
    units = label_units(config, pools, choice, folder / "labels")
    job.work(units, "labels")
    headers = [read_header(unit.folder) for unit in units]
    skipped = merge_skipped([header["info"].get("skipped", {}) for header in headers])
    frames = sum(header["frames"] for header in headers)
    if frames == 0:
        raise DataError(
            "No frame could be labelled.",
            where="; ".join(f"{entry['frames']} × {reason}" for reason, entry in skipped.items()),
            fix="try labels.calculator on one of the structures by hand",
        )
    info = _info(config, headers, frames, skipped)
    write_parts(_Stores(units), info, folder / FRAMES, overwrite=True)
    store = FrameStore.open(folder / FRAMES)
    extxyz = folder / "frames.extxyz"
    extxyz.unlink(missing_ok=True)
    if config.labels.extxyz:
        _write_extxyz(store, extxyz)
    return store, headers[0]["info"]["stress_check"]


def _info(
    config: SampleConfig, headers: Sequence[Mapping[str, Any]], frames: int, skipped: Mapping[str, Any]
) -> dict[str, Any]:
    """What the header of the data says about its origin; nothing that differs between equal runs."""
    labeller = config.labels.calculator or config.calculator
    names = ("energy", "forces", "stress")
    counts = {name: sum(header["labels"][name] for header in headers) for name in names}
    info: dict[str, Any] = {
        "source": "atomml data sample",
        "units": dict(UNITS),
        "labels": {
            name: {"key": "calculator", "found": number, "of": frames, "also": []}
            for name, number in counts.items()
        },
        "level_of_theory": config.labels.level_of_theory or calculator_name(labeller),
        "calculator": calculator_identity(labeller),
        "driver": calculator_identity(config.calculator),
        "seed": config.seed,
        "config": config.model_dump(mode="json", exclude={"run_dir"}),
    }
    if config.labels.licence is not None:
        info["licence"] = config.labels.licence
    return info | ({"skipped": dict(skipped)} if skipped else {})


def _write_extxyz(store: FrameStore, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            for k in range(len(store)):
                text = io.StringIO()
                write_extxyz(text, [store[k]])
                file.write(text.getvalue())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DataError(
            f"The frames could not be written ({error.strerror}).",
            where=str(path),
            fix="free some space, then go on with --resume, or set labels.extxyz to false",
        ) from error
