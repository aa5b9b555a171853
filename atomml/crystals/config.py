"""The configuration of a crystal model and of its training: every key with its meaning and default."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from atomml.config import Config
from atomml.training.config import SourceConfig
from atomml.training.loop_config import Fraction, LoopConfig

__all__ = [
    "CSPNetConfig",
    "CrystalBatchConfig",
    "CrystalDataConfig",
    "CrystalLossConfig",
    "CrystalModelConfig",
    "CrystalTrainConfig",
    "EquivariantConfig",
    "FlowConfig",
    "NetworkConfig",
]


class CSPNetConfig(Config):
    """A network of all pairs of atoms."""

    kind: Literal["cspnet"] = "cspnet"
    """Which network: ``cspnet`` (this one) or ``equivariant``."""
    hidden: PositiveInt = 512
    """Channels of an atom and of a pair."""
    layers: PositiveInt = 6
    """Rounds of messages."""
    frequencies: PositiveInt = 128
    """Fourier frequencies 0 … F − 1 of a distance around the cell."""
    distances: NonNegativeInt = 0
    """Functions of the distances between atoms and the nearest images of others, which Fourier features know only
    together with the lattice, and the volume per atom; 0: none, as published. 12 is enough."""
    refine: bool = False
    """Move the atoms after every layer, so that the next sees them where they are expected; false: once at the end,
    as published. Learns several times faster, above all with ``distances``."""
    time_channels: Annotated[int, Field(ge=4, multiple_of=2)] = 128
    """Channels of the time."""


class EquivariantConfig(Config):
    """A network of all pairs of atoms whose atoms carry vectors and quadrupoles, with our tensor products."""

    kind: Literal["equivariant"] = "equivariant"
    """Which network: ``cspnet`` or ``equivariant`` (this one)."""
    hidden: PositiveInt = 128
    """Channels of every degree of an atom, and of a pair."""
    layers: PositiveInt = 4
    """Rounds of messages."""
    lmax: Annotated[int, Field(ge=1, le=2)] = 2
    """Highest degree: 1 vectors, 2 quadrupoles too."""
    path_weights: Literal["shared", "per_l2"] = "shared"
    """Weights of a pair: one for all products (``shared``) or one for each degree of the displacement
    (``per_l2``)."""
    frequencies: PositiveInt = 32
    """Fourier frequencies 0 … F − 1 of a distance around the cell."""
    radial_basis: PositiveInt = 8
    """Bessel functions of the distance."""
    time_channels: Annotated[int, Field(ge=4, multiple_of=2)] = 128
    """Channels of the time."""


NetworkConfig = Annotated[CSPNetConfig | EquivariantConfig, Field(discriminator="kind")]


class FlowConfig(Config):
    """How what is known about a crystal grows from nothing to the crystal."""

    coordinates: Literal["von_mises", "additive"] = "von_mises"
    """``von_mises``: observations of an angle on the circle, with accuracies that make the entropy fall evenly;
    ``additive``: Gaussian observations of (cos, sin), whose accuracies add up. The second needs no table and is
    better at hundreds of steps, the first at ten."""
    beta1_coordinates: PositiveFloat = 1000.0
    """Concentration of the belief at the end; 1000 is 0.005 of the cell."""
    beta1_types: PositiveFloat = 0.5
    """Accuracy of the elements at the end, β(t) = β₁ t²."""
    sigma1_lattice: Annotated[float, Field(gt=0, lt=1)] = 10**-1.5
    """Deviation of the scaled lattice at the end."""
    steps: Annotated[list[PositiveInt], Field(min_length=1)] = [10, 20, 50, 100, 1000]
    """Numbers of steps to train for; each batch takes one of them. Sampling with others works too."""


class CrystalModelConfig(Config):
    """What a model is made of."""

    network: NetworkConfig = CSPNetConfig()
    """The network."""
    flow: FlowConfig = FlowConfig()
    """The flows of coordinates, elements and lattice."""
    given_types: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of the training in which the elements are given. 1: structure prediction only; 0: generation only;
    between: one model for both."""
    properties: list[str] = []
    """Columns of the data, or ``density`` (g/cm³), that generation can be guided by."""
    property_dropout: Fraction = 0.3
    """Share of the training without the properties, from which guidance learns what crystals are like without."""

    @field_validator("network", mode="before")
    @classmethod
    def _cspnet_unless_said(cls, network: Any) -> Any:
        return {"kind": "cspnet"} | network if isinstance(network, dict) else network


class CrystalDataConfig(SourceConfig):
    """Crystals to learn from: CSV with a column ``cif``, CIFs, anything that ASE reads, or a native store."""

    max_atoms: PositiveInt = 64
    """Crystals with more atoms are left out, and counted."""


class CrystalLossConfig(Config):
    """L = Σ weight · mean of what one step of the flow costs; all 1 is the bound on −log p (up to units)."""

    coordinates: NonNegativeFloat = 1.0
    """Weight of the coordinates."""
    lattice: NonNegativeFloat = 1.0
    """Weight of the lattice."""
    types: NonNegativeFloat = 1.0
    """Weight of the elements."""
    distance: Literal["square", "cosine"] = "square"
    """Of angles: ``square`` of the difference around the circle, as published code has it; ``cosine`` 1 − cos, the
    bound itself."""
    weight_power: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Weights of the steps of coordinates to this power, with the same mean. 1 is the bound, whose weights grow with
    what is known already, a thousandfold; less gives more to early steps, which decide what is where."""
    lattice_power: Annotated[float, Field(ge=0, le=1)] = 1.0
    """The same for the lattice: less teaches early what volume there is."""
    origin: Literal["given", "mean", "fitted"] = "given"
    """A crystal moved in its cell is the same crystal. ``given``: coordinates as the data have them; ``mean``: their
    mean over all origins that fit what is known (Rao-Blackwell), less noise; ``fitted``: and as far as the origin is
    unknown, compare at the origin that fits best, so that even the first step learns what is where. The last two
    need ``distance: cosine``."""

    @model_validator(mode="after")
    def _cosine(self) -> CrystalLossConfig:
        if self.origin != "given" and self.distance != "cosine":
            raise ValueError(f"origin: {self.origin} needs distance: cosine")
        return self


class CrystalBatchConfig(Config):
    """Size of a batch on each process; crystals of similar size come together."""

    batch_size: PositiveInt = 256
    """Crystals."""
    max_pairs: PositiveInt | None = None
    """Pairs of atoms, padding included: what memory is proportional to."""


class CrystalTrainConfig(LoopConfig):
    """Everything that decides the result of a training of a crystal model."""

    data: CrystalDataConfig
    """Crystals."""
    model: CrystalModelConfig = CrystalModelConfig()
    """The model."""
    loss: CrystalLossConfig = CrystalLossConfig()
    """Terms of the loss."""
    batch: CrystalBatchConfig = CrystalBatchConfig()
    """Batch limits."""
    clip_norm: PositiveFloat | None = None
    """Largest norm of the gradient; null for no clipping."""
    ema: Fraction = 0.995
    """Decay of the moving average of the weights, which is what is validated and kept; 0 turns it off."""

    @model_validator(mode="after")
    def _validated(self) -> CrystalTrainConfig:
        has_valid = self.data.valid is not None or self.data.split is not None
        if not has_valid and (self.early_stop is not None or self.schedule.kind == "plateau"):
            raise ValueError("early_stop and the plateau schedule need data.valid")
        return self
