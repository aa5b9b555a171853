"""OC20 and OC22: raw shards, legacy LMDB files, tables by system, linear references, official parts."""

from __future__ import annotations

from atomml.datasets.readers.oc20.reference import (
    NORMALISERS,
    gas_reference,
    linear_references,
    load_linear_reference,
    subtract_linear_reference,
)
from atomml.datasets.readers.oc20.systems import load_mapping, load_references, official_split

__all__ = [
    "NORMALISERS",
    "gas_reference",
    "linear_references",
    "load_linear_reference",
    "load_mapping",
    "load_references",
    "official_split",
    "subtract_linear_reference",
]
