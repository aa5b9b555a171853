"""Energies of several sets on one table of reference energies, and sets of graphs one after another."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from atomml.datasets import GraphDataset, from_ase, from_table, least_squares, no_references
from atomml.datasets.mixture import Alignment, align_energies, align_labels, energy_shifts
from atomml.datasets.mixture_graphs import MixtureGraphs
from atomml.errors import DataError

E0 = {"A": {1: -13.0, 3: -7.0, 8: -430.0}, "B": {1: -14.5, 3: -200.25, 8: -75.0}}
FORMULAS = ["H2", "H2O", "LiH", "Li2O", "LiOH", "H2O2"]


def frames(level, formulas=FORMULAS, bonds=0.3, fixed=None):
    """Molecules with E = Σ E0 + ``bonds`` × number of atoms × position in the list."""
    out = []
    for k, formula in enumerate(formulas):
        atoms = Atoms(formula)
        atoms.positions = np.random.default_rng(k).uniform(0, 2 + len(atoms), (len(atoms), 3))
        energy = sum(E0[level][z] for z in atoms.numbers) + bonds * len(atoms) * np.sin(1.7 * k)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.full((len(atoms), 3), k + 1.0))
        if fixed is not None:
            atoms.set_constraint(FixAtoms(fixed))
        out.append(atoms)
    return from_ase(out, name=f"level {level}")


def all_rows(store):
    return np.arange(len(store))


def sets_of(**stores):
    return {name: (store, all_rows(store)) for name, store in stores.items()}


def test_two_levels_of_theory_become_one():
    """With exact tables the shifted energies of B are those of A, frame by frame."""
    a, b = frames("A"), frames("B")
    result = align_energies(sets_of(a=a, b=b), {"a": from_table(E0["A"]), "b": from_table(E0["B"])}, "a")
    np.testing.assert_allclose(align_labels(b, result.shifts["b"]).energy, a.energy, atol=1e-9)
    assert result.shifts["a"] == {}
    assert result.model.energies == E0["A"]
    back = align_energies(sets_of(a=a, b=b), {"a": from_table(E0["A"]), "b": from_table(E0["B"])}, "b")
    np.testing.assert_allclose(align_labels(a, back.shifts["a"]).energy, b.energy, atol=1e-9)


def test_least_squares_leave_the_residuals_of_each_set():
    a, b = frames("A"), frames("B", bonds=0.1)
    references = {"a": least_squares(a), "b": least_squares(b)}
    result = align_energies(sets_of(a=a, b=b), references, "a")
    shifted = align_labels(b, result.shifts["b"])
    e0 = energy_shifts(b, references["b"].energies)
    left = shifted.energy - energy_shifts(shifted, result.model.energies)
    np.testing.assert_allclose(left, b.energy - e0, atol=1e-9)
    assert any("linear in the composition" in note for note in result.notes)


def test_a_set_without_references_stays_as_it_is():
    a, b = frames("A"), frames("A", bonds=0.9)
    result = align_energies(sets_of(a=a, b=b), {"a": least_squares(a), "b": no_references([1])}, "a")
    assert result.shifts["b"] == {}
    assert align_labels(b, result.shifts["b"]) is b
    assert result.notes == ()


def test_an_element_that_the_reference_set_lacks_comes_from_the_other():
    a, b = frames("A", ["H2", "H2O", "H2O2"]), frames("B", ["LiH", "Li2O", "H2O"])
    result = align_energies(sets_of(a=a, b=b), {"a": from_table(E0["A"]), "b": from_table(E0["B"])}, "a")
    assert result.model.energies[3] == E0["A"][3]
    known = {z: e for z, e in E0["A"].items() if z != 3}
    result = align_energies(sets_of(a=a, b=b), {"a": from_table(known), "b": from_table(E0["B"])}, "a")
    assert result.model.energies == known | {3: E0["B"][3]}
    assert result.shifts["b"][3] == 0.0
    assert "E0 of Li is that of b" in result.notes[0]


def test_a_new_element_of_the_same_level_is_fitted():
    a, b = frames("A", ["H2", "H2O", "H2O2"], bonds=0), frames("A", ["LiH", "Li2O"], bonds=0)
    result = align_energies(sets_of(a=a, b=b), {"a": from_table(E0["A"]), "b": no_references([])}, "a")
    known = {z: e for z, e in E0["A"].items() if z != 3}
    result = align_energies(sets_of(a=a, b=b), {"a": from_table(known), "b": no_references([])}, "a")
    assert result.model.energies[3] == pytest.approx(E0["A"][3])
    none = align_energies(sets_of(a=a, b=b), {"a": no_references([1, 8]), "b": no_references([])}, "a")
    assert none.model.energies == {1: 0.0, 8: 0.0, 3: 0.0}


def test_compositions_that_the_reference_set_cannot_place_are_counted():
    """H2O alone determines one combination of E0; H2O2 is outside of it, 2 H2O within."""
    a, b = frames("A", ["H2O", "H2O"]), frames("B", ["H2O2", "H4O2", "H2"])
    result = align_energies(sets_of(a=a, b=b), {"a": least_squares(a), "b": from_table(E0["B"])}, "a")
    assert any(note.startswith("2 training frames of b") for note in result.notes)


@pytest.mark.parametrize("levels", [("PBE", "r2SCAN"), ("PBE", "PBE")])
def test_stated_levels_of_theory_are_compared_with_what_is_asked(levels):
    a, b = frames("A"), frames("B")
    a.info["level_of_theory"], b.info["level_of_theory"] = levels
    fits = {"a": least_squares(a), "b": least_squares(b)}
    raw = align_energies(sets_of(a=a, b=b), fits | {"b": no_references([])}, "a").notes
    shifted = align_energies(sets_of(a=a, b=b), fits, "a").notes
    same = levels[0] == levels[1]
    assert any("without a shift" in note for note in raw) != same
    assert any("same level of theory" in note for note in shifted) == same


def test_an_incomplete_table_names_the_set():
    a, b = frames("A"), frames("B")
    with pytest.raises(DataError, match="Li") as caught:
        align_energies(sets_of(a=a, b=b), {"a": least_squares(a), "b": from_table({"H": 1, "O": 2})}, "a")
    assert "set 'b'" in str(caught.value)


def test_an_alignment_survives_json_to_the_last_digit():
    a, b = frames("A"), frames("B")
    result = align_energies(sets_of(a=a, b=b), {"a": least_squares(a), "b": least_squares(b)}, "a")
    again = Alignment.from_dict(json.loads(json.dumps(result.to_dict())))
    assert (again.model.energies, again.shifts, again.notes) == (
        result.model.energies,
        result.shifts,
        result.notes,
    )


def test_ignored_labels_are_absent_and_nothing_else_is_copied():
    store = frames("A")
    other = align_labels(store, {1: 1.0, 3: 0.0, 8: 0.5}, ["forces"])
    assert other.positions is store.positions
    np.testing.assert_allclose(other.energy - store.energy, [2.0, 2.5, 1.0, 0.5, 1.5, 3.0])
    assert other.label_counts() == {"energy": 6, "forces": 0, "stress": 0}
    assert align_labels(store, {}, ["energy"]).label_counts() == {"energy": 0, "forces": 6, "stress": 0}
    assert other.graph(0, 3.0).forces.isnan().all()


def test_a_frame_with_an_element_without_a_shift_has_no_energy():
    assert np.isnan(align_labels(frames("A"), {1: 1.0, 8: 0.5}).energy).tolist() == [
        "Li" in formula for formula in FORMULAS
    ]


def test_another_process_opens_the_store_itself(tmp_path):
    folder = frames("A").save(tmp_path / "store")
    mapped = type(frames("A")).open(folder)
    other = align_labels(mapped, {1: 1.0, 3: 2.0, 8: 3.0}, ["forces"])
    data = pickle.dumps(other)
    assert len(data) < 2000  # the folder and the shift, not the columns
    again = pickle.loads(data)
    np.testing.assert_array_equal(again.energy, other.energy)
    assert again.label_counts() == other.label_counts()
    assert again.subset([1]).energy[0] == other.energy[1]


def test_graphs_of_sets_follow_one_another():
    a, b = frames("A"), frames("B")
    graphs = MixtureGraphs({"a": GraphDataset(a, [0, 2], 3.0), "b": GraphDataset(b, [5, 1, 3], 3.0)})
    assert len(graphs) == 5
    assert graphs.n_atoms.tolist() == [2, 2, 4, 3, 3]
    assert [int(graphs[k].set_number) for k in range(5)] == [0, 0, 1, 1, 1]
    assert [int(graphs[k].index) for k in range(5)] == [0, 2, 5, 1, 3]
    assert graphs.n_edges().tolist() == [graphs[k].edge_index.shape[1] for k in range(5)]
    with pytest.raises(IndexError):
        graphs[5]


def test_tags_of_one_set_are_zero_in_the_other():
    a, b = frames("A"), frames("B")
    object.__setattr__(b, "atom_tags", np.arange(len(b.numbers)))
    graphs = MixtureGraphs({"a": GraphDataset(a, [0], 3.0), "b": GraphDataset(b, [1], 3.0)})
    assert graphs[0].tag.tolist() == [0, 0]
    assert graphs[1].tag.tolist() == [2, 3, 4]


@pytest.mark.parametrize("cache", [True, False])
def test_forces_on_fixed_atoms_can_be_left_out(cache):
    store = frames("A", ["H2O", "LiOH"], fixed=[0, 2])
    graph = GraphDataset(store, cutoff=3.0, cache=cache, free_only=True)[1]
    assert torch.isnan(graph.forces).any(dim=1).tolist() == [True, False, True]
    assert not torch.isnan(GraphDataset(store, cutoff=3.0, cache=cache)[1].forces).any()
    assert np.isfinite(store.forces).all()
