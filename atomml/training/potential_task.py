"""A potential as the training loop sees it: losses and validation errors of energies, forces and stress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch_geometric.data import Data

from atomml.potentials import Potential
from atomml.shapes import Float64, Tensor
from atomml.training.config import LikelihoodConfig, RunConfig
from atomml.training.distributed import Ranks, autocast, sum_over_ranks
from atomml.training.likelihood import Phase, likelihood_sums, phase_of
from atomml.training.loss import TERMS, combine, loss_sums
from atomml.training.metrics import error_sums, errors_from_sums

__all__ = ["PotentialTask"]


@dataclass(frozen=True)
class PotentialTask:
    """See `atomml.training.state.Task`.

    Attributes:
        config: the configuration.
        potential: ``forward(graph, forces=, stress=, create_graph=)``.
        ranks: this process among all.
        weights: of energy, forces and stress in the loss, on the device.
        valid_batches: number of the set and graphs of the validation set (this process's share); None
            without one.
        frame_names: names of the frames of a batch.
        sets: names of the sets that are trained on; one empty name for a single set.
        factors: of the loss terms for each set, on the device; None for a single set.
        valid_shares: weight of each set in the validation loss, 0 where it has no validation frames.
        alignment: JSON form of the alignment of several sets' energies, kept in the checkpoint.
    """

    config: RunConfig
    potential: nn.Module
    ranks: Ranks
    weights: Float64[Tensor, " 3"]
    valid_batches: Callable[[], Iterator[tuple[int, Data]]] | None
    frame_names: Callable[[Data], str]
    sets: tuple[str, ...] = ("",)
    factors: Float64[Tensor, "sets 3"] | None = None
    valid_shares: tuple[float, ...] = (1.0,)
    alignment: dict[str, Any] | None = None

    @property
    def terms(self) -> tuple[str, ...]:
        """Energy, forces and stress."""
        return TERMS

    @property
    def measures(self) -> tuple[str, ...]:
        """Mean absolute and root mean square errors."""
        return tuple(f"{q}_{kind}" for q in ("energy_per_atom", *TERMS[1:]) for kind in ("mae", "rmse"))

    def sums(self, batch: Data, progress: float) -> tuple[Float64[Tensor, " 3"], Float64[Tensor, " 3"]]:
        """Warm-up or joint likelihood, by ``progress``; or penalties of the errors."""
        loss = self.config.loss
        phase: Phase = phase_of(loss, progress) if isinstance(loss, LikelihoodConfig) else "joint"
        return self._evaluated(batch, phase)[1:]

    def validate(self) -> dict[str, Any]:
        """Loss and errors.

        With several sets the loss is the mean of their losses with their shares in the training as weights, the
        errors are over all frames, and ``sets`` has both for each set.
        """
        if self.valid_batches is None:
            return {}
        zeros = torch.zeros(len(self.sets), 6, 3, dtype=torch.float64, device=self.ranks.device)
        sums, errors = zeros[:, :2], zeros[:, 2:]
        for number, graph in self.valid_batches():
            prediction, *measured = self._evaluated(graph, "validation")
            sums[number] += torch.stack(measured)
            errors[number] += error_sums(prediction, graph)
        sums, errors = sum_over_ranks(sums, self.ranks), sum_over_ranks(errors, self.ranks)
        each = [combine(one[0], one[1], self.weights).item() for one in sums]
        if len(each) == 1:
            return {"valid_loss": each[0]} | errors_from_sums(errors[0])
        total = sum(share * loss for share, loss in zip(self.valid_shares, each, strict=True) if share > 0)
        by_set = {
            name: {"valid_loss": each[k]} | errors_from_sums(errors[k])
            for k, name in enumerate(self.sets)
            if self.valid_shares[k] > 0
        }
        whole = errors_from_sums(errors.sum(dim=0))
        return {"valid_loss": total / sum(self.valid_shares)} | whole | {"sets": by_set}

    def learns_apart(self, name: str) -> bool:
        """What the heads of a shallow ensemble differ in: its gradient grows as the errors shrink."""
        return name == "spread"

    def size_of(self, batch: Data) -> str:
        """Structures, atoms and edges; ``batch.max_edges`` limits memory best."""
        return (
            f"{batch.num_graphs} structures, {batch.pos.shape[0]} atoms, {batch.edge_index.shape[1]} edges "
            f"(memory goes with batch.max_edges)"
        )

    def names_of(self, batch: Data) -> str:
        """Names of the frames."""
        return self.frame_names(batch) if "index" in batch else ""

    def constants(self) -> dict[str, Any]:
        """Reference energies and scales, and how several sets were aligned."""
        potential = cast(Potential, self.potential)
        constants = {
            "e0": {str(z): e for z, e in potential.e0.items()},
            "average_neighbors": potential.average_neighbors,
            "scale": potential.scale,
        }
        aligned = {} if self.alignment is None else {"alignment": self.alignment}
        return {"constants": constants, **aligned}

    def _evaluated(
        self, graph: Data, phase: Phase
    ) -> tuple[dict[str, Tensor], Float64[Tensor, " 3"], Float64[Tensor, " 3"]]:
        """Prediction of a batch and the sums and counts of its loss."""
        loss, validation = self.config.loss, phase == "validation"
        options: dict[str, Any] = {
            "forces": loss.forces > 0,
            "stress": loss.stress > 0,
            "create_graph": not validation,
        }
        if isinstance(loss, LikelihoodConfig):
            options["noise_feedback"] = loss.feedback if phase == "joint" else 0.0
        with autocast(self.config.dtype, self.ranks.device):
            prediction = self.potential(graph, **options)
        if validation:
            prediction = {key: value.detach() for key, value in prediction.items()}
        if isinstance(loss, LikelihoodConfig):
            return prediction, *likelihood_sums(prediction, graph, loss, self.factors, phase=phase)
        return prediction, *loss_sums(prediction, graph, loss, self.factors)
