"""PubChemQCR: shards of trajectories, published energies and reference energies, the published split."""

from __future__ import annotations

from atomml.datasets.readers.pubchemqcr.labels import paper_energy_labels, pubchemqcr_references
from atomml.datasets.readers.pubchemqcr.reader import valid_cids
from atomml.datasets.readers.pubchemqcr.split import pubchemqcr_split, save_cids, split_from_cids

__all__ = [
    "paper_energy_labels",
    "pubchemqcr_references",
    "pubchemqcr_split",
    "save_cids",
    "split_from_cids",
    "valid_cids",
]
