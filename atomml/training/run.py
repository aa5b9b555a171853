"""`train`: from a configuration to a run folder with a model, logs and a report."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from atomml.datasets import ReferenceEnergies
from atomml.errors import ConfigError, TrainingError
from atomml.files import full_disk, replace_file
from atomml.potentials import Potential, build_potential
from atomml.potentials.build import with_constants
from atomml.training.checkpoint import CHECKPOINT
from atomml.training.config import DataConfig, RunConfig, TrainConfig, missing_deviations
from atomml.training.data import TrainingData, load_training_data, reference_energies, remaining_energy
from atomml.training.distributed import distributed_from_env
from atomml.training.finish import finish
from atomml.training.job import make_job, training_statistics
from atomml.training.loop import fit
from atomml.training.members import MEMBERS, assemble, is_finished, member_configs
from atomml.training.mixture import mixture_table
from atomml.training.resume import saved_alignment, saved_constants
from atomml.training.run_folder import prepare_run_dir, settings_of, threads
from atomml.training.start import resumed, save_splits, started
from atomml.training.swag import SWAG
from atomml.uncertainty.bayesian import BayesianPotential
from atomml.uncertainty.config import EnsembleConfig

__all__ = [
    "Build",
    "Say",
    "TrainResult",
    "model_references",
    "run",
    "say_references",
    "train",
]

Say = Callable[[object], None]
Build = Callable[[TrainingData, Say, int], Potential]


@dataclass(frozen=True)
class TrainResult:
    """What a training leaves behind.

    Attributes:
        run_dir: the run folder.
        metrics: content of ``metrics.json``: errors by part, facts of the training, provenance; empty on all
            processes but the main one.
        potential: the final potential (averaged weights of the best validation), with deviations where the
            configuration asks for an uncertainty.
    """

    run_dir: Path
    metrics: dict[str, Any]
    potential: Potential | BayesianPotential


def train(
    config: TrainConfig | str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> TrainResult:
    """Train a potential as a configuration says.

    Args:
        config: a configuration or the path of a YAML file.
        overrides: values that replace those of the configuration, by dotted key: ``{"optimizer.lr": 1e-3}``.
        resume: go on from the checkpoint of the run folder; on a CPU the result is bit for bit that of an
            uninterrupted training.
        overwrite: empty a run folder that is in use.
        quiet: print nothing.

    Raises:
        ConfigError: the configuration cannot be used, or the run folder is in use.
        DataError: the data cannot be used.
        TrainingError: no labels for a loss term, diverged, out of memory, disk full.
        ModelFileError: a checkpoint that cannot be read.
    """
    settings, base = settings_of(TrainConfig, config, overrides)

    def build(data: TrainingData, say: Say, seed: int) -> Potential:
        references = model_references(settings.data, data, base)
        say_references(references, say)
        shift = _shift(references, data)
        say(
            f"Energies less E0 are {round(shift, 3) + 0.0:.3f} eV/atom on average; learning starts from there."
        )
        neighbors, scale = training_statistics(
            data.train, settings.model.cutoff, references.energies, cache=settings.data.cache
        )
        say(f"Neighbours of an atom: {neighbors:.1f} on average. Unit of energy: {scale:.4g} eV.")
        return build_potential(
            settings.model,
            elements=data.train.elements(),
            e0=references.energies,
            average_neighbors=neighbors,
            scale=scale,
            shift=shift,
            seed=seed,
        )

    return run(settings, build, base=base, resume=resume, overwrite=overwrite, quiet=quiet)


def model_references(config: DataConfig, data: TrainingData, base: Path | None) -> ReferenceEnergies:
    """Reference energies of the model, from the one set or from the alignment of several.

    Raises:
        DataError: an isolated atom, an energy or an element of the table is missing.
    """
    if data.mixture is not None:
        return data.mixture.alignment.model
    return reference_energies(config, data.train, base)


def say_references(references: ReferenceEnergies, say: Say) -> None:
    """Print the table of reference energies and what there is to know about it."""
    say(references.table())
    if references.caption():
        say(references.caption())


def run(
    config: RunConfig,
    build: Build,
    *,
    base: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    origin: Mapping[str, Any] | None = None,
) -> TrainResult:
    """Train the potential that ``build(data, say, seed)`` returns, or an ensemble of them; see `train` for errors.

    Args:
        config: configuration.
        build: makes the potential from the data; ``say`` prints.
        base: folder of the configuration file, for relative paths.
        resume: as in `train`.
        overwrite: as in `train`.
        quiet: as in `train`.
        origin: what a finetuning starts from, recorded in every artefact.
    """
    if isinstance(config.uncertainty, EnsembleConfig):
        return _run_ensemble(
            config, build, base=base, resume=resume, overwrite=overwrite, quiet=quiet, origin=origin
        )
    run_dir = Path(config.run_dir)
    with (
        threads(config.threads),
        distributed_from_env(config.device) as ranks,
        full_disk(run_dir, error=TrainingError),
    ):
        console = Console(stderr=True) if ranks.is_main and not quiet else None
        say: Say = _silent if console is None else lambda item: console.print(item, highlight=False)
        if (run_dir / MEMBERS).exists() and not overwrite:
            raise ConfigError(
                "The run folder holds an ensemble.",
                where=str(run_dir),
                fix="go on with uncertainty.kind: ensemble, or choose another run_dir",
            )
        going_on = resume and (run_dir / CHECKPOINT).exists()
        if ranks.is_main and not going_on:
            prepare_run_dir(run_dir, overwrite=overwrite, resume=resume)
        alignment = saved_alignment(run_dir, ranks.device) if going_on else None
        data = load_training_data(config.data, config.loss, base, alignment=alignment)
        _say_data(data, say)
        with torch.random.fork_rng(devices=[ranks.device] if ranks.device.type == "cuda" else []):
            torch.manual_seed(config.seed + ranks.rank)
            dtype = torch.float64 if config.dtype == "float64" else torch.float32
            potential = build(data, say, config.seed)
            if problem := missing_deviations(config, potential.config):
                raise ConfigError(f"{problem}.", where=config.run_dir)
            if going_on:
                potential = with_constants(potential, **saved_constants(run_dir, ranks.device))
            potential = potential.to(device=ranks.device, dtype=dtype)
            job = make_job(config, potential, data, ranks, console=console, origin=origin)
            parameters = sum(p.numel() for p in job.names)
            say(f"{parameters:,} parameters, {len(job.steps_of_epoch(0))} steps per epoch")
            state = resumed(job, say) if going_on else started(job, lambda: save_splits(data, run_dir))
            if not state.stopped and ranks.is_main:
                shutil.rmtree(run_dir / SWAG, ignore_errors=True)  # it began where an earlier training ended
            fit(job, state)
            model, metrics = finish(job, state, data, say)
        return TrainResult(run_dir, metrics, model)


def _run_ensemble(
    config: RunConfig,
    build: Build,
    *,
    base: Path | None,
    resume: bool,
    overwrite: bool,
    quiet: bool,
    origin: Mapping[str, Any] | None,
) -> TrainResult:
    """Train the members that are not finished yet, one after the other, and put them together."""
    run_dir = Path(config.run_dir)
    if resume and (run_dir / CHECKPOINT).exists():
        raise ConfigError(
            "The run folder holds one training, not an ensemble.",
            where=str(run_dir),
            fix="choose another run_dir",
        )
    with distributed_from_env(config.device) as ranks:
        if ranks.world_size > 1:
            raise ConfigError(
                "An ensemble trains its members on one process.",
                where="uncertainty.kind",
                fix="start it without torchrun, or train the members as runs of their own",
            )
    if not resume:
        prepare_run_dir(run_dir, overwrite=overwrite, resume=False)
        replace_file(run_dir / "config.yaml", b"# the ensemble is not complete yet\n")
    for member in member_configs(config):
        if not is_finished(member):
            run(member, build, base=base, resume=True, quiet=quiet, origin=origin)
    console = None if quiet else Console(stderr=True)
    say: Say = _silent if console is None else lambda item: console.print(item, highlight=False)
    data = load_training_data(config.data, config.loss, base)
    model, metrics = assemble(config, data, origin, say)
    return TrainResult(run_dir, metrics, model)


def _say_data(data: TrainingData, say: Say) -> None:
    for name, text in data.summary.items():
        say(f"{name} files: {text}")
    say("Split: " + ", ".join(f"{name} {len(part)}" for name, part in data.parts().items()))
    if data.mixture is not None:
        say(mixture_table(data))
        for note in data.mixture.alignment.notes:
            say(f"Note: {note}")


def _shift(references: ReferenceEnergies, data: TrainingData) -> float:
    """Mean of (E − Σ E0)/N in eV/atom; 0 where there are no energies."""
    return remaining_energy(references, data.train) if data.train.labels()["energy"] else 0.0


def _silent(item: object) -> None:
    """Print nothing."""
