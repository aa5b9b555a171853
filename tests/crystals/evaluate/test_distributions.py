"""Distances between distributions of properties of crystals."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from scipy.stats import wasserstein_distance

from atomml.crystals.evaluate.distributions import compare_distributions
from atomml.errors import DataError

COPPER, SALT = bulk("Cu", a=3.615), bulk("NaCl", "rocksalt", a=5.64)


def test_properties_of_known_crystals():
    found = compare_distributions([COPPER], [SALT])
    assert found["density"].generated == pytest.approx([8.93], abs=0.01)
    assert found["density"].reference == pytest.approx([2.16], abs=0.01)
    assert found["density"].distance == pytest.approx(6.77, abs=0.02)
    assert found["elements"].distance == 1.0
    assert found["atoms"].distance == 1.0
    assert found["volume_per_atom"].reference == pytest.approx([5.64**3 / 8])
    assert list(found) == ["density", "elements", "atoms", "volume_per_atom"]


def test_density_equals_that_of_pymatgen():
    adaptor = pytest.importorskip("pymatgen.io.ase").AseAtomsAdaptor
    found = compare_distributions([SALT, COPPER], [SALT])["density"].generated
    assert found == pytest.approx([adaptor.get_structure(a).density for a in (SALT, COPPER)], rel=1e-4)


def test_equal_sets_have_distance_zero_and_order_does_not_matter():
    found = compare_distributions([COPPER, SALT, SALT], [SALT, COPPER, SALT])
    assert {c.distance for c in found.values()} == {0.0}


def test_distances_are_those_of_scipy(rng):
    def random_set(number, scale):
        cells = scale * (1 + rng.random(number))
        return [Atoms("LiF", cell=[a, a, a], pbc=True) for a in cells]

    generated, reference = random_set(40, 4.0), random_set(30, 5.0)
    found = compare_distributions(generated, reference)["volume_per_atom"]
    volumes = [[a.cell.volume / 2 for a in s] for s in (generated, reference)]
    assert found.distance == pytest.approx(wasserstein_distance(*volumes))


def test_a_seeded_draw_takes_at_most_so_many_with_their_energies():
    generated = [Atoms("H", cell=[a, a, a], pbc=True) for a in range(2, 30)]
    energies = [float(a.cell.volume) for a in generated], [0.0]
    draws = [
        compare_distributions(generated, [COPPER], energies=energies, most=10, seed=seed)
        for seed in (0, 0, 1)
    ]
    for drawn in draws:
        assert len(set(drawn["energy"].generated)) == 10
        np.testing.assert_allclose(drawn["energy"].generated, drawn["volume_per_atom"].generated)
    np.testing.assert_array_equal(draws[0]["energy"].generated, draws[1]["energy"].generated)
    assert set(draws[0]["energy"].generated) != set(draws[2]["energy"].generated)
    everything = compare_distributions(generated, [COPPER], most=None)
    assert len(everything["density"].generated) == len(generated)


def test_energies_that_are_not_finite_are_counted():
    energies = [-1.0, float("nan")], [-2.0, -2.0, float("inf")]
    found = compare_distributions([SALT, SALT], [SALT, SALT, SALT], energies=energies)["energy"]
    assert found.distance == 1.0
    assert found.left_out == (1, 1)


def test_empty_sets_have_no_distance():
    for generated, reference in (([], [SALT]), ([SALT], []), ([], [])):
        found = compare_distributions(generated, reference)
        assert all(np.isnan(c.distance) for c in found.values())


def test_each_crystal_needs_an_energy():
    with pytest.raises(DataError, match="needs an energy"):
        compare_distributions([SALT], [SALT], energies=([1.0], []))
