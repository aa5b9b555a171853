"""The configuration of a training: one YAML file, every key with its meaning and default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    model_validator,
)

from atomml.config import Config
from atomml.potentials.config import ModelConfig
from atomml.potentials.noise_config import HeadsConfig
from atomml.training.loop_config import Fraction, LoopConfig, OptimizerConfig
from atomml.uncertainty.config import UncertaintyConfig

__all__ = [
    "AnyLossConfig",
    "BatchConfig",
    "DataConfig",
    "FinetuneConfig",
    "LikelihoodConfig",
    "LossConfig",
    "RunConfig",
    "SetConfig",
    "SourceConfig",
    "TrainConfig",
    "missing_deviations",
    "resolve_path",
]

Paths = str | list[str]
Part = Paths | PositiveInt | PositiveFloat


class SourceConfig(Config):
    """Files of structures and labels, how to read them, and how they are divided."""

    train: Paths | None = Field(default=None, examples=["train.extxyz"])
    """File or files of training structures: a native data folder or anything ASE reads."""
    where: str | None = None
    """Condition on per-frame tags, as in ``test_where``: other frames of the training files take no part."""
    valid: Part | None = 0.1
    """File or files; or a fraction (below 1) or a number of structures taken from the training files."""
    test: Part | None = None
    """Like ``valid``; evaluated once, at the end."""
    split: str | None = None
    """A division made by `atomml data split` for exactly these training files; replaces fractions, ``group``,
    ``where`` and ``test_where``."""
    group: str | None = None
    """Per-frame tag (``traj``, ``mol_id``) that must not be shared by two parts of a split by fraction."""
    test_where: str | None = None
    """Condition on per-frame tags, ``T >= 1000 and formula == LiCl``: frames of the training files that meet
    it are the test set. Operators ==, !=, <, <=, >, >=."""
    split_seed: int = 0
    """Seed of the division; the rows are saved in ``split.json``."""
    energy_key: str | None = None
    """Name of the energy in the files; found by itself when not given. Likewise the next two."""
    forces_key: str | None = None
    """Name of the forces array."""
    stress_key: str | None = None
    """Name of the stress, or of a virial."""
    energy_unit: Literal["eV", "Hartree", "Ry", "kcal/mol", "kJ/mol"] = "eV"
    """Unit of the energies in the files; forces are in it per ``length_unit``. Native stores know their units."""
    length_unit: Literal["Ang", "Bohr", "nm"] = "Ang"
    """Unit of positions and cells in the files."""
    stress_unit: Literal["eV/A^3", "GPa", "kbar"] = "eV/A^3"
    """Unit of the stress in the files."""
    stress_sign: Literal["ase", "pressure"] = "ase"
    """``ase``: σ = (1/V) ∂E/∂ε; ``pressure``: the opposite sign, as VASP prints it."""

    @model_validator(mode="after")
    def _one_test_set(self) -> SourceConfig:
        if self.test is not None and self.test_where is not None:
            raise ValueError("give either test or test_where, not both")
        if self.split is not None and (self.test_where or self.group or self.where):
            raise ValueError("split already divides the frames: remove group, where and test_where")
        return self


class SetConfig(SourceConfig):
    """One of several sets that are trained on together."""

    references: dict[str, float] | str | None = None
    """Energy of each element alone at the level of theory of this set: ``least_squares`` on its training
    energies, ``isolated`` (one-atom frames of its files), a table {symbol: eV}, or the path of a file of
    isolated atoms. Its energies are then shifted by Σ(E0 of the reference set − E0 of this set). ``none``: used
    as they are, without a shift. By default the reference set is fitted by least squares, the others ``none``."""
    weight: NonNegativeFloat = 1.0
    """Factor of all loss terms of this set, on top of the weights in ``loss``."""
    energy_weight: NonNegativeFloat = 1.0
    """Factor of the energy term; 0: the energies of this set are ignored. Likewise the next two."""
    forces_weight: NonNegativeFloat = 1.0
    """Factor of the force term."""
    stress_weight: NonNegativeFloat = 1.0
    """Factor of the stress term."""
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the frames of an epoch that come from this set; by default from ``sampling_temperature``."""

    @model_validator(mode="after")
    def _files(self) -> SetConfig:
        if self.train is None:
            raise ValueError("train: name the files of the set")
        if 0 in (self.weight, self.energy_weight + self.forces_weight + self.stress_weight):
            raise ValueError("all weights are 0: leave the set out")
        return self


class DataConfig(SourceConfig):
    """Where structures and labels come from and how they are divided: one set (``train``) or several (``sets``)."""

    references: dict[str, float] | str = "least_squares"
    """Energy of each element alone: ``isolated`` (one-atom frames of the training files), ``least_squares``
    on the training energies, ``none``, a table {symbol: eV}, or the path of a file of isolated atoms."""
    sets: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")], SetConfig] | None = None
    """Several sets by name, instead of ``train`` and the keys above; each has these keys and ``references``,
    ``weight``, ``energy_weight``, ``forces_weight``, ``stress_weight``, ``share``."""
    reference_set: str | None = None
    """The set whose level of theory the model has; by default the first."""
    sampling_temperature: PositiveFloat | None = None
    """A set with n frames is drawn from in proportion to n^(1/T): 1 (default) in proportion to its size, large T
    equally often as the others."""
    epoch_size: PositiveInt | None = None
    """Frames in an epoch over several sets; by default as many as all of them have."""
    forces_on: Literal["all", "free"] = "all"
    """``free``: forces on atoms that the source holds fixed (FixAtoms, move_mask) count neither in the loss
    nor in any metric, as is usual for OC20."""
    cache: bool = True
    """Keep graphs in memory after their first use."""
    workers: NonNegativeInt = 0
    """Processes that build batches; 0 builds them in the training process."""

    @model_validator(mode="after")
    def _one_or_several(self) -> DataConfig:
        if (self.train is None) == (self.sets is None):
            raise ValueError("give exactly one of train and sets")
        if self.sets is None:
            several = ("reference_set", "sampling_temperature", "epoch_size")
            used = [key for key in several if getattr(self, key) is not None]
            if used:
                raise ValueError(f"{', '.join(used)}: only for several sets")
            return self
        fields = type(self).model_fields
        own = [*SourceConfig.model_fields, "references"]
        moved = [key for key in own if getattr(self, key) != fields[key].default]
        if moved:
            raise ValueError(f"{', '.join(moved)}: write these into each of the sets")
        if not self.sets:
            raise ValueError("sets: name at least one")
        if self.reference_set is not None and self.reference_set not in self.sets:
            raise ValueError(f"reference_set: {self.reference_set!r} is none of {', '.join(self.sets)}")
        return self

    @property
    def has_valid(self) -> bool:
        """Whether there is a validation set."""
        sources: list[SourceConfig] = [self] if self.sets is None else list(self.sets.values())
        return any(source.valid is not None or source.split is not None for source in sources)


class LossConfig(Config):
    """L = Σ_t weight_t · mean ρ(prediction − label) over t = energy per atom, force components, stress."""

    kind: Literal["mse", "huber", "l1"] = "huber"
    """ρ(x) = x², the Huber function (x²/2 below δ, δ(|x| − δ/2) above), or |x|."""
    energy: NonNegativeFloat = 1.0
    """Weight of the energy per atom (eV/atom); 0 leaves it out."""
    forces: NonNegativeFloat = 1.0
    """Weight of the force components (eV/Å); 0 leaves them out."""
    stress: NonNegativeFloat = 0.0
    """Weight of the nine stress components (eV/Å³); 0 leaves them out."""
    delta_energy: PositiveFloat = 0.01
    """Huber δ of the energy per atom, eV/atom."""
    delta_forces: PositiveFloat = 0.1
    """Huber δ of a force component, eV/Å."""
    delta_stress: PositiveFloat = 0.01
    """Huber δ of a stress component, eV/Å³."""

    @model_validator(mode="after")
    def _some_term(self) -> LossConfig:
        if self.energy == self.forces == self.stress == 0:
            raise ValueError("one of energy, forces and stress needs a positive weight")
        return self


class LikelihoodConfig(Config):
    """L = Σ_t weight_t · mean of −log p_t(label) over t = energy of a structure, force on an atom, stress.

    −log p = ½ [d²/σ² + log σ²] for the energy in all, ½ [dᵀ Σ⁻¹ d + log det Σ] for the force on an atom, with the
    deviations that the network predicts (``model.noise``, or the spread of ``model.heads``).
    """

    kind: Literal["nll"] = "nll"
    """The negative log-likelihood; the other kinds have a loss of the errors alone."""
    energy: NonNegativeFloat = 1.0
    """Weight of the whole bracket of the energy; it does not change which deviation fits best."""
    forces: NonNegativeFloat = 1.0
    """Weight of the force bracket; without predicted force deviations the errors are penalised as in ``mean``."""
    stress: NonNegativeFloat = 0.0
    """Weight of the stress bracket; 0 leaves it out."""
    mean: LossConfig = LossConfig()
    """Loss of the errors, from which the mean learns during the warm-up, and whose weights it keeps with
    ``balance: mean``."""
    warmup: Fraction = 0.3
    """Share of the training in which the mean learns by ``mean`` alone and the deviations only watch its errors."""
    balance: Literal["mean", "likelihood"] = "mean"
    """What teaches the mean after the warm-up: the likelihood's dᵀ Σ⁻¹ d scaled to the weights of ``mean``, or
    the likelihood itself (as published), in which the energies usually outweigh the forces by far."""
    beta: Annotated[float, Field(ge=0, le=1)] = 0.5
    """β-NLL: for the mean every label is weighted by σ^(2β)/σ², so that badly known ones are not ignored: 0 is
    the likelihood, 1 weights all labels alike."""
    feedback: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Factor of the gradient from the deviations to the body of the network. 0: the body learns the mean only,
    and the heads read what it has learnt; 1 with ``balance: likelihood`` is the gradient of the likelihood."""
    refit: bool = True
    """After the training, fit the deviations anew to the errors of the final weights, which stay."""
    normalization: Literal["values", "structure"] = "values"
    """``values``: each term is a mean over its labels. ``structure``: all terms of a structure are added, the
    likelihood of a structure, as ``uncertainty.kind: ivon`` needs it."""
    lambda_energy: PositiveFloat = 1.0
    """Published loss: factor of the quadratic part only. It inflates the fitted variance by itself, which the
    model file takes back. Use ``energy`` to weight."""
    lambda_forces: PositiveFloat = 1.0
    """The same for forces."""

    @model_validator(mode="after")
    def _some_term(self) -> LikelihoodConfig:
        if self.energy == self.forces == self.stress == 0:
            raise ValueError("one of energy, forces and stress needs a positive weight")
        return self


def _loss_family(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return "nll" if kind == "nll" else "errors"


AnyLossConfig = Annotated[
    Annotated[LossConfig, Tag("errors")] | Annotated[LikelihoodConfig, Tag("nll")],
    Discriminator(_loss_family),
]


class BatchConfig(Config):
    """Size of a batch on each process; every limit that is given holds."""

    batch_size: PositiveInt | None = None
    """Structures."""
    max_atoms: PositiveInt | None = None
    """Atoms."""
    max_edges: PositiveInt | None = None
    """Edges (ordered neighbour pairs): what memory is proportional to."""

    @model_validator(mode="after")
    def _some_limit(self) -> BatchConfig:
        if self.batch_size is None and self.max_atoms is None and self.max_edges is None:
            raise ValueError("give at least one of batch_size, max_atoms, max_edges")
        return self


class RunConfig(LoopConfig):
    """What a training and a finetuning of a potential have in common."""

    data: DataConfig
    """Structures and labels."""
    loss: AnyLossConfig = LossConfig()
    """Terms of the loss and their weights: of the errors (``kind: huber``, ``mse``, ``l1``), or the likelihood of
    the labels (``kind: nll``)."""
    uncertainty: UncertaintyConfig | None = None
    """How the model says how uncertain it is; null: not at all, or by ``model.noise`` and ``model.heads`` if there
    are any."""
    batch: BatchConfig = BatchConfig(batch_size=8)
    """Batch limits."""
    figures: bool = True
    """Draw the figures of the report."""

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        loss = self.loss if isinstance(self.loss, LikelihoodConfig) else None
        if loss is not None and loss.warmup > 0 and self.epochs is None and self.max_steps is None:
            raise ValueError("loss.warmup is a share of the training: give epochs or max_steps, or warmup: 0")
        if self.uncertainty is not None and self.uncertainty.kind == "ivon":
            if loss is None or loss.normalization != "structure":
                raise ValueError(
                    "uncertainty.kind ivon needs loss.kind: nll with loss.normalization: structure"
                )
            if self.ema > 0:
                raise ValueError("uncertainty.kind ivon averages by itself: set ema: 0")
        if not self.data.has_valid and (self.early_stop is not None or self.schedule.kind == "plateau"):
            raise ValueError("early_stop and the plateau schedule need data.valid")
        return self


class TrainConfig(RunConfig):
    """Everything that decides the result of a training."""

    model: ModelConfig
    """The potential."""

    @model_validator(mode="after")
    def _deviations(self) -> TrainConfig:
        if problem := missing_deviations(self, self.model):
            raise ValueError(problem)
        return self


class FinetuneConfig(RunConfig):
    """A training that starts from the weights of a model file."""

    optimizer: OptimizerConfig = OptimizerConfig(lr=2e-4)
    """Optimiser, with a lower default rate than a training from scratch."""
    freeze: list[str] = []
    """Patterns (``body.embedding``, ``body.layers.0.*``) of parameters that are not trained."""
    e0: Literal["keep", "refit", "new"] = "refit"
    """Reference energies: ``keep`` those of the model; ``refit``: add to them the least-squares correction
    per element of label − prediction on the new training set; ``new``: take ``data.references``."""


def missing_deviations(config: RunConfig, model: ModelConfig) -> str | None:
    """What the loss or the uncertainty needs and a network does not have; None if nothing is missing."""
    kind = None if config.uncertainty is None else config.uncertainty.kind
    needed = {
        "loss.kind nll": isinstance(config.loss, LikelihoodConfig),
        "uncertainty.kind heads": kind == "heads",
    }
    if not isinstance(model, HeadsConfig):
        needed["uncertainty.kind llpr"] = kind == "llpr"
        missing = f"a model of kind tdn or race, not {model.kind}"
    elif model.heads > 1 and kind not in (None, "heads"):
        return (
            f"uncertainty.kind {kind} would lose the spread of model.heads: {model.heads}; use one of the two"
        )
    elif model.noise is None and model.heads == 1:
        missing = "deviations: give model.noise, or model.heads > 1"
    else:
        return None
    return next((f"{key} needs {missing}" for key, found in needed.items() if found), None)


def resolve_path(path: str, base: Path | None) -> Path:
    """``path`` as it is if it exists, else relative to ``base`` (the folder of the configuration file)."""
    direct = Path(path).expanduser()
    if base is None or direct.is_absolute() or direct.exists():
        return direct
    beside = base / direct
    return beside if beside.exists() else direct
