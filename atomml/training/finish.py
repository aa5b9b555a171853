"""The end of a training: final weights, evaluation, model file and report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from ase.data import chemical_symbols

from atomml.potentials import Potential, save_model
from atomml.training.data import TrainingData
from atomml.training.evaluation import Evaluation, evaluate
from atomml.training.logs import read_jsonl
from atomml.training.mixture import mixture_json
from atomml.training.report import metrics_table, write_run_report
from atomml.training.state import Job, TrainState

__all__ = ["finish", "use_final_weights"]


def finish(job: Job, state: TrainState, data: TrainingData, say: Callable[[object], None]) -> dict[str, Any]:
    """Put the final weights into the potential, evaluate it, write model and report; returns the metrics."""
    potential = cast(Potential, job.potential)
    use_final_weights(job, state)
    each = data.single_parts()
    parts = {name: part for name, part in each.items() if not name.startswith("train")} or each
    limit = job.config.batch
    evaluations: dict[str, Evaluation] = {}
    for name, part in parts.items():
        if any(part.labels().values()):
            evaluations[name] = evaluate(
                potential,
                part.store,
                part.rows,
                free_only=part.free_only,
                max_atoms=limit.max_atoms or 2000,
                max_edges=limit.max_edges or 200_000,
            )
    summary = _summary(job, state, data, potential)
    metrics = write_run_report(
        job.run_dir,
        evaluations=evaluations,
        records=read_jsonl(job.run_dir / "log.jsonl"),
        summary=summary,
        provenance=job.provenance,
        e0=getattr(potential, "e0", None),
    )
    save_model(
        potential,
        job.run_dir / "model.safetensors",
        training={"config": job.config.resolved(), **summary, **job.provenance},
        data=dict(data.fingerprint),
        metrics={name: e.metrics for name, e in evaluations.items()},
    )
    say(metrics_table(evaluations))
    say(f"Model and report are in {job.run_dir}.")
    return metrics


@torch.no_grad()
def use_final_weights(job: Job, state: TrainState) -> None:
    """Best validated weights; without validation the average, else the last ones."""
    final = state.best or state.ema
    if final is not None:
        for p, name in job.names.items():
            p.copy_(final[name])
    job.potential.eval()


def _summary(job: Job, state: TrainState, data: TrainingData, potential: Potential) -> dict[str, Any]:
    e0 = {chemical_symbols[z]: e for z, e in (getattr(potential, "e0", None) or {}).items()}
    return {
        "frames": {name: len(part) for name, part in data.parts().items()},
        "labels of the training set": data.train.labels(),
        "E0 (eV)": e0,
        "parameters": sum(p.numel() for p in job.names),
        "epochs": state.epoch,
        "steps": state.step,
        "best epoch": state.best_epoch,
        "minutes": round(state.seconds / 60, 2),
        "ended by": state.stopped,
        "processes": job.ranks.world_size,
        **({} if data.mixture is None else {"sets": mixture_json(data)}),
    }
