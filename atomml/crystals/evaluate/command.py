"""All metrics of a set of crystals, with a report: what `atomml crystals evaluate` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

from atomml._version import __version__
from atomml.config import parse_config
from atomml.crystals.evaluate.equality import EQUALITY, Work
from atomml.crystals.evaluate.inputs import Generated, load_crystals, read_generated, skipped
from atomml.crystals.evaluate.matching import PREDICTION, Flags
from atomml.crystals.evaluate.novelty import novelty
from atomml.crystals.evaluate.sections import (
    coverage_section,
    distribution_section,
    novelty_columns,
    prediction_section,
    symmetry_columns,
    uniqueness_columns,
    validity_section,
)
from atomml.crystals.evaluate.settings import EvaluationConfig
from atomml.crystals.evaluate.shares import Section, reasons
from atomml.crystals.evaluate.stability import METASTABLE, STABLE, Labelled, labelled, stability_section
from atomml.crystals.evaluate.symmetry import space_groups
from atomml.crystals.evaluate.uniqueness import uniqueness
from atomml.datasets import FrameStore
from atomml.errors import UnsupportedError
from atomml.shapes import Int64, ndarray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What draws and writes is imported where it is used: a script that calls this is imported by every worker process.

__all__ = ["evaluate_crystals"]

PACKAGES = ("pymatgen", "spglib", "smact", "matminer", "chgnet")


def evaluate_crystals(
    generated: str | Path,
    *,
    out: str | Path | None = None,
    executor: Executor | None = None,
    notify: Callable[[str], None] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Judge crystals and write metrics.json, structures.csv (a row for each), report.md and figures.

    No structure stops the others: what fails is counted, with the reason in its row. Shares are of all crystals that
    were to be generated. A part whose package is not installed is left out, and ``not_done`` says so.

    Args:
        generated: a folder of `generate`, an extxyz, a CSV file with CIF text, a folder of CIF files, ...
        out: folder of the report; by default ``evaluation`` in the generated folder, or beside the file.
        executor: where to work instead of own processes; any `concurrent.futures.Executor`.
        notify: called with a line at the beginning of each part.
        **settings: see `EvaluationConfig`.

    Returns:
        The content of metrics.json.

    Raises:
        ConfigError: an unknown setting, a wrong value, settings that do not fit together.
        DataError: a file that cannot be read or written; predictions that do not belong to the reference.
        UnsupportedError: the package of the potential is not installed.
        ModelFileError: the potential is not a model.
    """
    from atomml.crystals.evaluate.report import finite, write_report

    how = parse_config(EvaluationConfig, settings, where="evaluate_crystals", fix="see EvaluationConfig")
    source = Path(generated)
    folder = Path(out) if out is not None else (source if source.is_dir() else source.parent) / "evaluation"
    run = _Evaluation(read_generated(source, relaxed=how.relaxed), how, folder, executor, notify)
    metrics = finite(
        {"generated": str(source), "n": len(run.given), "task": how.task, **run.metrics()}
        | {"settings": _stated(how), "rules": _rules(), "versions": _versions()}
    )
    write_report(folder, metrics, run.columns, run.figures)
    return metrics


def _stated(how: EvaluationConfig) -> dict[str, Any]:
    plain = (str, int, float, type(None))
    return {name: value if isinstance(value, plain) else str(value) for name, value in how}


def _rules() -> dict[str, Any]:
    return {
        "equal": asdict(EQUALITY),
        "predicted": asdict(PREDICTION),
        "stable_up_to": STABLE,
        "metastable_up_to": METASTABLE,
        "denominators": "all crystals that were to be generated; match rates: all references",
        "intervals": "Wilson, 95 %",
    }


def _versions() -> dict[str, str]:
    found = {"atomml": __version__}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


class _Evaluation:
    """What is known so far of one set of crystals; each method adds a part."""

    def __init__(
        self,
        given: Generated,
        how: EvaluationConfig,
        folder: Path,
        executor: Executor | None,
        notify: Callable[[str], None] | None,
    ) -> None:
        self.given, self.how, self.folder = given, how, folder
        self.work: Work = {"workers": how.workers, "timeout": how.timeout, "executor": executor}
        self._say = notify if notify is not None else lambda line: None
        atoms = given.structures
        self.columns: dict[str, Sequence[Any]] = {
            "index": [record.get("index", k) for k, record in enumerate(given.records)],
            "formula": [None if a is None else a.get_chemical_formula() for a in atoms],
            "n_atoms": [None if a is None else len(a) for a in atoms],
            "error": list(given.errors),
        }
        self.figures: dict[str, Figure] = {}
        self._metrics: dict[str, Any] = {}
        self._not_done: dict[str, str] = {}

    def metrics(self) -> dict[str, Any]:
        """All parts that the settings ask for."""
        how = self.how
        self._say("reading")
        reference = self._set(how.reference, "reference", skip_bad=how.task == "generation")
        training = reference if how.training is None else self._set(how.training, "training", skip_bad=True)
        energies = None
        if how.potential is not None:
            self._say("energies")
            energies = labelled(self.given, how.potential, how.hull, device=how.device)
        self._say("validity")
        section, flags = validity_section(self.given)
        self._add("validity", section)
        if flags.composition is None:
            self._not_done["composition"] = "smact is not installed: pip install 'atomml[crystals]'"
        group, novel = np.arange(len(self.given)), None
        if how.task == "prediction" and reference is not None:
            self._prediction(flags, reference)
        else:
            group, novel = self._new(training)
        if energies is not None:
            self._stability(energies, group, novel)
        some = None if reference is None else self._some(reference)
        self._symmetry(some)
        if how.task == "generation" and some is not None:
            self._compared(flags, some)
        return self._metrics | {"not_done": self._not_done}

    def _add(self, name: str, section: Section) -> None:
        self._metrics[name] = section.metrics
        self.columns |= section.columns

    def _set(self, path: Path | None, name: str, *, skip_bad: bool) -> FrameStore | None:
        if path is None:
            return None
        store = load_crystals(path, skip_bad=skip_bad)
        self._metrics[name] = {"crystals": len(store), "left_out": reasons(skipped(store))}
        return store

    def _some(self, reference: FrameStore) -> list[Atoms]:
        limit, rows = self.how.reference_limit, np.arange(len(reference))
        if limit is not None and limit < len(rows):
            rows = np.sort(np.random.default_rng(self.how.seed).choice(rows, limit, replace=False))
        return [reference[int(row)] for row in rows]

    def _prediction(self, flags: Flags, reference: FrameStore) -> None:
        from atomml.crystals.evaluate.figures import rmsd_figure

        self._say(f"matches of {len(self.given)} predictions")
        true = [reference[row] for row in range(len(reference))]
        section = prediction_section(self.given, flags, true, most_pairs=self.how.most_pairs, **self.work)
        self._add("prediction", section)
        rmsd = [d for d in section.columns["rmsd"] if d is not None]
        self.figures["rmsd"] = rmsd_figure(rmsd, len(self.given) - len(rmsd), PREDICTION.stol)

    def _new(
        self, training: FrameStore | None
    ) -> tuple[Int64[ndarray, " crystals"], Sequence[bool | None] | None]:
        """Uniqueness and novelty: the groups of equal crystals, and which are novel."""
        self._say(f"uniqueness of {len(self.given)} crystals")
        unique = uniqueness(self.given.structures, **self.work)
        self._add("uniqueness", Section(unique.metrics(), uniqueness_columns(unique)))
        if training is None:
            self._not_done["novelty"] = "no reference or training set is given"
            return unique.group, None
        self._say(f"novelty against {len(training)} crystals")
        new = novelty(self.given.structures, training, **self.work)
        self._add("novelty", Section(new.metrics(), novelty_columns(new)))
        return unique.group, new.novel

    def _stability(
        self,
        found: Labelled,
        group: Int64[ndarray, " crystals"],
        novel: Sequence[bool | None] | None,
    ) -> None:
        section = stability_section(found.energies, found.distances, group, novel)
        self._add("stability", Section({"hull": found.hull, **section.metrics}, section.columns))
        if found.distances is None:
            self._not_done["hull"] = "no reference phases are given"

    def _symmetry(self, reference: Sequence[Atoms] | None) -> None:
        from atomml.crystals.evaluate.figures import space_group_figure

        self._say("symmetry")
        found = space_groups(self.given.structures, **self.work)
        self._add("symmetry", Section(found.metrics(), symmetry_columns(found)))
        groups = {"generated": found.groups[0]}
        if reference is not None:
            groups["reference"] = space_groups(reference, found.symprecs[:1], **self.work).groups[0]
        self.figures["space_groups"] = space_group_figure(groups)

    def _compared(self, flags: Flags, reference: Sequence[Atoms]) -> None:
        """Coverage of a reference, and distributions."""
        from atomml.crystals.evaluate.figures import distribution_figure, element_figure

        how = self.how
        self._metrics["distributions"], found = distribution_section(
            self.given, flags, reference, seed=how.seed
        )
        self.figures["distributions"] = distribution_figure(found)
        present = [atoms for atoms in self.given.structures if atoms is not None]
        self.figures["elements"] = element_figure(present, reference)
        if not how.coverage:
            self._not_done["coverage"] = "it was not asked for"
            return
        self._say(f"coverage: fingerprints of {len(present)} + {len(reference)} crystals")
        cache = how.fingerprint_cache or self.folder / "fingerprints.npz"
        try:
            self._add(
                "coverage",
                coverage_section(self.given, reference, cutoffs=how.cutoffs, cache_file=cache, **self.work),
            )
        except UnsupportedError as problem:
            self._not_done["coverage"] = " ".join(str(problem).split())
