"""A stand-in for a crystal model: perturbed prototypes, with failures on demand."""

import numpy as np
import torch
from ase.build import bulk

from atomml.crystals.batch import CrystalBatch
from atomml.crystals.sampler import Sampled


class Prototypes:
    """Knows Li, O, Na, Cl and Ti in cells of 1 to 8 atoms, most often of 2."""

    elements = (3, 8, 11, 17, 22)
    atom_counts = {1: 1.0, 2: 4.0, 3: 2.0, 4: 2.0, 6: 1.0, 8: 2.0}
    predicts = "everything"


class StructureOnly(Prototypes):
    predicts = "structure"


def perturbed(model, requests, *, steps, seed, strategy="end_back", guidance=0.0):
    """Requested atoms near the sites of a rocksalt cell, in a cell that grows with their number."""
    rng = np.random.default_rng(seed)
    sites = bulk("NaCl", "rocksalt", 1.0, cubic=True).get_scaled_positions()
    atoms = []
    for request in requests:
        choices = sorted(request.allowed or model.elements)
        numbers = request.numbers or rng.choice(choices, size=request.n_atoms)
        crystal = bulk("NaCl", "rocksalt", 5.6, cubic=True)[: request.n_atoms]
        crystal.numbers = numbers
        fractional = (sites[: request.n_atoms] + rng.normal(0, 0.005, (request.n_atoms, 3))) % 1.0
        for k, site in enumerate(request.sites or ()):
            fractional[k] = site.fractional
        if request.lattice is not None:
            crystal.cell = request.lattice
        crystal.set_scaled_positions(fractional)
        atoms.append(crystal)
    return Sampled(CrystalBatch.from_atoms(atoms), torch.from_numpy(rng.normal(-5, 1, len(atoms))))


def spoiled(spoil):
    """The same generator, whose crystals ``spoil(index in the batch, batch)`` then damages."""

    def sampler(*arguments, **settings):
        found = perturbed(*arguments, **settings)
        for k in range(len(found.crystals)):
            spoil(k, found.crystals)
        return found

    return sampler
