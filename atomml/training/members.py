"""A deep ensemble: one training after the other, each an ordinary run, then one model of all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from atomml.errors import TrainingError
from atomml.files import replace_file
from atomml.potentials import Potential, load_model, read_header
from atomml.training.checkpoint import differences
from atomml.training.config import RunConfig
from atomml.training.finish import conclude
from atomml.training.job import provenance_of
from atomml.training.logs import read_jsonl
from atomml.training.parts import TrainingData
from atomml.training.resume import FREE
from atomml.training.start import save_splits
from atomml.uncertainty.bayesian import BayesianPotential
from atomml.uncertainty.config import EnsembleConfig
from atomml.uncertainty.posterior import Members

__all__ = ["MEMBERS", "assemble", "is_finished", "member_configs"]

MEMBERS = "members"
"""Folder in the run folder."""


def member_configs(config: RunConfig) -> list[RunConfig]:
    """The configuration of each member: its own seed and folder, and no uncertainty of its own.

    Raises:
        TrainingError: the configuration does not ask for an ensemble.
    """
    wanted = config.uncertainty
    if not isinstance(wanted, EnsembleConfig):
        raise TrainingError("This is not the configuration of an ensemble.", where="uncertainty.kind")
    return [
        config.model_copy(
            update={
                "run_dir": str(Path(config.run_dir) / MEMBERS / str(k)),
                "seed": config.seed + k,
                "uncertainty": None,
            }
        )
        for k in range(wanted.members)
    ]


def is_finished(member: RunConfig) -> bool:
    """Whether a member has its model, by this configuration; another is for its resumption to judge."""
    path = Path(member.run_dir) / "model.safetensors"
    if not path.exists():
        return False
    changed = differences(read_header(path)["training"]["config"], member.resolved())
    return not changed.keys() - (FREE - {"max_minutes"})


def assemble(
    config: RunConfig, data: TrainingData, origin: Mapping[str, Any] | None, say: Callable[[object], None]
) -> tuple[Potential | BayesianPotential, dict[str, Any]]:
    """The ensemble of the finished members in ``run_dir/members``: calibrated, evaluated, written.

    The learning curve of its report is that of the first member; every member has a report of its own.
    """
    run_dir, members = Path(config.run_dir), member_configs(config)
    potentials = [
        load_model(Path(member.run_dir) / "model.safetensors", device=config.device) for member in members
    ]
    provenance = provenance_of(config, data, origin)
    text = yaml.safe_dump(config.resolved(), sort_keys=False, allow_unicode=True)
    replace_file(run_dir / "config.yaml", text.encode())
    save_splits(data, run_dir)
    facts = [potential.metadata["training"] for potential in potentials]
    summary = {
        **{key: facts[0][key] for key in ("frames", "labels of the training set", "E0 (eV)", "parameters")},
        "members": len(members),
        "seeds": [member.seed for member in members],
        "steps": [fact["steps"] for fact in facts],
        "minutes": round(sum(fact["minutes"] for fact in facts), 2),
    }
    records = read_jsonl(Path(members[0].run_dir) / "log.jsonl")
    model = BayesianPotential(Members(potentials, "ensemble"))
    return conclude(model, config, data, records, summary=summary, provenance=provenance, say=say)
