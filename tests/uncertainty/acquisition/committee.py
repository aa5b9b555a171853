"""Committees with random predictions for structures of different sizes."""

import numpy as np

from atomml.uncertainty.acquisition import MemberPredictions

N_ATOMS = np.array([3, 1, 4, 2, 5, 3, 2])


def spd(rng, *shape):
    root = rng.normal(size=(*shape, 3, 3))
    return root @ root.swapaxes(-1, -2) + 0.1 * np.eye(3)


def committee(rng, *, members=5, n_atoms=N_ATOMS, noise="each"):
    """With noise heads of "each" member, one for "all", or "none"."""
    graphs, atoms = len(n_atoms), int(n_atoms.sum())
    lead = {"each": (members,), "all": (), "none": None}[noise]
    return MemberPredictions(
        energy=rng.normal(size=(members, graphs)),
        forces=rng.normal(size=(members, atoms, 3)),
        n_atoms=n_atoms,
        energy_var=None if lead is None else rng.uniform(0.1, 2.0, size=(*lead, graphs)),
        forces_cov=None if lead is None else spd(rng, *lead, atoms),
    )


def constant_noise(means, noise):
    """A committee whose members [M, B] predict these energies, with the same noise for all, and zero forces."""
    members, graphs = means.shape
    return MemberPredictions(
        energy=means,
        forces=np.zeros((members, graphs, 3)),
        n_atoms=np.ones(graphs, dtype=np.int64),
        energy_var=np.full(graphs, noise),
        forces_cov=np.tile(np.eye(3), (graphs, 1, 1)),
    )
