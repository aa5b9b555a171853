"""`CrystalModel`: a network, the flows it was trained for, and what the training data were like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from atomml.crystals.batch import CrystalBatch
from atomml.crystals.circle import angle_of, fractional_of
from atomml.crystals.config import CrystalModelConfig, CSPNetConfig, NetworkConfig
from atomml.crystals.equivariant import EquivariantNet
from atomml.crystals.flow_coordinates import AdditiveFlow, Belief, CoordinateFlow, VonMisesFlow
from atomml.crystals.flow_lattice import GaussianFlow
from atomml.crystals.flow_types import DiscreteFlow
from atomml.crystals.network import CSPNet, NetworkInput, NetworkOutput
from atomml.crystals.properties import PropertyEmbedding
from atomml.errors import UnsupportedError
from atomml.shapes import Bool, Float, Int64, Tensor

__all__ = ["CrystalModel", "State", "Target"]


class Target(NamedTuple):
    """Crystals in the variables of the flows.

    Attributes:
        angles: coordinates θ = 2πf − π.
        lattice: lattice over ``lattice_scale``.
        types: probabilities of the elements, one-hot where they are certain.
    """

    angles: Float[Tensor, "crystals atoms 3"]
    lattice: Float[Tensor, "crystals 3 3"]
    types: Float[Tensor, "crystals atoms elements"]


class State(NamedTuple):
    """What is believed after some steps: about coordinates, lattice (the mean) and elements (probabilities)."""

    coordinates: Belief
    lattice: Float[Tensor, "crystals 3 3"]
    types: Float[Tensor, "crystals atoms elements"]


@dataclass(frozen=True)
class Constraint:
    """What is known of the elements beforehand.

    Attributes:
        given: atoms whose element is known.
        allowed: elements that an atom may have; None: all.
    """

    given: Bool[Tensor, "crystals atoms"]
    allowed: Bool[Tensor, "crystals atoms elements"] | None = None


def build_network(config: NetworkConfig, n_elements: int) -> CSPNet | EquivariantNet:
    """The network that a configuration asks for, with random weights."""
    if isinstance(config, CSPNetConfig):
        return CSPNet(config, n_elements)
    return EquivariantNet(config, n_elements)


class CrystalModel(nn.Module):
    """Flows of coordinates (on the circle), lattice (Gaussian) and elements (discrete) with one network.

    At step i of n the network sees what i − 1 samples of the crystal tell and says what it expects the crystal to be.
    A crystal whose elements are given has θ = one-hot from the start, so that one network, trained with and without
    (``given_types``), predicts structures and generates.

    Attributes:
        config: sizes of the network, settings of the flows.
        elements: atomic numbers that the model knows, in the order of its types.
        lattice_scale: deviation of the entries of the training lattices in Å; the flow sees lattices over it.
        atom_counts: number of atoms → share of the training crystals.
        property_scales: property → mean and deviation in the training data.
        metadata: header of the model file that it came from.
    """

    def __init__(
        self,
        config: CrystalModelConfig,
        *,
        elements: Sequence[int],
        lattice_scale: float,
        atom_counts: Mapping[int, float],
        property_scales: Mapping[str, tuple[float, float]],
    ) -> None:
        super().__init__()
        self.config, self.elements = config, tuple(int(z) for z in elements)
        self.lattice_scale, self.atom_counts = float(lattice_scale), dict(atom_counts)
        self.property_scales = dict(property_scales)
        self.metadata: dict[str, Any] = {}
        self.network = build_network(config.network, len(self.elements))
        self.properties = (
            PropertyEmbedding(self.property_scales, config.network.hidden) if property_scales else None
        )
        flow = config.flow
        self.coordinates: CoordinateFlow = (
            VonMisesFlow(flow.beta1_coordinates)
            if flow.coordinates == "von_mises"
            else AdditiveFlow(flow.beta1_coordinates)
        )
        self.types, self.lattice = DiscreteFlow(flow.beta1_types), GaussianFlow(flow.sigma1_lattice)
        index = torch.full((256,), -1, dtype=torch.int64)
        index[list(self.elements)] = torch.arange(len(self.elements))
        self.index_of_z: Tensor
        self.z_of_index: Tensor
        self.register_buffer("index_of_z", index, persistent=False)
        self.register_buffer("z_of_index", torch.tensor(self.elements), persistent=False)

    @property
    def predicts(self) -> Literal["structure", "everything"]:
        """``structure``: only of given elements; ``everything``: elements too."""
        return "structure" if self.config.given_types == 1.0 else "everything"

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.z_of_index.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next(self.network.parameters()).dtype

    def target(self, crystals: CrystalBatch) -> Target:
        """Crystals in the variables of the flows.

        Raises:
            UnsupportedError: an element the model does not know.
        """
        dtype = self.dtype
        index = self.index_of_z[crystals.numbers]
        if bool((index[crystals.mask] < 0).any()):
            unknown = sorted(set(crystals.numbers[crystals.mask].tolist()) - set(self.elements))
            raise UnsupportedError(f"This model does not know the elements Z = {unknown}.")
        types = nn.functional.one_hot(index.clamp(min=0), len(self.elements))
        return Target(
            angle_of(crystals.fractional.to(dtype)),
            (crystals.lattice / self.lattice_scale).to(dtype),
            types.to(dtype),
        )

    def crystals(
        self, out: Target, numbers: Int64[Tensor, "crystals atoms"], mask: Bool[Tensor, "crystals atoms"]
    ) -> CrystalBatch:
        """Crystals from the variables of the flows and atomic numbers."""
        inside = fractional_of(out.angles.double()) * mask[..., None]
        lattice = out.lattice.double() * self.lattice_scale
        return CrystalBatch(numbers * mask, inside, lattice, mask.sum(1))

    def after(
        self,
        target: Target,
        done: Int64[Tensor, " crystals"],
        steps: int,
        known: Constraint,
        *,
        generator: torch.Generator,
    ) -> State:
        """What ``done`` of ``steps`` samples of ``target`` tell, drawn at once."""
        t = (done / steps).to(target.lattice)
        return State(
            self.coordinates.after(target.angles, done[:, None, None], steps, generator=generator),
            self.lattice.after(target.lattice, t[:, None, None], generator=generator),
            self._types(
                target.types,
                known,
                self.types.after(target.types, t[:, None], generator=generator, allowed=known.allowed),
            ),
        )

    def add(
        self,
        state: State,
        expected: Target,
        i: int,
        steps: int,
        known: Constraint,
        *,
        generator: torch.Generator,
    ) -> State:
        """What is believed after one more sample, number i, of ``expected``; elements are drawn as in `after`."""
        t = torch.full(expected.lattice.shape[:1], i / steps).to(expected.lattice)
        return State(
            self.coordinates.add(state.coordinates, expected.angles, i, steps, generator=generator),
            self.lattice.add(state.lattice, expected.lattice, i, steps, generator=generator),
            self._types(
                expected.types,
                known,
                self.types.after(expected.types, t[:, None], generator=generator, allowed=known.allowed),
            ),
        )

    def forward(
        self,
        state: State,
        time: Float[Tensor, " crystals"],
        mask: Bool[Tensor, "crystals atoms"],
        properties: Float[Tensor, "crystals properties"] | None = None,
    ) -> NetworkOutput:
        """What the crystals are expected to be.

        Args:
            state: beliefs.
            time: share of the steps that are done.
            mask: where there is an atom.
            properties: asked for, in their units and the order of ``property_scales``; NaN: not asked for.
        """
        condition = None if self.properties is None else self.properties(properties, len(time))
        return self.network(
            NetworkInput(
                2 * state.types - 1,
                state.coordinates.mean,
                self.coordinates.feature(state.coordinates.concentration),
                state.lattice,
                time,
                mask,
                condition,
            )
        )

    def _types(
        self, target: Tensor, known: Constraint, drawn: Float[Tensor, "crystals atoms elements"]
    ) -> Float[Tensor, "crystals atoms elements"]:
        return torch.where(known.given[..., None], target, drawn)
