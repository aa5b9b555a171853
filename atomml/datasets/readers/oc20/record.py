"""One record of a legacy LMDB or pickle (attributes of a PyG ``Data``) as a `Frame`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from pydantic import Field, model_validator

from atomml.datasets.frame import Frame, Tag
from atomml.datasets.readers.oc20.common import FrameName, SystemOptions, counted_labels
from atomml.datasets.readers.oc20.edges import EdgeReport
from atomml.datasets.readers.oc20.systems import Systems
from atomml.datasets.readers.oc20.values import (
    cell_of,
    flags_of,
    integer_of,
    integers_of,
    number_of,
    pbc_of,
    required,
    vectors_of,
)
from atomml.errors import DataError
from atomml.shapes import Int64, ndarray

__all__ = ["RecordOptions", "Tally", "frame_of_record"]

ENERGIES, FORCES = ("y", "energy"), ("force", "forces")
IS2RE = {"y_init", "y_relaxed", "pos_relaxed"}
STRUCTURE = frozenset({"atomic_numbers", "cell", "pbc", "natoms", "tags", "fixed"})
NUMBERED = ("sid", "fid", "nads", "oc22", "total_frames")


class RecordOptions(SystemOptions):
    """How records are read."""

    task: Literal["auto", "s2ef", "is2re"] = "auto"
    """``s2ef``: energy ``y`` and ``force`` of the structure ``pos``. ``is2re``: ``y_init`` and ``y_relaxed``,
    ``pos`` and ``pos_relaxed``. ``auto``: is2re for the records that have any of the last three."""

    geometry: Literal["relaxed", "initial"] = "relaxed"
    """Of is2re records: ``pos_relaxed``, to which ``y_relaxed`` belongs, or ``pos``."""

    label: Literal["y_relaxed", "y_init"] = "y_relaxed"
    """Of is2re records. ``y_relaxed`` with ``geometry: initial`` is the IS2RE task: the energy is not that of the
    structure it stands with, so potentials cannot be trained on it."""

    energy: Literal["stored", "total_to_adsorption", "adsorption_to_total"] = "stored"
    """What to do with the stored energy; the last two need ``reference_pickle``. OC20 files have adsorption
    energies, OC22 files total energies."""

    edges: Literal["ignore", "check"] = "ignore"
    """Stored neighbour lists are never used. ``check`` compares them with those that atomml finds, and reports."""

    edge_cutoff: float = Field(6.0, gt=0)
    """Å, of the stored edges."""

    edge_neighbors: int = Field(50, ge=1)
    """Most neighbours of an atom among the stored edges."""

    @model_validator(mode="after")
    def _possible(self) -> RecordOptions:
        if self.geometry == "relaxed" and self.label == "y_init":
            raise ValueError("label y_init is the energy of the initial structure: it needs geometry initial")
        if self.energy != "stored" and self.reference_pickle is None:
            raise ValueError(f"energy {self.energy} needs reference_pickle, the path of oc20_ref.pkl")
        return self


@dataclass
class Tally:
    """What has been seen in the records of a piece."""

    systems: Systems
    found: dict[str, Counter[str]] = field(default_factory=lambda: {"energy": Counter(), "forces": Counter()})
    not_read: Counter[str] = field(default_factory=Counter)
    edges: EdgeReport = field(default_factory=EdgeReport)
    frames: int = 0

    def info(self, options: RecordOptions, where: str) -> dict[str, Any]:
        """The entries of ``info`` that follow."""
        return {
            "labels": counted_labels(self.found, self.frames),
            "stated": options.model_dump(exclude_none=True),
            "not_read": dict(sorted(self.not_read.items())),
            "edges": self.edges.report(),
            "warnings": [*self.edges.warnings(where), *self.systems.warnings(where)],
        }


class Choice(NamedTuple):
    """Keys of the positions and labels that are used, and tags that say so."""

    positions: str
    energy: str | None
    forces: str | None
    tags: dict[str, Tag]


def frame_of_record(
    record: Any,
    options: RecordOptions,
    tally: Tally,
    *,
    where: str,
    default_id: str,
    name: FrameName | None = None,
    part: str | None = None,
) -> Frame:
    """The structure and labels of a record.

    Args:
        record: attributes by name, arrays as numpy.
        options: of the reader.
        tally: counts what is found, and what is not read.
        where: file and key.
        default_id: of a frame without ``sid``.
        name: from ``data_log.txt``; must agree with ``sid`` and ``fid`` of the record.
        part: official part, for the tag of that name.

    Raises:
        DataError: an attribute that is missing, has another shape or kind, or is NaN.
    """
    if not isinstance(record, Mapping):
        raise DataError(f"The record is a {type(record).__name__}, not a PyG Data.", where=where)
    has = {key for key, value in record.items() if value is not None}
    numbers = _numbers(record, where)
    n = len(numbers)
    cell = cell_of(record.get("cell"), where)
    pbc = pbc_of(record.get("pbc"), cell, where)
    choice = _choose(has, options, where)
    ids = _ids(record, name, where)
    tags: dict[str, Tag] = {**ids, **choice.tags, **tally.systems.tags(ids.get("sid"))}
    tags |= {} if part is None else {"part": part}
    if options.edges == "check" and "edge_index" in has:
        pos = vectors_of(required(record, "pos", where), n, "pos", where)
        tally.edges.add(record, pos, cell, pbc, options.edge_cutoff, options.edge_neighbors, where)
    energy, forces = _labels(record, choice, options, tally, tags, n, where)
    tally.frames += 1
    tally.not_read.update(has - STRUCTURE - ids.keys() - {choice.positions, choice.energy, choice.forces})
    return Frame(
        numbers,
        vectors_of(required(record, choice.positions, where), n, choice.positions, where),
        cell,
        pbc,
        energy,
        forces,
        id=str(name) if name is not None else _id(ids, default_id),
        tags=tags,
        atom_tags=integers_of(record["tags"], "tags", where) if "tags" in has else None,
        fixed=flags_of(record["fixed"], n, "fixed", where) if "fixed" in has else None,
    )


def _numbers(record: Mapping[str, Any], where: str) -> Int64[ndarray, " atoms"]:
    numbers = integers_of(required(record, "atomic_numbers", where), "atomic_numbers", where)
    natoms = record.get("natoms")
    if numbers.ndim != 1:
        raise DataError(f"atomic_numbers have shape {numbers.shape}, not (N,).", where=where)
    if natoms is not None and integer_of(natoms, "natoms", where) != len(numbers):
        raise DataError(
            f"natoms is {integer_of(natoms, 'natoms', where)}, but there are {len(numbers)} atomic_numbers.",
            where=where,
            fix="remove the record",
        )
    return numbers


def _choose(has: set[str], options: RecordOptions, where: str) -> Choice:
    if options.task == "s2ef" or not has & IS2RE:  # without labels (test sets) it is a structure alone
        return Choice("pos", _first(ENERGIES, has), _first(FORCES, has), {})
    if options.geometry == "relaxed" and "pos_relaxed" not in has:
        raise DataError(
            "The record has an energy of the relaxed structure, but no pos_relaxed.",
            where=where,
            fix="state geometry: initial, with label: y_init (the energy of that structure) or label: y_relaxed "
            "(the IS2RE task)",
        )
    tags: dict[str, Tag] = {"geometry": options.geometry, "label": options.label}
    energy = options.label if options.label in has else None
    if options.geometry == "relaxed":
        return Choice("pos_relaxed", energy, None, tags)
    return Choice("pos", energy, _first(FORCES, has) if options.label == "y_init" else None, tags)


def _first(names: Iterable[str], has: set[str]) -> str | None:
    return next((name for name in names if name in has), None)


def _ids(record: Mapping[str, Any], name: FrameName | None, where: str) -> dict[str, int]:
    """Whole-number attributes that become tags; those of ``name`` where the record has none."""
    ids = {key: integer_of(record[key], key, where) for key in NUMBERED if record.get(key) is not None}
    if name is None:
        return ids
    stored = (ids.get("sid", name.sid), ids.get("fid", name.fid))
    if stored != (name.sid, name.fid):
        raise DataError(
            f"The record has sid {stored[0]} and fid {stored[1]}, its line in the data_log is {name}.",
            where=where,
            fix="the log belongs to another shard: move it away",
        )
    return {**ids, "sid": name.sid, "fid": name.fid}


def _id(ids: Mapping[str, int], default: str) -> str:
    """``<sid>_<fid>``, or ``<sid>`` where frames are not numbered."""
    if "sid" not in ids:
        return default
    return f"{ids['sid']}_{ids['fid']}" if "fid" in ids else str(ids["sid"])


def _labels(
    record: Mapping[str, Any],
    choice: Choice,
    options: RecordOptions,
    tally: Tally,
    tags: dict[str, Tag],
    n: int,
    where: str,
) -> tuple[float, ndarray | None]:
    """Energy (eV) and forces, as far as they are there; the reference energy becomes a tag."""
    energy, sid = float("nan"), tags.get("sid")
    if tally.systems.has_references:
        tags["reference_energy"] = tally.systems.reference(sid if isinstance(sid, int) else None, where)
    if choice.energy is not None:
        energy = number_of(record[choice.energy], choice.energy, where)
        sign = {"stored": 0, "total_to_adsorption": -1, "adsorption_to_total": 1}[options.energy]
        energy += sign * float(tags.get("reference_energy", 0.0))
        tally.found["energy"][choice.energy] += 1
    if choice.forces is None:
        return energy, None
    tally.found["forces"][choice.forces] += 1
    return energy, vectors_of(record[choice.forces], n, choice.forces, where)
