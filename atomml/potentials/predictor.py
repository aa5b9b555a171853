"""From structures to `Prediction`s, in batches: what every potential does in the same way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress
from torch import nn
from torch_geometric.data import Batch

from atomml.graph.atom_graph import graph_from_ase
from atomml.potentials.prediction import Prediction
from atomml.shapes import Float, ndarray

__all__ = ["Predictor", "deviations_of", "voigt"]

Array = Float[ndarray, "..."]

SUFFIXES = ("", "_epistemic", "_aleatoric")
PER_ATOM = ("forces_std", *(f"{name}{end}" for name in ("energies_std", "forces_cov") for end in SUFFIXES))
PER_STRUCTURE = tuple(f"energy_std{end}" for end in SUFFIXES)
STRESS = tuple(f"stress_std{end}" for end in SUFFIXES)


class Predictor(nn.Module):
    """A module that maps graphs to energies, forces and stress, with ``cutoff``, ``device`` and ``conservative``."""

    calibration_id: str | None = None

    def predict(
        self,
        atoms: Atoms | Sequence[Atoms],
        *,
        forces: bool = True,
        stress: bool = True,
        max_atoms: int = 2000,
        **options: Any,
    ) -> list[Prediction]:
        """Energy, forces and stress of one structure or many, evaluated in batches of at most ``max_atoms``.

        Args:
            atoms: the structures.
            forces: compute them.
            stress: compute it, where there is one.
            max_atoms: atoms in a batch (at least one structure).
            options: more arguments of this potential's ``forward``.

        Returns:
            One `Prediction` for each structure; ``stress`` is None where there is no three-dimensional cell,
            or where the model has none.

        Raises:
            UnsupportedError: an element the model does not know.
            DataError: a structure that is not one (NaN, no atoms, impossible cell).
        """
        structures = [atoms] if isinstance(atoms, Atoms) else list(atoms)
        stress = stress and bool(cast(Any, self).conservative)
        return [
            prediction
            for chunk in _chunks(structures, max_atoms)
            for prediction in self._predict_batch(chunk, forces, stress, options)
        ]

    def _evaluate(
        self, structures: list[Atoms], forces: bool, stress: bool, **options: Any
    ) -> dict[str, Any]:
        """Arrays of a batch of structures, named as the tensors of ``forward``."""
        own = cast(Any, self)
        graph = Batch.from_data_list([graph_from_ase(a, own.cutoff) for a in structures]).to(own.device)
        with torch.no_grad():
            out = self(graph, forces=forces, stress=stress, **options)
        return {k: v.cpu().numpy() for k, v in out.items()}

    def _predict_batch(
        self, structures: list[Atoms], forces: bool, stress: bool, options: Mapping[str, Any]
    ) -> Iterator[Prediction]:
        out = self._evaluate(structures, forces, stress, **options)
        ends = np.cumsum([len(a) for a in structures])
        for k, (end, a) in enumerate(zip(ends, structures, strict=True)):
            rows = slice(end - len(a), end)
            volume = bool(stress and a.cell.rank == 3 and a.pbc.all())
            yield Prediction(
                energy=float(out["energy"][k]),
                energies=out["energies"][rows],
                forces=out["forces"][rows] if forces else None,
                stress=full_3x3_to_voigt_6_stress(out["stress"][k]) if volume else None,
                calibration=self.calibration_id,
                **deviations_of(out, k, rows, forces=forces, volume=volume),
            )


def deviations_of(
    arrays: Mapping[str, Array], k: int, rows: slice, *, forces: bool, volume: bool
) -> dict[str, Any]:
    """Fields of a `Prediction` that say how uncertain structure ``k`` with the atoms ``rows`` is."""
    found: dict[str, Any] = {name: float(arrays[name][k]) for name in PER_STRUCTURE if name in arrays}
    found |= {
        name: arrays[name][rows]
        for name in PER_ATOM
        if name in arrays and (forces or not name.startswith("forces"))
    }
    if volume:
        found |= {name: voigt(arrays[name][k]) for name in STRESS if name in arrays}
    if "energy_members" in arrays and "energy_std" in arrays:
        found["energy_members"] = arrays["energy_members"][k]
        if forces and "forces_members" in arrays:
            found["forces_members"] = arrays["forces_members"][:, rows]
        if volume and "stress_members" in arrays:
            found["stress_members"] = np.stack([voigt(s) for s in arrays["stress_members"][:, k]])
    return found


def voigt(stress: Float[ndarray, "3 3"]) -> Float[ndarray, " 6"]:
    """Components xx yy zz yz xz xy of a symmetric matrix."""
    return full_3x3_to_voigt_6_stress(stress)


def _chunks(structures: list[Atoms], max_atoms: int) -> Iterator[list[Atoms]]:
    chunk: list[Atoms] = []
    for atoms in structures:
        if chunk and sum(map(len, chunk)) + len(atoms) > max_atoms:
            yield chunk
            chunk = []
        chunk.append(atoms)
    if chunk:
        yield chunk
