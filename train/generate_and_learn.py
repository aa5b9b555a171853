"""Generate and learn: lithium halides of a crystal model, relaxed by a potential that learns those it is not sure of.

    python train/generate_and_learn.py [--n 4] [--seed 7] [--limit 0.025] [--steps 500] [--config FILE]
        [--start DIR] [--out FILE] [--set KEY=VALUE ...]

The loop of ``generate_and_learn.yaml`` begins with the 40 frames of ``active_li_halide_start.yaml`` (made in
``--start`` unless they are there, or given by ``--set start.labelled=...``). Then the crystal model proposes anew,
``--n`` crystals of each formula with a seed that the loop has not used. The model of round 0 and that of the last
round each relax them all and say how far they are above the hull of the known phases (``start.structures``, relaxed
by the same model); the labeller's calculator relaxes what came out and says what is true. Reported are the crystals
within ``--limit`` eV/atom of the hull by the labeller that are neither known phases nor in the training set of the
crystal model. A loop that was interrupted goes on; FILE (.json, with .md, .png and .extxyz beside it) is written at
the end.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from active_li_halide import frames
from ase import Atoms
from ase.io import write
from matplotlib.figure import Figure
from pymatgen.core import Composition
from rich.console import Console

from atomml.active.config import ActiveConfig, load_active_config
from atomml.active.explore.config import CrystalsExplorer
from atomml.active.loop import run_active
from atomml.bench import machine
from atomml.calculators import AnyCalculator, calculator_name, make_calculator
from atomml.cli.train import parse_settings
from atomml.crystals.evaluate.novelty import novelty
from atomml.crystals.evaluate.shares import share_text
from atomml.crystals.evaluate.uniqueness import uniqueness
from atomml.crystals.generate import generate
from atomml.crystals.screening import Screening, agreement, discoveries, screen
from atomml.datasets import FrameStore, load_frames
from atomml.files import replace_file
from atomml.training.report import markdown_table, save_figure

HERE = Path(__file__).parent
TRAINING_SET = HERE.parent / "data" / "perovskite_like" / "perovskite_like.csv.gz"
FIRST_MODEL = Path("rounds") / "00" / "model.safetensors"
ON_HULL = 0.001  # eV/atom: what relaxations to 0.02 eV/Å leave open


class Judged(NamedTuple):
    """The proposals by a model, and what came out of it by the labeller."""

    model: Screening
    oracle: Screening


def proposals(config: ActiveConfig, n: int, seed: int) -> list[Atoms]:
    """New crystals of every formula, or of the chemical system, that the loop explores."""
    found: list[Atoms] = []
    for explorer in config.explore:
        if isinstance(explorer, CrystalsExplorer):
            for formula in explorer.formulas or [None]:
                found += generate(
                    explorer.model,
                    n=n,
                    steps=explorer.steps,
                    seed=seed,
                    formula=formula,
                    chemical_system=explorer.chemical_system,
                    z=explorer.z,
                    max_atoms=explorer.max_atoms,
                )
    return found


def judge(
    crystals: Sequence[Atoms], phases: Sequence[Atoms], model: Path, oracle: AnyCalculator, steps: int
) -> Judged:
    """The crystals relaxed by a model, and from there by the labeller's calculator."""
    by_model = screen(crystals, phases, model, steps=steps)
    return Judged(by_model, screen(by_model.structures, phases, make_calculator(oracle), steps=steps))


def _formula(atoms: Atoms) -> str:
    return str(Composition(atoms.get_chemical_formula()).reduced_formula)


def rows_of(judged: Judged, known: Sequence[Atoms]) -> list[dict[str, Any]]:
    """One row for each proposal: energies above the hull in eV/atom, σ, novelty and the first equal crystal."""
    structures = judged.oracle.structures
    new, group = novelty(structures, known), uniqueness(structures).group
    rows = []
    for k, (ours, theirs) in enumerate(zip(judged.model.relaxed, judged.oracle.relaxed, strict=True)):
        rows.append(
            {
                "formula": None if theirs.atoms is None else _formula(theirs.atoms),
                "spacegroup": theirs.row.get("spacegroup"),
                "model": judged.model.distances[k].value,
                "std": None if np.isnan(std := judged.model.energies.std[k]) else float(std),
                "oracle": judged.oracle.distances[k].value,
                "converged": ours.row["converged"] and theirs.row["converged"],
                "reason": judged.model.energies.errors[k] or judged.oracle.energies.errors[k],
                "novel": new.novel[k],
                "group": int(group[k]),
            }
        )
    return rows


def text_of(content: dict[str, Any]) -> str:
    """The report: decisions of both models, and the novel crystals."""
    decisions = [
        [
            arm,
            f"{1e3 * float(limit):.0f}",
            share_text(found["agree"]),
            *(found[key] for key in ("both", "only_first", "only_second", "neither", "unknown")),
            *("–" if found[k] is None else f"{1e3 * found[k]:.1f}" for k in ("median_error", "rmse")),
            "–" if found["z_rms"] is None else f"{found['z_rms']:.2f}",
        ]
        for arm, limits in content["decisions"].items()
        for limit, found in limits.items()
    ]
    crystals = [
        [
            row["formula"],
            row["spacegroup"],
            f"{1e3 * row['model']:.1f}" + ("" if row["std"] is None else f" ± {1e3 * row['std']:.1f}"),
            f"{1e3 * row['oracle']:.1f}",
            row["times"],
        ]
        for row in content["reported"]
    ]
    lost = content["phases_lost"]
    header = ["model", "limit", "same decision", "both", "only model", "only oracle", "neither", "unknown"]
    return "\n\n".join(
        [
            f"# Generate and learn\n\n{content['proposals']} proposals, {len(content['phases'])} known phases; "
            f"labels and oracle: {content['oracle']}; {content['labels']} labels in "
            f"{len(content['rounds']) - 1} rounds, which ended because: {content['reason']}.",
            "## Near the hull or not\n\nEnergies above the hull in meV/atom. What is true is the energy of the "
            "oracle after it has relaxed what the model relaxed; σ is that of the crystal's energy."
            + "".join(f" Phases that the model {arm} learning lost: {n}." for arm, n in lost.items() if n),
            markdown_table([*header, "median error", "RMSE", "error/σ"], decisions),
            f"## Novel crystals within {1e3 * content['limit']:.0f} meV/atom of the hull\n\nBy the oracle; model: "
            "of the last round. Neither known phases nor in the training set of the crystal model.",
            markdown_table(["formula", "space group", "model", "oracle", "found"], crystals)
            if crystals
            else "None.",
        ]
    )


def figure_of(rows: dict[str, list[dict[str, Any]]], limit: float) -> Figure:
    """Energies above the hull of both models against those of the oracle, with σ."""
    figure = Figure(figsize=(8.4, 4.0), layout="constrained")
    for axes, (arm, found) in zip(figure.subplots(1, 2, sharex=True, sharey=True), rows.items(), strict=True):
        for novel, label in ((True, "novel"), (False, "known")):
            some = [r for r in found if r["novel"] is novel and None not in (r["model"], r["oracle"])]
            x, y, std = (
                np.array([np.nan if r[key] is None else 1e3 * r[key] for r in some])
                for key in ("oracle", "model", "std")
            )
            axes.errorbar(x, y, yerr=std, fmt="o" if novel else "x", ms=4, lw=0.6, alpha=0.7, label=label)
        axes.axline((0, 0), slope=1, color="k", lw=0.6)
        axes.axvline(1e3 * limit, color="k", lw=0.6, ls=":")
        axes.axhline(1e3 * limit, color="k", lw=0.6, ls=":")
        axes.set(title=f"{arm} learning", xlabel="above the hull, oracle (meV/atom)")
    figure.axes[0].set(ylabel="above the hull, model (meV/atom)", xlim=(-50, 400), ylim=(-50, 400))
    figure.axes[0].legend(frameon=False)
    return figure


def write_results(content: dict[str, Any], structures: Sequence[Atoms], out: Path) -> None:
    """The numbers, the report, the figure, and the novel crystals as the oracle relaxed them."""
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(out, json.dumps(content, indent=1, ensure_ascii=False).encode())
    replace_file(out.with_suffix(".md"), (text_of(content) + "\n").encode())
    save_figure(figure_of(content["crystals"], content["limit"]), out.with_suffix(".png"))
    if structures:
        write(out.with_suffix(".extxyz"), structures)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=4)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--limit", type=float, default=0.025)
    parser.add_argument("--steps", type=int, default=500, help="most steps of a relaxation")
    parser.add_argument("--config", type=Path, default=HERE / "generate_and_learn.yaml")
    parser.add_argument("--start", type=Path, default=Path("runs/active_li_halide"))
    parser.add_argument("--out", type=Path, default=Path("runs/generate_and_learn/generate_and_learn.json"))
    parser.add_argument("--set", dest="changes", nargs="*", default=[], metavar="KEY=VALUE")
    options = parser.parse_args(arguments)
    changes = parse_settings(options.changes)
    say = partial(Console().print, highlight=False, markup=False, soft_wrap=True)
    if "start.labelled" not in changes:
        changes["start.labelled"] = [str(frames("start", options.start))]
    config = load_active_config(options.config, changes)
    loop = run_active(config, resume=True, say=say)
    folder = Path(config.run_dir).expanduser().resolve()
    store = FrameStore.open(folder / "start" / "structures")
    phases = [store[k] for k in range(len(store))]
    training = load_frames(TRAINING_SET, require_energy=False)
    known = [*phases, *(training[k] for k in range(len(training)))]
    crystals = proposals(config, options.n, options.seed)
    say(f"{len(crystals)} proposals")
    models = {"before": folder / FIRST_MODEL, "after": Path(loop["model"])}
    judged = {}
    for arm, model in models.items():
        judged[arm] = judge(crystals, phases, model, config.label.calculator, options.steps)
        found = agreement(*judged[arm], options.limit)
        say(f"{arm} learning: same decision as the oracle for {share_text(found['agree'])}")
    rows = {arm: rows_of(both, known) for arm, both in judged.items()}
    groups = np.array([row["group"] for row in rows["after"]])
    novel = [row["novel"] for row in rows["after"]]
    best = discoveries(judged["after"].oracle, novel, groups, options.limit)
    content = {
        "machine": machine.facts(1),
        "changes": options.changes,
        "proposals": len(crystals),
        "limit": options.limit,
        "oracle": calculator_name(config.label.calculator),
        "labels": loop["labels"],
        "reason": loop["reason"],
        "rounds": loop["rounds"],
        "phases": [one.row for one in judged["after"].oracle.phases],
        "phases_lost": {
            arm: sum(one.atoms is None for one in (*both.model.phases, *both.oracle.phases))
            for arm, both in judged.items()
        },
        "decisions": {
            arm: {str(limit): agreement(*both, limit) for limit in (ON_HULL, options.limit)}
            for arm, both in judged.items()
        },
        "reported": [rows["after"][k] | {"times": int((groups == groups[k]).sum())} for k in best],
        "crystals": rows,
    }
    write_results(content, [judged["after"].oracle.relaxed[k].atoms for k in best], options.out)
    say(text_of(content))


if __name__ == "__main__":
    main()
