"""The parts of an evaluation: each gives numbers for metrics.json and columns for structures.csv."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from ase import Atoms

from atomml._optional import installed
from atomml.crystals.evaluate.composition import composition_validity, smact_rules
from atomml.crystals.evaluate.coverage import CUTOFFS, coverage
from atomml.crystals.evaluate.equality import Work
from atomml.crystals.evaluate.fingerprints import Fingerprint, fingerprints, stack
from atomml.crystals.evaluate.inputs import Generated
from atomml.crystals.evaluate.matching import (
    PREDICTION,
    Flags,
    assign,
    match_structures,
    prediction_metrics,
    same_formula_pairs,
)
from atomml.crystals.evaluate.novelty import Novelty
from atomml.crystals.evaluate.shares import Section, reasons, share
from atomml.crystals.evaluate.symmetry import SpaceGroup, Symmetries
from atomml.crystals.evaluate.uniqueness import Uniqueness
from atomml.crystals.evaluate.validity import structure_validity
from atomml.errors import ConfigError, DataError
from atomml.parallel import Outcome

if TYPE_CHECKING:
    from atomml.crystals.evaluate.distributions import Comparison

__all__ = [
    "coverage_section",
    "distribution_section",
    "flags_of",
    "novelty_columns",
    "prediction_section",
    "symmetry_columns",
    "uniqueness_columns",
    "validity_section",
]


def validity_section(given: Generated) -> tuple[Section, Flags]:
    """Validity of structures and compositions (SMACT, where it is installed)."""
    n = len(given)
    structures = [None if atoms is None else structure_validity(atoms) for atoms in given.structures]
    why = [error if v is None else v.reason for v, error in zip(structures, given.errors, strict=True)]
    valid = np.array([v is not None and v.valid for v in structures], dtype=np.bool_)
    strict = [v is not None and v.strict for v in structures]
    metrics: dict[str, Any] = {
        "readable": share(n - list(given.structures).count(None), n),
        "structure": share(int(valid.sum()), n),
        "structure_strict": share(sum(strict), n),
    }
    columns = {
        "structure_valid": valid.tolist(),
        "structure_strict": strict,
        "structure_reason": why,
    }
    if not installed("smact"):
        metrics["composition"] = metrics["valid"] = None
        return Section(metrics | {"rules": "smact is not installed"}, columns), Flags(valid, None)
    compositions = [_composition(atoms) for atoms in given.structures]
    good = np.array([answer is True for answer, _ in compositions], dtype=np.bool_)
    metrics |= {
        "composition": share(int(good.sum()), n),
        "composition_unknown": share(sum(answer is None for answer, _ in compositions), n),
        "valid": share(int((valid & good).sum()), n),
        "structure_reasons": reasons(_kind(text) for text in why),
        "composition_reasons": reasons(text for answer, text in compositions if answer is not True),
        "rules": asdict(smact_rules()),
    }
    columns["composition_valid"], columns["composition_reason"] = map(list, zip(*compositions, strict=True))
    return Section(metrics, columns), Flags(valid, good)


def _composition(atoms: Atoms | None) -> tuple[bool | None, str]:
    if atoms is None:
        return None, "no structure"
    try:
        found = composition_validity(atoms.numbers.tolist())
    except DataError as problem:
        return False, problem.what
    return found.valid, found.reason


def _kind(reason: str | None) -> str | None:
    """A reason without its numbers, so that it can be counted."""
    if reason is None:
        return None
    return " ".join("…" if word[0].isdigit() else word for word in reason.split())


def flags_of(structures: Sequence[Atoms]) -> Flags:
    """Validity of a reference."""
    n = len(structures)
    return validity_section(Generated(tuple(structures), (None,) * n, ({},) * n))[1]


def uniqueness_columns(found: Uniqueness) -> dict[str, list[Any]]:
    """Whether each crystal is the first of its group, and the row of that."""
    known = found.group >= 0
    return {
        "unique": [bool(flag) if k else None for flag, k in zip(found.unique, known, strict=True)],
        "group": [int(row) if k else None for row, k in zip(found.group, known, strict=True)],
    }


def novelty_columns(found: Novelty) -> dict[str, list[Any]]:
    """Whether each crystal is novel, and the row of the reference that it matches."""
    return {"novel": list(found.novel), "known_as": [int(r) if r >= 0 else None for r in found.match]}


def symmetry_columns(found: Symmetries) -> dict[str, list[Any]]:
    """Number and symbol of each space group at every tolerance."""
    columns: dict[str, list[Any]] = {}
    for symprec, groups in zip(found.symprecs, found.groups, strict=True):
        named = [g if isinstance(g, SpaceGroup) else None for g in groups]
        columns[f"spacegroup_number_{symprec:g}"] = [None if g is None else g.number for g in named]
        columns[f"spacegroup_{symprec:g}"] = [None if g is None else g.symbol for g in named]
    return columns


def coverage_section(
    given: Generated,
    reference: Sequence[Atoms],
    *,
    cutoffs: str,
    cache_file: Path | None,
    **work: Unpack[Work],
) -> Section:
    """Coverage of the reference, and the distance of each crystal to the nearest reference crystal.

    Raises:
        ConfigError: unknown cut-offs.
        UnsupportedError: matminer is not installed.
    """
    if cutoffs not in CUTOFFS:
        raise ConfigError(f"There are no cut-offs {cutoffs!r}.", fix=f"choose one of {', '.join(CUTOFFS)}")
    present = [atoms for atoms in given.structures if atoms is not None]
    found = fingerprints([*present, *reference], cache_file=cache_file, **work)
    mine = iter(found[: len(present)])
    absent = Outcome[Fingerprint](None, "no structure", 0.0)
    all_mine = [absent if atoms is None else next(mine) for atoms in given.structures]
    generated = stack(all_mine)
    result = coverage(generated, stack(found[len(present) :]), CUTOFFS[cutoffs])
    columns: dict[str, list[Any]] = {}
    for name in ("structure", "composition"):
        column: list[float | None] = [None] * len(given)
        for row, distance in zip(generated.rows, getattr(result.from_generated, name), strict=True):
            column[int(row)] = float(distance)
        columns[f"{name}_distance"] = column
    metrics = {
        "recall": share(result.recalled, result.reference),
        "precision": share(result.precise, result.generated),
        "cutoffs": {"name": cutoffs, **CUTOFFS[cutoffs]._asdict()},
        "no_fingerprint": dict(zip(("reference", "generated"), result.no_fingerprint, strict=True)),
        "errors": reasons(_kind(outcome.error) for outcome in all_mine),
        **{
            name: getattr(result, name)
            for name in ("amsd_recall", "amsd_precision", "amcd_recall", "amcd_precision")
        },
    }
    return Section(metrics, columns)


def distribution_section(
    given: Generated, flags: Flags, reference: Sequence[Atoms], *, seed: int
) -> tuple[dict[str, Any], dict[str, Comparison]]:
    """Wasserstein distances between the valid crystals and the reference."""
    from atomml.crystals.evaluate.distributions import compare_distributions

    valid = flags.structure if flags.composition is None else flags.structure & flags.composition
    crystals = [
        atoms for atoms, good in zip(given.structures, valid, strict=True) if good and atoms is not None
    ]
    found = compare_distributions(crystals, reference, seed=seed)
    metrics = {
        name: {
            "wasserstein": c.distance,
            "generated": len(c.generated),
            "reference": len(c.reference),
            "left_out": sum(c.left_out),
        }
        for name, c in found.items()
    }
    return metrics, found


def prediction_section(
    given: Generated,
    flags: Flags,
    reference: Sequence[Atoms],
    *,
    most_pairs: int,
    **work: Unpack[Work],
) -> Section:
    """Match rates, and the distance of each prediction to its reference.

    Args:
        given: predictions; `Generated.reference_rows` or their order says of what.
        flags: validity of the predictions.
        reference: all that was to be predicted.
        most_pairs: no METRe when it needs more comparisons than this.
        **work: see `map_structures`.

    Raises:
        DataError: it cannot be said which reference is predicted, or there is no such row.
    """
    rows = given.reference_rows
    of = assign(len(given), len(reference)) if rows is None else np.array(rows, dtype=np.int64)
    if len(of) and not 0 <= of.min() <= of.max() < len(reference):
        raise DataError(
            f"The predictions are of rows {of.min()} to {of.max()}, the reference has {len(reference)}.",
            fix="give the reference that the predictions were made for",
        )
    own = list(enumerate(of.tolist()))
    pairs = sorted({*own, *same_formula_pairs(given.structures, reference)})
    everyone = len(pairs) <= most_pairs
    matches = match_structures(given.structures, reference, pairs if everyone else own, **work)
    metrics = prediction_metrics(of, matches, flags, flags_of(reference), everyone=everyone)
    metrics |= {"tolerances": asdict(PREDICTION)}
    if not everyone:
        metrics["metre"] = f"not computed: {len(pairs)} comparisons are more than {most_pairs}"
    mine = np.flatnonzero(of[matches.prediction] == matches.reference)
    rmsd = matches.rmsd[mine]
    return Section(
        metrics,
        {
            "reference": of.tolist(),
            "matched": np.isfinite(rmsd).tolist(),
            "rmsd": [float(d) if np.isfinite(d) else None for d in rmsd],
            "match_error": [matches.errors[k] for k in mine],
        },
    )
