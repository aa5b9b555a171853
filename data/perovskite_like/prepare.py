"""Make simple ionic crystals from prototypes and ionic radii, relaxed with CHGNet inside their symmetry.

    python data/perovskite_like/prepare.py [--out FILE] [--work FOLDER] [--workers 1] [--threads 1] [--plan]

What is finished is kept in ``WORK/relaxed.jsonl`` and not done again; the file that comes out is the same after
any number of interruptions.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import sys
import warnings
from collections import Counter, defaultdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixSymmetry
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from candidates import PROTOTYPES, Candidate, candidates
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure
from pymatgen.io.cif import CifWriter
from spglib import get_symmetry_dataset

from atomml.calculators import ChgnetCalculator, calculator_name, make_calculator
from atomml.datasets.lattice import shortest_distance
from atomml.files import replace_file
from atomml.simulate.progress import progress_bar
from atomml.training.logs import append_jsonl, read_jsonl

MODEL = ChgnetCalculator(model="r2scan")
FMAX, STEPS, SEED, HOLD_OUT = 0.005, 100, 0, 8  # eV/Å, steps of BFGS, seed and share of the part "test"
MIN_DISTANCE, LONGEST_BOND, VOLUME_CHANGE, SYMPREC = 1.2, 6.0, 1 / 3, 1e-3  # Å, Å, relative to the start, Å


def space_group(atoms: Atoms) -> int:
    """Its number."""
    cell = (np.array(atoms.cell), atoms.get_scaled_positions(), atoms.numbers)
    return int(get_symmetry_dataset(cell, symprec=SYMPREC).number)


def relax(candidate: Candidate) -> dict[str, Any]:
    """What became of a crystal, relaxed inside its symmetry; ``error`` alone where nothing did."""
    start, atoms = candidate.atoms, candidate.atoms.copy()
    record = {"id": candidate.id, "prototype": candidate.prototype, "ions": candidate.ions}
    atoms.calc = make_calculator(MODEL)
    atoms.set_constraint(FixSymmetry(atoms, symprec=SYMPREC))
    optimiser = BFGS(FrechetCellFilter(atoms), logfile=None)
    try:
        converged = optimiser.run(fmax=FMAX, steps=STEPS)
    except (RuntimeError, ValueError) as error:  # a step too large for the symmetry, atoms without neighbours
        return record | {"error": str(error)}
    gradient = optimiser.optimizable.get_gradient().reshape(-1, 3)
    atoms.set_constraint()
    cell, fractional = np.array(atoms.cell), atoms.get_scaled_positions()
    return record | {
        "symbols": list(atoms.symbols),
        "cell": cell.tolist(),
        "fractional": fractional.tolist(),
        "energy_per_atom": float(atoms.get_potential_energy()) / len(atoms),
        "converged": bool(converged),
        "n_steps": optimiser.nsteps,
        "fmax": float(np.linalg.norm(gradient, axis=1).max()),
        "volume_change": float(atoms.get_volume() / start.get_volume() - 1),
        "distance": shortest_distance(cell, fractional, LONGEST_BOND),
        "space_groups": [space_group(start), space_group(atoms)],
    }


def reason_to_drop(record: dict[str, Any]) -> str | None:
    """Why a relaxed crystal is not wanted, or None."""
    if "error" in record:
        return "failed"
    if not record["converged"]:
        return f"not converged in {STEPS} steps"
    if abs(record["volume_change"]) > VOLUME_CHANGE:
        return f"volume changed by more than {VOLUME_CHANGE:.0%}"
    if record["distance"] < MIN_DISTANCE:
        return f"atoms closer than {MIN_DISTANCE} Å"
    before, after = record["space_groups"]
    return None if before == after else "other symmetry than the prototype"


def _start_worker(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore", module="pymatgen|chgnet|spglib")


def relax_all(todo: list[Candidate], log: Path, workers: int, threads: int) -> None:
    """Relax in processes of their own, and write down each as it is finished."""
    with (
        get_context("spawn").Pool(workers, _start_worker, (threads,)) as pool,
        progress_bar(len(todo), "relaxed", show=True) as advance,
    ):
        for record in pool.imap_unordered(relax, todo):
            append_jsonl(log, record)
            advance(1)


def finished(log: Path) -> list[dict[str, Any]]:
    """Records of an earlier run with the same settings; a line that was cut off is removed."""
    settings = {"calculator": calculator_name(MODEL), "fmax": FMAX, "steps": STEPS}
    log.parent.mkdir(parents=True, exist_ok=True)
    if not log.exists():
        append_jsonl(log, settings)
    first, *records = read_jsonl(log, log.read_bytes().rfind(b"\n") + 1)
    if first != settings:
        sys.exit(f"{log} was made with {first}, this is {settings}: choose another --work")
    return records


def judge(records: list[dict[str, Any]]) -> None:
    """Enter ``formula`` and ``dropped``: a reason, or None. Of crystals that match, the first is kept."""
    kept: dict[str, list[Structure]] = defaultdict(list)
    matcher = StructureMatcher()
    for record in records:
        record["dropped"] = reason_to_drop(record)
        if record["dropped"] is None:
            structure = Structure(record["cell"], record["symbols"], record["fractional"])
            formula = record["formula"] = structure.composition.reduced_formula
            if any(matcher.fit(structure, other) for other in kept[formula]):
                record["dropped"] = "duplicate"
            else:
                kept[formula].append(structure)


def table(records: list[dict[str, Any]]) -> bytes:
    """The CSV, compressed. One formula in ``HOLD_OUT``, chosen with ``SEED``, is of the part "test"."""
    formulas = sorted({r["formula"] for r in records})
    test = set(np.random.default_rng(SEED).permutation(formulas)[: len(formulas) // HOLD_OUT].tolist())
    rows = [
        {
            "material_id": r["id"],
            "cif": str(CifWriter(Structure(r["cell"], r["symbols"], r["fractional"]))),
            "formula": r["formula"],
            "prototype": r["prototype"],
            "ions": " ".join(f"{symbol}{abs(q)}{'+' if q > 0 else '-'}" for symbol, q in r["ions"]),
            "energy_per_atom": f"{r['energy_per_atom']:.5f}",
            "n_steps": r["n_steps"],
            "fmax": f"{r['fmax']:.5f}",
            "part": "test" if r["formula"] in test else "train",
        }
        for r in records
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return gzip.compress(text.getvalue().encode(), mtime=0)


def main() -> None:
    """Relax what is not yet, write the file, and print how many crystals of each prototype were dropped."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    here = Path(__file__).with_name("perovskite_like.csv.gz")
    parser.add_argument("--out", type=Path, default=here)
    parser.add_argument("--work", type=Path, default=Path("runs/perovskite_like"), help="of unfinished work")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--threads", type=int, default=1, help="threads of each process")
    parser.add_argument("--plan", action="store_true", help="only say how many there are")
    given = parser.parse_args()

    plan = list(candidates())
    print(f"{len(plan)} candidates: {dict(Counter(c.prototype for c in plan))}")
    if given.plan:
        return
    log = given.work / "relaxed.jsonl"
    done = {r["id"] for r in finished(log)}
    relax_all([c for c in plan if c.id not in done], log, given.workers, given.threads)

    by_id = {r["id"]: r for r in finished(log)}
    records = [by_id[c.id] for c in plan]
    judge(records)
    kept = [r for r in records if r["dropped"] is None]
    replace_file(given.out, table(kept))

    for name in PROTOTYPES:
        counts = Counter(r["dropped"] or "kept" for r in records if r["prototype"] == name)
        print(f"{name}: {dict(counts)}")
    size = given.out.stat().st_size / 1024
    print(f"{given.out}: {len(kept)} crystals, {size:.0f} KiB, {calculator_name(MODEL)}, seed {SEED}")


if __name__ == "__main__":
    main()
