"""Reference energies E0 per element, and what is left of the energy without them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from rich.table import Table

from atomml.datasets.store import FrameStore
from atomml.errors import DataError
from atomml.shapes import Float64, Int64, ndarray

__all__ = [
    "ReferenceEnergies",
    "from_table",
    "isolated_atoms",
    "least_squares",
    "no_references",
    "reference_sums",
]

Method = Literal["isolated", "least_squares", "table", "none"]
MIN_BOX = 8.0  # Å between periodic images for an atom to count as isolated
LISTED = 3  # undetermined combinations that are written out
SAME_ENERGY = 1e-3  # eV, two isolated atoms of one element may differ by


@dataclass(frozen=True)
class ReferenceEnergies:
    """E0 per element, so that a model learns E − Σ_i E0(z_i).

    Attributes:
        energies: eV per atom, by atomic number.
        method: where they come from.
        rank_deficient: the compositions do not determine every E0 (`undetermined` says which).
        residual_std: standard deviation of (E − Σ E0)/N over the frames used, eV/atom; NaN if none were.
        counts: atoms of each element in the frames used.
        undetermined: combinations of elements whose reference energies only the minimum norm fixes.
    """

    energies: dict[int, float]
    method: Method
    rank_deficient: bool = False
    residual_std: float = float("nan")
    counts: dict[int, int] = field(default_factory=dict)
    undetermined: tuple[str, ...] = ()

    def table(self) -> Table:
        """Elements, E0 and atom counts; `caption` goes with it."""
        title = {"isolated": "isolated atoms", "least_squares": "least squares"}.get(self.method, self.method)
        title = f"Reference energies ({title})"
        table = Table(title=title, min_width=len(title) + 2)
        for name in ("element", "E0 (eV)", "atoms"):
            table.add_column(name, justify="left" if name == "element" else "right")
        for z, energy in sorted(self.energies.items()):
            table.add_row(chemical_symbols[z], f"{energy:.4f}", str(self.counts.get(z, "-")))
        return table

    def caption(self) -> str:
        """Residual and, if there is one, the rank deficiency in words."""
        lines = []
        if np.isfinite(self.residual_std):
            lines.append(f"std of (E - sum E0)/N: {self.residual_std:.4f} eV/atom")
        if self.rank_deficient:
            shown = self.undetermined[:LISTED]
            more = len(self.undetermined) - len(shown)
            lines.append(
                "The compositions leave E0 undetermined (minimum-norm values are used): adding a multiple of "
                + " or of ".join(f"({c})" for c in shown)
                + (f" or of {more} more combinations" if more else "")
                + " to the E0 changes no energy."
            )
        return "\n".join(lines)

    def require(self, elements: Iterable[int], *, where: str | None = None) -> None:
        """Check that every element has a reference energy.

        Raises:
            DataError: names the elements without one.
        """
        missing = sorted(set(elements) - set(self.energies))
        if missing:
            symbols = ", ".join(chemical_symbols[z] for z in missing)
            raise DataError(
                f"There is no reference energy (E0) for {symbols}.",
                where=where,
                fix=f"add an isolated atom of {symbols} to the data, give E0 values in a table, "
                "or use least squares",
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON form, symbols as keys."""
        return {
            "energies": {chemical_symbols[z]: e for z, e in sorted(self.energies.items())},
            "method": self.method,
            "rank_deficient": self.rank_deficient,
            "residual_std": self.residual_std if np.isfinite(self.residual_std) else None,
            "counts": {chemical_symbols[z]: n for z, n in sorted(self.counts.items())},
            "undetermined": list(self.undetermined),
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> ReferenceEnergies:
        """Inverse of `to_dict`."""
        std = data.get("residual_std")
        return ReferenceEnergies(
            _by_number(data["energies"]),
            data["method"],
            bool(data["rank_deficient"]),
            float("nan") if std is None else float(std),
            {z: int(n) for z, n in _by_number(data["counts"]).items()},
            tuple(data["undetermined"]),
        )


def from_table(energies: Mapping[Any, float | int]) -> ReferenceEnergies:
    """E0 as stated by the user, by symbol or atomic number, eV.

    Raises:
        DataError: an unknown symbol or a value that is not finite.
    """
    return ReferenceEnergies(_by_number(energies), "table")


def no_references(elements: Iterable[int]) -> ReferenceEnergies:
    """E0 = 0 for every element: energies are learned as they are."""
    return ReferenceEnergies({int(z): 0.0 for z in elements}, "none")


def reference_sums(references: ReferenceEnergies, store: FrameStore) -> Float64[ndarray, " frames"]:
    """Σ_i E0(z_i) of every frame, eV.

    Raises:
        DataError: an element without a reference energy.
    """
    elements, counts = store.element_counts()
    references.require(elements, where=str(store.info.get("source", "the data set")))
    return counts @ np.array([references.energies[z] for z in elements])


def isolated_atoms(frames: FrameStore | Sequence[Atoms]) -> ReferenceEnergies:
    """E0 from the frames with one atom and no periodic image within 8 Å.

    Raises:
        DataError: no such frame with an energy, or two of one element that disagree by more than 1 meV.
    """
    from atomml.datasets.ase_files import from_ase

    store = frames if isinstance(frames, FrameStore) else from_ase(frames, name="isolated atoms")
    energies: dict[int, float] = {}
    counts: dict[int, int] = {}
    for i in isolated_rows(store):
        z, e = int(store.numbers[store.offsets[i]]), float(store.energy[i])
        if abs(energies.setdefault(z, e) - e) > SAME_ENERGY:
            raise DataError(
                f"Two isolated {chemical_symbols[z]} atoms have different energies: {energies[z]:.6f} and "
                f"{e:.6f} eV.",
                where=store.ids[int(i)],
                fix="keep the one in its ground state, at the level of theory of the data",
            )
        counts[z] = counts.get(z, 0) + 1
    if not energies:
        raise DataError(
            "There are no isolated atoms with an energy (frames with one atom in a box of 8 Å or none).",
            where=str(store.info.get("source", "the data set")),
            fix="add them to the data, name a file that has them, or use references: least_squares",
        )
    return ReferenceEnergies(energies, "isolated", counts=counts)


def isolated_rows(store: FrameStore) -> Int64[ndarray, " rows"]:
    """Rows of frames that are one atom alone and have an energy."""
    lengths = np.where(store.pbc, np.linalg.norm(store.cell, axis=2), np.inf)
    alone = (store.n_atoms == 1) & (lengths >= MIN_BOX).all(axis=1) & np.isfinite(store.energy)
    return np.flatnonzero(alone).astype(np.int64)


def least_squares(store: FrameStore, rows: Sequence[int] | ndarray | None = None) -> ReferenceEnergies:
    """E0 that minimise Σ_frames [(E − Σ_z n_z E0_z)/N]², of minimum norm where that is not unique.

    Args:
        store: the data set.
        rows: the frames to use (the training part); all by default. Frames without an energy are left out.

    Raises:
        DataError: none of the frames has an energy.
    """
    elements, all_counts = store.element_counts(rows)
    energy = np.asarray(store.energy if rows is None else store.energy[np.asarray(rows, dtype=np.int64)])
    used = np.isfinite(energy)
    if not used.any():
        raise DataError(
            "Least squares for E0 needs energies and none of these frames has one.",
            where=str(store.info.get("source", "the data set")),
            fix="state energy_key, or give a table of E0",
        )
    counts = all_counts[used].astype(np.float64)
    n = counts.sum(axis=1)
    fractions, target = counts / n[:, None], energy[used] / n
    solution, _, _, _ = np.linalg.lstsq(fractions, target, rcond=1e-10)
    null = null_space(fractions)
    return ReferenceEnergies(
        {z: float(e) for z, e in zip(elements, solution, strict=True)},
        "least_squares",
        len(null) > 0,
        float(np.std(target - fractions @ solution)),
        {z: int(c) for z, c in zip(elements, counts.sum(axis=0), strict=True)},
        tuple(_combination(vector, elements) for vector in null),
    )


def null_space(matrix: Float64[ndarray, "frames elements"]) -> Float64[ndarray, "deficiency elements"]:
    """Basis of {v: matrix @ v = 0} in reduced row-echelon form, so that each vector names few elements."""
    _, singular, vt = np.linalg.svd(matrix.T @ matrix)
    basis = vt[singular <= 1e-10 * max(float(singular[0]), 1e-300)]
    row = 0
    for column in range(matrix.shape[1]):
        if row == len(basis):
            break
        pivot = row + int(np.argmax(np.abs(basis[row:, column])))
        if abs(basis[pivot, column]) < 1e-8:
            continue
        basis[[row, pivot]] = basis[[pivot, row]]
        basis[row] /= basis[row, column]
        others = np.arange(len(basis)) != row
        basis[others] -= np.outer(basis[others, column], basis[row])
        row += 1
    return basis


def _combination(vector: ndarray, elements: list[int]) -> str:
    terms = [
        f"{coefficient:+.3g} {chemical_symbols[z]}"
        for coefficient, z in zip(vector, elements, strict=True)
        if abs(coefficient) > 1e-6
    ]
    return " ".join(terms)


def _by_number(energies: Mapping[Any, float | int]) -> dict[int, float]:
    result = {}
    for key, value in energies.items():
        z = atomic_numbers.get(key, 0) if isinstance(key, str) else int(key)
        if not 1 <= z <= 118:
            raise DataError(
                f"{key!r} is not an element.", where="reference energies", fix="use symbols: H, Li"
            )
        if not np.isfinite(value):
            raise DataError(
                f"E0 of {key} is {value}.", where="reference energies", fix="give a finite eV value"
            )
        result[z] = float(value)
    return result
