"""Coverage of hand-made fingerprints, its denominators, and empty sets."""

import gzip
import json
import re

import numpy as np
import pytest
from ase.formula import Formula

from atomml.crystals.evaluate import coverage as module
from atomml.crystals.evaluate.coverage import CUTOFFS, Cutoffs, coverage, deviations_of, read_deviations
from atomml.crystals.evaluate.fingerprints import Fingerprints
from atomml.crystals.evaluate.magpie import MP20_DEVIATIONS
from atomml.errors import DataError

LIMITS = Cutoffs(structure=1.0, composition=1.0)
ONES = np.ones(1)


def set_of(structure, composition, failed=0):
    structure, composition = (
        np.array(x, dtype=np.float64).reshape(len(x), -1) for x in (structure, composition)
    )
    return Fingerprints(structure, composition, np.arange(len(structure)), len(structure) + failed)


def test_hand_made_distances():
    reference = set_of([0, 10, 20], [0, 10, 20])
    generated = set_of([0.5, 9.5, 100], [0.25, 12.5, 100], failed=1)
    found = coverage(generated, reference, LIMITS, ONES)
    assert (found.recalled, found.precise) == (1, 1)
    assert (found.recall, found.precision) == (1 / 3, 1 / 4)  # all generated, also the one that failed
    assert (found.reference, found.generated, found.no_fingerprint) == (3, 4, (0, 1))
    np.testing.assert_allclose(found.from_reference.structure, [0.5, 0.5, 10.5])
    np.testing.assert_allclose(found.from_generated.composition, [0.25, 2.5, 80])
    assert found.amsd_recall == pytest.approx(11.5 / 3)
    assert found.amcd_precision == pytest.approx(82.75 / 3)


def test_structure_and_composition_may_be_near_to_different_crystals():
    reference = set_of([0], [0])
    generated = set_of([0, 50], [50, 0])
    found = coverage(generated, reference, LIMITS, ONES)
    assert found.recall == 1.0
    assert found.precision == 0.0


def test_failed_reference_crystals_do_not_count_and_are_reported():
    found = coverage(set_of([0], [0]), set_of([0], [0], failed=3), LIMITS, ONES)
    assert (found.recall, found.reference, found.no_fingerprint) == (1.0, 1, (3, 0))


def test_a_distance_at_the_limit_is_near():
    assert coverage(set_of([1], [1]), set_of([0], [0]), LIMITS, ONES).recall == 1.0


def test_a_set_covers_itself_and_portions_do_not_matter(rng, monkeypatch):
    first = set_of(rng.normal(size=(70, 61)), rng.normal(size=(70, 132)))
    second = set_of(rng.normal(size=(40, 61)), rng.normal(size=(40, 132)))
    itself = coverage(first, first, CUTOFFS["mp_20"])
    assert (itself.recall, itself.precision) == (1.0, 1.0)
    assert itself.amsd_recall == itself.amcd_precision == 0.0
    whole = coverage(first, second, CUTOFFS["mp_20"])
    monkeypatch.setattr(module, "ROWS", 7)
    parts = coverage(first, second, CUTOFFS["mp_20"])
    np.testing.assert_array_equal(parts.from_reference.composition, whole.from_reference.composition)
    direct = np.linalg.norm(first.structure[:, None] - second.structure, axis=2)
    np.testing.assert_allclose(whole.from_generated.structure, direct.min(1))
    np.testing.assert_allclose(whole.from_reference.structure, direct.min(0))


def test_compositions_are_divided_by_the_deviations():
    generated, reference = set_of([0], [[3.0, 8.0]]), set_of([0], [[0.0, 0.0]])
    found = coverage(generated, reference, LIMITS, np.array([1.0, 2.0]))
    np.testing.assert_allclose(found.from_generated.composition, [5.0])


def test_without_anything_generated_nothing_is_recalled():
    none = Fingerprints(np.zeros((0, 0)), np.zeros((0, 0)), np.arange(0), 2)
    found = coverage(none, set_of([0], [0]), LIMITS, ONES)
    assert (found.recall, found.precision, found.recalled) == (0.0, 0.0, 0)
    assert found.from_reference.structure.tolist() == [np.inf]
    assert np.isnan(found.amsd_precision)
    empty = coverage(none, none, LIMITS, ONES)
    assert np.isnan(empty.recall)


def test_deviations_of_one_composition_are_one():
    reference = set_of(np.zeros(5), np.tile([0.1, 3.3], (5, 1)))
    assert deviations_of(reference).tolist() == [1.0, 1.0]
    reference.composition[:, 1] = [1, 2, 3, 4, 5]
    np.testing.assert_allclose(deviations_of(reference), [1.0, np.sqrt(2)])


def test_one_element_makes_all_composition_distances_zero():
    carbon = np.tile(np.linspace(0, 800, 132), (3, 1))
    found = coverage(set_of([0, 1, 2], carbon), set_of([0, 1, 2], carbon), CUTOFFS["carbon_24"])
    assert found.amcd_recall == found.amcd_precision == 0.0


def test_deviations_are_read_from_json(tmp_path):
    file = tmp_path / "deviations.json"
    file.write_text(json.dumps([1.0, 2.5]))
    assert read_deviations(file, 2).tolist() == [1.0, 2.5]
    for wrong in ("[1.0]", "[1.0, 0.0]", "[1.0, NaN]", "{}", "no json", '["a", "b"]'):
        file.write_text(wrong)
        with pytest.raises(DataError, match="tandard deviations"):
            read_deviations(file, 2)
    with pytest.raises(DataError, match="Cannot read"):
        read_deviations(tmp_path / "absent.json", 2)


def test_constants_are_positive_and_complete():
    assert len(MP20_DEVIATIONS) == 132
    assert min(MP20_DEVIATIONS) > 0.03


@pytest.mark.slow
def test_constants_are_those_of_mp20(shared_data):
    composite = pytest.importorskip("matminer.featurizers.composition.composite")
    composition = pytest.importorskip("pymatgen.core").Composition
    elements = composite.ElementProperty.from_preset("magpie", impute_nan=True)
    formulas = []
    for file in ("biternary_val.csv.gz", "slices_mini.csv.gz"):
        with gzip.open(shared_data / "crystals" / "mp_20" / file, "rt") as lines:
            formulas += re.findall(r"_chemical_formula_sum\s+'?([^'\n]+)'?", lines.read())
    reduced = [str(Formula(text.replace(" ", "")).reduce()[0]) for text in formulas]
    features = {formula: elements.featurize(composition(formula)) for formula in set(reduced)}
    deviations = np.std([features[formula] for formula in reduced], axis=0)
    np.testing.assert_allclose(deviations, MP20_DEVIATIONS, rtol=2e-3)
