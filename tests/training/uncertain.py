"""Random ensembles, and frames whose labels scatter around their predictions as the deviations say, or not."""

from __future__ import annotations

import functools

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from atomml.datasets import from_ase
from atomml.potentials import build_potential
from atomml.potentials.config import TDNConfig
from atomml.uncertainty.bayesian import BayesianPotential
from atomml.uncertainty.posterior import Members

E0 = {29: -100.0, 79: -200.0}


def potential(seed=0, **keys):
    config = TDNConfig(
        **({"channels": 4, "layers": 1, "lmax": 1, "radial_hidden": [8], "cutoff": 3.5} | keys)
    )
    constants = {"elements": [29, 79], "e0": E0, "average_neighbors": 12.0, "scale": 0.5}
    return build_potential(config, **constants, seed=seed).double().eval()


@functools.cache
def ensemble(members=6):
    return BayesianPotential(Members([potential(seed) for seed in range(members)])).eval()


def structures(n=60, *, seed=0, shake=0.1, lattice=3.8):
    """Rattled CuAu cells of 1, 2 and 4 atoms."""
    rng = np.random.default_rng(seed)
    frames = []
    for k in range(n):
        atoms = (
            bulk("Cu", cubic=True, a=lattice)
            if k % 2
            else bulk("Cu", a=lattice).repeat((1 + k % 4 // 2, 1, 1))
        )
        atoms.numbers[: len(atoms) // 2] = 79
        atoms.positions += rng.normal(scale=shake, size=atoms.positions.shape)
        atoms.set_cell(atoms.cell[:] @ (np.eye(3) + rng.normal(scale=0.03, size=(3, 3))), scale_atoms=True)
        frames.append(atoms)
    return frames


def scattered(model, frames, factor=1.0, *, seed=1, labels=("energy", "forces", "stress")):
    """A store of ``frames`` whose labels are drawn from the predicted distributions, ``factor`` times as wide."""
    rng = np.random.default_rng(seed)
    out = []
    for atoms, p in zip(frames, model.predict(frames), strict=True):
        variances, axes = np.linalg.eigh(p.forces_cov)
        root = axes * np.sqrt(np.maximum(variances, 0.0))[:, None, :]
        found = {
            "energy": p.energy + factor * p.energy_std * rng.normal(),
            "forces": p.forces + factor * np.einsum("nij,nj->ni", root, rng.normal(size=p.forces.shape)),
        }
        if p.stress is not None:
            found["stress"] = p.stress + factor * p.stress_std * rng.normal(size=6)
        labelled = Atoms(atoms)
        labelled.calc = SinglePointCalculator(
            labelled, **{name: value for name, value in found.items() if name in labels}
        )
        out.append(labelled)
    return from_ase(out)
