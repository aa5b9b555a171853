"""Phonons of a crystal by finite displacements, with phonopy (A. Togo et al., J. Phys.: Condens. Matter 35, 353001).

The crystal is brought to rest first: at a slope the second derivatives are not those of a minimum, and soft modes
come out imaginary. The field of polar optical modes is left out (no Born charges): LO and TO meet at Γ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from ase import Atoms
from ase.cell import Cell
from numpy.typing import NDArray

from atomml._optional import require
from atomml.errors import ConfigError, SimulationError
from atomml.shapes import Float64, ndarray
from atomml.simulate.properties.model import (
    AnyModel,
    Model,
    at_rest,
    model_of,
    refuse_without_volume,
    residual,
)

__all__ = ["ImaginaryMode", "Phonons", "phonons"]

SYMPREC = 1e-4
PATH_POINTS = 200
THERMAL_CUTOFF = 0.01  # THz
MOST_LISTED = 20


@dataclass(frozen=True)
class ImaginaryMode:
    """A mode that lowers the energy: fractional q, its lowest frequency in THz (negative for i|f|), label or ""."""

    q: tuple[float, float, float]
    frequency: float
    label: str


@dataclass(frozen=True)
class Phonons:
    """Frequencies in THz; imaginary ones are negative.

    Attributes:
        formula: of the primitive cell.
        supercell: repeats of the given cell.
        displacements: how many structures were computed.
        q: fractional points of the path [points, 3], of the primitive cell.
        distance: along the path [points].
        frequencies: [points, modes].
        labels: names of special points and where they are, (distance, name).
        dos_frequency, dos: density of states, states/THz and primitive cell.
        temperatures: K [temperatures].
        free_energy: kJ/mol, entropy and heat_capacity: J/K/mol; per mole of primitive cells, harmonic.
        gamma_acoustic: largest |f| of the three acoustic modes at Γ; raw: before the sum rule was imposed.
        imaginary: below −tolerance, on the path and the mesh, lowest first.
        fmax: largest force at rest, eV/Å.
        cell: of the crystal at rest, Å.
        phonopy: the object, for more.
    """

    formula: str
    supercell: tuple[int, int, int]
    displacements: int
    q: Float64[ndarray, "points 3"]
    distance: Float64[ndarray, " points"]
    frequencies: Float64[ndarray, "points modes"]
    labels: tuple[tuple[float, str], ...]
    dos_frequency: Float64[ndarray, " bins"]
    dos: Float64[ndarray, " bins"]
    temperatures: Float64[ndarray, " temperatures"]
    free_energy: Float64[ndarray, " temperatures"]
    entropy: Float64[ndarray, " temperatures"]
    heat_capacity: Float64[ndarray, " temperatures"]
    gamma_acoustic: float
    gamma_acoustic_raw: float
    imaginary: tuple[ImaginaryMode, ...]
    fmax: float
    cell: Float64[ndarray, "3 3"]
    phonopy: Any

    @property
    def summary(self) -> dict[str, Any]:
        """JSON values with units in their names; at most 20 imaginary modes."""
        thermal = (self.temperatures, self.free_energy, self.entropy, self.heat_capacity)
        names = ("temperature_K", "free_energy_kJ_mol", "entropy_J_K_mol", "heat_capacity_J_K_mol")
        return {
            "formula": self.formula,
            "supercell": list(self.supercell),
            "displacements": self.displacements,
            "fmax_eV_A": self.fmax,
            "highest_THz": float(self.frequencies.max()),
            "lowest_THz": float(self.frequencies.min()),
            "gamma_acoustic_THz": self.gamma_acoustic,
            "gamma_acoustic_before_sum_rule_THz": self.gamma_acoustic_raw,
            "n_imaginary_q": len(self.imaginary),
            "imaginary": [
                {"q": list(m.q), "frequency_THz": m.frequency, "label": m.label}
                for m in self.imaginary[:MOST_LISTED]
            ],
            "special_points": [{"distance": x, "label": name} for x, name in self.labels],
            "thermal": [dict(zip(names, map(float, row), strict=True)) for row in zip(*thermal, strict=True)],
            "dos": {"frequency_THz": self.dos_frequency.tolist(), "states_per_THz": self.dos.tolist()},
            "cell_A": self.cell.tolist(),
        }

    @property
    def columns(self) -> dict[str, NDArray[np.float64]]:
        """The table of the path."""
        table = {"distance": self.distance} | {f"q_{n}": self.q[:, k] for k, n in enumerate("abc")}
        return table | {f"mode_{k + 1}_THz": f for k, f in enumerate(self.frequencies.T)}


def phonons(
    atoms: Atoms,
    model: AnyModel | Model,
    *,
    supercell: Sequence[int] | None = None,
    min_length: float = 10.0,
    displacement: float = 0.01,
    mesh: int = 20,
    temperatures: Sequence[float] = (100.0, 200.0, 300.0, 400.0, 500.0, 600.0),
    tolerance: float = 0.05,
    relax: bool = True,
    fmax: float = 1e-5,
    steps: int = 2000,
) -> Phonons:
    """Bring a crystal to rest, displace its atoms, and diagonalise.

    Args:
        atoms: the crystal, best its primitive cell.
        model: see `model_of`; in float64.
        supercell: repeats along the three lattice vectors; by default so many that opposite faces are ``min_length``
            Å apart.
        min_length: Å.
        displacement: Å.
        mesh: points along each reciprocal vector for the density of states and thermal properties.
        temperatures: K.
        tolerance: frequencies below −tolerance THz count as imaginary.
        relax: begin with a relaxation of positions and cell; otherwise the start must be at rest.
        fmax: limit of the relaxation in eV/Å.
        steps: most steps of it.

    Raises:
        UnsupportedError: phonopy is not installed.
        DataError: not periodic.
        ConfigError: a model in float32, an impossible supercell, displacement, mesh or temperature.
        SimulationError: the crystal is not at rest.
    """
    require("phonopy", extra="props")
    refuse_without_volume(atoms, "Phonons")
    model = model_of(model)
    _refuse_settings(model, supercell, displacement, mesh, temperatures)
    start = at_rest(atoms, model, moving="cell", fmax=fmax, steps=steps) if relax else atoms
    force = residual(start, model, stress=False)[0]
    if force > 10 * fmax:
        raise SimulationError(
            f"The crystal is not at rest: a force of {force:.2g} eV/Å.",
            where=start.get_chemical_formula(),
            fix="let it relax first (do not give --no-relax)",
        )
    repeats = tuple(int(n) for n in (supercell or np.ceil(min_length / _widths(start))))
    engine = _force_constants(start, model, repeats, displacement)
    raw = _acoustic(engine)
    engine.symmetrize_force_constants(show_drift=False)
    q, distance, labels = _path(engine)
    frequencies = _frequencies(engine, q)
    mesh_q, mesh_f = _mesh(engine, mesh)
    thermal = _thermal(engine, temperatures)
    dos = engine.get_total_dos_dict()
    return Phonons(
        formula=_ase(engine.primitive).get_chemical_formula(),
        supercell=(repeats[0], repeats[1], repeats[2]),
        displacements=len(engine.supercells_with_displacements),
        q=q,
        distance=distance,
        frequencies=frequencies,
        labels=labels,
        dos_frequency=np.array(dos["frequency_points"]),
        dos=np.array(dos["total_dos"]),
        temperatures=thermal[0],
        free_energy=thermal[1],
        entropy=thermal[2],
        heat_capacity=thermal[3],
        gamma_acoustic=_acoustic(engine),
        gamma_acoustic_raw=raw,
        imaginary=_imaginary([(q, frequencies), (mesh_q, mesh_f)], labels, distance, tolerance),
        fmax=force,
        cell=np.array(start.cell.array),
        phonopy=engine,
    )


def _refuse_settings(
    model: Model,
    supercell: Sequence[int] | None,
    displacement: float,
    mesh: int,
    temperatures: Sequence[float],
) -> None:
    if model.dtype != "float64":
        raise ConfigError(
            "Phonons need a model in float64: rounding would drown the forces of small displacements.",
            fix='load it with dtype="float64" (--dtype float64)',
        )
    if supercell is not None and (len(supercell) != 3 or min(supercell) < 1):
        raise ConfigError(f"A supercell is three positive numbers, not {list(supercell)}.", where="supercell")
    if not 0 < displacement < 0.5 or mesh < 1 or any(t < 0 for t in temperatures):
        raise ConfigError(
            f"Impossible: displacement {displacement:g} Å, mesh {mesh}, temperatures {list(temperatures)} K.",
            fix="a displacement of 0.01 Å, a mesh of 20 and temperatures from 0 K are usual",
        )


def _force_constants(atoms: Atoms, model: Model, repeats: Sequence[int], displacement: float) -> Any:
    """A Phonopy object with force constants; all displaced supercells are computed together."""
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    unit = PhonopyAtoms(
        numbers=atoms.numbers, cell=atoms.cell.array, scaled_positions=atoms.get_scaled_positions()
    )
    engine = Phonopy(unit, np.diag(repeats), symprec=SYMPREC)
    engine.generate_displacements(distance=displacement)
    found = model([_ase(cell) for cell in engine.supercells_with_displacements])
    engine.produce_force_constants(np.array([f.forces for f in found]), show_drift=False)
    return engine


def _ase(cell: Any) -> Atoms:
    return Atoms(cell.numbers, scaled_positions=cell.scaled_positions, cell=cell.cell, pbc=True)


def _widths(atoms: Atoms) -> NDArray[np.float64]:
    """Distance between opposite faces, Å."""
    return 1 / np.linalg.norm(np.linalg.inv(atoms.cell.array), axis=0)


def _path(
    engine: Any,
) -> tuple[Float64[ndarray, "points 3"], Float64[ndarray, " points"], tuple[tuple[float, str], ...]]:
    """Points along the lines between the special points of the lattice, as ASE names them."""
    path = Cell(engine.primitive.cell).bandpath(npoints=PATH_POINTS, eps=1e-3)
    distance, at, names = path.get_linear_kpoint_axis()
    return np.array(path.kpts), np.array(distance), tuple(zip(map(float, at), names, strict=True))


def _frequencies(engine: Any, q: Float64[ndarray, "points 3"]) -> Float64[ndarray, "points modes"]:
    engine.run_qpoints(q)
    return np.array(engine.get_qpoints_dict()["frequencies"])


def _acoustic(engine: Any) -> float:
    """Largest of the three smallest |f| at Γ."""
    return float(np.sort(np.abs(_frequencies(engine, np.zeros((1, 3)))[0]))[2])


def _mesh(engine: Any, mesh: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    engine.run_mesh([mesh] * 3, is_gamma_center=True)
    found = engine.get_mesh_dict()
    engine.run_total_dos()
    return np.array(found["qpoints"]), np.array(found["frequencies"])


def _thermal(engine: Any, temperatures: Sequence[float]) -> list[NDArray[np.float64]]:
    # the acoustic modes at Γ, zero but for rounding, and imaginary ones have no thermal properties
    engine.run_thermal_properties(
        temperatures=np.array(temperatures, dtype=np.float64), cutoff_frequency=THERMAL_CUTOFF
    )
    found = engine.get_thermal_properties_dict()
    return [np.array(found[k]) for k in ("temperatures", "free_energy", "entropy", "heat_capacity")]


def _imaginary(
    sets: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]],
    labels: Sequence[tuple[float, str]],
    distance: Float64[ndarray, " points"],
    tolerance: float,
) -> tuple[ImaginaryMode, ...]:
    """Points with a frequency below −tolerance, each once; special points of the path have their label."""
    names = {int(np.abs(distance - x).argmin()): name for x, name in labels}
    found: dict[tuple[float, ...], ImaginaryMode] = {}
    for kind, (q, frequencies) in enumerate(sets):
        for k in np.flatnonzero(frequencies.min(axis=1) < -tolerance).tolist():
            point = cast(tuple[float, float, float], tuple(np.round(q[k], 6).tolist()))
            mode = ImaginaryMode(point, float(frequencies[k].min()), names.get(k, "") if kind == 0 else "")
            found.setdefault(point, mode)
    return tuple(sorted(found.values(), key=lambda mode: mode.frequency))
