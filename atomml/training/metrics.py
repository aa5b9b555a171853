"""Errors of a potential as sums that can be added over batches and processes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch_geometric.data import Data

from atomml.shapes import Float64, Tensor
from atomml.training.loss import residuals

__all__ = ["QUANTITIES", "error_sums", "errors_from_sums"]

QUANTITIES = ("energy", "energy_per_atom", "forces", "stress")


@torch.no_grad()
def error_sums(prediction: Mapping[str, Tensor], graph: Data) -> Float64[Tensor, "4 3"]:
    """Σ|x|, Σx² and the number of labels for each of `QUANTITIES`; zero where there is no label."""
    out = torch.zeros(4, 3, dtype=torch.float64, device=graph.pos.device)
    for term, (difference, mask) in residuals(prediction, graph).items():
        pairs = [(term, difference)]
        if term == "energy":
            whole = torch.where(mask, prediction["energy"] - torch.where(mask, graph.energy, 0.0), 0.0)
            pairs = [("energy", whole), ("energy_per_atom", difference)]
        for name, x in pairs:
            row = [x.abs().sum(), (x * x).sum(), mask.sum()]
            out[QUANTITIES.index(name)] = torch.stack([value.to(torch.float64) for value in row])
    return out


def errors_from_sums(sums: Float64[Tensor, "4 3"]) -> dict[str, float]:
    """``<quantity>_mae`` and ``<quantity>_rmse`` for every quantity that has labels.

    Units: eV per structure, eV/atom, eV/Å by component, eV/Å³ by component.
    """
    out = {}
    for name, (absolute, square, count) in zip(QUANTITIES, sums.tolist(), strict=True):
        if count > 0:
            out[f"{name}_mae"] = absolute / count
            out[f"{name}_rmse"] = math.sqrt(square / count)
    return out
