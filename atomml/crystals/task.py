"""A crystal model as the training loop sees it: the loss of random steps of the flow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from atomml.crystals.config import CrystalTrainConfig
from atomml.crystals.data import Crystals
from atomml.crystals.flow_coordinates import cosine_loss, fit_at_any_origin, mean_target, square_loss
from atomml.crystals.model import Constraint, CrystalModel, State, Target
from atomml.crystals.network import NetworkOutput
from atomml.shapes import Bool, Float, Float64, Int64, Tensor
from atomml.training.distributed import Ranks, autocast, sum_over_ranks
from atomml.training.loss import combine

__all__ = ["TERMS", "CrystalTask", "flow_losses"]

TERMS = ("coordinates", "lattice", "types")


@dataclass(frozen=True)
class CrystalTask:
    """See `atomml.training.state.Task`.

    Attributes:
        config: the configuration.
        model: what is trained.
        ranks: this process among all.
        weights: of the terms of the loss, on the device.
        valid_batches: of the validation set (this process's share); None without one.
        name_of: names of the crystals of a batch.
        facts: constants of the model, for the checkpoint.
    """

    config: CrystalTrainConfig
    model: CrystalModel
    ranks: Ranks
    weights: Float64[Tensor, " 3"]
    valid_batches: Callable[[], Iterator[Crystals]] | None
    name_of: Callable[[Crystals], str]
    facts: dict[str, Any]

    @property
    def terms(self) -> tuple[str, ...]:
        """Coordinates, lattice and elements."""
        return TERMS

    @property
    def measures(self) -> tuple[str, ...]:
        """The same on the validation set."""
        return tuple(f"valid_{name}" for name in TERMS)

    def sums(self, batch: Crystals, progress: float) -> tuple[Float64[Tensor, " 3"], Float64[Tensor, " 3"]]:
        """Losses of one random step of a flow of one of the numbers of steps."""
        choices = self.config.model.flow.steps
        steps = choices[int(torch.randint(len(choices), ()))]
        return self._losses(batch, steps, torch.default_generator)

    def validate(self) -> dict[str, Any]:
        """Mean over all numbers of steps, with the same random numbers every time."""
        if self.valid_batches is None:
            return {}
        generator = torch.Generator().manual_seed(self.config.seed)
        sums = torch.zeros(2, len(TERMS), dtype=torch.float64, device=self.ranks.device)
        with torch.no_grad():
            for batch in self.valid_batches():
                for steps in self.config.model.flow.steps:
                    sums += torch.stack(self._losses(batch, steps, generator))
        sums = sum_over_ranks(sums, self.ranks)
        means = (sums[0] / sums[1].clamp(min=1.0)).tolist()
        return {"valid_loss": combine(sums[0], sums[1], self.weights).item()} | dict(
            zip(self.measures, means, strict=True)
        )

    def learns_apart(self, name: str) -> bool:
        """None does."""
        return False

    def size_of(self, batch: Crystals) -> str:
        """Crystals and atoms of the largest; ``batch.max_pairs`` limits memory best."""
        count, width = batch.crystals.fractional.shape[:2]
        return f"{count} crystals of up to {width} atoms (memory goes with batch.max_pairs)"

    def names_of(self, batch: Crystals) -> str:
        """Names of the crystals."""
        return self.name_of(batch)

    def constants(self) -> dict[str, Any]:
        """Elements, scales and sizes of the training data."""
        return {"constants": self.facts}

    def _losses(
        self, batch: Crystals, steps: int, generator: torch.Generator
    ) -> tuple[Float64[Tensor, " 3"], Float64[Tensor, " 3"]]:
        model, crystals, config = self.model, batch.crystals, self.config
        count, device = len(crystals), self.ranks.device

        def random() -> Tensor:
            return torch.rand(count, generator=generator).to(device)

        done = torch.randint(steps, (count,), generator=generator).to(device)
        known = Constraint((random() < config.model.given_types)[:, None] & crystals.mask)
        target = model.target(crystals)
        state = model.after(target, done, steps, known, generator=generator)
        asked = None
        if model.properties is not None:
            drop = random() < config.model.property_dropout
            asked = batch.properties.masked_fill(drop[:, None], torch.nan)
        with autocast(config.dtype, device):
            out = model(state, (done / steps).to(target.lattice), crystals.mask, asked)
        sums = flow_losses(model, target, state, out, done, steps, crystals.mask, known, config)
        atoms = crystals.mask.sum()
        free = (crystals.mask & ~known.given).sum()
        return sums, torch.stack([3 * atoms, torch.full_like(atoms, count), free]).double()


def flow_losses(
    model: CrystalModel,
    target: Target,
    state: State,
    out: NetworkOutput,
    done: Int64[Tensor, " crystals"],
    steps: int,
    mask: Bool[Tensor, "crystals atoms"],
    known: Constraint,
    config: CrystalTrainConfig,
) -> Float64[Tensor, " 3"]:
    """Σ over coordinates, crystals and atoms of what step ``done`` + 1 of a flow costs.

    coordinates: w_i d², or w_i (1 − cos d), of the difference d of angles; lattice: v_i times the mean squared
    difference of the nine entries, w and v `tempered`; elements: K β₁ t ‖e − p‖², where they are not given. w, v
    and the last are those of the flows.
    """
    angular = _angular(target, state, out, mask, config)
    w = tempered(model.coordinates.loss_weights(steps), config.loss.weight_power).to(done.device)[done]
    v = tempered(model.lattice.loss_weights(steps), config.loss.lattice_power).to(done.device)[done]
    lattice = (out.lattice - target.lattice).square().mean((1, 2)).double()
    t = (done / steps).to(target.types)
    types = model.types.loss(target.types, out.logits.softmax(-1), t[:, None]).double()
    return torch.stack(
        [
            ((w[:, None, None] * angular.double()) * mask[..., None]).sum(),
            (v * lattice).sum(),
            (types * (mask & ~known.given)).sum(),
        ]
    )


def tempered(weights: Float64[Tensor, " steps"], power: float) -> Float64[Tensor, " steps"]:
    """w^p with the mean of w."""
    return weights**power * (weights.mean() / (weights**power).mean())


def _angular(
    target: Target,
    state: State,
    out: NetworkOutput,
    mask: Bool[Tensor, "crystals atoms"],
    config: CrystalTrainConfig,
) -> Float[Tensor, "crystals atoms 3"]:
    """The loss of each coordinate: d², 1 − cos d, 1 − A cos d (``mean``) or 1 − A cos d − (1 − A) R (``fitted``).

    A, from 0 to 1, is how well the origin is known and R, from 0 to 1, how well expected and true crystal fit at the
    best origin, see `mean_target` and `fit_at_any_origin`.
    """
    if config.loss.distance == "square":
        return square_loss(target.angles, out.angles)
    if config.loss.origin == "given":
        return cosine_loss(target.angles, out.angles)
    angle, known = mean_target(state.coordinates, target.angles, mask)
    loss = cosine_loss(angle, out.angles, known)
    if config.loss.origin == "fitted":
        loss = loss - (1 - known) * fit_at_any_origin(target.angles, out.angles, mask)
    return loss
