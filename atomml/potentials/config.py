"""Configuration of the potentials: every key, its default and its meaning."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from atomml.config import Config
from atomml.potentials.noise_config import HeadsConfig, NoiseConfig
from atomml.potentials.race_config import RACEConfig

__all__ = ["ModelConfig", "NoiseConfig", "PaperTDNConfig", "RACEConfig", "TDNConfig"]

Rank = Literal["exact", "7L2"] | PositiveInt


class TDNConfig(HeadsConfig):
    """Conservative tensor decomposition network: forces and stress are derivatives of one energy."""

    kind: Literal["tdn"] = "tdn"
    """Which network: ``tdn`` (this one), ``race`` or ``tdn_paper``."""
    cutoff: PositiveFloat = 5.0
    """Radius in Å within which atoms see each other in one layer."""
    lmax: int = Field(default=2, ge=1, le=4)
    """Highest degree L of features and spherical harmonics."""
    channels: PositiveInt = 64
    """Number of channels of every degree."""
    layers: PositiveInt = 2
    """Number of message-passing layers; the receptive field is layers × cutoff."""
    coupling: Literal["cg_even", "so3", "gaunt"] = "cg_even"
    """Which products are kept: ``cg_even`` all that respect mirror symmetry, ``gaunt`` those of functions on
    the sphere, ``so3`` also the parity-odd ones (the energy then depends on handedness)."""
    rank: Rank = "exact"
    """Rank of the decomposition of the coupling tensor: ``exact`` keeps equivariance to rounding, ``7L2`` is
    the published schedule, a number takes the shipped factors of that rank."""
    path_weights: Literal["shared", "per_l2", "per_path"] = "shared"
    """Radial weights: one for all paths (``shared``), one for each degree of the spherical harmonics
    (``per_l2``) or one for each path (``per_path``); the last two need ``coupling: cg_even`` and exact rank."""
    products: int = Field(default=2, ge=0, le=3)
    """How many times the neighbour sum is multiplied with itself at each node: 0 gives two-body messages,
    each product raises the body order by one."""
    nonlinearity: Literal["gate", "norm", "none"] = "gate"
    """Function applied at the end of each layer."""
    radial_basis: PositiveInt = 8
    """Number of Bessel functions."""
    radial_hidden: list[PositiveInt] = [64, 64]
    """Widths of the hidden layers of the radial network."""
    envelope_power: int = Field(default=6, ge=3)
    """Power p of the polynomial envelope; larger keeps the far neighbours louder."""
    readout_hidden: PositiveInt = 32
    """Width of the hidden layer of the last readout; earlier layers read out linearly."""
    zbl: bool = False
    """Add the Ziegler–Biersack–Littmark repulsion of the nuclei at short distances."""


class PaperTDNConfig(Config):
    """The published tensor decomposition network: attention, direct forces, energy per atom.

    Not conservative: use it to compare with published numbers, not for molecular dynamics.
    """

    kind: Literal["tdn_paper"] = "tdn_paper"
    """Which network: ``tdn`` or ``tdn_paper`` (this one)."""
    cutoff: PositiveFloat = 4.5
    """Radius in Å of the neighbour graph; there is no envelope, the energy jumps there."""
    max_neighbors: PositiveInt = 100
    """At most this many nearest neighbours of each atom are kept."""
    lmax: int = Field(default=1, ge=1, le=4)
    """Highest degree L of features and spherical harmonics."""
    channels: PositiveInt = 256
    """Number of channels of every degree."""
    layers: PositiveInt = 6
    """Number of attention blocks."""
    gaussians: PositiveInt = 256
    """Number of radial Gaussians."""
    radial_hidden: list[PositiveInt] = [64, 64]
    """Widths of the hidden layers of the radial networks."""
    heads: PositiveInt = 4
    """Number of attention heads; divides ``channels``."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout of the attention weights."""
    rank: Rank = "7L2"
    """``7L2`` as published (a product is equivariant to 1.7–8.2 % only), ``exact``, or a number."""
    average_atoms: PositiveFloat = 36.6
    """Average number of atoms of a structure, which scales the readout."""
    average_degree: PositiveFloat = 18.6
    """Average number of neighbours, which scales the sums over them."""


ModelConfig = Annotated[TDNConfig | RACEConfig | PaperTDNConfig, Field(discriminator="kind")]
