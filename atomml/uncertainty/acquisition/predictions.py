"""What every member of a committee predicts for the structures of a pool, as plain arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from atomml.errors import DataError
from atomml.shapes import Int64, ndarray

__all__ = ["MemberPredictions", "PoolFeatures"]

WHERE = "acquisition"


@dataclass(frozen=True, eq=False, kw_only=True)
class MemberPredictions:
    """Energies and forces of M members (or posterior samples) for B structures of N atoms in all.

    The noise of the labels, where the members have heads for it, is that of each member, or one for all.

    Attributes:
        energy: total energies [M, B], eV.
        forces: of the atoms of all structures, one after the other [M, N, 3], eV/Å.
        n_atoms: atoms of each structure [B].
        energy_var: variance of the noise of the total energy [M, B] or [B], eV².
        forces_cov: covariance of the noise of the forces of each atom [M, N, 3, 3] or [N, 3, 3], (eV/Å)².

    Raises:
        DataError: fewer than two members, no structures, arrays that do not fit each other or are not of double
            precision, a negative variance, a value that is not finite (the member and the structure are named).
    """

    energy: ndarray
    forces: ndarray
    n_atoms: ndarray
    energy_var: ndarray | None = None
    forces_cov: ndarray | None = None

    def __post_init__(self) -> None:
        if self.energy.ndim != 2 or self.energy.shape[1] == 0:
            raise DataError(
                f"There are no structures to choose from: the energies have shape {self.energy.shape}.",
                where=WHERE,
                fix="give energies [members, structures] of at least one structure",
            )
        members, graphs = self.energy.shape
        if members < 2:
            raise DataError(
                f"A disagreement needs two members or more; there is {members}.",
                where=WHERE,
                fix="predict with every member of the committee, or draw samples of the posterior",
            )
        if self.n_atoms.shape != (graphs,) or self.n_atoms.min() < 1:
            raise DataError(
                f"n_atoms must be {graphs} counts of at least one atom, one for each structure.", where=WHERE
            )
        atoms = int(self.n_atoms.sum())
        self._check("energy", self.energy, [(members, graphs)])
        self._check("forces", self.forces, [(members, atoms, 3)])
        if self.energy_var is not None:
            self._check("energy_var", self.energy_var, [(members, graphs), (graphs,)])
            if self.energy_var.min() < 0:
                raise DataError("A variance of the energy is negative.", where=WHERE)
        if self.forces_cov is not None:
            self._check("forces_cov", self.forces_cov, [(members, atoms, 3, 3), (atoms, 3, 3)])

    def __len__(self) -> int:
        """Number of structures."""
        return len(self.n_atoms)

    @property
    def members(self) -> int:
        """Number of members M."""
        return len(self.energy)

    @property
    def starts(self) -> Int64[ndarray, " graphs"]:
        """The first atom of each structure."""
        return np.cumsum(self.n_atoms) - self.n_atoms

    def take(self, rows: Int64[ndarray, " rows"]) -> MemberPredictions:
        """The predictions for some structures, in the order of ``rows``."""
        n_atoms = self.n_atoms[rows]
        first_here = np.cumsum(n_atoms) - n_atoms
        atoms = np.repeat(self.starts[rows] - first_here, n_atoms) + np.arange(n_atoms.sum())
        return MemberPredictions(
            energy=self.energy[:, rows],
            forces=self.forces[:, atoms],
            n_atoms=n_atoms,
            energy_var=None if self.energy_var is None else self.energy_var[..., rows],
            forces_cov=None if self.forces_cov is None else self.forces_cov[..., atoms, :, :],
        )

    def _check(self, name: str, array: ndarray, shapes: list[tuple[int, ...]]) -> None:
        if array.shape not in shapes or array.dtype != np.float64:
            raise DataError(
                f"{name} is {array.dtype} of shape {array.shape}, not float64 of "
                f"{' or '.join(map(str, shapes))}.",
                where=WHERE,
            )
        if np.isfinite(array).all():
            return
        of_members = array.shape == shapes[0]
        member, index, *_ = np.argwhere(~np.isfinite(array if of_members else array[None]))[0]
        if name.startswith("forces"):
            index = np.searchsorted(np.cumsum(self.n_atoms), index, side="right")
        raise DataError(
            f"{name} of structure {index} is not finite{f' in member {member}' if of_members else ''}.",
            where=WHERE,
            fix="leave this structure out of the pool, or this member out of the committee",
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class PoolFeatures:
    """Features of the structures to choose from, and of those that have labels.

    For `llpr_maxdet` these are features of the last layer in the normalisation of the model's last-layer
    posterior: the energy of a structure is linear in them (sums over its atoms, divided by N if the energies per
    atom were fitted).

    Attributes:
        pool: [B, P].
        labelled: [T, P]; no rows if nothing has a label.

    Raises:
        DataError: no structures, other shapes, not of double precision, not finite (the row is named).
    """

    pool: ndarray
    labelled: ndarray

    def __post_init__(self) -> None:
        for name, array in (("pool", self.pool), ("labelled", self.labelled)):
            if array.ndim != 2 or array.dtype != np.float64 or array.shape[1] != self.pool.shape[1]:
                raise DataError(
                    f"The features of the {name} are {array.dtype} of shape {array.shape}, not float64 of one row "
                    "for each structure, as long as those of the pool.",
                    where=WHERE,
                )
            bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
            if len(bad):
                raise DataError(f"The features of row {bad[0]} of the {name} are not finite.", where=WHERE)
        if 0 in self.pool.shape:
            raise DataError(
                "There are no structures to choose from.", where=WHERE, fix="give features of some"
            )

    def __len__(self) -> int:
        """Number of structures to choose from."""
        return len(self.pool)

    def take(self, rows: Int64[ndarray, " rows"]) -> PoolFeatures:
        """The features for some structures of the pool, and all labelled ones."""
        return PoolFeatures(pool=self.pool[rows], labelled=self.labelled)
