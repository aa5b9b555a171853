"""Make a small labelled data set, train a potential on it, evaluate it, and use it.

The labels come from ASE's EMT potential, so that nothing has to be downloaded; replace ``label`` by your DFT code.
Run: python examples/03_train_your_own.py
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

import atomml
from atomml.datasets import load_frames
from atomml.training import TrainConfig, evaluate


def label(atoms: Atoms) -> Atoms:
    """The same structure with energy, forces and stress from the reference method."""
    atoms.calc = EMT()
    results = {
        "energy": atoms.get_potential_energy(),
        "forces": atoms.get_forces(),
        "stress": atoms.get_stress(),
    }
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def rattled_alloys(n: int, seed: int) -> list[Atoms]:
    """Strained and rattled copper-gold cells of four atoms."""
    random = np.random.default_rng(seed)
    frames = []
    for k in range(n):
        atoms = bulk("Cu", cubic=True)
        atoms.symbols[: k % 5] = "Au"
        scale = 1 + 0.02 * (k % 5) + random.uniform(-0.02, 0.03)
        atoms.set_cell(atoms.cell.array * scale, scale_atoms=True)
        atoms.rattle(0.1, rng=random)
        frames.append(label(atoms))
    return frames


with TemporaryDirectory() as folder:
    files = {name: str(Path(folder) / f"{name}.extxyz") for name in ("train", "test")}
    write(files["train"], rattled_alloys(120, seed=0))
    write(files["test"], rattled_alloys(30, seed=1))
    config = TrainConfig.model_validate(
        {
            "run_dir": f"{folder}/run",
            "data": {"train": files["train"], "valid": 0.1, "test": files["test"]},
            "model": {"kind": "tdn", "cutoff": 4.5, "lmax": 1, "channels": 16, "layers": 2},
            "loss": {"energy": 10, "forces": 1, "stress": 100},
            "optimizer": {"lr": 0.005},
            "batch": {"batch_size": 10},
            "epochs": 20,
            "ema": 0.98,
        }
    )
    atomml.train(config)

    potential = atomml.load(f"{folder}/run/model.safetensors")
    test = load_frames(files["test"])
    errors = evaluate(potential, test).metrics
    spread = test.forces.std()
    print(
        f"Force error {1000 * errors['forces_rmse']:.1f} meV/Å, labels spread over {1000 * spread:.0f} meV/Å."
    )

    atoms = bulk("Cu", cubic=True)
    atoms.calc = atomml.Calculator(potential)
    print(f"Energy of copper: {atoms.get_potential_energy() / len(atoms):.4f} eV/atom")

assert errors["forces_rmse"] < 0.2 * spread
assert errors["energy_per_atom_rmse"] < 0.02
