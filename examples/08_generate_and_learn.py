"""Generate and learn: a crystal model proposes salts, a potential relaxes them, asks about some, and learns.

The oracle is the potential that comes with the package, so that nothing has to be downloaded; for your own work name
another one in `label.calculator`. `train/generate_and_learn.py` is the same at full size.
Run: python examples/08_generate_and_learn.py
"""

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import atomml
from atomml.active.config import ActiveConfig, resolved
from atomml.active.loop import run_active
from atomml.crystals.evaluate.novelty import novelty
from atomml.crystals.evaluate.shares import share_text
from atomml.crystals.evaluate.uniqueness import uniqueness
from atomml.crystals.screening import agreement, discoveries, screen
from atomml.crystals.sizes import ExtrapolationWarning
from atomml.datasets import FrameStore

FORMULAS = ["LiCl", "LiBr", "Li2ClBr"]
LIMIT = 0.05  # eV/atom above the hull


def settings(folder):
    """Start with strained rock salt; then two rounds of generated crystals and of their relaxations."""
    relax = {"steps": 20, "record_every": 10}
    crystals = {"kind": "crystals", "n": 3, "steps": 20, "relax": relax}
    return {
        "run_dir": f"{folder}/loop",
        "seed": 1,
        "figures": False,
        "start": {
            "structures": {"prototypes": ["rocksalt", "zincblende"]},
            "substitution": {"species": [["Cl", "Br"]]},
            "cell": {"min_length": 0, "min_atoms": 1},
        },
        "explore": [
            {"kind": "strain", "n": 6, "displacement": 0.1},
            crystals | {"formulas": FORMULAS[:2]},
            crystals | {"formulas": FORMULAS[2:], "z": 1},
        ],
        "gate": {"force_std_min": 0.03, "force_std_max": None, "max_force": 20, "min_distance": 0.6},
        "select": {"n": 24},
        "label": {"calculator": {"kind": "atomml", "model": "demo"}},
        "learn": {
            "training": {
                "model": {
                    "kind": "tdn",
                    "cutoff": 4.5,
                    "lmax": 1,
                    "channels": 8,
                    "layers": 2,
                    "zbl": True,
                    "heads": 4,
                },
                "loss": {"kind": "huber", "energy": 20, "forces": 1, "stress": 200},
                "optimizer": {"lr": 0.005},
                "batch": {"batch_size": 8},
                "max_steps": 150,
                "ema": 0.98,
            }
        },
        "calibrate": {"share": 0.4},
        "stop": {"max_rounds": 2},
    }


warnings.simplefilter("ignore", ExtrapolationWarning)  # cells of four atoms
with TemporaryDirectory() as scratch:
    config = resolved(ActiveConfig.model_validate(settings(scratch)), Path(scratch))
    loop = run_active(config, say=print)
    folder = Path(config.run_dir)
    store = FrameStore.open(folder / "start" / "structures")
    phases = [store[k] for k in range(len(store))]  # what is known: their hull
    crystals = [
        atoms
        for formula in FORMULAS
        for atoms in atomml.generate("demo", formula=formula, z=1, n=4, steps=20, seed=7)
    ]
    print(f"{len(crystals)} new proposals, {len(phases)} known phases, {loop['labels']} labels")

    decisions = {}
    for arm, model in {"before": folder / "rounds/00/model.safetensors", "after": loop["model"]}.items():
        ours = screen(crystals, phases, model)
        oracle = screen(ours.structures, phases, "demo")  # what comes out of it by the oracle
        decisions[arm] = agreement(ours, oracle, LIMIT)
        print(
            f"{arm} learning: the same decision as the oracle for {share_text(decisions[arm]['agree'])}, "
            f"median error {1e3 * decisions[arm]['median_error']:.0f} meV/atom"
        )

    novel, equal = novelty(oracle.structures, phases).novel, uniqueness(oracle.structures).group
    for k in discoveries(oracle, novel, equal, LIMIT):
        formula, group = (oracle.relaxed[k].row[key] for key in ("formula", "spacegroup"))
        above, std = ours.distances[k].value, ours.energies.std[k]
        print(
            f"{formula} {group}: {1e3 * above:.0f} ± {1e3 * std:.0f} meV/atom above the hull, "
            f"{1e3 * oracle.distances[k].value:.0f} by the oracle"
        )

assert loop["labels"] == 72
assert decisions["after"]["median_error"] < decisions["before"]["median_error"]
assert np.isfinite(ours.energies.std).any()
