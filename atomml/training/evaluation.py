"""Errors of a potential on labelled structures: in all, by element, by tag, and frame by frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from ase.data import chemical_symbols

from atomml.datasets import FrameStore
from atomml.errors import DataError
from atomml.shapes import Float64, Int64, Tensor, ndarray
from atomml.training.batches import greedy_batches, join
from atomml.training.deviation_measures import DEVIATIONS, Measured, deviation_measures

if TYPE_CHECKING:
    from torch_geometric.data import Data

__all__ = [
    "Evaluable",
    "Evaluation",
    "by_element",
    "by_tag",
    "evaluate",
    "predict_frames",
    "predicted_arrays",
    "summary",
]

PREDICTIONS = ("energy", "forces", "stress")
COLUMNS = ("n_atoms", "numbers", *(f"{name}{end}" for name in PREDICTIONS for end in ("", "_label")))
Numbers = dict[str, int | float]
MOST_GROUPS = 60  # a tag with more values than this is a name, not a class


@runtime_checkable
class Evaluable(Protocol):
    """What `evaluate` needs of a potential."""

    @property
    def cutoff(self) -> float:
        """Radius of the neighbour graph in Å."""
        ...

    @property
    def conservative(self) -> bool:
        """Whether there is a stress."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    def __call__(
        self, graph: Data, *, forces: bool = True, stress: bool = False, create_graph: bool = False
    ) -> dict[str, Tensor]:
        """Energy [B], forces [N, 3], stress [B, 3, 3] of a batch; see `atomml.potentials.Potential`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Predictions beside labels, and the errors; with deviations where the potential has them.

    The covariances of forces take 144 bytes per atom, 144 MB for a million atoms, and a few times as much while they
    are measured: larger sets are evaluated in parts.

    Attributes:
        metrics: ``energy``, ``energy_per_atom``, ``forces``, ``stress`` + ``_mae``, ``_rmse``
            (eV, eV/atom, eV/Å by component, eV/Å³ by component), for quantities that have labels.
        counts: frames, atoms, and how many labels of each kind were compared.
        elements: force errors by chemical symbol; with deviations their RMS, and coverages.
        tags: for each tag, the metrics by its value.
        rows: row of each frame in the store.
        ids: name of each frame.
        n_atoms, numbers: atoms per frame, atomic numbers of all atoms.
        energy, forces, stress: predictions; ``*_label``: labels, NaN where there is none. Forces or stresses
            for which no frame has a label are not computed, but NaN.
        energy_std, energy_std_epistemic, energy_std_aleatoric: standard deviations in eV; None for a potential
            without deviations, as all that follows.
        forces_cov, forces_cov_epistemic: covariances in (eV/Å)², and the part in which members disagree.
        stress_std, stress_std_epistemic: standard deviation of each component in eV/Å³, and that part.
        deviations: measures of the deviations of ``energy``, ``forces`` and ``stress``, see `deviation_measures`;
            empty where there is nothing to measure.
        notes: what could not be measured, and why.
        calibration: id of the calibration that the deviations contain.
    """

    metrics: dict[str, float]
    counts: dict[str, int]
    elements: dict[str, Numbers]
    tags: dict[str, dict[str, Numbers]]
    rows: Int64[ndarray, " frames"]
    ids: list[str]
    n_atoms: Int64[ndarray, " frames"]
    numbers: Int64[ndarray, " atoms"]
    energy: Float64[ndarray, " frames"]
    energy_label: Float64[ndarray, " frames"]
    forces: Float64[ndarray, "atoms 3"]
    forces_label: Float64[ndarray, "atoms 3"]
    stress: Float64[ndarray, "frames 3 3"]
    stress_label: Float64[ndarray, "frames 3 3"]
    energy_std: Float64[ndarray, " frames"] | None = None
    energy_std_epistemic: Float64[ndarray, " frames"] | None = None
    energy_std_aleatoric: Float64[ndarray, " frames"] | None = None
    forces_cov: Float64[ndarray, "atoms 3 3"] | None = None
    forces_cov_epistemic: Float64[ndarray, "atoms 3 3"] | None = None
    stress_std: Float64[ndarray, "frames 3 3"] | None = None
    stress_std_epistemic: Float64[ndarray, "frames 3 3"] | None = None
    deviations: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    calibration: str | None = None

    def arrays(self) -> dict[str, ndarray]:
        """Rows, labels, predictions, and deviations if there are any, by name."""
        names = ("rows", *COLUMNS, *DEVIATIONS)
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def evaluate(
    potential: Evaluable,
    store: FrameStore,
    rows: Sequence[int] | ndarray | None = None,
    *,
    free_only: bool = False,
    unlabelled: bool = False,
    exact: bool | None = None,
    max_atoms: int = 2000,
    max_edges: int | None = 200_000,
    on_batch: Callable[[int], Any] | None = None,
) -> Evaluation:
    """Compare a potential, and its deviations if it has some, with the labels of a store.

    Args:
        potential: anything that maps a graph to energy, forces and stress; deviations are told by an attribute
            ``deviations`` as `atomml.uncertainty.BayesianPotential` has it.
        store: labelled frames.
        rows: which frames; all by default.
        free_only: forces on atoms that the store holds fixed are not compared.
        unlabelled: accept frames without any label, and predict forces whether they have labels or not.
        exact: derive deviations that are estimated by default; None: as the calibration was fitted.
        max_atoms: atoms in one batch (at least one frame).
        max_edges: edges in one batch.
        on_batch: called with the number of frames done, for a progress bar.

    Raises:
        DataError: no frames, or none with any label; a member of the potential predicts a NaN.
        UnsupportedError: an element the potential does not know.
    """
    has_deviations = bool(getattr(potential, "deviations", ()))
    index = np.arange(len(store)) if rows is None else np.asarray(rows, dtype=np.int64)
    part = store if rows is None else store.subset(index)
    labels = part.label_counts()
    if len(part) == 0 or not (any(labels.values()) or unlabelled):
        raise DataError(
            f"There is nothing to compare with: {len(part)} frames, no energy, forces or stress.",
            where=str(store.info.get("source", "data")),
            fix="check the label keys (`atomml data report` lists what a file has)",
        )
    want_stress = labels["stress"] > 0 and bool(potential.conservative)
    wanted = {"forces": labels["forces"] > 0 or unlabelled, "stress": want_stress}
    options = {"exact": exact} if has_deviations else {}
    predictions = predicted_arrays(potential, part, wanted, max_atoms, max_edges, on_batch, **options)
    stress_label = np.array(part.stress)
    lattice = part.pbc.all(axis=1) & (np.linalg.det(part.cell) != 0)
    stress_label[~lattice if want_stress else slice(None)] = np.nan  # no stress is predicted there
    forces_label = np.array(part.forces)
    if free_only and part.fixed is not None:
        forces_label[part.fixed] = np.nan
    arrays = {
        "n_atoms": np.array(part.n_atoms),
        "numbers": np.asarray(part.numbers).astype(np.int64),
        "energy_label": np.array(part.energy),
        "forces_label": forces_label,
        "stress_label": stress_label,
    } | predictions
    metrics, counts = summary(arrays, np.ones(len(part), dtype=bool))
    measured = deviation_measures(arrays) if has_deviations else Measured({}, {}, ())
    return Evaluation(
        metrics=metrics,
        counts=counts,
        elements={k: m | measured.elements.get(k, {}) for k, m in by_element(arrays).items()},
        tags=by_tag(arrays, part.tags),
        rows=index.astype(np.int64),
        ids=[str(name) for name in part.ids],
        deviations=measured.measures,
        notes=measured.notes,
        calibration=getattr(potential, "calibration_id", None),
        **arrays,
    )


def predict_frames(
    potential: Evaluable,
    part: FrameStore,
    wanted: Mapping[str, bool],
    max_atoms: int,
    max_edges: int | None,
    on_batch: Callable[[int], Any] | None,
) -> tuple[ndarray, ndarray, ndarray]:
    """Energies, forces and stresses of every frame of ``part``, in order; NaN for what is not wanted."""
    arrays = predicted_arrays(potential, part, wanted, max_atoms, max_edges, on_batch)
    return arrays["energy"], arrays["forces"], arrays["stress"]


def predicted_arrays(
    potential: Evaluable,
    part: FrameStore,
    wanted: Mapping[str, bool],
    max_atoms: int,
    max_edges: int | None,
    on_batch: Callable[[int], Any] | None,
    **options: Any,
) -> dict[str, ndarray]:
    """Predictions, and `DEVIATIONS` if there are any, for every frame of ``part``; NaN for what is not wanted."""
    found: dict[str, list[ndarray]] = {}
    cutoff, done = float(potential.cutoff), 0
    names = PREDICTIONS + (DEVIATIONS if getattr(potential, "deviations", ()) else ())

    def graphs() -> Iterator[Any]:
        for i in range(len(part)):
            yield part.graph(i, cutoff)

    for group in greedy_batches(graphs(), max_atoms=max_atoms, max_edges=max_edges):
        batch = join(group).to(potential.device)
        with torch.no_grad():
            out = potential(batch, **wanted, create_graph=False, **options)
        absent = {
            "forces": batch.pos.shape,
            "forces_cov": (*batch.pos.shape, 3),
            "forces_cov_epistemic": (*batch.pos.shape, 3),
            "stress": batch.cell.shape,
            "stress_std": batch.cell.shape,
            "stress_std_epistemic": batch.cell.shape,
        }
        for name in names:
            value = out[name].double().cpu().numpy() if name in out else np.full(absent[name], np.nan)
            found.setdefault(name, []).append(value)
        done += len(group)
        if on_batch is not None:
            on_batch(done)
    return {name: np.concatenate(values) for name, values in found.items()}


def summary(arrays: dict[str, ndarray], frames: ndarray) -> tuple[dict[str, float], dict[str, int]]:
    """Metrics and label counts of the frames where the mask ``frames`` [n] is true."""
    atoms = np.repeat(frames, arrays["n_atoms"])
    n = arrays["n_atoms"][frames]
    energy = (arrays["energy"] - arrays["energy_label"])[frames]
    errors = {
        "energy": energy,
        "energy_per_atom": energy / n,
        "forces": (arrays["forces"] - arrays["forces_label"])[atoms],
        "stress": (arrays["stress"] - arrays["stress_label"])[frames],
    }
    labels = {
        "energy": arrays["energy_label"][frames],
        "energy_per_atom": arrays["energy_label"][frames],
        "forces": arrays["forces_label"][atoms],
        "stress": arrays["stress_label"][frames],
    }
    metrics, counts = {}, {"frames": int(frames.sum()), "atoms": int(n.sum())}
    for name, error in errors.items():
        known = error[np.isfinite(labels[name])]  # a NaN prediction of a known label shows as NaN
        if name != "energy_per_atom":
            counts[name] = int(known.size)
        if known.size:
            metrics[f"{name}_mae"] = float(np.abs(known).mean())
            metrics[f"{name}_rmse"] = float(np.sqrt((known**2).mean()))
    return metrics, counts


def by_element(arrays: dict[str, ndarray]) -> dict[str, Numbers]:
    """Number of atoms with force labels, MAE and RMSE of the force components for each element."""
    error = arrays["forces"] - arrays["forces_label"]
    known = np.isfinite(arrays["forces_label"]).all(axis=1)
    out = {}
    for z in np.unique(arrays["numbers"]):
        mine = error[known & (arrays["numbers"] == z)]
        if len(mine):
            out[chemical_symbols[int(z)]] = {
                "atoms": len(mine),
                "forces_mae": float(np.abs(mine).mean()),
                "forces_rmse": float(np.sqrt((mine**2).mean())),
            }
    return out


def by_tag(arrays: dict[str, ndarray], tags: Mapping[str, ndarray]) -> dict[str, dict[str, Numbers]]:
    """Metrics for each value of each per-frame tag that has between 2 and 60 different values."""
    out: dict[str, dict[str, Numbers]] = {}
    for name, column in tags.items():
        values = np.unique(column)
        if not 2 <= len(values) <= MOST_GROUPS:
            continue
        out[name] = {}
        for value in values:
            frames = column == value if value == value else np.isnan(column)
            metrics, counts = summary(arrays, frames)
            out[name][str(value.item() if hasattr(value, "item") else value)] = {
                "frames": counts["frames"]
            } | metrics
    return out
