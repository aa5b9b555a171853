"""Partial radial distribution functions, with all periodic images.

g_AB(r) = n_AB(r) / (ρ_B V_shell): atoms B in a shell around an atom A, over what a gas of density ρ_B = N_B/V would
have. The integral 4π ρ_B ∫ g r² dr is therefore the exact number of neighbours; of an ideal gas g_AA is 1 − 1/N_A.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks

from atomml.errors import ConfigError, DataError
from atomml.graph.neighbors import neighbor_list
from atomml.shapes import Float64, Int64, ndarray
from atomml.simulate.properties.model import refuse_without_volume

__all__ = ["Peak", "RadialDistribution", "radial_distribution"]

SMOOTHING = 0.05  # Å, for finding peaks only


@dataclass(frozen=True)
class Peak:
    """First peak in Å, the minimum after it in Å, and how many neighbours there are up to that."""

    position: float
    minimum: float
    coordination: float


@dataclass(frozen=True)
class RadialDistribution:
    """Distribution functions of pairs of elements.

    Attributes:
        edges: of the bins, Å [bins + 1].
        g: by pair, "Li-Cl": around Li; [bins].
        neighbours: by pair, B within the upper edge of each bin of an A.
        peaks: by pair; None where there is no peak.
        frames: how many.
        volume: mean, Å³.
    """

    edges: Float64[ndarray, " edges"]
    g: dict[str, NDArray[np.float64]]
    neighbours: dict[str, NDArray[np.float64]]
    peaks: dict[str, Peak | None]
    frames: int
    volume: float

    @property
    def summary(self) -> dict[str, Any]:
        """JSON values with units in their names."""
        found = {
            pair: None
            if peak is None
            else {
                "first_peak_A": peak.position,
                "first_minimum_A": peak.minimum,
                "coordination": peak.coordination,
            }
            for pair, peak in self.peaks.items()
        }
        return {
            "pairs": found,
            "frames": self.frames,
            "volume_A3": self.volume,
            "r_max_A": float(self.edges[-1]),
        }

    @property
    def columns(self) -> dict[str, NDArray[np.float64]]:
        """The table of bins."""
        table = {"r_A": (self.edges[1:] + self.edges[:-1]) / 2}
        table |= {f"g_{pair}": values for pair, values in self.g.items()}
        return table | {f"neighbours_{pair}": values for pair, values in self.neighbours.items()}


def radial_distribution(
    frames: Atoms | Sequence[Atoms],
    pairs: Sequence[str] | None = None,
    *,
    r_max: float = 8.0,
    width: float = 0.05,
) -> RadialDistribution:
    """g(r) of pairs of elements, averaged over frames.

    Args:
        frames: of any cell, also one smaller than twice ``r_max``.
        pairs: "Li-Cl" and so on; all pairs of elements by default.
        r_max: Å.
        width: of a bin, Å; ``r_max`` is rounded to whole bins.

    Raises:
        DataError: no frames, other atoms in some frame, not periodic, or an element that is not there.
        ConfigError: an impossible range, or a pair that is not two elements.
    """
    frames = [frames] if isinstance(frames, Atoms) else list(frames)
    if not frames:
        raise DataError("There are no frames.", fix="check the file and what is skipped")
    if not 0 < 2 * width <= r_max:
        raise ConfigError(f"Bins of {width:g} Å do not divide {r_max:g} Å.", where="r_max, width")
    numbers = np.sort(frames[0].numbers)
    wanted = _pairs(pairs, numbers)
    edges = np.arange(round(r_max / width) + 1) * width
    g = {name: np.zeros(len(edges) - 1) for name in wanted}
    running = {name: np.zeros(len(edges) - 1) for name in wanted}
    shells = 4 / 3 * np.pi * np.diff(edges**3)
    for k, atoms in enumerate(frames):
        refuse_without_volume(atoms, "Radial distribution functions")
        if not np.array_equal(np.sort(atoms.numbers), numbers):
            raise DataError(
                f"Frame {k} has other atoms than frame 0.",
                where=f"{atoms.get_chemical_formula()}, not {frames[0].get_chemical_formula()}",
                fix="give the frames of one run",
            )
        counts = _counts(atoms, wanted, edges)
        for name, (a, b) in wanted.items():
            per_atom = counts[name] / (atoms.numbers == a).sum()
            g[name] += per_atom / (shells * (atoms.numbers == b).sum() / atoms.get_volume()) / len(frames)
            running[name] += np.cumsum(per_atom) / len(frames)
    peaks = {name: _first_peak(edges, g[name], running[name]) for name in wanted}
    return RadialDistribution(
        edges, g, running, peaks, len(frames), float(np.mean([a.get_volume() for a in frames]))
    )


def _counts(
    atoms: Atoms, wanted: dict[str, tuple[int, int]], edges: Float64[ndarray, " edges"]
) -> dict[str, NDArray[np.int64]]:
    j, i, shift = neighbor_list(
        atoms.positions, np.array(atoms.cell.array), np.array(atoms.pbc), float(edges[-1])
    )
    distance = np.linalg.norm(atoms.positions[j] - atoms.positions[i] + shift @ atoms.cell.array, axis=1)
    first, second = atoms.numbers[i], atoms.numbers[j]
    return {
        name: np.histogram(distance[(first == a) & (second == b)], edges)[0].astype(np.int64)
        for name, (a, b) in wanted.items()
    }


def _pairs(pairs: Sequence[str] | None, numbers: Int64[ndarray, " atoms"]) -> dict[str, tuple[int, int]]:
    present = sorted(set(numbers.tolist()))
    if pairs is None:
        both = combinations_with_replacement(present, 2)
        return {f"{chemical_symbols[a]}-{chemical_symbols[b]}": (a, b) for a, b in both}
    found = {}
    for name in pairs:
        symbols = name.split("-")
        if len(symbols) != 2 or not all(s in atomic_numbers for s in symbols):
            raise ConfigError(f"{name!r} is not a pair of elements.", where="pairs", fix="write Li-Cl")
        a, b = (atomic_numbers[s] for s in symbols)
        missing = [s for s in symbols if atomic_numbers[s] not in present]
        if missing:
            raise DataError(
                f"There is no {missing[0]} in these frames.",
                where=name,
                fix="choose from " + ", ".join(chemical_symbols[z] for z in present),
            )
        found[name] = (a, b)
    return found


def _first_peak(
    edges: Float64[ndarray, " edges"], g: Float64[ndarray, " bins"], running: Float64[ndarray, " bins"]
) -> Peak | None:
    """First peak above 1, and the lowest place before the next."""
    width = edges[1]
    smooth = np.concatenate([gaussian_filter1d(g, SMOOTHING / width, mode="nearest"), [0.0]])
    tops = find_peaks(smooth, height=1.0, prominence=0.3)[0]
    if len(tops) == 0:
        return None
    top, end = int(tops[0]), int(tops[1]) if len(tops) > 1 else len(g)
    low = top + int(smooth[top:end].argmin()) if end > top + 1 else top
    return Peak(float(edges[top] + width / 2), float(edges[low + 1]), float(running[low]))
