"""Evaluation of any potential: numbers by hand, groups, files."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from torch_geometric.data import Batch

from atomml.datasets import from_ase
from atomml.errors import DataError
from atomml.training.batches import join
from atomml.training.evaluation import evaluate
from atomml.training.report import markdown_table, write_evaluation


class Offset(torch.nn.Module):
    """Predicts 1 eV per atom, forces of 0.1 eV/Å and a stress of 0.01 eV/Å³, whatever it sees."""

    cutoff, conservative, device = 2.0, True, torch.device("cpu")

    def forward(self, graph, *, forces=True, stress=False, create_graph=False):
        n = torch.bincount(graph.batch, minlength=graph.num_graphs).double()
        out = {"energy": n, "forces": torch.full((len(graph.z), 3), 0.1, dtype=torch.float64)}
        return out | ({"stress": torch.full((len(n), 3, 3), 0.01, dtype=torch.float64)} if stress else {})


def labelled(symbols, *, energy, forces=None, stress=None, **info):
    atoms = Atoms(
        symbols, np.arange(3.0 * len(symbols)).reshape(-1, 3), cell=np.eye(3) * 20, pbc=stress is not None
    )
    atoms.info.update(info)
    labels = {"energy": energy, "forces": forces, "stress": stress}
    atoms.calc = SinglePointCalculator(atoms, **{k: v for k, v in labels.items() if v is not None})
    return atoms


@pytest.fixture(scope="module")
def store():
    return from_ase(
        [
            labelled(["H", "H"], energy=2.5, forces=np.zeros((2, 3)), T=300),
            labelled(["H", "O", "H"], energy=2.4, forces=np.full((3, 3), 0.3), T=300),
            labelled(["O"], energy=1.0, stress=np.zeros(6), T=600),
        ]
    )


def test_metrics_by_hand(store):
    result = evaluate(Offset(), store)
    m = result.metrics
    assert m["energy_mae"] == pytest.approx((0.5 + 0.6 + 0) / 3)
    assert m["energy_per_atom_rmse"] == pytest.approx(np.sqrt((0.25**2 + 0.2**2) / 3))
    assert m["forces_mae"] == pytest.approx((6 * 0.1 + 9 * 0.2) / 15)
    assert m["stress_rmse"] == pytest.approx(0.01)
    assert result.counts == {"frames": 3, "atoms": 6, "energy": 3, "forces": 15, "stress": 9}


def test_errors_by_element_and_by_tag(store):
    result = evaluate(Offset(), store)
    assert result.elements["O"] == {
        "atoms": 1,
        "forces_mae": pytest.approx(0.2),
        "forces_rmse": pytest.approx(0.2),
    }
    assert result.elements["H"]["atoms"] == 4
    assert result.tags["T"]["600"]["frames"] == 1
    assert result.tags["T"]["600"]["energy_mae"] == pytest.approx(0.0)
    assert "forces_mae" not in result.tags["T"]["600"]


@pytest.mark.parametrize("max_atoms", [1, 4, 100])
def test_batches_do_not_change_the_result(store, max_atoms):
    result = evaluate(Offset(), store, max_atoms=max_atoms)
    np.testing.assert_array_equal(result.energy, [2.0, 3.0, 1.0])


def test_rows_keep_their_number(store):
    result = evaluate(Offset(), store, [2, 0])
    assert result.rows.tolist() == [2, 0]
    assert result.energy_label.tolist() == [1.0, 2.5]


def test_a_nan_prediction_shows_in_the_metrics(store):
    class Broken(Offset):
        def forward(self, graph, **options):
            return super().forward(graph, **options) | {
                "energy": torch.full((graph.num_graphs,), torch.nan).double()
            }

    assert np.isnan(evaluate(Broken(), store).metrics["energy_mae"])


def test_nothing_to_compare_with_is_an_error():
    bare = from_ase([Atoms("H", [[0.0, 0, 0]])])
    with pytest.raises(DataError, match="nothing to compare"):
        evaluate(Offset(), bare)


def test_the_report_has_numbers_beside_the_figure(store, tmp_path):
    numbers = write_evaluation(
        evaluate(Offset(), store), tmp_path, e0={1: 1.0, 8: 0.5}, provenance={"model": "x"}
    )
    names = {
        "evaluation.md",
        "evaluation.json",
        "evaluation.npz",
        "evaluation_frames.csv",
        "evaluation_parity.png",
    }
    assert {p.name for p in tmp_path.iterdir()} == names
    assert json.loads((tmp_path / "evaluation.json").read_text()) == numbers
    with (tmp_path / "evaluation_frames.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["energy_error_eV_per_atom"]) == pytest.approx(-0.25)
    assert rows[2]["forces_rmse_eV_per_A"] == ""
    arrays = np.load(tmp_path / "evaluation.npz", allow_pickle=False)
    assert arrays["forces"].shape == (6, 3)
    assert "| forces | 0.16 |" in (tmp_path / "evaluation.md").read_text()


def test_markdown_table():
    assert markdown_table(["a", "b"], [[1, 0.123456]]) == "| a | b |\n| --- | --- |\n| 1 | 0.1235 |"


def test_fast_joining_gives_the_tensors_of_pyg(store):
    graphs = [store.graph(i, 4.0) for i in range(3)]
    fast, slow = join(graphs), Batch.from_data_list(graphs)
    assert set(fast.keys()) == set(slow.keys())
    assert all(torch.equal(fast[key].nan_to_num(), slow[key].nan_to_num()) for key in slow.keys())  # noqa: SIM118
    assert fast.num_graphs == 3
