"""Elastic constants from stress and strain, and the moduli of a polycrystal.

C_ij = ∂σ_i/∂ε_j at rest, in Voigt's notation and order xx yy zz yz xz xy with ε_4 = 2 ε_yz and so on, as in ASE and
pymatgen. Ions are at rest at every strain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray

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

__all__ = ["ElasticConstants", "Moduli", "elastic_constants", "moduli", "symmetrised"]

PAIRS = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
AT_REST = 0.1  # GPa: more than that changes the derivatives noticeably
FULL = np.array([[0, 5, 4], [5, 1, 3], [4, 3, 2]])
MANDEL = np.sqrt(np.array([1, 1, 1, 2, 2, 2.0]))


@dataclass(frozen=True)
class Moduli:
    """Moduli of a polycrystal in GPa: bulk K and shear G of Voigt (one strain), Reuss (one stress), Hill (mean).

    W. Voigt 1928; A. Reuss, Z. Angew. Math. Mech. 9, 49, 1929; R. Hill, Proc. Phys. Soc. A 65, 349, 1952. ``young``
    and ``poisson`` follow from Hill's means; ``anisotropy`` is the universal one, 5 G_V/G_R + K_V/K_R − 6
    (Ranganathan and Ostoja-Starzewski, Phys. Rev. Lett. 101, 055504, 2008). NaN where C cannot be inverted.
    """

    k_voigt: float
    k_reuss: float
    k_hill: float
    g_voigt: float
    g_reuss: float
    g_hill: float
    young: float
    poisson: float
    anisotropy: float


@dataclass(frozen=True)
class ElasticConstants:
    """Elastic constants of a crystal in the axes of its cell.

    Attributes:
        formula: of the cell.
        c: C_ij in GPa, symmetric and with the symmetry of the crystal.
        raw: as it came from the derivatives, GPa.
        moduli: of the polycrystal.
        lowest: smallest eigenvalue of C in Mandel's notation, GPa; positive for a stable crystal (Born).
        nonlinearity: largest difference between the smallest strain and the limit of no strain, GPa.
        point_group: Hermann-Mauguin symbol, by which ``c`` is averaged.
        cell: of the crystal at rest, Å.
        pressure: that was left, GPa.
        strains, stresses: all that were computed: [points, 6] and GPa [points, 6].
    """

    formula: str
    c: Float64[ndarray, "6 6"]
    raw: Float64[ndarray, "6 6"]
    moduli: Moduli
    lowest: float
    nonlinearity: float
    point_group: str
    cell: Float64[ndarray, "3 3"]
    pressure: float
    strains: Float64[ndarray, "points 6"]
    stresses: Float64[ndarray, "points 6"]

    @property
    def stable(self) -> bool:
        """Born's criterion: every strain costs energy."""
        return self.lowest > 0

    @property
    def summary(self) -> dict[str, Any]:
        """JSON values, GPa unless said otherwise."""
        return {
            "formula": self.formula,
            "point_group": self.point_group,
            "C_GPa": self.c.tolist(),
            "born_stable": self.stable,
            "lowest_eigenvalue_GPa": self.lowest,
            "K_voigt_GPa": self.moduli.k_voigt,
            "K_reuss_GPa": self.moduli.k_reuss,
            "K_hill_GPa": self.moduli.k_hill,
            "G_voigt_GPa": self.moduli.g_voigt,
            "G_reuss_GPa": self.moduli.g_reuss,
            "G_hill_GPa": self.moduli.g_hill,
            "young_GPa": self.moduli.young,
            "poisson": self.moduli.poisson,
            "universal_anisotropy": self.moduli.anisotropy,
            "changed_by_symmetry_GPa": float(np.abs(self.raw - self.c).max()),
            "nonlinearity_GPa": self.nonlinearity,
            "pressure_left_GPa": self.pressure,
            "C_raw_GPa": self.raw.tolist(),
            "cell_A": self.cell.tolist(),
        }

    @property
    def columns(self) -> dict[str, NDArray[np.float64]]:
        """The table of strains and stresses."""
        names = ("xx", "yy", "zz", "yz", "xz", "xy")
        table = {f"strain_{n}": self.strains[:, k] for k, n in enumerate(names)}
        return table | {f"stress_{n}_GPa": self.stresses[:, k] for k, n in enumerate(names)}


def elastic_constants(
    atoms: Atoms,
    model: AnyModel | Model,
    *,
    strains: Sequence[float] = (0.0025, 0.005),
    relax: bool = True,
    ions: bool = True,
    fmax: float = 1e-4,
    steps: int = 1000,
    symprec: float = 1e-3,
) -> ElasticConstants:
    """Strain a crystal at rest in six ways, and take the derivatives of its stress.

    For each δ of ``strains`` a central difference, [σ(δ) − σ(−δ)] / 2δ = C + O(δ²); with several the term in δ² is
    removed by a straight line in δ².

    Args:
        atoms: the crystal.
        model: see `model_of`.
        strains: magnitudes, each used with both signs.
        relax: begin with a relaxation of positions and cell.
        ions: relax the positions at every strain; False gives the constants of clamped ions.
        fmax: limit of the relaxations, eV/Å.
        steps: most steps of each.
        symprec: tolerance of the symmetry in Å.

    Raises:
        DataError: not periodic.
        ConfigError: strains that are none, not positive, equal, or not small.
        SimulationError: a relaxation did not end, the start is not at rest, or the model has no stress.
    """
    refuse_without_volume(atoms, "Elastic constants")
    sizes = np.array(sorted(strains))
    if len(sizes) == 0 or sizes[0] <= 0 or sizes[-1] > 0.05 or len(set(sizes.tolist())) < len(sizes):
        raise ConfigError(
            f"Strains must be different, positive and at most 0.05, not {list(strains)}.", where="strains"
        )
    model = model_of(model)
    start = at_rest(atoms, model, moving="cell", fmax=fmax, steps=steps) if relax else atoms
    pressure = _refuse_strained(start, model)
    modes = np.array([(j, sign * d) for j in range(6) for d in sizes for sign in (1, -1)])
    voigt = np.zeros((len(modes), 6))
    voigt[np.arange(len(modes)), modes[:, 0].astype(int)] = modes[:, 1]
    strained = [_strained(start, strain) for strain in voigt]
    if ions and len(start) > 1:
        strained = [at_rest(a, model, fmax=fmax, steps=steps) for a in strained]
    stresses = np.array([found.stress for found in model(strained, stress=True)]) / units.GPa
    pairs = stresses.reshape(6, len(sizes), 2, 6)
    central = (pairs[:, :, 0] - pairs[:, :, 1]) / (2 * sizes[:, None])  # [strain, size, stress]
    raw = _limit(sizes, central).T
    group, rotations = _point_group(start, symprec)
    c = symmetrised(raw, rotations)
    return ElasticConstants(
        formula=start.get_chemical_formula(),
        c=c,
        raw=raw,
        moduli=moduli(c),
        lowest=float(np.linalg.eigvalsh(MANDEL[:, None] * c * MANDEL).min()),
        nonlinearity=float(np.abs(central[:, 0].T - raw).max()),
        point_group=group,
        cell=np.array(start.cell.array),
        pressure=pressure,
        strains=voigt,
        stresses=stresses,
    )


def symmetrised(
    c: Float64[ndarray, "6 6"], rotations: Float64[ndarray, "operations 3 3"]
) -> Float64[ndarray, "6 6"]:
    """Mean of C over the operations R of a point group, C_ijkl = R_ia R_jb R_kc R_ld C_abcd, made symmetric."""
    full = ((c + c.T) / 2)[FULL[:, :, None, None], FULL]
    turned = [np.einsum("ia,jb,kc,ld,abcd->ijkl", r, r, r, r, full, optimize=True) for r in rotations]
    i, j = np.array(PAIRS).T
    mean = np.mean(turned, axis=0)[i, j][:, i, j]
    return (mean + mean.T) / 2


def moduli(c: Float64[ndarray, "6 6"]) -> Moduli:
    """Moduli of a polycrystal of crystals with C in GPa; see `Moduli`."""
    k_voigt = c[:3, :3].mean()
    g_voigt = (np.trace(c[:3, :3]) - c[[0, 0, 1], [1, 2, 2]].sum() + 3 * np.trace(c[3:, 3:])) / 15
    if np.linalg.cond(c) > 1e12:
        k_reuss = g_reuss = float("nan")
    else:
        s = np.linalg.inv(c)
        k_reuss = 1 / s[:3, :3].sum()
        off = s[[0, 0, 1], [1, 2, 2]].sum()
        g_reuss = 15 / (4 * np.trace(s[:3, :3]) - 4 * off + 3 * np.trace(s[3:, 3:]))
    k, g = (k_voigt + k_reuss) / 2, (g_voigt + g_reuss) / 2
    young, poisson = 9 * k * g / (3 * k + g), (3 * k - 2 * g) / (6 * k + 2 * g)
    anisotropy = 5 * g_voigt / g_reuss + k_voigt / k_reuss - 6
    values = (k_voigt, k_reuss, k, g_voigt, g_reuss, g, young, poisson, anisotropy)
    return Moduli(*(float(x) for x in values))


def _limit(
    sizes: NDArray[np.float64], central: Float64[ndarray, "strain size stress"]
) -> Float64[ndarray, "strain stress"]:
    """C at no strain: the constant of a + b δ², or the only difference."""
    basis = np.stack([np.ones_like(sizes), sizes**2], axis=1)[:, : len(sizes)]
    weights = np.linalg.pinv(basis)[0]
    return np.einsum("s,jsi->ji", weights, central)


def _refuse_strained(atoms: Atoms, model: Model) -> float:
    force, stress = residual(atoms, model, stress=True)
    if stress / units.GPa > AT_REST or force > 0.05:
        raise SimulationError(
            f"The crystal is not at rest: a force of {force:.2g} eV/Å, a stress of {stress / units.GPa:.2g} GPa.",
            where=atoms.get_chemical_formula(),
            fix="let it relax first (do not give --no-relax), or use a smaller fmax",
        )
    return stress / units.GPa


def _strained(atoms: Atoms, strain: Float64[ndarray, " 6"]) -> Atoms:
    strained = atoms.copy()
    tensor = strain[FULL] * (1 + np.eye(3)) / 2  # ε_yz = ε_4 / 2
    strained.set_cell(atoms.cell.array @ (np.eye(3) + tensor), scale_atoms=True)
    return strained


def _point_group(atoms: Atoms, symprec: float) -> tuple[str, Float64[ndarray, "operations 3 3"]]:
    """Symbol and rotations in the axes of the cell; of no symmetry if spglib finds none."""
    import spglib

    cell = np.array(atoms.cell.array)
    found = spglib.get_symmetry_dataset((cell, atoms.get_scaled_positions(), atoms.numbers), symprec)
    if found is None:
        return "1", np.eye(3)[None]
    return found.pointgroup.strip(), _cartesian(np.unique(found.rotations, axis=0), cell)


def _cartesian(rotations: NDArray[Any], cell: Float64[ndarray, "3 3"]) -> Float64[ndarray, "operations 3 3"]:
    """Rotations W of fractional coordinates in Cartesian axes: R = Aᵀ W A⁻ᵀ with lattice vectors as rows of A."""
    return np.einsum("ai,nab,bj->nij", cell, rotations.astype(np.float64), np.linalg.inv(cell).T)
