import pytest
from ase.build import bulk, molecule

from atomml.potentials.build import build_potential
from atomml.potentials.config import PaperTDNConfig, TDNConfig

ELEMENTS = [1, 6, 8, 3, 17]
E0 = {1: -13.6, 6: -1029.5, 8: -2042.0, 3: -203.3, 17: -12577.0}


def make_potential(seed=0, **keys):
    keys = {"channels": 8, "layers": 2, "lmax": 2, "radial_hidden": [16], "cutoff": 4.0} | keys
    return build_potential(
        TDNConfig(**keys), elements=ELEMENTS, e0=E0, average_neighbors=12.0, scale=0.8, seed=seed
    ).eval()


def ethanol():
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=0)
    return atoms


def rock_salt():
    atoms = bulk("LiCl", "rocksalt", 5.1)
    atoms.rattle(0.1, seed=0)
    return atoms


def make_paper_potential(**keys):
    keys = {"channels": 8, "gaussians": 16, "layers": 2} | keys
    return build_potential(
        PaperTDNConfig(**keys), elements=ELEMENTS, e0=E0, average_neighbors=12.0, scale=0.8, seed=0
    ).eval()


@pytest.fixture
def potential():
    return make_potential().double()
