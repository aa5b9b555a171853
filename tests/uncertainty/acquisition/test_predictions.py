import numpy as np
import pytest

from atomml.errors import DataError
from atomml.uncertainty.acquisition import MemberPredictions, PoolFeatures
from tests.uncertainty.acquisition.committee import committee


def arrays(predictions):
    names = ("energy", "forces", "n_atoms", "energy_var", "forces_cov")
    return {name: getattr(predictions, name) for name in names}


@pytest.mark.parametrize("noise", ["each", "all", "none"])
def test_taking_structures_keeps_their_atoms_and_noise(rng, noise):
    whole, rows = committee(rng, noise=noise), np.array([4, 1, 4, 0])
    part = whole.take(rows)
    for place, row in enumerate(rows):
        here, there = (
            range(p.starts[k], p.starts[k] + p.n_atoms[k]) for p, k in ((part, place), (whole, row))
        )
        assert (part.energy[:, place] == whole.energy[:, row]).all()
        assert (part.forces[:, here] == whole.forces[:, there]).all()
        if noise != "none":
            assert (part.energy_var[..., place] == whole.energy_var[..., row]).all()
            assert (part.forces_cov[..., here, :, :] == whole.forces_cov[..., there, :, :]).all()


@pytest.mark.parametrize(
    ("name", "index", "message"),
    [
        ("energy", (2, 3), "energy of structure 3 is not finite in member 2"),
        ("forces", (1, 8, 0), "forces of structure 3 is not finite in member 1"),
        ("energy_var", (4, 6), "energy_var of structure 6 is not finite in member 4"),
        ("forces_cov", (0, 0, 1, 1), "forces_cov of structure 0 is not finite in member 0"),
    ],
)
def test_a_value_that_is_not_finite_names_member_and_structure(rng, name, index, message):
    given = arrays(committee(rng))
    given[name][index] = np.nan
    with pytest.raises(DataError, match=message):
        MemberPredictions(**given)


def test_noise_common_to_all_members_names_the_structure_only(rng):
    given = arrays(committee(rng, noise="all"))
    given["energy_var"][2] = np.inf
    with pytest.raises(DataError, match=r"energy_var of structure 2 is not finite\."):
        MemberPredictions(**given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: {"energy": a["energy"][:1], "forces": a["forces"][:1]}, "needs two members or more"),
        (lambda a: {"energy": a["energy"][:, :0]}, "no structures to choose from"),
        (lambda a: {"forces": a["forces"][:, :-1]}, "forces is float64 of shape"),
        (lambda a: {"forces": a["forces"].astype(np.float32)}, "forces is float32"),
        (lambda a: {"n_atoms": a["n_atoms"][:-1]}, "n_atoms must be 7 counts"),
        (lambda a: {"n_atoms": np.array([0, 4, 4, 2, 5, 3, 2])}, "n_atoms must be 7 counts"),
        (lambda a: {"energy_var": -a["energy_var"]}, "variance of the energy is negative"),
        (lambda a: {"energy_var": a["energy_var"][:3]}, "energy_var is float64 of shape"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(rng, change, message):
    given = arrays(committee(rng))
    with pytest.raises(DataError, match=message):
        MemberPredictions(**given | change(given))


@pytest.mark.parametrize(
    ("pool", "labelled", "message"),
    [
        (np.zeros((0, 2)), np.zeros((3, 2)), "no structures to choose from"),
        (np.zeros((4, 2)), np.zeros((3, 1)), "features of the labelled"),
        (np.array([[0.0], [np.nan]]), np.zeros((3, 1)), "row 1 of the pool are not finite"),
    ],
)
def test_features_that_cannot_be_compared_are_refused(pool, labelled, message):
    with pytest.raises(DataError, match=message):
        PoolFeatures(pool=pool, labelled=labelled)
