"""SMACT validity: hand-made formulas, SMACT called directly, shares on real data."""

import gzip
import re

import numpy as np
import pytest
from ase.data import atomic_numbers
from ase.formula import Formula

from atomml.crystals.evaluate.composition import composition_validity, smact_rules
from atomml.errors import DataError

screening = pytest.importorskip("smact.screening")


def numbers(formula):
    return [atomic_numbers[symbol] for symbol in Formula(formula)]


@pytest.mark.parametrize(
    ("formula", "valid", "reason"),
    [
        ("NaCl", True, "charges cancel"),
        ("TiO2", True, "charges cancel"),
        ("LiMn3O4", True, "charges cancel"),
        ("LiF2", False, "charges cannot cancel"),
        ("NaCl3O", False, "charges cannot cancel"),
        ("CsF3", False, "charges cannot cancel"),
        ("C8", True, "a single element"),
        ("He2", True, "a single element"),
        ("CuZn3", True, "metals only"),
        ("ArO2", None, "no oxidation states of Ar"),
        ("RfO2", None, "no oxidation states of Rf"),
        ("PmO", True, "charges cancel"),  # an unknown electronegativity does not matter
    ],
)
def test_hand_made_formulas(formula, valid, reason):
    found = composition_validity(numbers(formula))
    assert (found.valid, found.reason) == (valid, reason)


def test_the_cation_has_to_be_less_electronegative():
    # Na⁺ O²⁺ Cl₃⁻ is neutral, but chlorine is less electronegative than oxygen
    options = {"oxidation_states_set": "smact14"}
    assert screening.smact_validity("NaCl3O", use_pauling_test=False, **options)
    assert not composition_validity(numbers("NaCl3O")).valid
    assert composition_validity(numbers("NaClO3")).valid


def test_only_ratios_matter():
    once, twice = composition_validity(numbers("TiO2")), composition_validity(numbers("Ti4O8"))
    assert once == twice
    assert once.formula == "TiO2"


@pytest.mark.parametrize("wrong", [[], [0, 8], [3, 119]])
def test_what_is_no_composition_is_refused(wrong):
    with pytest.raises(DataError, match="atoms of known elements"):
        composition_validity(wrong)


def test_agrees_with_smact_for_the_same_oxidation_states(rng):
    known = [z for z in range(1, 104) if z not in (2, 10, 18, 61, 86, 103)]
    valid = []
    for _ in range(300):
        elements = rng.choice(known, size=rng.integers(2, 6), replace=False)
        composition = np.repeat(elements, rng.integers(1, 7, size=len(elements))).tolist()
        found = composition_validity(composition)
        assert found.valid == screening.smact_validity(found.formula, oxidation_states_set="smact14"), found
        valid.append(found.valid)
    assert 0.1 < np.mean(valid) < 0.9


@pytest.mark.parametrize("formula", ["NaCl", "LiF2", "LiMn3O4", "CuZn3"])
def test_the_other_variant_is_smact_itself(formula):
    assert composition_validity(numbers(formula), "smact").valid == screening.smact_validity(formula)


def test_the_rules_name_version_and_oxidation_states():
    rules = smact_rules()
    assert re.match(r"\d+\.\d+", rules.smact_version)
    assert "smact14" in rules.oxidation_states
    assert "metals only" in rules.text
    assert "icsd24" in smact_rules("smact").oxidation_states


@pytest.mark.parametrize(
    ("file", "share"), [("perov_5/val.csv.gz", 0.987), ("mp_20/biternary_val.csv.gz", 0.893)]
)
def test_shares_of_real_data_are_those_published(shared_data, file, share):
    with gzip.open(shared_data / "crystals" / file, "rt") as lines:
        sums = re.findall(r"_chemical_formula_sum\s+'?([^'\n]+)'?", lines.read())
    valid = [composition_validity(numbers(text.replace(" ", ""))).valid for text in sums]
    assert len(valid) > 3000
    assert np.mean([v is True for v in valid]) == pytest.approx(share, abs=0.001)
