"""What acquisition functions need of a model: the members' predictions and the last layer's features of a pool."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from atomml.datasets import FrameStore
from atomml.errors import UnsupportedError
from atomml.potentials import Potential
from atomml.shapes import Float64, ndarray
from atomml.training.batches import greedy_batches, join
from atomml.uncertainty.acquisition import AcquisitionSettings, MemberPredictions, NoiseFloor
from atomml.uncertainty.bayesian import BayesianPotential

__all__ = ["has_members", "member_predictions", "summed_features", "with_noise"]


def has_members(model: Any) -> bool:
    """Whether a model has several sets of weights, or a Gaussian over some of them, that can disagree."""
    return isinstance(model, BayesianPotential) and "epistemic" in model.parts


def member_predictions(
    model: Potential | BayesianPotential, store: FrameStore, *, max_atoms: int = 2000
) -> MemberPredictions:
    """Energies and forces of every member, and the noise that they predict, for all frames of a store.

    Deviations of the members and noise are scaled like the calibrated deviations. Memory: 24 bytes for each atom
    and member.

    Raises:
        UnsupportedError: a model without members.
        DataError: a member's prediction is not finite.
    """
    if not isinstance(model, BayesianPotential) or not has_members(model):
        raise UnsupportedError(
            "This model has no members that could disagree.",
            fix="train with uncertainty.kind ensemble, swag, ivon or llpr, or with model.heads > 1",
        )
    columns: dict[str, list[ndarray]] = {}
    for batch in _batches(store, model, max_atoms):
        out = model(batch, forces=True, members=True)
        arrays = {name: out[name].double().cpu().numpy() for name in ("energy_members", "forces_members")}
        if "aleatoric" in model.parts:
            arrays["energy_var"] = out["energy_std_aleatoric"].square().cpu().numpy()
            arrays["forces_cov"] = out["forces_cov_aleatoric"].cpu().numpy()
        for name, value in arrays.items():
            columns.setdefault(name, []).append(value)
    noise = {name: np.concatenate(columns[name]) for name in ("energy_var", "forces_cov") if name in columns}
    return MemberPredictions(
        energy=np.ascontiguousarray(np.concatenate(columns["energy_members"]).T),
        forces=np.concatenate(columns["forces_members"], axis=1),
        n_atoms=np.array(store.n_atoms),
        **noise,
    )


def summed_features(
    model: Potential | BayesianPotential, store: FrameStore, *, max_atoms: int = 2000
) -> Float64[ndarray, "frames features"]:
    """Features of the last layer summed over the atoms of each frame, in units of eV per weight, per atom."""
    potential = model.potential if isinstance(model, BayesianPotential) else model
    parts = []
    for batch in _batches(store, potential, max_atoms):
        with torch.no_grad():
            features = potential(batch, forces=False)["features"].double() * potential.scale
        total = features.new_zeros((batch.num_graphs, features.shape[1])).index_add(0, batch.batch, features)
        parts.append(total.cpu().numpy())
    return np.concatenate(parts) / np.asarray(store.n_atoms)[:, None]


def with_noise(settings: AcquisitionSettings, model: Any) -> AcquisitionSettings:
    """For members without noise heads: the noise is their errors on the validation frames, unless it is given."""
    aleatoric = has_members(model) and "aleatoric" in model.parts
    errors = model.metadata.get("metrics", {}).get("valid", {})
    if settings.noise is not None or aleatoric or "forces_rmse" not in errors:
        return settings
    floor = NoiseFloor(
        energy_std_per_atom=errors.get("energy_per_atom_rmse", 0.0), force_std=errors["forces_rmse"]
    )
    return settings.model_copy(update={"noise": floor})


def _batches(store: FrameStore, model: Any, max_atoms: int) -> Iterator[Any]:
    graphs: Sequence[Any] | Iterator[Any] = (store.graph(i, model.cutoff) for i in range(len(store)))
    for group in greedy_batches(graphs, max_atoms=max_atoms):
        yield join(group).to(model.device)
