"""Files of an `Evaluation`: one line per frame, and every array."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, cast

import numpy as np

from atomml.shapes import ndarray
from atomml.training.deviation_measures import force_deviations, largest_force_deviation
from atomml.training.evaluation import Evaluation

__all__ = ["write_arrays"]

FRAME_COLUMNS = (
    "row",
    "id",
    "n_atoms",
    "energy_label_eV",
    "energy_eV",
    "energy_error_eV_per_atom",
    "forces_rmse_eV_per_A",
    "forces_max_error_eV_per_A",
    "stress_rmse_eV_per_A3",
)
DEVIATION_COLUMNS = ("energy_std_eV", "forces_std_max_eV_per_A", "forces_std_rms_eV_per_A")


def write_arrays(evaluation: Evaluation, out_dir: Path, name: str) -> None:
    """``<name>_frames.csv`` with one line per frame and ``<name>.npz`` with every array (no pickle)."""
    e = evaluation
    ends = np.cumsum(e.n_atoms)
    spread = _frame_deviations(e)
    with (out_dir / f"{name}_frames.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(FRAME_COLUMNS + (DEVIATION_COLUMNS if spread else ()))
        for k, end in enumerate(ends):
            mine = slice(end - e.n_atoms[k], end)
            error = e.forces[mine] - e.forces_label[mine]
            forces = [np.sqrt((error**2).mean()), np.linalg.norm(error, axis=1).max()]
            stress = np.sqrt(((e.stress[k] - e.stress_label[k]) ** 2).mean())
            per_atom = (e.energy[k] - e.energy_label[k]) / e.n_atoms[k]
            numbers = [e.energy_label[k], e.energy[k], per_atom, *forces, stress, *(s[k] for s in spread)]
            cells = ["" if np.isnan(x) else repr(float(x)) for x in numbers]
            writer.writerow([int(e.rows[k]), e.ids[k], int(e.n_atoms[k]), *cells])
    np.savez_compressed(out_dir / f"{name}.npz", **cast(Any, e.arrays()))


def _frame_deviations(e: Evaluation) -> list[ndarray]:
    """What `DEVIATION_COLUMNS` name; nothing without deviations."""
    if e.energy_std is None or e.forces_cov is None:
        return []
    starts = np.cumsum(e.n_atoms) - e.n_atoms
    mean = np.add.reduceat(force_deviations(e.forces_cov) ** 2, starts) / e.n_atoms
    return [e.energy_std, largest_force_deviation(e.forces_cov, e.n_atoms), np.sqrt(mean)]
