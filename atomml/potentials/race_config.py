"""Configuration of the restratified many-body network, and the sizes that were published."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from atomml.errors import ConfigError
from atomml.potentials.noise_config import HeadsConfig

__all__ = ["RACEConfig", "race_preset"]


class RACEConfig(HeadsConfig):
    """Restratified many-body network: many plain layers, each raises the body order by one and is read out."""

    kind: Literal["race"] = "race"
    """Which network: ``tdn``, ``tdn_paper`` or ``race`` (this one)."""
    cutoff: PositiveFloat = 5.0
    """Radius in Å within which atoms see each other in one layer; the receptive field is layers × cutoff."""
    channels: PositiveInt = 64
    """Number of channels of every degree and parity."""
    lmax: int = Field(default=2, ge=1, le=4)
    """Highest degree L of the features."""
    lmax_harmonics: int = Field(default=2, ge=1, le=4)
    """Highest degree of the spherical harmonics of the neighbour directions."""
    layers: PositiveInt = 5
    """Number of layers; the features of layer t are of body order t + 1."""
    parity: Literal["natural", "both"] = "natural"
    """Features carried: ``natural`` those that mirror like spherical harmonics (scalars, vectors, …), ``both``
    also pseudoscalars, axial vectors and so on, as published, at a higher cost. Both respect mirror symmetry.
    Unnatural features arise in the second layer and reach the energy in the fourth; with fewer layers both
    choices are the same network."""
    radial_basis: PositiveInt = 8
    """Number of Bessel functions."""
    radial_hidden: list[PositiveInt] = [64, 64]
    """Widths of the hidden layers of the radial networks."""
    envelope_power: int = Field(default=6, ge=2)
    """Power p of the polynomial envelope; larger keeps the far neighbours louder. The published value is 2."""
    readout_hidden: PositiveInt = 64
    """Width of the hidden layer of the readout of each layer."""
    zbl: bool = False
    """Add the Ziegler–Biersack–Littmark repulsion of the nuclei at short distances."""


_PUBLISHED: dict[str, Any] = {"parity": "both", "layers": 5, "channels": 64, "envelope_power": 2}
_PRESETS: dict[str, dict[str, Any]] = {
    "small": {"cutoff": 5.0, "lmax": 2, "lmax_harmonics": 2, "layers": 3, "channels": 32},
    "rmd17": {**_PUBLISHED, "cutoff": 5.0, "lmax": 3, "lmax_harmonics": 3},
    "3bpa": {**_PUBLISHED, "cutoff": 6.0, "lmax": 3, "lmax_harmonics": 2},
    "qm9": {**_PUBLISHED, "cutoff": 5.0, "lmax": 2, "lmax_harmonics": 2},
    "psb3": {**_PUBLISHED, "cutoff": 6.0, "lmax": 2, "lmax_harmonics": 2},
    "obn25": {**_PUBLISHED, "cutoff": 3.0, "lmax": 2, "lmax_harmonics": 2, "channels": 16},
}


def race_preset(name: str) -> RACEConfig:
    """The sizes published for a data set (arXiv 2510.03046, table of hyperparameters), or ``small``.

    ``rmd17``, ``3bpa``, ``qm9``, ``psb3`` and ``obn25`` have the published degrees, parities, cutoffs, depth and
    widths; ``small`` is natural, three layers of 32 channels up to l = 2, for a laptop. What differs from the
    published networks:

    - ``obn25``: 16 channels for every degree, where 32, 16 and 8 were published for l = 0, 1, 2 (288 instead of
      240 numbers per atom), since our features have as many channels for each degree.
    - The width of the species embedding (128, 64 or 32) is gone: a table of matrices for each species says the
      same, see `atomml.potentials.race`.
    - Unnatural features are not carried where the energy cannot depend on them: in the first and the last two
      layers.
    - The paths to one degree are summed, each with radial weights of its own, before channels are mixed; the
      published layer mixes the channels of all paths at once.

    Raises:
        ConfigError: an unknown name.
    """
    if name not in _PRESETS:
        raise ConfigError(
            f"No RACE network is called {name!r}.",
            where="race_preset",
            fix=f"use one of {', '.join(_PRESETS)}",
        )
    return RACEConfig(**_PRESETS[name])
