"""Settings of active learning: what to begin with, where to look, what to label, how to learn, when to stop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from atomml.active.explore.config import AnyExplorer, CrystalsExplorer, Explorer, MDExplorer
from atomml.active.recipe import LearnConfig
from atomml.config import Config, load_config, parse_config
from atomml.errors import ConfigError
from atomml.labelling.config import LabellerConfig
from atomml.labelling.identity import located_labeller
from atomml.simulate.sampling.config import CellConfig, StructuresConfig, SubstitutionConfig
from atomml.training.config import resolve_path
from atomml.uncertainty.acquisition import AcquisitionSettings, Method
from atomml.uncertainty.calibration.scale import Method as CalibrationMethod

__all__ = [
    "ActiveConfig",
    "CalibrateConfig",
    "GateConfig",
    "SelectConfig",
    "StartConfig",
    "StopConfig",
    "load_active_config",
]

Share = Annotated[float, Field(gt=0, le=1)]
OF_MEMBERS = ("energy_std", "force_std", "bald_energy", "bald_force", "bald_joint", "batch_bald")


class StartConfig(Config):
    """What there is at the beginning: labels or a model, and structures to explore from.

    Without labelled frames and without a model the first structures come from the explorers that need no model, and
    the most different of them are labelled.
    """

    labelled: list[str] = Field(default=[], examples=[["train.extxyz"]])
    """Files or native data folders with labels of the same level of theory as the labeller's. Looked for as they are,
    then beside the configuration, like all other files."""
    test: list[str] = []
    """Labelled frames that measure the error of each round. They are never trained on, calibrated on or chosen: equal
    frames elsewhere are left out and counted."""
    model: str | None = None
    """A model with deviations that the first exploration uses, instead of one trained on the labelled frames."""
    structures: StructuresConfig = StructuresConfig()
    substitution: SubstitutionConfig = SubstitutionConfig()
    cell: CellConfig = CellConfig()


class GateConfig(Config):
    """Which candidates may be labelled. What is left out is counted by reason; the first reason counts."""

    force_std_min: PositiveFloat | None = 0.05
    """Candidates in which the calibrated deviation √(tr Σ/3) of no atom's force reaches this are confident: known
    well enough, eV/Å. null: no such limit, and no share of confident frames. Both limits begin to apply when the
    deviations are calibrated, for which 20 frames are needed (``calibrate.share``)."""
    force_std_max: PositiveFloat | None = 2.0
    """Candidates with an atom beyond this have probably exploded, eV/Å; null: no limit."""
    max_force: PositiveFloat | None = 50.0
    """Candidates with a larger predicted force have exploded, eV/Å."""
    min_distance: float = Field(default=0.5, ge=0, lt=1)
    """Candidates with atoms closer than this fraction of the sum of their covalent radii are left out."""
    min_difference: float = Field(default=0.02, ge=0)
    """Near-duplicates: candidates whose radial fingerprint differs from that of a labelled frame, or of a chosen
    candidate, of the same composition by less than this fraction of its length are left out; 0: only equal ones."""
    fingerprint_cutoff: PositiveFloat = 6.0
    """Largest distance in the radial fingerprint, Å."""

    @model_validator(mode="after")
    def _ordered(self) -> GateConfig:
        low, high = self.force_std_min, self.force_std_max
        if low is not None and high is not None and high <= low:
            raise ValueError("force_std_max must be larger than force_std_min")
        return self


class SelectConfig(Config):
    """Which of the remaining candidates are labelled."""

    method: Method = "force_std"
    """random; largest deviation of the members (energy_std, force_std); largest information (bald_energy, bald_force,
    bald_joint, batch_bald); most different (farthest_point); largest determinant of the last layer's covariance
    (llpr_maxdet)."""
    n: PositiveInt = 20
    """Structures in each round, those for calibration included."""
    diversity: float = Field(default=3.0, ge=1)
    """For methods that judge each structure alone: of this many times ``n`` with the best scores, the ``n`` most
    different ones; 1: the best ones, similar or not."""
    settings: AcquisitionSettings = AcquisitionSettings()

    @model_validator(mode="after")
    def _limits_are_the_gate(self) -> SelectConfig:
        if self.settings.force_std_min > 0 or self.settings.force_std_max is not None:
            raise ValueError("settings: limits of the deviation belong into gate")
        return self


class CalibrateConfig(Config):
    """Scale of the deviations, fitted after every training to errors on frames that were not trained on."""

    share: float = Field(default=0.2, gt=0, lt=1)
    """Share of the labels of every round, and of the labelled frames of the start, that validate the training and
    calibrate the deviations. They are never trained on, in no round."""
    method: CalibrationMethod = "nll"
    """As in `atomml calibrate`."""
    by_element: bool = False
    """One scale of the force deviations for each element."""


class StopConfig(Config):
    """When it ends, whichever comes first. Limits can be raised when it goes on with --resume."""

    max_rounds: NonNegativeInt = 10
    """Rounds after the first training."""
    max_labels: PositiveInt | None = None
    """Structures given to the labeller, failed ones included."""
    confident_share: Share | None = 0.98
    """Ends when this share of the candidates is confident (``gate.force_std_min``) ..."""
    confident_rounds: PositiveInt = 2
    """... in so many rounds in a row. The last of them labels nothing."""
    force_rmse: PositiveFloat | None = None
    """Ends when the error of the forces on fresh labels, measured before they are trained on, is below this, eV/Å.
    Selected frames are the hard ones: the error on average frames is lower."""
    empty_rounds: PositiveInt = 2
    """Ends after so many rounds in a row in which nothing was left to label."""


class ActiveConfig(Config):
    """Active learning: explore, gate, select, label, learn, calibrate, and again until the model is certain."""

    run_dir: str = Field(examples=["runs/active"])
    """Folder of everything: journal.jsonl (what was done), labels/, rounds/, report.md, the last model."""
    seed: NonNegativeInt = 0
    """Of all random choices; each has its own stream, derived from this and its name."""
    workers: PositiveInt = 1
    """Processes that explore, one thread each. The result does not depend on their number."""
    device: str = "cpu"
    """Where the model explores and predicts: cpu, cuda, cuda:1. On a GPU a run is not repeatable bit for bit."""
    figures: bool = True
    """Draw the learning curve and the figures of every training, in each round and at the end. Small loops are faster
    without; tables and numbers are written anyway."""
    start: StartConfig = StartConfig()
    explore: list[Explorer] = Field(min_length=1, examples=[[{"kind": "md", "temperatures": [600.0]}]])
    """Where candidates come from, several at once if wanted. kind: md (temperatures, pressures, strains), rattle,
    strain, relax, crystals (from CrysBFN), files."""
    gate: GateConfig = GateConfig()
    select: SelectConfig = SelectConfig()
    label: LabellerConfig
    learn: LearnConfig
    calibrate: CalibrateConfig = CalibrateConfig()
    stop: StopConfig = StopConfig()

    @model_validator(mode="after")
    def _possible(self) -> ActiveConfig:
        _require_beginning(self)
        _require_deviations(self)
        return self


def needs_model(explorer: AnyExplorer) -> bool:
    """Whether a way to explore uses forces of the model."""
    return explorer.kind in ("md", "relax") or (
        isinstance(explorer, CrystalsExplorer) and explorer.relax is not None
    )


def _require_beginning(config: ActiveConfig) -> None:
    start = config.start
    has_structures = bool(start.structures.files or start.structures.prototypes)
    for k, explorer in enumerate(config.explore):
        if getattr(explorer, "begin", None) == "structures" and not has_structures:
            raise ValueError(
                f"explore: number {k + 1} ({explorer.kind}) begins with structures: name some in "
                "start.structures, or write begin: labelled"
            )
    if not start.labelled and start.model is None:
        first = [e for e in config.explore if not needs_model(e) and getattr(e, "begin", "") != "labelled"]
        if not first:
            raise ValueError(
                "start: give labelled frames or a model, or explorers that need neither "
                "(rattle, strain, crystals, files)"
            )


def _require_deviations(config: ActiveConfig) -> None:
    """Refuse a training whose model cannot do what the gate, the selection or a limit asks of it."""
    training = config.learn.training
    if training is None:  # a file, which `load_active_config` reads
        return
    kind = None if training.uncertainty is None else training.uncertainty.kind
    heads, noise = getattr(training.model, "heads", 1), getattr(training.model, "noise", None)
    members = heads > 1 or kind not in (None, "heads")
    method = config.select.method
    if method in OF_MEMBERS and not members:
        raise ValueError(
            f"select.method {method} needs a model with members: learn.training with model.heads > 1, or "
            "uncertainty.kind ensemble, llpr, swag or ivon"
        )
    asked = {
        "gate.force_std_min": config.gate.force_std_min is not None,
        "gate.force_std_max": config.gate.force_std_max is not None,
        "explore: limits.stop_above": any(
            isinstance(e, MDExplorer) and e.limits.stop_above is not None for e in config.explore
        ),
    }
    if not members and noise is None:
        for key, wanted in asked.items():
            if wanted:
                raise ValueError(
                    f"{key} needs a model with deviations: learn.training with model.heads > 1, model.noise or "
                    "uncertainty, or set it to null"
                )


def load_active_config(path: str | Path, overrides: dict[str, Any] | None = None) -> ActiveConfig:
    """A configuration with every file found and the training recipe read in, so that nothing else is needed.

    Raises:
        ConfigError: the configuration or its recipe cannot be used, or a file does not exist.
    """
    base = Path(path).resolve().parent
    return resolved(load_config(ActiveConfig, path, overrides), base)


def resolved(config: ActiveConfig, base: Path) -> ActiveConfig:
    """The same configuration with paths resolved against ``base`` and the recipe in place.

    Raises:
        ConfigError: see `load_active_config`.
    """
    data = config.model_dump()
    start = data["start"]
    for key in ("labelled", "test"):
        start[key] = [_found(name, base, f"start.{key}") for name in start[key]]
    start["structures"]["files"] = [_found_with_index(n, base) for n in start["structures"]["files"]]
    if start["model"] is not None:
        start["model"] = _model(start["model"], base, "start.model")
    for explorer in data["explore"]:
        if explorer["kind"] == "files":
            explorer["files"] = [_found(name, base, "explore: files") for name in explorer["files"]]
        if explorer["kind"] == "crystals":
            explorer["model"] = _model(explorer["model"], base, "explore: crystals")
    data["label"] = located_labeller(config.label, base).model_dump()
    data["learn"] = config.learn.with_recipe(base).model_dump()
    return parse_resolved(data)


def parse_resolved(data: dict[str, Any]) -> ActiveConfig:
    """A configuration from what `resolved` made, or from the journal."""
    return parse_config(ActiveConfig, data, where="active learning")


def _found(name: str, base: Path, key: str) -> str:
    path = resolve_path(name, base)
    if not path.exists():
        raise ConfigError("There is no such file.", where=f"{key}: {name}", fix="correct the path")
    return str(path.resolve())


def _found_with_index(name: str, base: Path) -> str:
    plain, at, index = name.rpartition("@")
    if at and not resolve_path(name, base).exists():
        return f"{_found(plain, base, 'start.structures.files')}@{index}"
    return _found(name, base, "start.structures.files")


def _model(name: str, base: Path, key: str) -> str:
    return name if name == "demo" else _found(name, base, key)
