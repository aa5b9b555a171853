"""Deviations of a potential with an uncertainty: finite, not negative, and turning with the structure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from atomml.potentials.prediction import Prediction
from atomml.simulate.check_report import CheckRow, larger, limited
from atomml.simulate.deviations import force_std_norm
from atomml.simulate.interface import PotentialLike
from atomml.uncertainty.posterior import LastLayer

__all__ = ["check_deviations"]

Array = NDArray[np.float64]
_LIMIT = 1e-6  # looser than for forces: the factor of a last-layer posterior may be ill-conditioned


def check_deviations(potential: PotentialLike, structures: Sequence[Atoms]) -> list[CheckRow]:
    """Rows about ``energy_std``, ``energies_std``, ``forces_std``, ``forces_cov`` and ``stress_std``.

    That the mean force is −∇ of the mean energy is tested with the other derivatives.
    """
    found = potential.predict(structures)
    rows = [
        _positive(found),
        _changed("deviations turn with the structure", potential, structures, found, _turned),
        _changed("deviations follow the atoms", potential, structures, found, _relabelled),
        _isolated(potential),
    ]
    if isinstance(getattr(potential, "posterior", None), LastLayer):
        rows.append(_estimate(potential, structures, found))
    return rows


def _positive(predictions: Sequence[Prediction]) -> CheckRow:
    bad, count = 0, 0
    for p in predictions:
        covariances = _covariances(p)
        floor = -1e-9 * np.trace(covariances, axis1=1, axis2=2)
        semidefinite = np.linalg.eigvalsh(np.nan_to_num(covariances)).min(axis=1) >= floor
        values = [np.array([p.energy_std]), p.energies_std, p.forces_std, p.stress_std]
        given = np.concatenate([np.ravel(x) for x in values if x is not None])
        bad += int((~(np.isfinite(given) & (given > 0))).sum() + (~semidefinite).sum())
        count += len(given) + len(covariances)
    how = f"of {count} deviations and covariances, those that are not finite or not positive"
    return limited("deviations are finite and positive", float(bad), 0.0, "", how)


def _changed(
    name: str,
    potential: PotentialLike,
    structures: Sequence[Atoms],
    before: Sequence[Prediction],
    change: Callable[[Atoms, int], tuple[Atoms, NDArray[np.int64], Array]],
) -> CheckRow:
    """Largest change of σ_E and of the covariances Σ' against Q Σ Qᵀ, relative to the largest Σ."""
    worst = 0.0
    for k, (atoms, a) in enumerate(zip(structures, before, strict=True)):
        moved, order, q = change(atoms, k)
        b = potential.predict([moved])[0]
        expected = q @ _covariances(a)[order] @ q.T
        error = np.abs(_covariances(b) - expected).max() / np.abs(expected).max()
        energy = abs(_energy_std(b) - _energy_std(a)) / _energy_std(a)
        worst = larger(worst, larger(float(error), energy))
    return limited(name, worst, _LIMIT, "relative", "largest change of σ of the energy and Σ of the forces")


def _turned(atoms: Atoms, seed: int) -> tuple[Atoms, NDArray[np.int64], Array]:
    """A rotated and reflected copy, the order of its atoms and the matrix."""
    q = -Rotation.random(random_state=seed).as_matrix()
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ q.T, scale_atoms=False)
    turned.positions = atoms.positions @ q.T
    return turned, np.arange(len(atoms)), q


def _relabelled(atoms: Atoms, seed: int) -> tuple[Atoms, NDArray[np.int64], Array]:
    order = np.random.default_rng(seed).permutation(len(atoms))
    return atoms[order], order, np.eye(3)


def _isolated(potential: PotentialLike) -> CheckRow:
    alone = [Atoms(numbers=[z], positions=[[0.0, 0.0, 0.0]]) for z in potential.elements]
    bad = [
        chemical_symbols[z]
        for z, p in zip(potential.elements, potential.predict(alone), strict=True)
        if not (np.isfinite(_energy_std(p)) and np.isfinite(_covariances(p)).all())
    ]
    names = f"not so for {', '.join(bad)}" if bad else f"{len(alone)} elements"
    return limited("deviations of isolated atoms are finite", float(len(bad)), 0.0, "elements", names)


def _estimate(
    potential: PotentialLike, structures: Sequence[Atoms], estimated: Sequence[Prediction]
) -> CheckRow:
    """The estimate of the deviations of forces against derived ones."""
    derived = cast(Any, potential).predict(structures, stress=False, exact=True)
    ratio = np.concatenate([_norms(a) / _norms(b) for a, b in zip(estimated, derived, strict=True)])
    low, median, high = np.quantile(ratio, (0.1, 0.5, 0.9)).tolist()
    comment = f"median of the atoms, 10 and 90 % quantiles {low:.2g} and {high:.2g}; "
    comment += "Calculator(potential, exact=True) derives them"
    return CheckRow("estimated over derived deviation of a force", median, None, "", None, comment)


def _covariances(p: Prediction) -> Array:
    return np.full((len(p.energies), 3, 3), np.nan) if p.forces_cov is None else p.forces_cov


def _energy_std(p: Prediction) -> float:
    return float("nan") if p.energy_std is None else p.energy_std


def _norms(p: Prediction) -> Array:
    return np.full(len(p.energies), np.nan) if p.forces_std is None else force_std_norm(p.forces_std)
