"""A potential as a model of torch-sim, whose integrators and optimisers then run it on many structures at once."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from atomml._optional import require
from atomml.errors import UnsupportedError
from atomml.shapes import Tensor
from atomml.simulate.batched.evaluate import evaluate
from atomml.simulate.batched.structures import Structures
from atomml.simulate.batched.verlet import VerletLists
from atomml.simulate.deviations import mean_potential
from atomml.simulate.interface import PotentialLike, resolve_potential

__all__ = ["SUPPORTED", "torchsim_model"]

SUPPORTED = "0.3"
"""The series of torch-sim-atomistic whose interface this is; others differ in the state and in the runners."""


def torchsim_model(
    potential: PotentialLike | str | Path, *, compute_stress: bool | None = None, skin: float = 0.5
) -> Any:
    """A ``torch_sim.models.interface.ModelInterface`` that gives energy [B], forces [N, 3] and stress [B, 3, 3].

    Units are those of torch-sim: eV, Å, eV/Å³ with the sign of ASE. States are float64 whatever the precision of the
    potential is. Neighbour lists are kept from call to call, see `VerletLists`.

    Args:
        potential: a potential, a model file, or "demo".
        compute_stress: None: if the potential has one. Without three periodic directions it is NaN.
        skin: of the neighbour lists, Å.

    Raises:
        UnsupportedError: torch-sim is not installed, or in another version than 0.3; a stress of a potential that has
            none. Calls raise it too, for unknown elements, and SimulationError for results that are not finite.
    """
    torch_sim = require("torch_sim", extra="torchsim")
    _refuse_version(metadata.version("torch-sim-atomistic"))
    model = mean_potential(resolve_potential(potential))
    if compute_stress and not model.conservative:
        raise UnsupportedError("A model with direct forces has no stress.", fix="use compute_stress=False")
    stress = model.conservative if compute_stress is None else compute_stress

    class AtommlModel(torch_sim.models.interface.ModelInterface):  # type: ignore[name-defined]
        """The potential behind torch-sim's interface."""

        def __init__(self) -> None:
            super().__init__()
            self._device, self._dtype = model.device, torch.float64
            self._compute_stress, self._compute_forces = stress, True
            self._before: Structures | None = None
            self._lists = VerletLists(model.cutoff, skin)

        def forward(self, state: Any, **_: Any) -> dict[str, Tensor]:
            if isinstance(state, dict):
                state = torch_sim.SimState(**({"masses": torch.ones_like(state["positions"][:, 0])} | state))
            structures = _structures(state)
            if self._before is None or not torch.equal(self._before.counts, structures.counts):
                self._lists = VerletLists(model.cutoff, skin)
                self._lists.extend(len(structures))
            self._before = structures
            result, errors = evaluate(model, structures, self._lists)
            for place, error in errors.items():
                raise type(error)(error.what, where=f"system {place} of the state", fix=error.fix)
            found = {"energy": result.energy, "forces": result.forces}
            return found | ({"stress": result.stress} if stress else {})

    return AtommlModel()


def _refuse_version(version: str) -> None:
    if not version.startswith(f"{SUPPORTED}."):
        raise UnsupportedError(
            f"This is an adapter for torch-sim-atomistic {SUPPORTED}, and version {version} is installed.",
            fix=f"pip install 'torch-sim-atomistic=={SUPPORTED}.*', or use relax_batched and run_md_batched",
        )


def _structures(state: Any) -> Structures:
    cell = state.row_vector_cell.detach().double()
    counts = torch.bincount(state.system_idx, minlength=len(cell))
    periodic = torch.full((len(cell), 3), bool(state.pbc), device=cell.device)
    pos = state.positions.detach().double()
    return Structures(
        counts=counts,
        index=torch.arange(len(cell), device=cell.device),
        z=state.atomic_numbers.to(torch.int64),
        pos=pos,
        free=torch.ones_like(pos[:, :1]),
        cell=cell,
        pbc=periodic,
        volume=periodic.all(1) & (torch.linalg.det(cell) != 0),
    )
