"""Energies, hulls and S.U.N."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram

from atomml._optional import installed
from atomml.crystals.evaluate.energies import Energies, energies_of, given_energies
from atomml.crystals.evaluate.hull import HullDistance, Phase, energies_above_hull, read_phases
from atomml.crystals.evaluate.stability import stability_metrics, stable_unique_novel
from atomml.errors import ConfigError, DataError, UnsupportedError
from atomml.potentials.prediction import Prediction

SALT = bulk("NaCl", "rocksalt", 5.64)
PHASES = [
    Phase("Li", -1.0),
    Phase("Cl2", -2.0),
    Phase("LiCl", -3.0),
    Phase("Li2Cl2", -2.9),
    Phase("Li", -0.5),
]


def energies(values, std=None):
    values = np.array(values, dtype=float)
    errors = tuple(None if np.isfinite(v) else "no energy is given" for v in values)
    return Energies(
        values, np.full(len(values), np.nan) if std is None else np.array(std, dtype=float), errors
    )


def test_distances_to_a_hull_made_by_hand():
    # Li3Cl decomposes into LiCl + 2 Li: (2·(−3) + 2·(−1)) / 4 = −2 eV/atom.
    found = energies_above_hull(["LiCl", "Li3Cl", "LiCl", "Li"], energies([-3.0, -1.9, -3.2, -1.0]), PHASES)
    assert [d.value for d in found] == pytest.approx([0.0, 0.1, -0.2, 0.0])


def test_distances_are_those_of_pymatgen():
    formulas, values = ["Li2Cl", "LiCl3", "Li5Cl4"], [-1.5, -2.0, -2.8]
    diagram = PhaseDiagram(
        [PDEntry(p.formula, p.energy_per_atom * n) for p, n in zip(PHASES, (1, 2, 2, 4, 1), strict=True)]
    )
    for formula, value, found in zip(
        formulas, values, energies_above_hull(formulas, energies(values), PHASES), strict=True
    ):
        entry = PDEntry(formula, 0.0)
        entry = PDEntry(formula, value * entry.composition.num_atoms)
        assert found.value == pytest.approx(diagram.get_e_above_hull(entry, allow_negative=True), abs=1e-12)


def test_elements_without_a_reference_are_named_not_fatal():
    found = energies_above_hull(["LiCl", "NaLiCl2", "KF", None], energies([-3.0, -3.0, -3.0, -1.0]), PHASES)
    assert found[0].value == pytest.approx(0.0)
    assert found[1] == HullDistance(None, ("Na",))
    assert found[2] == HullDistance(None, ("F", "K"))
    assert found[3].error == "no formula"
    metrics = stability_metrics(energies([-3.0, -3.0, -3.0, -1.0]), found, np.arange(4), None)
    assert metrics["without_reference"] == {"count": 2, "elements": {"Na": 1, "F": 1, "K": 1}}
    assert metrics["stable"]["count"] == 1
    assert metrics["stable"]["of"] == 4
    assert "stable_unique_novel" not in metrics


def test_compounds_are_a_hull_of_what_they_add_up_to():
    salts = [Phase("LiF", -5.0), Phase("LiCl", -4.0), Phase("Li2Cl2", -3.9), Phase("Li3FCl2", -4.4)]
    found = energies_above_hull(
        ["Li2FCl", "Li4FCl3", "Li2F", "LiF"], energies([-4.5, -4.0, -3.0, -4.9]), salts
    )
    # Li2FCl = Li3FCl2/2 + LiF/2: three and one of four atoms; Li4FCl3 = Li3FCl2 + LiCl: six and two of eight
    expected = [(3 * 4.4 + 5.0) / 4 - 4.5, (6 * 4.4 + 2 * 4.0) / 8 - 4.0, 0.1]
    assert [found[k].value for k in (0, 1, 3)] == pytest.approx(expected)
    assert found[2] == HullDistance(None, ("F", "Li"))


def test_shares_and_sun_count_what_is_known():
    distances = [HullDistance(v) for v in (0.0, -0.05, 0.08, 0.3, None)]
    e = energies([-1.0] * 5, std=[0.02, 0.02, 0.2, 0.25, 0.1])
    found = stability_metrics(e, distances, np.array([0, 0, 2, 3, -1]), [True, True, None, True, True])
    counts = {k: v["count"] for k, v in found.items() if k.startswith(("stable", "metastable"))}
    assert counts == {
        "stable": 2,
        "stable_minus_std": 3,
        "stable_plus_std": 1,
        "stable_unique_novel": 1,
        "metastable": 3,
        "metastable_minus_std": 4,
        "metastable_plus_std": 2,
        "metastable_unique_novel": 1,
    }


def test_a_group_counts_if_any_member_is_stable_and_novel():
    stable = np.array([False, True, True, True])
    chosen = stable_unique_novel(stable, np.array([0, 0, 0, -1]), [True, True, True, True])
    assert chosen.tolist() == [False, True, False, False]


def test_an_ase_calculator_gives_energies_and_its_failures_are_counted():
    found = energies_of([bulk("Cu"), bulk("U", "fcc", 4.0), None, bulk("Al").repeat(2)], EMT())
    assert found.per_atom[0] == pytest.approx(EMT().get_potential_energy(bulk("Cu")))
    assert found.per_atom[3] == pytest.approx(EMT().get_potential_energy(bulk("Al")))
    assert [e is None for e in found.errors] == [True, False, False, True]


def test_a_model_brings_its_deviation_along():
    class Model:
        def predict(self, structures, *, forces, stress):
            assert not forces
            assert not stress
            if 29 in structures[0].numbers:
                raise UnsupportedError("This potential does not know Cu.")
            n = len(structures[0])
            return [Prediction(energy=-3.0 * n, energies=np.full(n, -3.0), energy_std=0.1 * n)]

    found = energies_of([bulk("LiCl", "rocksalt", 5.1), bulk("Cu")], Model())
    np.testing.assert_allclose(found.per_atom, [-3.0, np.nan])
    np.testing.assert_allclose(found.std, [0.1, np.nan])
    assert found.errors == (None, "This potential does not know Cu.")


def test_given_energies_are_read_from_the_structures():
    labelled = bulk("Cu").repeat(2)
    labelled.calc = EMT()
    labelled.get_potential_energy()
    labelled.info["energy_std"] = 0.8
    found = given_energies([labelled, bulk("Cu"), None])
    assert found.per_atom[0] == pytest.approx(labelled.get_potential_energy() / 8)
    assert found.std[0] == pytest.approx(0.1)
    assert np.isnan(found.per_atom[1:]).all()


def test_the_hull_may_be_a_table_or_structures_labelled_here(tmp_path):
    def label(structures):
        return energies_of(structures, EMT())

    table = tmp_path / "phases.csv"
    table.write_text("formula,energy\nCu,-3.0\nCu2Au2,-14.0\n")
    phases, lost = read_phases(table, label, [])
    assert phases == [Phase("Cu", -3.0), Phase("Cu2Au2", -3.5)]
    assert lost == []
    write(tmp_path / "set.extxyz", [bulk("Cu"), bulk("Au"), bulk("Al"), bulk("NaCl", "rocksalt", 5.6)])
    phases, lost = read_phases(tmp_path / "set.extxyz", label, [frozenset({29, 79})])
    assert [p.formula for p in phases] == ["Cu", "Au"]
    assert lost == []
    alloy = Atoms("CuAu", [[0, 0, 0], [1.9, 1.9, 0]], cell=[3.8, 3.8, 3.8], pbc=True)
    (distance,) = energies_above_hull(["CuAu"], label([alloy]), phases)
    mean = sum(p.energy_per_atom for p in phases) / 2
    assert distance.value == pytest.approx(label([alloy]).per_atom[0] - mean)


@pytest.mark.parametrize("row", ["Xx2,-1.0", "Cu,much"])
def test_a_row_that_is_no_phase_is_refused_by_its_line(tmp_path, row):
    table = tmp_path / "phases.csv"
    table.write_text(f"formula,energy_per_atom\nCu,-3.0\n{row}\n")
    with pytest.raises(DataError, match="line 3"):
        read_phases(table, given_energies, [])


@pytest.mark.skipif(not installed("chgnet"), reason="chgnet is not installed")
def test_chgnet_is_known_by_name():
    found = energies_of([SALT], "chgnet")
    assert -4.0 < found.per_atom[0] < -3.0
    with pytest.raises(ConfigError, match="r2scan"):
        energies_of([SALT], "chgnet:0.1")
