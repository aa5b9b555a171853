"""Relaxation in batches: the same as one structure after the other, and nobody suffers from the others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms, FixedPlane

from atomml.errors import DataError
from atomml.graph import neighbor_list
from atomml.simulate import Calculator, relax, write_relaxed
from atomml.simulate.batched import relax_batched
from atomml.simulate.batched.structures import Structures, tensors_of
from atomml.simulate.batched.verlet import VerletLists
from atomml.simulate.interface import resolve_potential
from tests.training.uncertain import ensemble


def halides(n, seed=0):
    """Strained, rattled lithium halides with two or eight atoms."""
    rng = np.random.RandomState(seed)
    lengths = {"F": 4.0, "Cl": 5.1, "Br": 5.5, "I": 6.0}
    found = []
    for k in range(n):
        symbol = list(lengths)[k % 4]
        atoms = bulk(f"Li{symbol}", "rocksalt", lengths[symbol], cubic=k % 3 == 0)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.02 * rng.randn(3, 3)), scale_atoms=True)
        atoms.rattle(0.1, rng=rng)
        found.append(atoms)
    return found


def same(first, second, tolerance=1e-8):
    """Two lists of results say the same, and have the same structures."""
    for one, other in zip(first, second, strict=True):
        row, expected = one.row(), other.row()
        numbers = {name for name, value in expected.items() if isinstance(value, float)}
        assert {n: x for n, x in row.items() if n not in numbers} == {
            n: x for n, x in expected.items() if n not in numbers
        }
        for name in numbers:
            assert row[name] == pytest.approx(expected[name], rel=1e-6, abs=tolerance), name
        np.testing.assert_allclose(one.atoms.positions, other.atoms.positions, atol=tolerance)
        np.testing.assert_allclose(one.atoms.cell.array, other.atoms.cell.array, atol=tolerance)


@pytest.fixture(scope="module")
def demo():
    return resolve_potential("demo").double()


@pytest.mark.parametrize("max_atoms", [2000, 9])
def test_it_makes_the_steps_of_ase(demo, max_atoms):
    structures = halides(3)
    expected = relax(structures, demo, steps=6)
    same(relax_batched(structures, demo, steps=6, max_atoms=max_atoms), expected)
    assert all(r.energy_last < r.energy_first for r in expected)


def test_molecules_slabs_and_crystals_share_a_batch(potential, crystal, molecule):
    slab = bulk("Cu", "fcc", 3.7, cubic=True)
    slab.pbc = [True, True, False]
    slab.rattle(0.1, seed=1)
    atom = Atoms("Cu")
    structures = [crystal, molecule, slab, atom]
    results = relax_batched(structures, potential, fmax=0.02)
    same(results, relax(structures, potential, fmax=0.02), 1e-6)
    assert all(r.converged for r in results)
    assert [r.cell_relaxed for r in results] == [True, False, False, False]


def test_the_cell_stays_when_asked(potential, crystal):
    (result,) = relax_batched(crystal, potential, cell=False)
    np.testing.assert_array_equal(result.atoms.cell.array, crystal.cell.array)
    assert result.converged
    assert result.stress_max > 0


@pytest.mark.parametrize("cell", [False, True])
@pytest.mark.parametrize("constraint", [FixAtoms([0, 3]), FixedPlane([1, 2], (0, 0, 1))])
def test_constraints_are_respected_and_kept(potential, crystal, constraint, cell):
    crystal.set_constraint(constraint)
    results = relax_batched([crystal, crystal], potential, cell=cell, steps=20)
    same(results, relax([crystal, crystal], potential, cell=cell, steps=20), 1e-6)
    assert len(results[1].atoms.constraints) == 1
    if not cell and isinstance(constraint, FixAtoms):
        np.testing.assert_array_equal(results[0].atoms.positions[[0, 3]], crystal.positions[[0, 3]])


def test_failures_leave_and_the_others_go_on(potential, crystal, molecule):
    overlapping = Atoms("Cu2", [[0, 0, 0], [0, 0, 0.05]])
    charged = crystal.copy()
    charged.info["charge"] = 1
    lost = molecule.copy()
    lost.positions[0] = np.nan
    structures = [crystal, bulk("Au"), overlapping, molecule, charged, lost, Atoms()]
    results = relax_batched(structures, potential, fmax=0.02)
    errors = [r.error for r in results]
    assert [error is None for error in errors] == [True, False, False, True, False, False, False]
    assert "does not know Au" in errors[1]
    assert "Å apart" in errors[2]
    assert "charge" in errors[4]
    assert "finite" in errors[5]
    assert "without atoms" in errors[6]
    assert [r.index for r in results] == list(range(7))
    same([results[0], results[3]], [relax([crystal], potential, fmax=0.02)[0], results[3]], 1e-6)


def test_a_volume_that_runs_away_is_reported(potential):
    dense = bulk("Cu", "fcc", 2.0)
    (result, other) = relax_batched([dense, bulk("Cu", "fcc", 3.8)], potential)
    (expected,) = relax(dense, potential)
    assert "volume changed" in result.error
    assert (result.steps, result.error) == (expected.steps, expected.error)
    assert other.converged


def test_a_potential_that_refuses_the_batch_is_asked_for_each(make_potential, crystal, molecule):
    class Picky(make_potential):
        def forward(self, graph, **options):
            if 3 in graph.z.tolist():
                raise DataError("no lithium today")
            return super().forward(graph, **options)

    results = relax_batched([crystal, molecule, crystal], Picky(), fmax=0.05)
    assert [r.converged for r in results] == [True, False, True]
    assert "no lithium" in results[1].error


def test_results_that_are_not_finite_are_reported(make_potential, crystal):
    (result,) = relax_batched(crystal, make_potential(flaw="nan"))
    assert "not finite" in result.error
    assert not result.converged


def test_numbers_that_are_not_finite_stay_with_their_structure(make_potential, crystal):
    class Flawed(make_potential):
        def forward(self, graph, **options):
            out = super().forward(graph, **options)
            ill = graph.z[torch.searchsorted(graph.batch, torch.arange(len(graph.cell)))] == 3
            return {
                n: torch.where(ill.view(-1, *[1] * (x.ndim - 1)), torch.nan, x)
                if len(x) == len(graph.cell)
                else x
                for n, x in out.items()
            }

    lithium = crystal.copy()
    lithium.numbers[:] = 3
    bad, good = relax_batched([lithium, crystal], Flawed(), steps=5)
    assert "not finite" in bad.error
    same([replace(good, index=0)], relax_batched(crystal, make_potential(), steps=5))


def test_tight_limits_are_reached_in_float64(demo):
    results = relax_batched(halides(2)[1:], demo, fmax=1e-5)
    assert all(r.converged for r in results)
    assert max(r.fmax for r in results) < 2e-5  # the limit is on the forces in the undeformed cell
    assert max(r.stress_max for r in results) < 1e-3  # GPa


def test_float32_finds_the_same_minima(demo):
    structures = halides(3)[1:]
    results = relax_batched(structures, "demo")
    for result, one in zip(results, relax_batched(structures, demo), strict=True):
        assert result.converged
        assert result.energy_last == pytest.approx(one.energy_last, abs=1e-5)


def test_deviations_are_those_of_a_calculator():
    potential, crystal = ensemble(), bulk("Cu", "fcc", 3.7, cubic=True)
    crystal.rattle(0.1, seed=2)
    results, expected = ([*f([crystal] * 2, potential, steps=3)] for f in (relax_batched, relax))
    for result, one in zip(results, expected, strict=True):
        assert result.energy_std_per_atom == pytest.approx(one.energy_std_per_atom, rel=1e-3)
        assert result.max_force_std == pytest.approx(one.max_force_std, rel=1e-3)
        assert result.atoms.info["energy_std"] == pytest.approx(4 * result.energy_std_per_atom)


def test_results_are_written_as_those_of_relax(potential, crystal, tmp_path):
    paths = write_relaxed(relax_batched([crystal, bulk("Au")], potential), tmp_path / "batched.xyz")
    others = write_relaxed(relax([crystal, bulk("Au")], potential), tmp_path / "single.xyz")
    header = [path.read_text().splitlines()[0] for path in (paths[1], others[1])]
    assert header[0] == header[1]
    assert len(paths[0].read_text()) == pytest.approx(len(others[0].read_text()), abs=20)


@pytest.mark.parametrize("limits", [{"fmax": 0.0}, {"steps": -1}, {"max_atoms": 0}])
def test_impossible_limits_are_refused(potential, crystal, limits):
    with pytest.raises(DataError, match="must be positive"):
        relax_batched(crystal, potential, **limits)


def test_no_structures_are_refused(potential):
    with pytest.raises(DataError, match="no structure"):
        relax_batched([], potential)


def test_a_calculator_gives_its_potential(potential, crystal):
    (result,) = relax_batched(crystal, Calculator(potential), steps=2)
    same([result], relax_batched(crystal, potential, steps=2))


def batch_of(structures):
    parts = [tensors_of(a, k) for k, a in enumerate(structures)]
    return Structures.join([Structures(**part) for part in parts])


def edges_within(lists, structures, cutoff):
    lists.update(structures)
    pairs, s = lists.pairs(structures), structures
    vector = s.pos[pairs.neighbor] - s.pos[pairs.center]
    vector = vector + torch.einsum("ea,eab->eb", pairs.shift, s.cell[s.owner[pairs.center]])
    near = pairs.within(vector.norm(dim=1) < cutoff)
    order = torch.argsort(near.neighbor, stable=True)
    np.testing.assert_array_equal(near.transpose, order)
    return near


@pytest.mark.parametrize("skin", [0.0, 0.4, 1.5])
def test_lists_are_complete_while_atoms_and_cells_move(skin):
    rng = np.random.RandomState(1)
    structures, lists = halides(5), VerletLists(4.5, skin)
    structures.append(Atoms("Li4", rng.uniform(0, 5, (4, 3))))
    lists.extend(len(structures))
    for _ in range(12):
        for atoms in structures:
            atoms.positions += 0.04 * rng.randn(len(atoms), 3)
            if atoms.pbc.all():
                strain = np.eye(3) + 0.01 * rng.randn(3, 3)
                atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        near = edges_within(lists, batch_of(structures), 4.5)
        first = np.cumsum([0, *map(len, structures)])
        expected = [neighbor_list(a.positions, a.cell.array, a.pbc, 4.5) for a in structures]
        for got, want in zip(near[:2], list(zip(*expected, strict=True))[:2], strict=True):
            np.testing.assert_array_equal(
                got, np.concatenate([w + f for w, f in zip(want, first[:-1], strict=True)])
            )
        np.testing.assert_array_equal(near.shift, np.concatenate([e[2] for e in expected]))
    assert lists.builds < 12 * len(structures) if skin > 1 else lists.builds > 2 * len(structures)


def test_lists_follow_structures_that_come_and_go():
    structures, lists = halides(4), VerletLists(4.5)
    lists.extend(2)
    edges_within(lists, batch_of(structures[:2]), 4.5)
    keep = torch.tensor([False, True])
    lists = lists.select(keep)
    lists.extend(2)
    near = edges_within(lists, batch_of(structures[1:]), 4.5)
    assert lists.builds == 4
    assert len(near.neighbor) == sum(
        len(neighbor_list(a.positions, a.cell.array, a.pbc, 4.5)[0]) for a in structures[1:]
    )
