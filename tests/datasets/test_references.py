import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from atomml.datasets import (
    ReferenceEnergies,
    from_ase,
    from_table,
    isolated_atoms,
    least_squares,
    load_frames,
    no_references,
    reference_sums,
)
from atomml.datasets.references import null_space
from atomml.errors import DataError

E0 = {1: -13.6, 6: -1029.5, 8: -2041.8}


def labelled(symbols, energy, **kwargs):
    atoms = Atoms(symbols, np.arange(3.0 * len(Atoms(symbols))).reshape(-1, 3), **kwargs)
    atoms.calc = SinglePointCalculator(atoms, energy=energy)
    return atoms


def exact(symbols):
    return labelled(symbols, sum(E0[z] for z in Atoms(symbols).numbers))


def test_least_squares_recovers_energies_that_are_sums_of_atoms():
    store = from_ase([exact(s) for s in ("CO", "CO2", "CH4", "H2O", "C2H6O")])
    fit = least_squares(store)
    assert fit.energies.keys() == E0.keys()
    np.testing.assert_allclose([fit.energies[z] for z in E0], list(E0.values()), rtol=1e-10)
    assert not fit.rank_deficient
    assert fit.residual_std < 1e-9
    assert fit.counts == {1: 12, 6: 5, 8: 5}
    np.testing.assert_allclose(reference_sums(fit, store), store.energy)


def test_single_composition_gives_minimum_norm_and_says_what_is_undetermined():
    fit = least_squares(from_ase([exact("H2O")] * 3))
    assert fit.rank_deficient
    assert fit.undetermined == ("+1 H -2 O",)
    assert abs(2 * fit.energies[1] + fit.energies[8] - (2 * E0[1] + E0[8])) < 1e-9
    # minimum norm: orthogonal to the combination that is free
    assert abs(fit.energies[1] - 2 * fit.energies[8]) < 1e-9
    assert "H -2 O" in fit.caption()


def test_only_the_given_rows_are_used():
    store = from_ase([exact(s) for s in ("CO", "CO2", "CH4", "H2O")] + [labelled("CO", 1e6)])
    np.testing.assert_allclose(least_squares(store, range(4)).energies[6], E0[6])


def test_isolated_atoms_are_found_among_other_frames():
    frames = [exact("H2O"), exact("O"), exact("H"), labelled("C", -5.0, cell=[3, 3, 3], pbc=True)]
    found = isolated_atoms(from_ase(frames))
    assert found.energies == {1: E0[1], 8: E0[8]}
    assert found.method == "isolated"
    with pytest.raises(DataError, match="E0\\) for C") as caught:
        found.require([1, 6])
    assert "isolated atom of C" in caught.value.fix


def test_isolated_atoms_that_disagree_are_refused():
    with pytest.raises(DataError, match="different energies"):
        isolated_atoms([exact("H"), labelled("H", -13.0)])


def test_no_isolated_atoms_is_an_error_with_a_way_out():
    with pytest.raises(DataError, match="no isolated atoms") as caught:
        isolated_atoms([exact("H2O")])
    assert "least_squares" in caught.value.fix


def test_frames_without_energies_cannot_be_fitted():
    with pytest.raises(DataError, match="needs energies"):
        least_squares(from_ase([Atoms("H2O")]))


@pytest.mark.parametrize("table", [{"Xx": 1.0}, {"H": float("nan")}, {0: 1.0}])
def test_wrong_tables_are_refused(table):
    with pytest.raises(DataError):
        from_table(table)


@pytest.mark.parametrize(
    "references",
    [
        from_table({"H": -13.6, 8: -2.0}),
        no_references([1, 8]),
        ReferenceEnergies({1: -1.0, 8: 2.0}, "least_squares", True, 0.1, {1: 4, 8: 2}, ("+1 H -2 O",)),
    ],
)
def test_json_form_and_table_keep_everything(references):
    back = ReferenceEnergies.from_dict(references.to_dict())
    assert back.energies == references.energies
    assert (back.method, back.counts, back.undetermined) == (
        references.method,
        references.counts,
        references.undetermined,
    )
    console = Console(width=200)
    with console.capture() as capture:
        console.print(references.table())
    assert "H " in capture.get()


@given(st.lists(st.lists(st.integers(0, 4), min_size=4, max_size=4), min_size=1, max_size=6))
def test_null_space_is_annihilated_and_complete(rows):
    matrix = np.array(rows, dtype=np.float64)
    null = null_space(matrix)
    np.testing.assert_allclose(matrix @ null.T, 0, atol=1e-7)
    assert len(null) == 4 - np.linalg.matrix_rank(matrix)


def test_real_isolated_atoms(shared_data):
    assert set(isolated_atoms(load_frames(shared_data / "3bpa/iso_atoms.xyz")).energies) == {1, 6, 7, 8}
    with pytest.raises(DataError, match="no isolated atoms"):  # one-atom cells of bulk copper are not
        isolated_atoms(load_frames(shared_data / "format_fixtures/Cu-ACE-21_Cu_df2_1k.extxyz", index=":9"))


def test_many_undetermined_combinations_are_counted():
    many = ReferenceEnergies({3: 1.0}, "least_squares", True, undetermined=tuple("ABCDE"))
    assert "(A) or of (B) or of (C) or of 2 more combinations" in many.caption()
