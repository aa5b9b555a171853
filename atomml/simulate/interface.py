"""What a potential must offer to be simulated with, and how one is found from a path or a name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from ase import Atoms
from torch import nn
from torch_geometric.data import Data

from atomml.errors import UnsupportedError
from atomml.potentials.prediction import Prediction
from atomml.shapes import Tensor

__all__ = ["PotentialLike", "evaluating", "fingerprint_of", "refuse_unknown_elements", "resolve_potential"]


@runtime_checkable
class PotentialLike(Protocol):
    """The part of `atomml.potentials.Potential` that simulations use; any module with it can be simulated.

    One with an attribute ``deviations``, names of standard deviations in the output of a call, is asked for them too;
    see `atomml.uncertainty.bayesian.BayesianPotential`.
    """

    @property
    def cutoff(self) -> float:
        """Radius of the neighbour graph in Å."""

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers the potential knows."""

    @property
    def conservative(self) -> bool:
        """Whether the forces are the exact gradient of the energy."""

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the parameters."""

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""

    def __call__(
        self, graph: Data, *, forces: bool = True, stress: bool = False, **options: Any
    ) -> Mapping[str, Tensor]:
        """Energy [B] in eV, energies [N], forces [N, 3] in eV/Å, stress [B, 3, 3] in eV/Å³."""

    def predict(
        self, atoms: Sequence[Atoms], *, forces: bool = True, stress: bool = True, max_atoms: int = 2000
    ) -> list[Prediction]:
        """Predictions of many structures, batched."""


def resolve_potential(potential: PotentialLike | str | Path) -> PotentialLike:
    """The potential itself, or the one loaded from a model file or the name "demo", with its uncertainty.

    Raises:
        ModelFileError: no such file, or not a model of this package.
    """
    if isinstance(potential, str | Path):
        from atomml.uncertainty.model_file import load_model

        loaded: PotentialLike = load_model(potential)
        return loaded
    return potential


def fingerprint_of(potential: PotentialLike) -> str:
    """A hash of the weights, their precision, the constants and the calibration; the same on every device.

    Of something that is no module the name of its class.
    """
    if not isinstance(potential, nn.Module):
        return type(potential).__name__
    from atomml.potentials.compile import weights_sha256

    names = ("cutoff", "scale", "compilation", "calibration_id")
    constants = {name: getattr(potential, name, None) for name in names}
    text = weights_sha256(potential) + json.dumps(constants, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@contextmanager
def evaluating(potential: PotentialLike) -> Iterator[None]:
    """Switch dropout and the like off; every submodule gets its own mode back afterwards."""
    modules = potential.modules() if isinstance(potential, nn.Module) else ()
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def refuse_unknown_elements(atoms: Atoms, elements: Sequence[int]) -> None:
    """Stop before anything is computed when the potential was not made for one of the elements.

    Raises:
        UnsupportedError: names the unknown elements, the first atoms that have them, and the known ones.
    """
    from ase.data import chemical_symbols

    unknown = sorted(set(atoms.numbers.tolist()) - set(elements))
    if not unknown:
        return
    names = ", ".join(chemical_symbols[z] for z in unknown)
    first = ", ".join(str(i) for i, z in enumerate(atoms.numbers) if z in unknown)
    raise UnsupportedError(
        f"This potential does not know {names}.",
        where=f"{atoms.get_chemical_formula()}, atoms {first[:60]}",
        fix="use a potential trained on them; this one knows "
        + ", ".join(chemical_symbols[z] for z in sorted(elements)),
    )
