"""The end of a training: final weights, uncertainty, evaluation, model file and report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from ase.data import chemical_symbols

from atomml.datasets import frame_fingerprints
from atomml.errors import DataError
from atomml.potentials import Potential
from atomml.shapes import Int64, ndarray
from atomml.training.config import LikelihoodConfig, RunConfig
from atomml.training.data import TrainingData
from atomml.training.deviations import calibrated
from atomml.training.deviations_report import deviation_warnings, deviations_table
from atomml.training.evaluation import Evaluation, evaluate
from atomml.training.logs import read_jsonl
from atomml.training.methods import refit_deviations, with_uncertainty
from atomml.training.mixture import mixture_json
from atomml.training.report import metrics_table, write_run_report
from atomml.training.state import Job, TrainState, training_facts
from atomml.uncertainty.bayesian import BayesianPotential
from atomml.uncertainty.config import HeadsOnlyConfig, IVONConfig
from atomml.uncertainty.model_file import save_model

__all__ = ["conclude", "finish", "use_final_weights"]

MOST_FINGERPRINTS = 50_000
"""Training frames whose fingerprints are kept in the model file; of more, evenly chosen ones."""
Say = Callable[[object], None]
Model = Potential | BayesianPotential


def finish(
    job: Job[RunConfig], state: TrainState, data: TrainingData, say: Say
) -> tuple[Model, dict[str, Any]]:
    """Put the final weights into the potential, find its uncertainty, and `conclude`.

    Returns the model and the metrics, which only the main process has.
    """
    potential = cast(Potential, job.module)
    use_final_weights(job, state)
    refit_deviations(job, potential, data, say)
    model = with_uncertainty(job, potential, data, say)
    if not job.ranks.is_main:
        return model, {}
    return conclude(
        model,
        job.config,
        data,
        read_jsonl(job.run_dir / "log.jsonl"),
        summary=_summary(job, state, data, potential),
        provenance=job.provenance,
        say=say,
    )


def conclude(
    model: Model,
    config: RunConfig,
    data: TrainingData,
    records: Sequence[Mapping[str, Any]],
    *,
    summary: dict[str, Any],
    provenance: Mapping[str, Any],
    say: Say,
) -> tuple[Model, dict[str, Any]]:
    """Calibrate a model on the validation frames, evaluate it, write model file and report to the run folder."""
    run_dir = Path(config.run_dir)
    model = _calibrated(model, config, data, say)
    evaluations = _evaluations(model, config, data)
    metrics = write_run_report(
        run_dir,
        evaluations=evaluations,
        records=records,
        summary=summary,
        provenance=provenance,
        e0=getattr(model, "e0", None),
        figures=config.figures,
    )
    save_model(
        model,
        run_dir / "model.safetensors",
        frames=training_fingerprints(data),
        training={"config": config.resolved(), **summary, **provenance},
        data=dict(data.fingerprint),
        metrics={name: e.metrics for name, e in evaluations.items()},
    )
    say(metrics_table(evaluations))
    if any(evaluation.deviations for evaluation in evaluations.values()):
        say(deviations_table(evaluations))
    for name, evaluation in evaluations.items():
        for line in deviation_warnings(name, evaluation):
            say(line)
    say(f"Model and report are in {run_dir}.")
    return model, metrics


@torch.no_grad()
def use_final_weights(job: Job[RunConfig], state: TrainState) -> None:
    """Best validated weights; without validation the average, else the last ones.

    IVON's are the last ones, to which its deviations belong. A λ of the loss that has inflated the predicted
    variances is taken back.
    """
    final = state.best or state.ema
    if final is not None and not isinstance(job.config.uncertainty, IVONConfig):
        for p, name in job.names.items():
            p.copy_(final[name])
    loss, noise = job.config.loss, getattr(job.module, "noise", None)
    if isinstance(loss, LikelihoodConfig) and noise is not None:  # before a new fit, which has no λ
        noise.untemper(energy=loss.lambda_energy, forces=loss.lambda_forces)
    job.module.eval()


def training_fingerprints(data: TrainingData) -> Int64[ndarray, " frames"]:
    """Of the training frames, at most `MOST_FINGERPRINTS`."""
    each = []
    for part in data.train.sets().values():
        step = -(-len(part) // MOST_FINGERPRINTS)
        each.append(frame_fingerprints(part.store, part.rows[::step]))
    return np.concatenate(each)


def _calibrated(model: Model, config: RunConfig, data: TrainingData, say: Say) -> Model:
    wanted = config.uncertainty or HeadsOnlyConfig()
    if not isinstance(model, BayesianPotential) or wanted.calibrate == "none":
        return model
    if data.valid is None:
        say(
            "Without validation frames the deviations are not calibrated: use `atomml calibrate` on held-out ones."
        )
        return model
    sets = data.valid.sets()
    part = sets.get(config.data.reference_set or "") or next(iter(sets.values()))
    try:
        return calibrated(
            model,
            part.store,
            part.rows,
            method=wanted.calibrate,
            by_element=wanted.by_element,
            free_only=part.free_only,
            data={"part": "valid", **data.fingerprint},
            **_limits(config),
        )
    except DataError as error:
        say(f"The deviations are not calibrated: {error.what} Use `atomml calibrate` on more frames.")
        return model


def _evaluations(model: Model, config: RunConfig, data: TrainingData) -> dict[str, Evaluation]:
    each = data.single_parts()
    parts = {name: part for name, part in each.items() if not name.startswith("train")} or each
    return {
        name: evaluate(
            model,
            part.store,
            part.rows,
            free_only=part.free_only,
            **_limits(config),
        )
        for name, part in parts.items()
        if any(part.labels().values())
    }


def _limits(config: RunConfig) -> dict[str, Any]:
    """Size of the batches of an evaluation."""
    return {
        "max_atoms": config.batch.max_atoms or 2000,
        "max_edges": config.batch.max_edges or 200_000,
    }


def _summary(
    job: Job[RunConfig], state: TrainState, data: TrainingData, potential: Potential
) -> dict[str, Any]:
    e0 = {chemical_symbols[z]: e for z, e in (getattr(potential, "e0", None) or {}).items()}
    return {
        "frames": {name: len(part) for name, part in data.parts().items()},
        "labels of the training set": data.train.labels(),
        "E0 (eV)": e0,
        **training_facts(job, state),
        **({} if data.mixture is None else {"sets": mixture_json(data)}),
    }
