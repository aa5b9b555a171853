"""Options of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from atomml.config import Config

__all__ = ["EvaluationConfig"]


class EvaluationConfig(Config):
    """Keyword arguments of `evaluate_crystals`."""

    task: Literal["generation", "prediction"] = "generation"
    """``generation``: new crystals, judged as a set; ``prediction``: structures of given compositions, each judged by
    the true one."""
    reference: Path | None = None
    """The test set, for coverage and distributions; for predictions the true crystals, row by row. Anything that
    `load_frames` reads."""
    training: Path | None = None
    """What novelty is judged against; by default the reference."""
    relaxed: bool = False
    """Take the relaxed structures of a folder of `generate`."""
    potential: Any = None
    """For energies: ``chgnet`` (or ``chgnet:r2scan``), a model file of atomml, an ASE calculator, or ``given`` for
    those in the files."""
    hull: Path | None = None
    """Reference of the hull: a CSV file with the columns ``formula`` and ``energy_per_atom`` (or ``energy``, of the
    formula), or structures, which the potential labels."""
    coverage: bool = True
    """COV-R and COV-P: the slowest part, about 12 ms for each atom of both sets."""
    cutoffs: Literal["mp_20", "carbon_24", "perov_5"] = "mp_20"
    """Distances of the coverage, named by the data set they are used with."""
    reference_limit: PositiveInt | None = None
    """Use so many crystals of the reference, drawn at random, for coverage and distributions; published numbers use
    all."""
    fingerprint_cache: Path | None = None
    """File that keeps fingerprints for the next evaluation; by default in the folder of the report."""
    most_pairs: NonNegativeInt = 200_000
    """Leave METRe out when it needs more comparisons than this."""
    seed: NonNegativeInt = 0
    """Of what is drawn."""
    device: str = "cpu"
    """Of the potential."""
    workers: PositiveInt = 1
    """Processes."""
    timeout: PositiveFloat | None = 60.0
    """Seconds for one structure or one pair of structures; None: no limit."""

    @model_validator(mode="after")
    def _fits_together(self) -> EvaluationConfig:
        if self.task == "prediction" and self.reference is None:
            raise ValueError("predictions need the true crystals: give a reference")
        if self.hull is not None and self.potential is None:
            raise ValueError("a hull needs energies of the crystals: give a potential, or potential='given'")
        return self
