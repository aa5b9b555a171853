"""`finetune`: go on from a model file on new data, with reference energies for its level of theory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from torch import nn

from atomml.errors import ConfigError, UnsupportedError
from atomml.potentials import Potential, load_model, read_header
from atomml.potentials.build import with_constants
from atomml.training.config import FinetuneConfig
from atomml.training.evaluation import evaluate
from atomml.training.parts import AnyPart, TrainingData
from atomml.training.run import Say, TrainResult, model_references, run, say_references
from atomml.training.run_folder import settings_of

__all__ = ["finetune", "freeze", "refit_references", "with_references"]


def finetune(
    model: str | Path,
    config: FinetuneConfig | str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> TrainResult:
    """Train the potential of a model file further; the run folder is like that of `atomml.train`.

    Args:
        model: a model file, or the name of a bundled model.
        config: a configuration or the path of a YAML file.
        overrides: as in `atomml.train`; likewise the other arguments.
        resume: go on from the checkpoint of the run folder.
        overwrite: empty a run folder that is in use.
        quiet: print nothing.

    Raises:
        UnsupportedError: the new data has an element that the model does not know; a compiled model.
        ConfigError: the configuration cannot be used; a pattern that freezes nothing.
        AtommlError: everything that `atomml.train` raises.
    """
    settings, base = settings_of(FinetuneConfig, config, overrides)
    header = read_header(model)
    if "compiled" in header:
        raise UnsupportedError(
            "A compiled model cannot be trained.",
            where=str(model),
            fix="finetune the model that it came from",
        )

    def build(data: TrainingData, say: Say, seed: int) -> Potential:
        potential = load_model(model)
        _require_known(potential, data.train)
        if settings.e0 == "new":
            references = model_references(settings.data, data, base)
            say_references(references, say)
            potential = with_references(potential, references.energies)
        elif settings.e0 == "refit" and data.train.labels()["energy"]:
            shift = refit_references(potential, data.train)
            table = ", ".join(f"{chemical_symbols[z]} {s:+.4f}" for z, s in shift.items())
            say(f"Reference energies corrected by (eV): {table}")
            potential = with_references(potential, shift, add=True)
        frozen = freeze(potential, settings.freeze)
        say(f"{frozen:,} parameters are frozen.")
        return potential

    origin = {"model": str(model), "model_data": header.get("data", {}), "created": header.get("created", "")}
    return run(settings, build, base=base, resume=resume, overwrite=overwrite, quiet=quiet, origin=origin)


def freeze(module: nn.Module, patterns: Sequence[str]) -> int:
    """Exclude parameters whose name matches a pattern (``*`` and ``?``) from training; returns their number.

    Raises:
        ConfigError: a pattern matches nothing.
    """
    names = [name for name, _ in module.named_parameters()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(
                f"The pattern {pattern!r} matches no parameter.",
                where="freeze",
                fix="names are: " + ", ".join(names[:40]) + (", ..." if len(names) > 40 else ""),
            )
    frozen = 0
    for name, p in module.named_parameters():
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            p.requires_grad_(False)
            frozen += p.numel()
    return frozen


def refit_references(potential: Potential, train: AnyPart) -> dict[int, float]:
    """Correction of each element's reference energy that best explains label − prediction.

    Least squares Σ_frames (1/N²) (ΔE − Σ_z n_z δ_z)², of minimum norm: elements that always come in the same
    proportion share a correction. eV by atomic number.
    """
    elements = train.elements()
    differences, compositions = [], []
    for part in train.sets().values():
        if not part.labels()["energy"]:
            continue
        result = evaluate(potential, part.store, part.rows)
        mine, counts = part.store.element_counts(part.rows)
        known = np.isfinite(result.energy_label)
        fractions = np.zeros((len(counts), len(elements)))
        fractions[:, [elements.index(z) for z in mine]] = counts / result.n_atoms[:, None]
        differences.append((result.energy_label - result.energy)[known] / result.n_atoms[known])
        compositions.append(fractions[known])
    difference, composition = np.concatenate(differences), np.concatenate(compositions)
    solution, *_ = np.linalg.lstsq(composition, difference, rcond=1e-10)
    return dict(zip(elements, (float(x) for x in solution), strict=True))


def with_references(potential: Potential, e0: Mapping[int, float], *, add: bool = False) -> Potential:
    """The same potential with other reference energies (eV), or with ``e0`` added to its own.

    Elements not in ``e0`` keep theirs.
    """
    own = potential.e0
    new = {z: e + (own[z] if add else 0.0) for z, e in e0.items() if z in own}
    return with_constants(potential, e0=new)


def _require_known(potential: Potential, train: AnyPart) -> None:
    new = [chemical_symbols[z] for z in train.elements() if z not in potential.elements]
    if new:
        raise UnsupportedError(
            f"The model does not know {', '.join(new)}.",
            where="data.train",
            fix="train a new model, or leave out the structures with these elements",
        )
