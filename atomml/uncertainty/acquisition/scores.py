"""One number per structure: how much a label would be worth, each structure taken by itself.

BALD is the mutual information I[y; θ] = H[p(y)] − E_θ H[p(y|θ)] of a label and the parameters. The mixture of the
members' Gaussians N(μ_m, S_m) is replaced by the Gaussian of the same mean and covariance S̄ + C, C = (1/M)
Σ_m (μ_m − μ̄)(μ_m − μ̄)ᵀ, which has the largest entropy of all with these:

    BALD = ½ [log det(S̄ + C) − mean_m log det S_m]
         = ½ log det(I + S̄^(−1/2) C S̄^(−1/2)) + ½ [log det S̄ − mean_m log det S_m],

an upper bound of the information in nats (which itself is at most log M), never negative. It does not change with
rotation if the S_m turn with the structure. All deviations of members are those of the committee (1/M).

Source: N. Houlsby, F. Huszár, Z. Ghahramani, M. Lengyel, Bayesian active learning for classification and preference
learning, arXiv 1112.5745 (2011), for the quantity.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from atomml.errors import ConfigError
from atomml.shapes import Float64, Int64, ndarray
from atomml.uncertainty.acquisition.noise import NoiseFloor, energy_disagreement, force_disagreement
from atomml.uncertainty.acquisition.predictions import WHERE, MemberPredictions

__all__ = [
    "Aggregation",
    "aggregate_atoms",
    "bald_energy",
    "bald_force",
    "bald_joint",
    "energy_std_per_atom",
    "force_std",
    "half_log_det",
    "joint_disagreement",
]

Aggregation = Literal["max", "mean", "sum", "top_k"]


def energy_std_per_atom(predictions: MemberPredictions) -> Float64[ndarray, " graphs"]:
    """Standard deviation of the members' energies, by the number of atoms, eV/atom."""
    return predictions.energy.std(axis=0) / predictions.n_atoms


def force_std(
    predictions: MemberPredictions, aggregate: Aggregation, *, top: int = 5
) -> Float64[ndarray, " graphs"]:
    """Standard deviation of the members' forces √(tr C_i / 3), eV/Å, aggregated over the atoms.

    "max" finds one atom in an unknown environment; "mean" hides it among the others of a large structure.
    """
    per_atom = np.sqrt(predictions.forces.var(axis=0).mean(axis=-1))
    return aggregate_atoms(per_atom, predictions.n_atoms, aggregate, top=top)


def bald_energy(
    predictions: MemberPredictions, floor: NoiseFloor | None = None
) -> Float64[ndarray, " graphs"]:
    """Information in the energy, ½ [log σ²_total − mean_m log σ²_m], nats.

    Raises:
        ConfigError: neither heads nor a floor give any noise.
        DataError: the noise of an energy is zero.
    """
    deviations, noise_term = energy_disagreement(predictions, floor)
    return half_log_det(deviations @ deviations.swapaxes(1, 2)) + noise_term


def bald_force(
    predictions: MemberPredictions,
    aggregate: Aggregation,
    floor: NoiseFloor | None = None,
    *,
    top: int = 5,
) -> Float64[ndarray, " graphs"]:
    """Information in the force of each atom by itself, nats, aggregated over the atoms.

    "sum" takes the atoms as independent, counts what they share more than once and grows with size: `bald_joint`
    does not.

    Raises:
        ConfigError: neither heads nor a floor give any noise.
        DataError: the noise of a force is not positive definite.
    """
    deviations, noise_term = force_disagreement(predictions, floor)
    per_atom = half_log_det(deviations @ deviations.swapaxes(1, 2)) + noise_term
    return aggregate_atoms(per_atom, predictions.n_atoms, aggregate, top=top)


def bald_joint(
    predictions: MemberPredictions, floor: NoiseFloor | None = None
) -> Float64[ndarray, " graphs"]:
    """Information in the energy and all forces of a structure together, nats.

    The noise of the energy and of each atom are independent, the disagreement is not: with `joint_disagreement` G,
    log det(I + S̄^(−1/2) C S̄^(−1/2)) = log det(I_M + G) exactly, at a cost linear in the number of atoms.

    Raises:
        ConfigError: neither heads nor a floor give any noise.
        DataError: noise that is not positive definite.
    """
    grams, noise_term = joint_disagreement(predictions, floor)
    return half_log_det(grams) + noise_term


def joint_disagreement(
    predictions: MemberPredictions, floor: NoiseFloor | None = None
) -> tuple[Float64[ndarray, "graphs members members"], Float64[ndarray, " graphs"]]:
    """Gram matrices of the disagreement, and the disagreement about the noise.

    Returns:
        G = Aᵀ S̄⁻¹ A for each structure, A [1 + 3N, M] the members' centred energy and forces by √M; and
        ½ [log det S̄ − mean_m log det S_m].

    Raises:
        ConfigError: neither heads nor a floor give any noise.
        DataError: noise that is not positive definite.
    """
    energies = energy_disagreement(predictions, floor)
    forces = force_disagreement(predictions, floor)
    grams = energies.deviations.swapaxes(1, 2) @ energies.deviations
    for row, atoms in enumerate(np.split(forces.deviations, predictions.starts[1:])):
        flat = atoms.reshape(-1, predictions.members)
        grams[row] += flat.T @ flat
    return grams, energies.noise_term + np.add.reduceat(forces.noise_term, predictions.starts)


def half_log_det(gram: Float64[ndarray, "graphs k k"]) -> Float64[ndarray, " graphs"]:
    """½ log det(I + G) of positive semidefinite G, exact also where G is tiny."""
    return np.asarray(0.5 * np.log1p(np.maximum(np.linalg.eigvalsh(gram), 0.0)).sum(axis=-1))


def aggregate_atoms(
    values: Float64[ndarray, " atoms"],
    n_atoms: Int64[ndarray, " graphs"],
    aggregate: Aggregation,
    *,
    top: int = 5,
) -> Float64[ndarray, " graphs"]:
    """One value per structure from one per atom.

    Args:
        values: of the atoms of all structures, one after the other.
        n_atoms: atoms of each structure, at least one.
        aggregate: "max", "mean", "sum", or "top_k": the mean of the ``top`` largest.
        top: used by "top_k" only; structures with fewer atoms take the mean of all.

    Raises:
        ConfigError: another word, or ``top`` below 1.
    """
    starts = np.cumsum(n_atoms) - n_atoms
    if aggregate == "max":
        return np.maximum.reduceat(values, starts)
    if aggregate == "sum":
        return np.add.reduceat(values, starts)
    if aggregate == "mean":
        return np.add.reduceat(values, starts) / n_atoms
    if aggregate != "top_k" or top < 1:
        raise ConfigError(
            f"Atoms cannot be aggregated by {aggregate!r} of the {top} largest.",
            where=WHERE,
            fix="choose max, mean, sum, or top_k with at least one atom",
        )
    descending = values[np.lexsort((-values, np.repeat(np.arange(len(n_atoms)), n_atoms)))]
    rank = np.arange(len(values)) - np.repeat(starts, n_atoms)
    return np.add.reduceat(np.where(rank < top, descending, 0.0), starts) / np.minimum(n_atoms, top)
