"""`train_crystals`: from a configuration to a run folder with a crystal model, logs and a report."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console

from atomml.crystals.config import CrystalTrainConfig
from atomml.crystals.data import CrystalData, Crystals, CrystalSet, load_crystal_data, similar_sizes
from atomml.crystals.model import CrystalModel
from atomml.crystals.model_file import crystal_model_of, model_facts, save_crystal_model
from atomml.crystals.properties import property_scales
from atomml.crystals.task import TERMS, CrystalTask
from atomml.errors import TrainingError
from atomml.files import full_disk, replace_file
from atomml.shapes import Tensor
from atomml.training.checkpoint import CHECKPOINT, read_checkpoint
from atomml.training.distributed import Ranks, distributed_from_env
from atomml.training.job import optimizer_for, provenance_of
from atomml.training.logs import read_jsonl
from atomml.training.loop import fit
from atomml.training.report import markdown_table, save_figure
from atomml.training.run_folder import prepare_run_dir, settings_of, threads
from atomml.training.start import resumed, started
from atomml.training.state import Job, TrainState, training_facts

__all__ = ["CrystalTrainResult", "train_crystals"]


@dataclass(frozen=True)
class CrystalTrainResult:
    """What a training leaves behind.

    Attributes:
        run_dir: the run folder.
        metrics: content of ``metrics.json``; empty on all processes but the main one.
        model: with the averaged weights of the best validation.
    """

    run_dir: Path
    metrics: dict[str, Any]
    model: CrystalModel


def train_crystals(
    config: CrystalTrainConfig | str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> CrystalTrainResult:
    """Train a crystal model and write ``model.safetensors``, ``metrics.json``, ``report.md`` to its run folder.

    A killed training goes on with ``resume`` as if nothing had happened.

    Args:
        config: a configuration or its YAML file.
        overrides: values by dotted key, ``{"model.network.hidden": 128}``.
        resume: go on from the checkpoint in ``run_dir``, if there is one.
        overwrite: discard what is in ``run_dir``.
        quiet: print nothing.

    Raises:
        ConfigError: a bad configuration, a run folder in use, a resumed run that is not the same.
        DataError: crystals that cannot be used.
        TrainingError: diverged, out of memory, disk full.
    """
    settings, base = settings_of(CrystalTrainConfig, config, overrides)
    run_dir = Path(settings.run_dir)
    with (
        threads(settings.threads),
        distributed_from_env(settings.device) as ranks,
        full_disk(run_dir, error=TrainingError),
    ):
        console = Console(stderr=True) if ranks.is_main and not quiet else None
        going_on = resume and (run_dir / CHECKPOINT).exists()
        if ranks.is_main and not going_on:
            prepare_run_dir(run_dir, overwrite=overwrite, resume=resume)
        data = load_crystal_data(settings.data, settings.model.properties, base)
        _say_data(data, console)
        with torch.random.fork_rng(devices=[ranks.device] if ranks.device.type == "cuda" else []):
            torch.manual_seed(settings.seed + ranks.rank)
            facts = _saved_facts(run_dir, ranks) if going_on else _facts(settings, data)
            model = crystal_model_of(settings.model, facts).to(ranks.device)
            job = _job(settings, model, data, ranks, console)
            if console is not None:
                parameters = sum(p.numel() for p in job.names)
                console.print(f"{parameters:,} parameters, {len(job.steps_of_epoch(0))} steps per epoch")
            state = (
                resumed(job, lambda item: None if console is None else console.print(item))
                if going_on
                else started(job, lambda: _save_split(data, run_dir))
            )
            fit(job, state)
            metrics = _finish(job, state, model, data)
        return CrystalTrainResult(run_dir, metrics, model)


def _facts(settings: CrystalTrainConfig, data: CrystalData) -> dict[str, Any]:
    """Elements, scale of the lattice, shares of the numbers of atoms, scales of the properties: of training data."""
    train = data.parts["train"]
    sizes, counts = np.unique(train.crystals.n_atoms.numpy(), return_counts=True)
    scales = property_scales(settings.model.properties, train.properties.double().numpy())
    return {
        "elements": sorted(set(train.crystals.numbers[train.crystals.mask].tolist())),
        "lattice_scale": float(train.crystals.lattice.double().std()),
        "atom_counts": {str(n): float(c) for n, c in zip(sizes, counts / counts.sum(), strict=True)},
        "property_scales": {name: list(pair) for name, pair in scales.items()},
    }


def _saved_facts(run_dir: Path, ranks: Ranks) -> dict[str, Any]:
    return dict(read_checkpoint(run_dir / CHECKPOINT, ranks.device)[1]["constants"])


def _job(
    settings: CrystalTrainConfig,
    model: CrystalModel,
    data: CrystalData,
    ranks: Ranks,
    console: Console | None,
) -> Job[CrystalTrainConfig]:
    train, valid = data.parts["train"], data.parts.get("valid")
    n_atoms = train.crystals.n_atoms.numpy()

    def steps_of_epoch(epoch: int) -> list[list[int]]:
        rng = np.random.default_rng([settings.seed, epoch])
        return [step[ranks.rank :: ranks.world_size] for step in similar_sizes(n_atoms, settings.batch, rng)]

    def train_batches(steps: Sequence[list[int]]) -> Iterator[Crystals | None]:
        for step in steps:
            yield train.batch(step, ranks.device) if step else None

    weights = torch.tensor(
        [getattr(settings.loss, name) for name in TERMS], dtype=torch.float64, device=ranks.device
    )
    task = CrystalTask(
        settings,
        model,
        ranks,
        weights,
        None if valid is None else lambda: _held_out(valid, settings, ranks),
        lambda batch: ", ".join(train.names[row] for row in batch.rows.tolist()),
        model_facts(model),
    )
    return Job(
        config=settings,
        module=model,
        task=task,
        optimizer=optimizer_for(settings.optimizer, model),
        names={p: name for name, p in model.named_parameters()},
        ranks=ranks,
        weights=weights,
        run_dir=Path(settings.run_dir),
        steps_of_epoch=steps_of_epoch,
        train_batches=train_batches,
        provenance=provenance_of(settings, data),
        console=console,
    )


def _held_out(valid: CrystalSet, settings: CrystalTrainConfig, ranks: Ranks) -> Iterator[Crystals]:
    batches = similar_sizes(valid.crystals.n_atoms.numpy(), settings.batch, None)
    for rows in batches[ranks.rank :: ranks.world_size]:
        yield valid.batch(rows, ranks.device)


def _save_split(data: CrystalData, run_dir: Path) -> None:
    data.split.save(run_dir / "split.json")


@torch.no_grad()
def _finish(
    job: Job[CrystalTrainConfig], state: TrainState, model: CrystalModel, data: CrystalData
) -> dict[str, Any]:
    """Best validated weights (without validation the average, else the last), model file and report."""
    final: Mapping[str, Tensor] | None = state.best or state.ema
    for p, name in job.names.items():
        p.copy_(p if final is None else final[name])
    model.eval()
    measured = job.task.validate()
    if not job.ranks.is_main:
        return {}
    sizes = {name: len(part) for name, part in data.parts.items()}
    summary = {"crystals": sizes, **training_facts(job, state)}
    metrics = {"validation": measured, "training": summary, "notes": list(data.notes), **job.provenance}
    save_crystal_model(
        model,
        job.run_dir / "model.safetensors",
        training={"config": job.config.resolved(), **summary, **job.provenance},
        data=dict(data.fingerprint),
        metrics=measured,
    )
    _write_report(job.run_dir, metrics, read_jsonl(job.run_dir / "log.jsonl"))
    if job.console is not None:
        job.console.print(f"Model and report are in {job.run_dir}.")
    return metrics


def _write_report(run_dir: Path, metrics: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> None:
    replace_file(run_dir / "metrics.json", json.dumps(metrics, indent=1).encode())
    (run_dir / "figures").mkdir(exist_ok=True)
    save_figure(_curves(records), run_dir / "figures" / "learning_curve.png")
    facts = markdown_table(["", ""], [[key, value] for key, value in metrics["training"].items()])
    losses = markdown_table(["validation", "mean"], [[k, v] for k, v in metrics["validation"].items()])
    notes = "\n".join(f"- {note}" for note in metrics["notes"])
    text = f"# Crystal model\n\n{facts}\n\n{notes}\n\n{losses}\n\n![losses](figures/learning_curve.png)\n"
    replace_file(run_dir / "report.md", text.encode())


def _curves(records: Sequence[Mapping[str, Any]]) -> Figure:
    """Each term of the loss against the epoch, in training and validation."""
    epochs = [r for r in records if r["kind"] == "epoch"]
    figure = Figure(figsize=(12.0, 3.6), layout="constrained")
    for axes, term in zip(figure.subplots(1, len(TERMS)), TERMS, strict=True):
        for part in ("train", "valid"):
            points = [(r["epoch"], r[f"{part}_{term}"]) for r in epochs if f"{part}_{term}" in r]
            axes.plot(*zip(*points, strict=True), label=part) if points else None
        axes.set_title(term)
        axes.set_xlabel("epoch")
        axes.legend(frameon=False)
    return figure


def _say_data(data: CrystalData, console: Console | None) -> None:
    if console is None:
        return
    for note in data.notes:
        console.print(note, highlight=False)
    console.print("Split: " + ", ".join(f"{name} {len(part)}" for name, part in data.parts.items()))
