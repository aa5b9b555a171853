"""Constants of OC20 and OC22 that turn total energies into what is learned: references and normalisers."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from atomml.datasets.references import ReferenceEnergies, from_table, reference_sums
from atomml.datasets.store import FrameStore
from atomml.errors import DataError
from atomml.shapes import Float64, ndarray

__all__ = [
    "GAS_REFERENCES",
    "NORMALISERS",
    "Normaliser",
    "gas_reference",
    "linear_references",
    "load_linear_reference",
    "subtract_linear_reference",
]

LARGEST_COEFFICIENT = 1e3  # eV; beyond it the fit had no such element
LARGEST_ARRAY = 1 << 16  # bytes
_BROKEN = (OSError, KeyError, ValueError, RuntimeError, NotImplementedError, EOFError, SyntaxError)
GAS_REFERENCES: Mapping[str, float] = MappingProxyType({"H": -3.477, "C": -7.282, "N": -8.083, "O": -7.204})
"""Energies (eV) of the atoms of an adsorbate in OC20, from H2, H2O, CO and N2 (RPBE)."""


@dataclass(frozen=True)
class Normaliser:
    """Mean and standard deviation that the official baselines divide by; eV and eV/Å.

    Attributes:
        energy_mean, energy_std: of the adsorption energy.
        forces_std: of the components of the forces, whose mean is 0; None where forces are not learned.
    """

    energy_mean: float
    energy_std: float
    forces_std: float | None = None


NORMALISERS: Mapping[str, Normaliser] = MappingProxyType(
    {
        "oc20_s2ef": Normaliser(-0.7554450631141663, 2.887317180633545, 2.887317180633545),
        "oc20_is2re": Normaliser(-1.525913953781128, 2.279365062713623),
    }
)
"""Those of the fairchem configurations, for all training sets of a task."""


def gas_reference(numbers: Iterable[int]) -> float:
    """Energy (eV) of the gas-phase reference of an adsorbate with these atomic numbers.

    Raises:
        DataError: names the elements that have no reference: OC20 has H, C, N and O.
    """
    table = {atomic_numbers[symbol]: energy for symbol, energy in GAS_REFERENCES.items()}
    atoms = [int(z) for z in numbers]
    missing = sorted(set(atoms) - set(table))
    if missing:
        raise DataError(
            f"OC20 has no gas reference of {', '.join(chemical_symbols[z] for z in missing)}.",
            where="gas reference",
            fix="give the atoms of the adsorbate only (atom_tags == 2)",
        )
    return float(sum(table[z] for z in atoms))


def load_linear_reference(path: str | Path) -> Float64[ndarray, " elements"]:
    """Coefficients (eV) by atomic number of ``oc20_linref.npz`` or ``oc22_linfit_coeffs.npz``.

    An element that the fit never saw has garbage in the file: it is NaN here, as is index 0. Garbage is a
    value that is NaN, exactly 0, or beyond ±1000 eV.

    Raises:
        DataError: not such a file, too large, or no coefficient left.
    """
    where = str(path)
    raw = _npz_array(Path(path).expanduser(), "coeff")
    if raw.ndim != 1 or not 2 <= len(raw) <= 119 or raw.dtype.kind != "f":
        raise DataError(
            f"The coefficients are {raw.dtype} of shape {raw.shape}, not one float per element.", where=where
        )
    coefficients = raw.astype(np.float64)
    with np.errstate(invalid="ignore"):
        known = np.isfinite(raw) & (raw != 0.0) & (np.abs(raw) <= LARGEST_COEFFICIENT)
    known[0] = False
    if not known.any():
        raise DataError("No element has a coefficient.", where=where, fix="check the file")
    coefficients[~known] = np.nan
    return coefficients


def linear_references(coefficients: Float64[ndarray, " elements"]) -> ReferenceEnergies:
    """The known coefficients as reference energies, for ``data.references`` of a training."""
    return from_table({z: float(c) for z, c in enumerate(coefficients) if np.isfinite(c)})


def subtract_linear_reference(
    store: FrameStore, coefficients: Float64[ndarray, " elements"]
) -> Float64[ndarray, " frames"]:
    """E − Σ_i c(z_i) of every frame, eV.

    Raises:
        DataError: names the elements of the store that have no coefficient.
    """
    references = linear_references(coefficients)
    missing = sorted(set(store.elements()) - set(references.energies))
    if missing:
        raise DataError(
            f"The linear reference has no coefficient of {', '.join(chemical_symbols[z] for z in missing)}.",
            where=str(store.info.get("source", "the data set")),
            fix="leave out the frames with these elements, or fit references to your data: least_squares",
        )
    return np.asarray(store.energy) - reference_sums(references, store)


def _npz_array(path: Path, name: str) -> ndarray:
    """One small array of a .npz; nothing is unpickled and no size is believed before it is checked."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
            data = member.read(LARGEST_ARRAY + 1)
        stream = io.BytesIO(data)
        version = np.lib.format.read_magic(stream)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read_header(stream)
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if dtype.hasobject or len(data) > LARGEST_ARRAY or size != len(data) - stream.tell():
            raise ValueError(f"{dtype} of shape {shape} in {len(data)} bytes")
        return np.frombuffer(data, dtype=dtype, offset=stream.tell()).reshape(shape)
    except zipfile.BadZipFile as error:
        raise DataError(f"This is not a .npz file ({error}).", where=str(path), fix="get it again") from error
    except (*_BROKEN, zlib.error) as error:
        raise DataError(
            f"This is not a .npz file with an array {name!r} ({type(error).__name__}: {error}).",
            where=str(path),
            fix="use oc20_linref.npz or oc22_linfit_coeffs.npz as they are",
        ) from error
