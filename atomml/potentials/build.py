"""From a configuration to a potential."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from atomml.errors import ConfigError
from atomml.kernels.cp_factors import CPFactors, load_factors, load_group_factors
from atomml.nn.noise import NoiseHeads
from atomml.nn.repulsion import ZBL
from atomml.potentials.config import ModelConfig, PaperTDNConfig, RACEConfig, TDNConfig
from atomml.potentials.potential import Potential
from atomml.potentials.race import RACE
from atomml.potentials.tdn import TDN
from atomml.potentials.tdn_paper import MAX_ATOMIC_NUMBER, PaperTDN

__all__ = ["build_potential", "factors_for", "with_constants"]


def factors_for(config: ModelConfig) -> dict[str, CPFactors]:
    """The shipped CP factors that a configuration asks for, by their role in the network.

    Raises:
        ConfigError: path weights without factors for them.
        UnsupportedError: a rank for which no factors are shipped.
    """
    if isinstance(config, RACEConfig):
        return {}
    if isinstance(config, PaperTDNConfig):
        return {"convolution": load_factors(config.lmax, "so3", config.rank)}
    shared = load_factors(config.lmax, config.coupling, config.rank)
    if config.path_weights == "shared":
        return {"convolution": shared, "product": shared}
    if config.coupling != "cg_even" or config.rank != "exact":
        raise ConfigError(
            f"path_weights: {config.path_weights} needs coupling: cg_even and rank: exact.",
            where="model.path_weights",
            fix="set path_weights: shared, or the coupling and the rank",
        )
    grouped = load_group_factors(config.lmax, config.coupling, config.path_weights)
    return {"convolution": grouped, "product": shared}


def build_potential(
    config: ModelConfig,
    *,
    elements: Sequence[int],
    e0: Mapping[int, float],
    average_neighbors: float,
    scale: float,
    seed: int,
    shift: float = 0.0,
    factors: Mapping[str, CPFactors] | None = None,
) -> Potential:
    """A potential with random weights drawn from ``seed``; the global random state is left alone.

    Args:
        config: configuration of the body.
        elements: atomic numbers of the species.
        e0: reference energies in eV by atomic number, one for each element.
        average_neighbors: mean number of neighbours within the cutoff.
        scale: eV per unit of the body's energy: the RMS force component of the training set.
        seed: seed of the initial weights.
        shift: mean energy of an atom relative to its E0 in eV, where the conservative network starts learning.
        factors: CP factors by role, from a model file; the shipped ones by default.

    Raises:
        ConfigError: an element without a reference energy, or beyond the published network's table.
    """
    missing = [z for z in elements if z not in e0]
    if missing:
        raise ConfigError(
            f"No reference energy for atomic numbers {missing}.",
            where="data.references",
            fix="add them to the table, or use references: least_squares",
        )
    if isinstance(config, PaperTDNConfig) and max(elements) > MAX_ATOMIC_NUMBER:
        raise ConfigError(
            f"tdn_paper knows elements up to Z = {MAX_ATOMIC_NUMBER} only.",
            where="model.kind",
            fix="use kind: tdn",
        )
    factors = factors_for(config) if factors is None else factors
    neighbors = max(average_neighbors, 1.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body: torch.nn.Module
        match config:
            case TDNConfig():
                convolution, product = factors["convolution"], factors["product"]
                body = TDN(config, len(elements), neighbors, convolution, product)
            case RACEConfig():
                body = RACE(config, len(elements), neighbors)
            case PaperTDNConfig():
                body, scale = PaperTDN(config, list(elements), factors["convolution"]), 1.0
        noise = repulsion = None
        if not isinstance(config, PaperTDNConfig):
            torch.nn.init.constant_(body.bias, shift / scale)  # type: ignore[arg-type]
            noise = _noise_heads(config, len(elements), scale)
            repulsion = ZBL(list(elements), config.cutoff) if config.zbl else None
    return Potential(
        body,
        config,
        elements=elements,
        e0=[e0[z] for z in elements],
        scale=scale,
        average_neighbors=average_neighbors,
        factors=factors,
        repulsion=repulsion,
        noise=noise,
    )


def _noise_heads(config: TDNConfig | RACEConfig, n_species: int, scale: float) -> NoiseHeads | None:
    wanted = config.noise
    if wanted is None:
        return None
    widths = [config.channels] * config.layers
    return NoiseHeads(
        wanted.forces,
        wanted.energy,
        config.lmax,
        widths,
        n_species,
        scale,
        hidden=wanted.hidden,
        vectors=wanted.vectors,
    )


def with_constants(
    potential: Potential,
    *,
    e0: Mapping[int, float],
    average_neighbors: float | None = None,
    scale: float | None = None,
) -> Potential:
    """The same weights with other constants; elements not in ``e0`` keep theirs.

    Args:
        potential: where everything else comes from; it is left as it is.
        e0: reference energies in eV by atomic number.
        average_neighbors: see `build_potential`; by default that of ``potential``.
        scale: likewise.
    """
    changed = build_potential(
        potential.config,
        elements=potential.elements,
        e0={**potential.e0, **e0},
        average_neighbors=potential.average_neighbors if average_neighbors is None else average_neighbors,
        scale=potential.scale if scale is None else scale,
        seed=0,
        factors=potential.factors,
    ).to(device=potential.device, dtype=potential.dtype)
    changed.load_state_dict(potential.state_dict())
    for new, old in zip(changed.parameters(), potential.parameters(), strict=True):
        new.requires_grad_(old.requires_grad)
    return changed
