"""A potential that says how sure it is: train, calibrate, meet strange structures, stop a run, choose labels.

The labels come from ASE's EMT potential, so that nothing has to be downloaded.
Run: python examples/05_uncertainty.py
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
from atomml.simulate import run_md
from atomml.training import TrainConfig, evaluate
from atomml.training.acquisition import member_predictions
from atomml.training.deviations import calibrated
from atomml.uncertainty.acquisition import acquire


def alloys(n: int, seed: int, *, shake: float = 0.08, strain: float = 0.02) -> list[Atoms]:
    """Rattled, strained copper-gold cells of four atoms with EMT labels."""
    random = np.random.default_rng(seed)
    frames = []
    for k in range(n):
        atoms = bulk("Cu", cubic=True)
        atoms.symbols[: k % 5] = "Au"
        scale = 1 + 0.02 * (k % 5) + random.uniform(-strain, strain)
        atoms.set_cell(atoms.cell.array * scale, scale_atoms=True)
        atoms.rattle(shake, rng=random)
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        frames.append(atoms)
    return frames


with TemporaryDirectory() as folder:
    sets = {"train": alloys(120, 0), "held_out": alloys(60, 1), "hot": alloys(40, 2, shake=0.15, strain=0.05)}
    stores = {}
    for name, frames in sets.items():
        write(Path(folder) / f"{name}.extxyz", frames)
        stores[name] = load_frames(Path(folder) / f"{name}.extxyz")
    config = TrainConfig.model_validate(
        {
            "run_dir": f"{folder}/run",
            "data": {"train": f"{folder}/train.extxyz", "valid": 20},
            "model": {"kind": "tdn", "cutoff": 4.5, "channels": 8, "layers": 2, "noise": {"forces": "expm"}},
            "loss": {"kind": "nll", "mean": {"energy": 10, "forces": 1}},
            "uncertainty": {"kind": "llpr", "force_frames": 40},
            "optimizer": {"lr": 0.005},
            "batch": {"batch_size": 10},
            "epochs": 25,
            "ema": 0.98,
        }
    )
    atomml.train(config)

    model = calibrated(atomml.load(f"{folder}/run/model.safetensors"), stores["held_out"])
    results = {name: evaluate(model, stores[name]) for name in ("held_out", "hot")}
    for name, result in results.items():
        forces = result.deviations["forces"]
        print(
            f"{name:9} force RMSE {1e3 * forces['rmse']:4.0f} meV/Å, predicted {1e3 * forces['sharpness']:4.0f}; "
            f"inside 68 %: {100 * forces['coverage_68']:.0f} %, inside 95 %: {100 * forces['coverage_95']:.0f} %"
        )

    prediction = model.predict(sets["hot"][0])[0]
    print(
        f"One hot cell: E = {prediction.energy:.3f} ± {prediction.energy_std:.3f} eV "
        f"(members disagree by {prediction.energy_std_epistemic:.3f}, noise {prediction.energy_std_aleatoric:.3f})"
    )

    usual = np.sqrt(np.einsum("nii->n", results["held_out"].forces_cov) / 3)
    start = sets["train"][2].copy() * (2, 2, 2)
    run = run_md(
        start, model, temperature=3000, steps=150, timestep=3, limits={"stop_above": 1.5 * usual.max()}
    )
    stopped = run.summary["stopped_by"]
    print(
        "Dynamics at 3000 K:", f"stopped at step {stopped['step']}" if stopped else "never left what is known"
    )

    pool = load_frames(Path(folder) / "hot.extxyz")
    chosen = acquire("batch_bald", 5, predictions=member_predictions(model, pool))
    print(f"To label next: {chosen.rows.tolist()} of {len(pool)} hot cells")

assert 0.5 < results["held_out"].deviations["forces"]["coverage_68"] < 0.85
assert (
    results["hot"].deviations["forces"]["sharpness"] > results["held_out"].deviations["forces"]["sharpness"]
)
assert len(set(chosen.rows.tolist())) == 5
