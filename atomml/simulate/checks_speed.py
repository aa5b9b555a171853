"""Precision and speed: float32 against float64, time per atom and step."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms

from atomml.graph.neighbors import neighbor_list
from atomml.simulate.calculator import Calculator, has_volume
from atomml.simulate.check_report import CheckRow, Curve, larger
from atomml.simulate.check_structures import supercell
from atomml.simulate.interface import PotentialLike

__all__ = ["check_precision", "check_speed"]

_SIZES = (8, 32, 64, 128, 256)
_REPEATS = 3


def check_precision(
    single: PotentialLike, double: PotentialLike, structures: Sequence[Atoms]
) -> list[CheckRow]:
    """Largest difference of energies and forces between float32 and float64 weights and arithmetic."""
    energy, force = 0.0, 0.0
    for atoms in structures:
        a = single.predict([atoms], forces=True, stress=False)[0]
        b = double.predict([atoms], forces=True, stress=False)[0]
        energy = larger(energy, 1000 * abs(a.energy - b.energy) / len(atoms))
        if a.forces is not None and b.forces is not None:
            force = larger(force, float(np.abs(a.forces - b.forces).max()))
    comment = "largest difference; use float64 for relaxations below fmax 1e-3 and for phonons"
    return [
        CheckRow("float32 against float64: energy", energy, None, "meV/atom", None, comment),
        CheckRow("float32 against float64: forces", force, None, "eV/Å", None, comment),
    ]


def check_speed(
    potential: PotentialLike, atoms: Atoms, *, seconds: float = 10.0
) -> tuple[list[CheckRow], list[Curve]]:
    """Time of a step (energy, forces and stress) per atom against the number of atoms.

    Sizes grow until ``seconds`` are spent. Neighbours come from the skinned list, as in dynamics; the cost of
    one new list is stated apart.
    """
    start, share = time.perf_counter(), 0.0
    sizes: list[int] = []
    cost: list[float] = []
    for size in _SIZES:
        cell = supercell(atoms, size) if has_volume(atoms) else atoms.copy()
        if sizes and (len(cell) == sizes[-1] or time.perf_counter() - start > seconds):
            break
        step, neighbors = _time_step(potential, cell)
        sizes.append(len(cell))
        cost.append(1e6 * step / len(cell))
        share = neighbors / step
    threads = torch.get_num_threads()
    name = str(potential.dtype).removeprefix("torch.")
    comment = f"{sizes[-1]} atoms, {name} on {potential.device}, {threads} threads; a new neighbour list "
    comment += f"costs {100 * share:.0f} % of a step"
    row = CheckRow("speed", cost[-1], None, "µs/atom/step", None, comment)
    curve = Curve("Speed", name, np.array(sizes, float), np.array(cost), "atoms", "µs/atom/step")
    return [row], [curve]


def _time_step(potential: PotentialLike, cell: Atoms) -> tuple[float, float]:
    """Median seconds of a step and of one neighbour list."""
    calculator, rng = Calculator(potential), np.random.default_rng(0)
    atoms, times, lists = cell.copy(), [], []
    atoms.calc = calculator
    atoms.get_forces()
    for _ in range(_REPEATS):
        atoms.positions += rng.normal(scale=0.005, size=atoms.positions.shape)
        begin = time.perf_counter()
        atoms.get_forces()
        times.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        neighbor_list(atoms.positions, atoms.cell.array, np.asarray(atoms.pbc), potential.cutoff)
        lists.append(time.perf_counter() - begin)
    return float(np.median(times)), float(np.median(lists))
