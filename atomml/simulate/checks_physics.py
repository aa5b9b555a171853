"""Exact properties of an energy function: derivatives, symmetries, extensivity, locality."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from atomml.potentials.prediction import Prediction
from atomml.simulate.calculator import has_volume
from atomml.simulate.check_report import CheckRow, larger, limited
from atomml.simulate.check_structures import cluster_of
from atomml.simulate.interface import PotentialLike

__all__ = [
    "check_consistency",
    "check_extensivity",
    "check_forces",
    "check_fragments",
    "check_permutation",
    "check_reflection",
    "check_rotation",
    "check_stress",
    "check_translation",
]

Array = NDArray[np.float64]
_DIRECTIONS = 6
_FOUR_POINTS = ((-2.0, 1.0), (-1.0, -8.0), (1.0, 8.0), (2.0, -1.0))


def check_consistency(potential: PotentialLike, structures: Sequence[Atoms]) -> list[CheckRow]:
    """Σ energies = energy, equal results when asked twice, and forces that are a gradient."""
    worst, repeat = 0.0, 0.0
    for atoms in structures:
        first, second = (_predict(potential, [atoms])[0] for _ in range(2))
        worst = larger(worst, abs(float(first.energies.sum()) - first.energy) / max(abs(first.energy), 1.0))
        repeat = larger(repeat, float(np.abs(_forces(first) - _forces(second)).max()))
    conservative = CheckRow(
        "conservative",
        float(potential.conservative),
        None,
        "",
        bool(potential.conservative),
        "forces are the gradient of the energy"
        if potential.conservative
        else "not conservative: forces are predicted directly, so energy is not conserved in dynamics",
    )
    return [
        conservative,
        limited("energies sum to energy", worst, 1e-12, "relative"),
        limited("same result twice", repeat, 0.0, "eV/Å", "largest force difference"),
    ]


def check_forces(potential: PotentialLike, structures: Sequence[Atoms], seed: int = 0) -> CheckRow:
    """Forces against dE/dt along random directions d of all atoms, F·d = −dE/dt, four-point differences."""
    worst, rng = 0.0, np.random.default_rng(seed)
    for atoms in structures:
        forces = _forces(_predict(potential, [atoms])[0])
        scale = _rms(forces)
        for _ in range(_DIRECTIONS):
            d = rng.normal(size=forces.shape)
            d /= np.linalg.norm(d)
            slope = _derivative(potential, partial(_along, atoms, d), 2e-3)
            worst = larger(worst, abs(slope + float((forces * d).sum())) / scale)
    how = f"worst of {_DIRECTIONS} directions in {len(structures)} structures, over the rms force"
    return limited("forces = −dE/dr", worst, 1e-6, "relative", _named(potential, how))


def check_stress(potential: PotentialLike, structures: Sequence[Atoms]) -> CheckRow:
    """σ = (1/V) dE/dε for the six strains, four-point differences; relative to the largest component."""
    name, worst = "stress = dE/dε / V", 0.0
    periodic = [atoms for atoms in structures if has_volume(atoms)]
    if not periodic:
        return _not_applicable(name, "no structure has a volume")
    for atoms in periodic:
        given = _predict(potential, [atoms], stress=True)[0].stress
        if given is None:
            return CheckRow(
                name, np.nan, None, "relative", None, _named(potential, "the model has no stress")
            )
        numeric = np.empty(6)
        for k in range(6):
            strain = voigt_6_to_full_3x3_stress(np.eye(6)[k] * (1.0 if k < 3 else 0.5))
            slope = _derivative(potential, partial(_strained, atoms, strain), 5e-4)
            numeric[k] = slope / atoms.get_volume()
        worst = larger(worst, float(np.abs(numeric - given).max() / max(np.abs(given).max(), 1e-4)))
    return limited(name, worst, 1e-6, "relative", f"worst of six strains in {len(periodic)} structures")


def check_rotation(
    potential: PotentialLike, structures: Sequence[Atoms], limit: float, label: str
) -> CheckRow:
    """E(Qr) = E(r), F(Qr) = Q F(r), σ(Qr) = Q σ Qᵀ for three random rotations."""
    matrices = list(Rotation.random(3, random_state=1).as_matrix())
    return _covariance(f"rotation ({label})", potential, structures, matrices, limit)


def check_reflection(
    potential: PotentialLike, structures: Sequence[Atoms], limit: float, label: str
) -> CheckRow:
    """The same for the inversion and for a mirror in a random plane."""
    n = Rotation.random(random_state=2).as_matrix()[0]
    matrices = [-np.eye(3), np.eye(3) - 2.0 * np.outer(n, n)]
    return _covariance(f"reflection ({label})", potential, structures, matrices, limit)


def check_permutation(potential: PotentialLike, structures: Sequence[Atoms]) -> CheckRow:
    """Relabelling atoms relabels energies and forces and changes nothing else."""
    rng, worst = np.random.default_rng(3), 0.0
    for atoms in structures:
        order = rng.permutation(len(atoms))
        a, b = _predict(potential, [atoms, atoms[order]])
        worst = larger(worst, _difference(a, b, _forces(a)[order]))
    return limited("permutation", worst, 1e-9, "relative", "largest change of energy or forces")


def check_translation(potential: PotentialLike, structures: Sequence[Atoms]) -> CheckRow:
    """A rigid shift, and single atoms moved by lattice vectors, change nothing."""
    rng, worst = np.random.default_rng(4), 0.0
    for atoms in structures:
        moved = _moved(atoms, rng.uniform(-20, 20, 3))
        images = rng.integers(-2, 3, (len(atoms), 3)) * np.asarray(atoms.pbc)
        moved.positions += images @ atoms.cell.array
        a, b = _predict(potential, [atoms, moved])
        worst = larger(worst, _difference(a, b, _forces(a)))
    return limited("translation and wrapping", worst, 1e-9, "relative", "largest change of energy or forces")


def check_extensivity(potential: PotentialLike, structures: Sequence[Atoms]) -> CheckRow:
    """E(2×2×2) = 8 E."""
    name = "E(2×2×2) = 8 E"
    periodic = [atoms for atoms in structures if has_volume(atoms)]
    if not periodic:
        return _not_applicable(name, "no structure has a volume")
    smallest = min(periodic, key=len)
    a, b = _predict(potential, [smallest])[0], _predict(potential, [smallest * (2, 2, 2)])[0]
    error = abs(b.energy - 8 * a.energy)
    per_atom = 1e6 * error / (8 * len(smallest))
    return limited(name, error / abs(b.energy), 1e-9, "relative", f"{per_atom:.2g} µeV/atom")


def check_fragments(potential: PotentialLike, structures: Sequence[Atoms]) -> CheckRow:
    """The energy of two pieces further apart than the cutoff is the sum of their energies."""
    worst, rng = 0.0, np.random.default_rng(5)
    for atoms in structures:
        piece = cluster_of(atoms)
        other = _moved(piece, rng.normal(scale=0.05, size=(len(piece), 3)))
        extent = float(np.ptp(piece.positions[:, 0])) + potential.cutoff + 1.0
        both = piece + _moved(other, np.array([extent, 0.0, 0.0]))
        a, b, ab = (_predict(potential, [s])[0].energy for s in (piece, other, both))
        worst = larger(worst, abs(ab - a - b) / max(abs(ab), 1.0))
    return limited("separate pieces add up", worst, 1e-9, "relative", "two clusters beyond the cutoff")


def _covariance(
    name: str, potential: PotentialLike, structures: Sequence[Atoms], matrices: Sequence[Array], limit: float
) -> CheckRow:
    worst = 0.0
    for atoms in structures:
        before = _predict(potential, [atoms], stress=has_volume(atoms))[0]
        for q in matrices:
            turned = atoms.copy()
            turned.set_cell(atoms.cell.array @ q.T, scale_atoms=False)
            turned.positions = atoms.positions @ q.T
            after = _predict(potential, [turned], stress=has_volume(atoms))[0]
            worst = larger(worst, _difference(before, after, _forces(before) @ q.T))
            if before.stress is not None and after.stress is not None:
                expected = full_3x3_to_voigt_6_stress(q @ voigt_6_to_full_3x3_stress(before.stress) @ q.T)
                scale = max(float(np.abs(expected).max()), 1e-3)
                worst = larger(worst, float(np.abs(after.stress - expected).max()) / scale)
    return limited(name, worst, limit, "relative", "energy, forces and stress")


def _difference(a: Prediction, b: Prediction, expected_forces: Array) -> float:
    """Larger of |ΔE|/N in eV and |ΔF| over the rms force (at least 1e-2 eV/Å)."""
    energy = abs(a.energy - b.energy) / len(a.energies)
    change = float(np.abs(_forces(b) - expected_forces).max())
    return larger(energy, change / _rms(expected_forces))


def _derivative(potential: PotentialLike, path: Callable[[float], Atoms], h: float) -> float:
    """dE/dt at t = 0 from four points: (E(−2h) − 8E(−h) + 8E(h) − E(2h)) / 12h."""
    energies = _predict(potential, [path(k * h) for k, _ in _FOUR_POINTS], forces=False)
    total = sum(w * p.energy for (_, w), p in zip(_FOUR_POINTS, energies, strict=True))
    return float(total) / (12.0 * h)


def _predict(
    potential: PotentialLike, structures: Sequence[Atoms], *, forces: bool = True, stress: bool = False
) -> list[Prediction]:
    return potential.predict(structures, forces=forces, stress=stress)


def _moved(atoms: Atoms, shift: Array) -> Atoms:
    moved = atoms.copy()
    moved.positions += shift
    return moved


def _along(atoms: Atoms, direction: Array, t: float) -> Atoms:
    return _moved(atoms, t * direction)


def _strained(atoms: Atoms, strain: Array, t: float) -> Atoms:
    strained = atoms.copy()
    strained.set_cell(atoms.cell.array @ (np.eye(3) + t * strain), scale_atoms=True)
    return strained


def _forces(prediction: Prediction) -> Array:
    return np.zeros((0, 3)) if prediction.forces is None else prediction.forces


def _rms(forces: Array) -> float:
    return max(float(np.sqrt((forces**2).sum(axis=1).mean())), 1e-2)


def _named(potential: PotentialLike, comment: str) -> str:
    return comment if potential.conservative else f"not conservative; {comment}"


def _not_applicable(name: str, why: str) -> CheckRow:
    return CheckRow(name, np.nan, None, "", None, f"not applicable: {why}")
