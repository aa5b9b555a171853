"""Match rates and distances of predicted structures."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from pymatgen.analysis.structure_matcher import StructureMatcher

from atomml.crystals.evaluate.equality import structure_of
from atomml.crystals.evaluate.matching import (
    PREDICTION,
    Flags,
    assign,
    match_structures,
    prediction_metrics,
    rms_distance,
    same_formula_pairs,
)
from atomml.crystals.evaluate.shares import share, wilson_interval
from atomml.errors import DataError
from tests.crystals.evaluate.real import real_store


def salt(a=5.6, shift=0.0):
    atoms = bulk("NaCl", "rocksalt", a)
    atoms.positions[0] += shift
    return atoms


def flags(n, structure=True, composition=True):
    return Flags(np.full(n, structure), np.full(n, composition))


def test_a_shifted_atom_is_as_far_as_computed_by_hand():
    # With two atoms the common translation takes half of the shift from each: rms = |shift| / 2.
    distance = rms_distance(salt(shift=0.1), salt())
    assert distance == pytest.approx(0.1 * np.sqrt(3) / 2 / (5.6**3 / 8) ** (1 / 3), rel=1e-6)


@pytest.mark.parametrize(
    ("prediction", "reference"),
    [
        (salt(4.5), salt(5.6)),  # cells are scaled to one volume
        (salt().repeat((1, 2, 1)), salt()),  # and made primitive
        (bulk("NaCl", "cesiumchloride", 3.4), salt()),
        (bulk("Cu"), salt()),
        (bulk("Cu"), bulk("Cu", "bcc", 2.9)),
    ],
)
def test_distances_are_those_of_pymatgen(prediction, reference):
    matcher = StructureMatcher(stol=0.5, angle_tol=10, ltol=0.3)
    expected = matcher.get_rms_dist(structure_of(prediction), structure_of(reference))
    found = rms_distance(prediction, reference)
    assert (found is None) == (expected is None)
    if expected is not None:
        assert found == pytest.approx(expected[0], abs=1e-9)


def test_best_of_several_predictions_counts_and_unmatched_ones_cost_the_tolerance():
    references = [salt(), bulk("NaCl", "cesiumchloride", 3.4), bulk("Cu")]
    predictions = [salt(shift=0.2), salt(), salt(), salt(), bulk("Cu"), None]
    of = assign(6, 3)
    pairs = list(enumerate(of.tolist()))
    matches = match_structures(predictions, references, pairs)
    found = prediction_metrics(of, matches, flags(6), flags(3), everyone=False)
    rates = found["filters"]["none"]
    assert rates["match"]["count"] == 2
    assert rates["match"]["of"] == 3
    assert rates["rmse"] == pytest.approx(0.0, abs=1e-8)
    assert rates["crmse"] == pytest.approx(PREDICTION.stol / 3)
    assert found["failed_pairs"] == {"count": 1, "reasons": {"no structure": 1}}


def test_metre_lets_predictions_of_other_references_count():
    references = [salt(), bulk("NaCl", "cesiumchloride", 3.4)]
    predictions = references[::-1]
    of = assign(2, 2)
    pairs = same_formula_pairs(predictions, references)
    assert len(pairs) == 4
    matches = match_structures(predictions, references, pairs)
    rates = prediction_metrics(of, matches, flags(2), flags(2), everyone=True)["filters"]["none"]
    assert rates["match"]["count"] == 0
    assert rates["crmse"] == PREDICTION.stol
    assert rates["metre"]["match"]["count"] == 2
    assert rates["metre"]["crmse"] == pytest.approx(0.0, abs=1e-8)


@pytest.mark.parametrize(
    ("predicted", "true", "counts"),
    [
        (flags(1), flags(1), {"strict": 1, "prediction": 1, "none": 1}),
        (flags(1), flags(1, composition=False), {"strict": 0, "prediction": 1, "none": 1}),
        (flags(1, composition=False), flags(1), {"strict": 0, "prediction": 1, "none": 1}),
        (flags(1), flags(1, structure=False), {"strict": 0, "prediction": 1, "none": 1}),
        (flags(1, structure=False), flags(1), {"strict": 0, "prediction": 0, "none": 1}),
        (Flags(np.array([True]), None), flags(1), {"prediction": 1, "none": 1}),
    ],
)
def test_filters_stand_side_by_side(predicted, true, counts):
    matches = match_structures([salt()], [salt()], [(0, 0)])
    found = prediction_metrics(assign(1, 1), matches, predicted, true, everyone=False)["filters"]
    assert {name: rates["match"]["count"] for name, rates in found.items()} == counts


def test_a_pair_that_fails_is_unmatched_and_reported():
    broken = Atoms("NaCl", np.full((2, 3), np.nan), cell=np.eye(3) * 4, pbc=True)
    flat = Atoms("NaCl", [[0, 0, 0], [1, 1, 1]], cell=np.zeros((3, 3)), pbc=True)
    matches = match_structures([broken, flat, salt()], [salt()] * 3, [(0, 0), (1, 1), (2, 2)])
    assert np.isnan(matches.rmsd[:2]).all()
    assert matches.rmsd[2] == pytest.approx(0, abs=1e-8)
    assert [error is None for error in matches.errors] == [False, False, True]


def test_predictions_are_assigned_in_equal_numbers():
    assert assign(6, 3).tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(DataError, match="5 predictions cannot"):
        assign(5, 3)


def test_shares_have_their_counts_and_the_interval_of_wilson():
    from scipy.stats import binomtest

    for count, of in ((0, 10), (3, 10), (10, 10), (570, 1000)):
        expected = binomtest(count, of).proportion_ci(method="wilson")
        assert wilson_interval(count, of) == pytest.approx((expected.low, expected.high), abs=1e-12)
        assert share(count, of)["fraction"] == count / of
    assert share(0, 0) == {"count": 0, "of": 0, "fraction": None, "interval_95": [0.0, 1.0]}


def test_rates_on_real_crystals_are_those_of_a_loop_over_pymatgen(shared_data, tmp_path, rng):
    store = real_store(shared_data / "crystals/mp_20/biternary_val.csv.gz", tmp_path, rows=30)
    references = [store[k] for k in range(30)]
    predictions = [atoms.copy() for atoms in references]
    for atoms in predictions:
        atoms.positions += rng.normal(0, 0.5, atoms.positions.shape)
    of = assign(30, 30)
    matches = match_structures(predictions, references, list(enumerate(of.tolist())))
    rates = prediction_metrics(of, matches, flags(30), flags(30), everyone=False)["filters"]["none"]
    matcher = StructureMatcher(stol=0.5, angle_tol=10, ltol=0.3)
    pairs = zip(predictions, references, strict=True)
    found = [matcher.get_rms_dist(structure_of(a), structure_of(b)) for a, b in pairs]
    matched = [d[0] for d in found if d is not None]
    assert 0 < len(matched) < 30
    assert rates["match"]["count"] == len(matched)
    assert rates["rmse"] == pytest.approx(np.mean(matched))
    assert rates["crmse"] == pytest.approx((np.sum(matched) + 0.5 * (30 - len(matched))) / 30)
