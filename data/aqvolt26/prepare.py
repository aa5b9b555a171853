"""Sample hot and strained lithium halides in the manner of AQVolt26, at any size.

    python data/aqvolt26/prepare.py --scale 0.001 --out runs/small
    python data/aqvolt26/prepare.py --scale 0.01 --calculator demo --plan

The published set (322,656 r2SCAN single points of about 5,000 lithium halides, sampled with a surrogate potential
up to 2100 K) is not distributed in full. This is its recipe as far as it is known, with what is not known chosen
here: prototypes, halide and metal substitution, one random strain per run, seven temperatures, nine decorrelated
frames per run. ``--scale`` is the fraction of the published number of frames, an upper bound: near-duplicates and
exploded runs reduce it. The labels are those of the calculator, not of DFT.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from atomml.cli.train import parse_settings
from atomml.simulate.sampling import load_sample_config, run_sampling
from atomml.simulate.sampling.plan import plan_sampling

PUBLISHED, TEMPERATURES, PER_RUN = 322_656, 7, 9
HALIDES = ["F", "Cl", "Br", "I"]
M3 = ["Sc", "Y", "In", "Al", "Ga", "La", "Nd", "Sm", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Lu"]
# Prototypes and sets of elements, from few structures to many; the bundled model knows the elements of the first two.
TIERS: list[tuple[list[str], list[list[str]]]] = [
    (["rocksalt"], [HALIDES]),
    (["rocksalt", "li3mx6_c2m", "li3mx6_p3m1", "li2mx6_p3m1"], [HALIDES, ["Sc", "Y", "In"], ["Zr"]]),
    (
        ["rocksalt", "zincblende", "wurtzite", "cesiumchloride", "li3mx6_c2m", "li3mx6_p3m1", "li2mx6_p3m1"]
        + ["li2mx4_spinel"],
        [HALIDES, M3, ["Zr", "Hf", "Ti"], ["Mg", "Zn", "Cd", "Ca", "Mn", "Fe"]],
    ),
]
METAL_SET = {"li3mx6_c2m": 1, "li3mx6_p3m1": 1, "li2mx6_p3m1": 2, "li2mx4_spinel": 3}


def structures_of(tier: tuple[list[str], list[list[str]]]) -> int:
    """Number of structures with whole elements replaced."""
    prototypes, species = tier
    return sum(len(HALIDES) * (len(species[METAL_SET[p]]) if p in METAL_SET else 1) for p in prototypes)


def recipe(scale: float, *, demo: bool) -> dict[str, Any]:
    """Settings of a run of about ``scale`` times the published number of frames.

    As many structures as that many frames need, at seven temperatures and nine frames each: first with whole
    elements replaced, then, when those are used up, with sites shared by two elements.
    """
    frames = max(round(PUBLISHED * scale), 1)
    wanted = frames / (TEMPERATURES * PER_RUN)
    usable = TIERS[:2] if demo else TIERS
    fitting = [tier for tier in usable if structures_of(tier) <= wanted]
    prototypes, species = tier = fitting[-1] if fitting else TIERS[0]
    several = [p for p in prototypes if p in METAL_SET]  # wurtzite can share its two sites too, in a few ways
    mixed = math.floor(max(wanted - structures_of(tier), 0) / len(several)) if tier is usable[-1] else 0
    return {
        "structures": {"prototypes": prototypes},
        "substitution": {"species": species, "charges": {"Mn": 2, "Fe": 2}, "mixed": mixed},
        "selection.max_frames": frames,
    }


def calculator(text: str) -> dict[str, Any]:
    """``chgnet``, ``chgnet:0.3.0``, ``demo``, ``tblite`` or the path of a model of atomml."""
    kind, _, model = text.partition(":")
    if kind in ("chgnet", "tblite"):
        return {"kind": kind, **({"model": model} if model else {})}
    return {"kind": "atomml", "model": text}


def main() -> None:
    """Run the recipe."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--scale", type=float, default=0.001, help="fraction of the published number of frames"
    )
    parser.add_argument("--calculator", default="chgnet:r2scan", help=calculator.__doc__)
    parser.add_argument("--labeller", help="calculator of the labels, if another")
    parser.add_argument("--out", default="runs/aqvolt26_sample", help="run folder")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any other setting")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--plan", action="store_true", help="only say how much it would be")
    given = parser.parse_args()
    settings = recipe(given.scale, demo=given.calculator == "demo")
    settings |= {"calculator": calculator(given.calculator), "run_dir": given.out}
    if given.labeller:
        settings["labels.calculator"] = calculator(given.labeller)
    file = Path(__file__).with_name("sample.yaml")
    config, base = load_sample_config(file, settings | parse_settings(given.set))
    plan = plan_sampling(config, base)
    print(
        f"{len(plan.structures)} structures, {plan.runs} runs, {plan.steps} steps, {plan.atom_steps:.3g} atom "
        f"steps, at most {min(plan.runs * PER_RUN, config.selection.max_frames or plan.recorded)} frames of runs"
    )
    if given.plan:
        return
    result = run_sampling(
        config,
        base=base,
        workers=given.workers,
        resume=given.resume,
        overwrite=given.overwrite,
        progress=True,
    )
    print(f"{result.folder / 'frames'}: {len(result.store)} frames, {result.summary['label_summary']}")
    print(f"report: {result.folder / 'report.md'}")


if __name__ == "__main__":
    main()
