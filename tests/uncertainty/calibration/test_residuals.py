import numpy as np
import pytest

from atomml.errors import DataError
from atomml.uncertainty.calibration import Residuals


def small(**change):
    arrays = {
        "n_atoms": np.array([1, 4]),
        "numbers": np.array([3, 3, 17, 17, 3]),
        "energy_error": np.array([0.1, 0.4]),
        "energy_std": np.array([0.2, 0.8]),
        "forces_error": np.arange(15.0).reshape(5, 3),
        "forces_cov": np.tile(np.eye(3), (5, 1, 1)),
    }
    return Residuals(**(arrays | change))


def test_energies_are_divided_by_the_root_of_the_atoms():
    part = small().labelled("energy")
    assert np.allclose(part.error, [0.1, 0.2])
    assert np.allclose(part.spread, [0.2, 0.4])
    assert part.groups.tolist() == [1, 4]


def test_missing_labels_are_left_out_and_counted():
    forces = np.arange(15.0).reshape(5, 3)
    forces[[0, 2], [1, 2]] = np.nan
    part = small(forces_error=forces, energy_error=np.array([np.nan, 0.4])).labelled("forces")
    assert part.groups.tolist() == [3, 17, 3]
    assert part.spread.shape == (3, 3, 3)
    assert (part.frames, part.missing) == (1, 2)  # the first structure is one atom without a label


def test_a_stress_is_six_scalars():
    stress = np.arange(12.0).reshape(2, 6)
    stress[0, 3] = np.nan
    part = small(stress_error=stress, stress_std=stress + 1).labelled("stress")
    assert part.error.tolist() == [6, 7, 8, 9, 10, 11]
    assert part.spread.tolist() == [7, 8, 9, 10, 11, 12]
    assert (len(part.groups), part.frames, part.missing) == (6, 1, 1)


def test_a_quantity_without_labels_or_deviations_is_none():
    assert small().labelled("stress") is None
    assert small(energy_std=None).labelled("energy") is None
    assert small(energy_error=np.full(2, np.nan)).labelled("energy") is None


@pytest.mark.parametrize("change", [{"n_atoms": np.array([1, 3])}, {"n_atoms": np.array([0, 5])}])
def test_atoms_must_belong_to_structures(change):
    with pytest.raises(DataError, match="n_atoms"):
        small(**change)
