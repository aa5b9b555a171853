"""The exploration of one round: units computed, in several processes if wanted, and put together to one pool."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ase import Atoms

from atomml.active.explore.plan import Exploration, Plan, plan_units
from atomml.active.explore.units import is_calibrated
from atomml.active.history import stores
from atomml.active.work import Facts, Run, facts_of
from atomml.datasets.store import FrameStore
from atomml.datasets.store_files import read_header
from atomml.datasets.store_writer import write_parts
from atomml.errors import SimulationError
from atomml.simulate.progress import progress_bar
from atomml.simulate.sampling.units import Workers

__all__ = ["discard_units", "explore"]

POOL, UNITS = "pool", "units"
NAMED = 3


def explore(run: Run, round_: int) -> Facts:
    """Candidates of a round in ``rounds/NN/pool``, and how they came about.

    Raises:
        SimulationError: no explorer gave a candidate.
    """
    folder = run.round_folder(round_)
    plan = plan_units(run.config.explore, _given(run, round_, folder / UNITS))
    number, finished = len(plan.units), sum(unit.done() for unit in plan.units)
    with (
        progress_bar(number, "exploration", show=run.progress) as advance,
        Workers(run.config.workers) as workers,
    ):
        advance(finished)
        for _ in workers.run(plan.units):
            finished += 1
            advance(1)
            run.now(round_, "explore", finished, number)
    headers = [read_header(unit.folder) for unit in plan.units]
    records = [header["info"]["record"] for header in headers]
    parts = [unit.folder for unit, header in zip(plan.units, headers, strict=True) if header["frames"]]
    if not parts:
        raise _nothing(records, plan)
    write_parts(_Stores(parts), {"source": "atomml active"}, folder / POOL, overwrite=True)
    pool = FrameStore.open(folder / POOL)
    return {
        "units": number,
        "candidates": len(pool),
        "by_kind": dict(sorted(Counter(str(kind) for kind in pool.tags["kind"]).items())),
        "status": dict(sorted(Counter(r["status"] for r in records).items())),
        "pool": facts_of(run, pool, folder / POOL),
        "notes": _notes(plan, records),
    }


def discard_units(run: Run, round_: int) -> None:
    """Remove what the pool holds as well; called when the journal has the pool."""
    shutil.rmtree(run.round_folder(round_) / UNITS, ignore_errors=True)


def _given(run: Run, round_: int, folder: Path) -> Exploration:
    start = run.journal.find(0, "start")
    structures = start["facts"]["structures"] if start is not None else None
    model = run.model
    return Exploration(
        round=round_,
        seed=run.config.seed,
        folder=folder,
        model=model,
        structures=[] if structures is None else _named(run.folder / structures["path"], "system"),
        labelled=[
            item
            for path in stores(run.journal.records, "train")
            if any(getattr(e, "begin", "") == "labelled" for e in run.config.explore)
            for item in _named(run.folder / path, None)
        ],
        stop_above=run.config.gate.force_std_max if model is not None and is_calibrated(model) else None,
    )


def _named(folder: Path, tag: str | None) -> list[tuple[str, Atoms]]:
    """Structures of a store by a tag, or by the store and their row."""
    store = FrameStore.open(folder)
    out = []
    for k in range(len(store)):
        atoms = store[k]
        name = f"{folder.parent.name}_{k}" if tag is None else str(atoms.info[tag])
        atoms.info, atoms.calc = {}, None
        atoms.set_constraint()
        out.append((name, atoms))
    return out


class _Stores:
    """Stores opened one after another, every time anew, so that their files do not stay open."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = folders

    def __iter__(self) -> Iterator[FrameStore]:
        return (FrameStore.open(folder, verify=False) for folder in self.folders)


def _nothing(records: Sequence[dict[str, Any]], plan: Plan) -> SimulationError:
    why = [f"{r['unit']}: {r['reason']}" for r in records] + [f"{n}: {why}" for n, why in plan.left_out]
    return SimulationError(
        f"No candidate was found: {len(records)} explorations gave none, {len(plan.left_out)} were not possible.",
        where="; ".join(why[:NAMED]),
        fix="change explore or start.structures, then go on with --resume",
    )


def _notes(plan: Plan, records: Sequence[dict[str, Any]]) -> list[str]:
    """What a reader should know: the commonest reasons, with how often."""
    left = Counter(reason for _, reason in plan.left_out)
    bad = Counter(r["reason"] for r in records if r["status"] in ("failed", "exploded"))
    return [f"{count} not explored: {reason}" for reason, count in left.most_common(NAMED)] + [
        f"{count} explorations ended early: {reason}" for reason, count in bad.most_common(NAMED)
    ]
