"""Files to frames to graphs: readers, the native store, reference energies, splits and reports."""

from __future__ import annotations

from atomml.datasets.ase_files import from_ase, load_frames, read_ase
from atomml.datasets.conditions import rows_where
from atomml.datasets.graphs import GraphDataset
from atomml.datasets.labels import LabelKeys
from atomml.datasets.references import (
    ReferenceEnergies,
    from_table,
    isolated_atoms,
    least_squares,
    no_references,
    reference_sums,
)
from atomml.datasets.report import data_report
from atomml.datasets.splits import (
    Split,
    split_by_condition,
    split_by_file,
    split_by_group,
    split_random,
    tag_values,
)
from atomml.datasets.store import FrameStore, concatenate, label_summary

__all__ = [
    "FrameStore",
    "GraphDataset",
    "LabelKeys",
    "ReferenceEnergies",
    "Split",
    "concatenate",
    "data_report",
    "from_ase",
    "from_table",
    "isolated_atoms",
    "label_summary",
    "least_squares",
    "load_frames",
    "no_references",
    "read_ase",
    "reference_sums",
    "rows_where",
    "split_by_condition",
    "split_by_file",
    "split_by_group",
    "split_random",
    "tag_values",
]
