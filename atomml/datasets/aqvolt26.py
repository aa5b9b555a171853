"""AQVolt26 (lithium halides, r²SCAN): facts about the data set, and the parts of its evaluation as conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from atomml.config import Config
from atomml.datasets.conditions import rows_where
from atomml.datasets.store import FrameStore
from atomml.errors import DataError
from atomml.shapes import Int64, ndarray

__all__ = [
    "EvaluationProtocol",
    "dataset_facts",
    "evaluation_conditions",
    "evaluation_parts",
    "with_max_force",
]

FACTS = {
    "aqvolt26": {
        "licence": "other, NON-COMMERCIAL use only (SandboxAQ; gated: accept its terms on Hugging Face)",
        "level_of_theory": "r2SCAN",
    },
}


class EvaluationProtocol(Config):
    """Where frames stop being near equilibrium, and become hot or strained.

    The parts follow what is known of the evaluation of AQVolt26 (arXiv:2604.02524): energies near equilibrium
    against strongly perturbed frames, from sampling up to 2100 K and from strained cells. The names of its
    parts and its thresholds are not public; the defaults here are ours, so state them with any result.
    """

    fmax_tag: str = "fmax"
    """Tag of the largest force; computed from the forces where the data set has no such tag."""
    near_fmax: float = 0.1
    """Frames with a largest force up to this, eV/Å, are near equilibrium. Relaxations usually stop at 0.01 to
    0.05; a crystal at 300 K has about 1."""
    temperature_tag: str = "temperature"
    """Tag of the temperature of the sampling, K."""
    low_temperature: float = 300.0
    """Frames sampled up to this temperature, K, are cold."""
    high_temperature: float = 1000.0
    """Frames sampled from this temperature on, K, are hot."""
    strain_tag: str = "strain"
    """Tag of the linear strain of the cell: -0.02 is compressed by 2 % in every direction."""
    strain: float = 0.02
    """Frames whose strain is at least this, in either direction, are strained."""


def dataset_facts(name: str) -> dict[str, str]:
    """Licence and level of theory of a known data set; nothing for another."""
    return dict(FACTS.get(name, {}))


def evaluation_conditions(protocol: EvaluationProtocol | None = None) -> dict[str, str]:
    """The parts as conditions on tags, for `rows_where`, ``atomml data split`` or ``data.test_where``.

    Returns:
        ``near_equilibrium``, ``low_temperature``, ``high_temperature``, ``compressed``, ``expanded``.
    """
    p = protocol or EvaluationProtocol()
    return {
        "near_equilibrium": f"{p.fmax_tag} <= {p.near_fmax!r}",
        "low_temperature": f"{p.temperature_tag} <= {p.low_temperature!r}",
        "high_temperature": f"{p.temperature_tag} >= {p.high_temperature!r}",
        "compressed": f"{p.strain_tag} <= {-p.strain!r}",
        "expanded": f"{p.strain_tag} >= {p.strain!r}",
    }


def evaluation_parts(
    store: FrameStore,
    protocol: EvaluationProtocol | None = None,
    *,
    parts: Sequence[str] | None = None,
) -> dict[str, Int64[ndarray, " rows"]]:
    """Rows of every part; a frame may be in several.

    Args:
        store: the data set.
        protocol: tags and thresholds.
        parts: names of `evaluation_conditions`; by default those whose tag the data set has.

    Raises:
        DataError: an unknown part, one whose tag the data set lacks, or none whose tag it has.
    """
    chosen_protocol = protocol or EvaluationProtocol()
    conditions = evaluation_conditions(chosen_protocol)
    whole = with_max_force(store, chosen_protocol.fmax_tag)
    has = {name: condition.split(" ")[0] in whole.tags for name, condition in conditions.items()}
    chosen = [name for name in conditions if has[name]] if parts is None else list(parts)
    for name in chosen:
        if name not in conditions:
            raise DataError(f"There is no part {name!r}.", fix=f"choose from {', '.join(conditions)}")
    if not chosen:
        raise DataError(
            "The data set has no tag for any part of the evaluation.",
            where=str(store.info.get("source", "the data set")),
            fix=f"name its tags in the protocol; it has {', '.join(store.tags) or 'none'}",
        )
    return {name: rows_where(whole, conditions[name]) for name in chosen}


def with_max_force(store: FrameStore, name: str = "fmax") -> FrameStore:
    """The data set with the largest |F_i| of every frame (eV/Å) as the tag ``name``, unless it has it.

    Values that a tag lacks (NaN) are filled from the forces as well; without forces they stay NaN.

    Raises:
        DataError: the tag is text.
    """
    computed = store.index.max_force
    column = store.tags.get(name)
    if column is not None and column.dtype.kind not in "iuf":
        raise DataError(f"The tag {name!r} is not a number.", fix="name the tag of the largest force")
    if column is not None and not (np.isnan(column) & ~np.isnan(computed)).any():
        return store
    filled = computed if column is None else np.where(np.isnan(column), computed, column)
    return replace(store, tags={**store.tags, name: np.array(filled)}, folder=None)
