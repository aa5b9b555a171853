import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from atomml.datasets import from_ase


def random_frame(rng, *, n=6, periodic=True, labels=("energy", "forces", "stress"), **info):
    cell = 5.0 * np.eye(3) + 0.3 * rng.normal(size=(3, 3)) if periodic else None
    atoms = Atoms(rng.choice([3, 9, 17], size=n), 5.0 * rng.random((n, 3)), cell=cell, pbc=periodic)
    values = {"energy": float(rng.normal()), "forces": rng.normal(size=(n, 3)), "stress": rng.normal(size=6)}
    atoms.calc = SinglePointCalculator(atoms, **{k: values[k] for k in labels})
    atoms.info.update(info)
    return atoms


@pytest.fixture
def frames(rng):
    """Periodic, molecular and partly labelled frames with text and number tags; one has fixed atoms."""
    made = [
        random_frame(rng, n=4 + k, traj=f"run {k // 3} Å", T=300 * (k + 1), strain=0.1 * k) for k in range(6)
    ]
    made.append(random_frame(rng, periodic=False, labels=("energy", "forces"), traj="gas"))
    made.append(random_frame(rng, labels=("energy",), T=900))
    made.append(random_frame(rng, labels=()))
    made[1].set_constraint(FixAtoms([0, 2]))
    return made


@pytest.fixture
def store(frames):
    return from_ase(frames)
