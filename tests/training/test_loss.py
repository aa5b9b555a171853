"""Loss and error sums: values by hand, masks, and additivity over processes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from torch_geometric.data import Batch

from atomml.graph import graph_from_ase
from atomml.graph.atom_graph import atom_graph
from atomml.training.batches import join
from atomml.training.config import LossConfig
from atomml.training.loss import combine, loss_sums, penalty, residuals, vanish_by_symmetry, weights_of
from atomml.training.metrics import error_sums, errors_from_sums
from tests.potentials.conftest import make_potential, rock_salt

CELL = 10.0 * np.eye(3)


def graph(n, *, energy=None, forces=None, stress=None, periodic=True):
    pos = np.arange(3.0 * n).reshape(n, 3)
    pbc = np.full(3, periodic)
    return atom_graph(
        np.full(n, 3), pos, CELL if periodic else np.zeros((3, 3)), pbc, 1.0,
        energy=energy, forces=forces, stress=stress,
    )  # fmt: skip


def batch():
    """Two frames: 2 atoms with every label, 3 atoms with energy only."""
    first = graph(2, energy=1.0, forces=np.zeros((2, 3)), stress=np.zeros((3, 3)))
    return Batch.from_data_list([first, graph(3, energy=5.0)])


def prediction(stress=True):
    out = {
        "energy": torch.tensor([1.4, 4.4], dtype=torch.float64),
        "forces": torch.full((5, 3), 0.3, dtype=torch.float64),
    }
    return out | ({"stress": torch.full((2, 3, 3), 0.02, dtype=torch.float64)} if stress else {})


@pytest.mark.parametrize(
    ("kind", "x", "expected"),
    [("mse", -3.0, 9.0), ("l1", -3.0, 3.0), ("huber", 0.4, 0.08), ("huber", -3.0, 0.5 * (3.0 - 0.25))],
)
def test_penalty_by_hand(kind, x, expected):
    assert penalty(torch.tensor([x], dtype=torch.float64), kind, 0.5).item() == pytest.approx(expected)


def test_energy_is_per_atom_and_absent_labels_are_not_counted():
    sums, counts = loss_sums(prediction(), batch(), LossConfig(kind="mse", stress=1.0))
    assert counts.tolist() == [2.0, 6.0, 9.0]
    energy = (0.4 / 2) ** 2 + (-0.6 / 3) ** 2
    np.testing.assert_allclose(sums.numpy(), [energy, 6 * 0.09, 9 * 0.0004], rtol=1e-12)
    total = combine(sums, counts, weights_of(LossConfig(energy=2.0, forces=3.0, stress=10.0)))
    assert total.item() == pytest.approx(2 * energy / 2 + 3 * 0.09 + 10 * 0.0004)


def test_a_term_without_any_label_adds_nothing():
    data = Batch.from_data_list([graph(2, energy=1.0), graph(3, energy=2.0)])
    sums, counts = loss_sums(prediction(stress=False), data, LossConfig(kind="l1"))
    assert counts.tolist() == [2.0, 0.0, 0.0]
    assert combine(sums, counts, weights_of(LossConfig())).isfinite()


def test_masked_labels_carry_no_gradient_not_even_nan():
    out = prediction()
    out["stress"][1] = math.nan  # a frame without a three-dimensional cell
    out = {key: value.requires_grad_() for key, value in out.items()}
    sums, counts = loss_sums(out, batch(), LossConfig(kind="huber", stress=1.0))
    combine(sums, counts, weights_of(LossConfig(stress=1.0))).backward()
    assert out["forces"].grad[2:].abs().max() == 0
    assert out["stress"].grad[1].abs().max() == 0
    assert out["forces"].grad[:2].abs().min() > 0


def test_a_nan_prediction_of_a_known_label_is_not_hidden():
    out = prediction()
    out["forces"][0, 0] = math.nan
    sums, _ = loss_sums(out, batch(), LossConfig())
    assert sums[1].isnan()


def test_stress_label_of_a_molecule_is_masked():
    data = Batch.from_data_list([graph(2, energy=0.0, stress=np.ones((3, 3)), periodic=False)])
    out = {"energy": torch.zeros(1, dtype=torch.float64), "stress": torch.zeros(1, 3, 3, dtype=torch.float64)}
    _, mask = residuals(out, data)["stress"]
    assert not mask.any()


def test_sums_of_parts_give_the_loss_of_the_whole():
    a, b = graph(2, energy=1.0, forces=np.ones((2, 3))), graph(3, energy=5.0)
    out = prediction(stress=False)
    config = LossConfig(kind="huber", forces=7.0)
    whole = loss_sums(out, Batch.from_data_list([a, b]), config)
    first = loss_sums(
        {"energy": out["energy"][:1], "forces": out["forces"][:2]}, Batch.from_data_list([a]), config
    )
    second = loss_sums(
        {"energy": out["energy"][1:], "forces": out["forces"][2:]}, Batch.from_data_list([b]), config
    )
    counts, weights = first[1] + second[1], weights_of(config)
    joint = combine(first[0], counts, weights) + combine(second[0], counts, weights)
    assert joint.item() == pytest.approx(combine(*whole, weights).item(), rel=1e-14)


def test_errors_by_hand():
    errors = errors_from_sums(error_sums(prediction(), batch()))
    assert errors["energy_mae"] == pytest.approx(0.5)
    assert errors["energy_rmse"] == pytest.approx(math.sqrt((0.16 + 0.36) / 2))
    assert errors["energy_per_atom_mae"] == pytest.approx(0.2)
    assert errors["forces_mae"] == pytest.approx(0.3)
    assert errors["stress_rmse"] == pytest.approx(0.02)


def test_no_error_is_reported_without_labels():
    data = Batch.from_data_list([graph(2), graph(3)])
    assert errors_from_sums(error_sums(prediction(), data)) == {}


def test_forces_vanish_by_symmetry_in_an_ideal_crystal_and_of_a_lone_atom():
    potential = make_potential()
    ideal, shaken = bulk("LiCl", "rocksalt", 5.1), rock_salt()
    structures = [ideal, Atoms("C"), shaken]
    graph = join([graph_from_ase(a, potential.cutoff) for a in structures])
    forces = potential(graph)["forces"].detach()
    found = vanish_by_symmetry(forces, torch.zeros_like(forces))
    assert found.tolist() == [True] * (len(ideal) + 1) + [False] * len(shaken)
    wrong = torch.full_like(forces, 0.1)
    assert not vanish_by_symmetry(forces, wrong).any()
