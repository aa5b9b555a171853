"""Which structures to label next: scores of single structures, choices of batches, and pools kept from the test."""

from __future__ import annotations

from atomml.uncertainty.acquisition.acquire import METHODS, AcquisitionSettings, Method, acquire
from atomml.uncertainty.acquisition.batch import batch_bald, llpr_maxdet, training_precision
from atomml.uncertainty.acquisition.noise import NoiseFloor
from atomml.uncertainty.acquisition.pool import PoolSplit, split_pool
from atomml.uncertainty.acquisition.predictions import MemberPredictions, PoolFeatures
from atomml.uncertainty.acquisition.scores import (
    Aggregation,
    aggregate_atoms,
    bald_energy,
    bald_force,
    bald_joint,
    energy_std_per_atom,
    force_std,
)
from atomml.uncertainty.acquisition.selection import Selection, farthest_point, top_k

__all__ = [
    "METHODS",
    "AcquisitionSettings",
    "Aggregation",
    "MemberPredictions",
    "Method",
    "NoiseFloor",
    "PoolFeatures",
    "PoolSplit",
    "Selection",
    "acquire",
    "aggregate_atoms",
    "bald_energy",
    "bald_force",
    "bald_joint",
    "batch_bald",
    "energy_std_per_atom",
    "farthest_point",
    "force_std",
    "llpr_maxdet",
    "split_pool",
    "top_k",
    "training_precision",
]
