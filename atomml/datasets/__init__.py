"""Files to frames to graphs: readers, the native store, reference energies, splits and reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from atomml.datasets.ase_files import from_ase, read_ase
from atomml.datasets.conditions import rows_where
from atomml.datasets.conversion import convert, verify_conversion
from atomml.datasets.fingerprints import frame_fingerprints
from atomml.datasets.frame import Frame, Skipped
from atomml.datasets.labels import LabelKeys
from atomml.datasets.packing import pack_frames
from atomml.datasets.readers import load_frames, read_frames
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

if TYPE_CHECKING:
    from atomml.datasets.graphs import GraphDataset

__all__ = [
    "Frame",
    "FrameStore",
    "GraphDataset",
    "LabelKeys",
    "ReferenceEnergies",
    "Skipped",
    "Split",
    "concatenate",
    "convert",
    "data_report",
    "frame_fingerprints",
    "from_ase",
    "from_table",
    "isolated_atoms",
    "label_summary",
    "least_squares",
    "load_frames",
    "no_references",
    "pack_frames",
    "read_ase",
    "read_frames",
    "reference_sums",
    "rows_where",
    "split_by_condition",
    "split_by_file",
    "split_by_group",
    "split_random",
    "tag_values",
    "verify_conversion",
]


def __getattr__(name: str) -> Any:
    if name != "GraphDataset":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from atomml.datasets.graphs import GraphDataset  # needs torch, which reading files does not

    return GraphDataset
