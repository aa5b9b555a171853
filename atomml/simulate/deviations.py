"""Deviations in simulations: their names, that of a force as one number, and what is said when there are none."""

from __future__ import annotations

from typing import cast

import numpy as np
from ase.calculators.calculator import PropertyNotImplementedError

from atomml.errors import ConfigError, UnsupportedError
from atomml.shapes import Float, Float64, ndarray
from atomml.simulate.interface import PotentialLike
from atomml.uncertainty.posterior import LastLayer, PointEstimate

__all__ = [
    "DEVIATIONS",
    "MEMBERS",
    "MissingDeviationError",
    "choose_deviations",
    "fitted_exact",
    "force_std_norm",
    "mean_potential",
    "missing_deviation",
]

PARTS = ("energy_std_epistemic", "energy_std_aleatoric")
DEVIATIONS = ("energy_std", *PARTS, "energies_std", "forces_std", "forces_cov", "stress_std")
MEMBERS = ("energy_members", "forces_members", "stress_members")
HOW = (
    "train with model.noise, model.heads or an uncertainty method, or join members into an ensemble; see the "
)
HOW += "guide on uncertainty"


class MissingDeviationError(UnsupportedError, PropertyNotImplementedError):
    """A deviation that this model, or this calculator, does not give; ASE's error too, as ASE expects one."""


def missing_deviation(name: str, *, uncertain: bool) -> MissingDeviationError:
    """The error for asking for ``name`` in vain; ``uncertain``: the potential itself has deviations."""
    if not uncertain:
        return MissingDeviationError(f"This potential has no uncertainty, so no {name}.", fix=HOW)
    option = "members=True" if name in MEMBERS else "deviations=True"
    return MissingDeviationError(
        f"This calculator does not give {name}.",
        fix=f"make it by Calculator(potential, {option}); a model with direct forces has no stress",
    )


def force_std_norm(forces_std: Float[ndarray, "atoms 3"]) -> Float64[ndarray, " atoms"]:
    """σ_F = √(tr Σ / 3) of each atom in eV/Å, from √(diag Σ): one number that no rotation changes."""
    return np.sqrt(np.square(forces_std, dtype=np.float64).mean(axis=1))


def mean_potential(potential: PotentialLike) -> PotentialLike:
    """What gives the mean prediction most cheaply: the network alone where one set of weights gives the mean.

    The mean of a deep ensemble, or of samples of weights, is that of all members: it is returned as it is.
    """
    posterior = getattr(potential, "posterior", None)
    if isinstance(posterior, LastLayer | PointEstimate):
        return cast(PotentialLike, posterior.potential)
    return potential


def fitted_exact(potential: PotentialLike) -> bool:
    """Whether the calibration of the potential was fitted to derived deviations of forces, not to estimated ones."""
    calibration = getattr(potential, "calibration", None)
    return calibration is not None and bool(calibration.data.get("exact", False))


def choose_deviations(
    potential: PotentialLike, wanted: bool | None, *, exact: bool, members: bool
) -> tuple[str, ...]:
    """Names of the deviations that a calculator with these options gives.

    Raises:
        UnsupportedError: deviations or members are asked for and the potential has none.
        ConfigError: ``exact`` or ``members`` with ``wanted=False``.
    """
    found = tuple(getattr(potential, "deviations", ()))
    if wanted is False:
        if exact or members:
            raise ConfigError(
                "exact and members are about deviations, which deviations=False leaves out.",
                where="Calculator",
                fix="give one or the other",
            )
        return ()
    if not found and (wanted or exact or members):
        raise UnsupportedError("This potential has no uncertainty.", where="Calculator", fix=HOW)
    posterior = getattr(potential, "posterior", None)
    if members and isinstance(posterior, PointEstimate):
        raise UnsupportedError(
            "This potential has one set of weights and one head: there are no members.",
            where="Calculator",
            fix="leave members out, or train with model.heads or an ensemble",
        )
    if posterior is not None:
        found = tuple(name for name in DEVIATIONS if name in (*found, *PARTS))
    stress = "stress_std" in found
    return found + (MEMBERS[: 3 if stress else 2] if members else ())
