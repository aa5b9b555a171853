"""What a measurement covers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from atomml.kernels.cost_model import Mode

__all__ = ["KernelSettings", "PotentialSettings"]


@dataclass(frozen=True, kw_only=True)
class KernelSettings:
    """What to measure.

    Attributes:
        lmax: degrees L, one after the other.
        modes: see `workers.convolution_modes`.
        channels, edges, degree: C, E, and neighbours per atom.
        device, dtype, threads: where and how.
        rounds: interleaved rounds.
        slot: seconds that one measurement lasts at least.
        peers: other libraries with processes of their own: ``cuequivariance``. e3nn is always measured.
    """

    lmax: tuple[int, ...] = (1, 2, 3)
    modes: tuple[Mode, ...] = get_args(Mode)
    channels: int = 64
    edges: int = 9996
    degree: int = 28
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1
    rounds: int = 9
    slot: float = 0.2
    peers: tuple[str, ...] = ("cuequivariance",)


@dataclass(frozen=True, kw_only=True)
class PotentialSettings:
    """What to measure.

    Attributes:
        peers: other libraries, keys of `environments.PEERS`.
        structures: names for `structures.structure`.
        threads: of every process.
        rounds: interleaved rounds.
        slot: seconds that one measurement lasts at least.
        model: a model file of atomml to measure beside the random ones.
        training, dynamics: also a training step of 8 molecules, and dynamics of the first structure through ASE.
        scaling: also cost and memory against atoms, channels, degree, neighbours and threads.
        sizes: numbers of atoms of the scaling.
    """

    peers: tuple[str, ...] = ("mace", "nequip")
    structures: tuple[str, ...] = ("si64", "molecule", "water")
    threads: int = 1
    rounds: int = 9
    slot: float = 0.3
    model: Path | None = None
    training: bool = True
    dynamics: bool = True
    scaling: bool = False
    sizes: tuple[int, ...] = (100, 1_000, 10_000, 100_000)
