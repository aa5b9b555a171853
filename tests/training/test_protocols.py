"""Benchmark measures against numbers by hand and plain loops; prediction files; the command."""

from __future__ import annotations

import io
import json
import lzma
import math

import numpy as np
import pytest
import torch
import typer
from ase.io import read
from typer.testing import CliRunner

from atomml.cli import evaluate as evaluate_command
from atomml.datasets import Frame, load_frames, pack_frames
from atomml.errors import ConfigError, DataError
from atomml.potentials import build_potential, save_model
from atomml.potentials.config import TDNConfig
from atomml.training.evaluation import evaluate
from atomml.training.protocols import Compared, add_sums, is2re_sums, means, pubchemqcr_sums, s2ef_sums
from atomml.training.protocols_command import protocol_metrics, require_protocol
from atomml.training.protocols_files import read_predictions, submission_ids, write_predictions


def compared(rng, sizes, noise=0.02, fixed=0.4, force_noise=0.01):
    n = sum(sizes)
    energy, forces = rng.normal(size=len(sizes)), rng.normal(size=(n, 3))
    return Compared(
        np.array(sizes),
        energy + rng.normal(scale=noise, size=len(sizes)),
        energy,
        forces + rng.normal(scale=force_noise, size=(n, 3)),
        forces,
        rng.random(n) > fixed,
    )


def test_s2ef_by_hand():
    """Two systems; the second atom of the first is fixed and wrong."""
    data = Compared(
        n_atoms=np.array([2, 1]),
        energy=np.array([1.01, -2.0]),
        energy_label=np.array([1.0, -2.5]),
        forces=np.array([[3.0, 0, 0], [9, 9, 9], [0, 4.02, 0]]),
        forces_label=np.array([[0.0, 3, 0], [0, 0, 0], [0, 4, 0]]),
        free=np.array([True, False, True]),
    )
    found = means(s2ef_sums(data))
    assert found == pytest.approx(
        {
            "energy_mae": 0.255,
            "energy_mse": (0.01**2 + 0.25) / 2,
            "energy_within_threshold": 0.5,
            "forces_mae": 6.02 / 6,
            "forces_mse": (18 + 0.02**2) / 6,
            "forces_cos": 0.5,
            "forces_magnitude": 0.01,
            "energy_forces_within_threshold": 0.0,
            "forcesx_mae": 1.5,
            "forcesy_mae": 1.51,
            "forcesz_mae": 0.0,
        }
    )


@pytest.mark.parametrize(
    ("energy", "force", "both"),
    [(0.0199, 0.0299, 1.0), (0.0201, 0.0, 0.0), (0.0, 0.0301, 0.0), (-0.0199, -0.0299, 1.0)],
)
def test_thresholds_are_on_the_whole_energy_and_on_one_component(energy, force, both):
    """100 atoms: 0.02 eV is for the system; a force error of 0.0299 in all components has a length of 0.052."""
    data = Compared(
        np.array([100]), np.array([energy]), np.zeros(1), np.full((100, 3), force), np.zeros((100, 3))
    )
    assert means(s2ef_sums(data))["energy_forces_within_threshold"] == both
    assert means(is2re_sums(data))["energy_within_threshold"] == float(abs(energy) < 0.02)


def test_s2ef_against_plain_loops(rng):
    data = compared(rng, [3, 1, 7, 2, 5] * 8, force_noise=0.015)
    energy_right = both_right = 0
    absolute, cosines, magnitudes, first = [], [], [], 0
    for s, n in enumerate(data.n_atoms):
        worst = 0.0
        for i in range(first, first + n):
            if not data.free[i]:
                continue
            p, t = data.forces[i], data.forces_label[i]
            absolute += [abs(a - b) for a, b in zip(p, t, strict=True)]
            worst = max(worst, *(abs(a - b) for a, b in zip(p, t, strict=True)))
            cosines.append(p @ t / math.sqrt(p @ p) / math.sqrt(t @ t))
            magnitudes.append(abs(math.sqrt(p @ p) - math.sqrt(t @ t)))
        first += n
        close = abs(data.energy[s] - data.energy_label[s]) < 0.02
        energy_right += close
        both_right += close and worst < 0.03
    found = means(s2ef_sums(data))
    assert 0 < both_right < energy_right < len(data.n_atoms)
    assert found["energy_within_threshold"] == energy_right / len(data.n_atoms)
    assert found["energy_forces_within_threshold"] == both_right / len(data.n_atoms)
    assert found["forces_mae"] == pytest.approx(np.mean(absolute))
    assert found["forces_cos"] == pytest.approx(np.mean(cosines))
    assert found["forces_magnitude"] == pytest.approx(np.mean(magnitudes))


def test_the_cosine_is_that_of_torch_zero_vectors_included(rng):
    data = compared(rng, [4, 4], fixed=0.0)
    data.forces[2] = 0.0
    data.forces_label[5] = 0.0
    expected = torch.nn.functional.cosine_similarity(
        torch.tensor(data.forces), torch.tensor(data.forces_label), dim=1
    )
    assert means(s2ef_sums(data))["forces_cos"] == pytest.approx(expected.mean().item())


@pytest.mark.parametrize("measure", [s2ef_sums, is2re_sums, pubchemqcr_sums])
def test_parts_add_up_to_the_whole(rng, measure):
    data = compared(rng, [3, 1, 7, 2, 5])
    cut = 11

    def part(systems, atoms):
        fields = ("n_atoms", "energy", "energy_label")
        per_atom = ("forces", "forces_label", "free")
        return Compared(
            **{k: getattr(data, k)[systems] for k in fields}, **{k: getattr(data, k)[atoms] for k in per_atom}
        )

    halves = [measure(part(slice(3), slice(cut))), measure(part(slice(3, None), slice(cut, None)))]
    assert means(add_sums(*halves)) == pytest.approx(means(measure(data)))


def test_pubchemqcr_by_hand():
    """Errors of length 3 and 4 in one snapshot, 1 in the other."""
    data = Compared(
        np.array([2, 1]),
        np.array([1.0, 0.0]),
        np.array([0.0, 0.5]),
        np.array([[3.0, 0, 0], [0, 4, 0], [0, 0, 1]]),
        np.zeros((3, 3)),
    )
    found = means(pubchemqcr_sums(data))
    assert found["energy_per_atom_mae"] == pytest.approx((0.5 + 0.5) / 2)
    assert found["forces_rmse_published"] == pytest.approx((math.sqrt(12.5) + 1) / 2)
    assert found["forces_rmse"] == pytest.approx(math.sqrt(26 / 9))
    assert found["forces_mae_components"] == pytest.approx(8 / 9)


def test_pubchemqcr_published_is_the_mean_of_batch_means(rng):
    """As a training over batches of equal size computes it."""
    data = compared(rng, [3, 1, 7, 2, 5, 4])
    norms = ((data.forces - data.forces_label) ** 2).sum(axis=1)
    each = [np.sqrt(part.mean()) for part in np.split(norms, np.cumsum(data.n_atoms)[:-1])]
    batches = [np.mean(each[k : k + 2]) for k in range(0, 6, 2)]
    assert means(pubchemqcr_sums(data))["forces_rmse_published"] == pytest.approx(np.mean(batches))


def test_missing_labels_are_named(rng):
    data = compared(rng, [2, 2, 2], fixed=0.0)
    data.forces_label[3, 1] = np.nan
    with pytest.raises(DataError, match="1 of 3 systems") as caught:
        s2ef_sums(data)
    assert "row 1" in str(caught.value)
    assert is2re_sums(data)["energy_mae"][1] == 3
    data.free[3] = False
    assert s2ef_sums(data)["forces_mae"][1] == 15
    data.energy_label[2] = np.nan
    with pytest.raises(DataError, match="row 2"):
        is2re_sums(data)


def test_a_nan_prediction_is_not_hidden(rng):
    data = compared(rng, [2, 2])
    data.energy[0] = np.nan
    found = means(s2ef_sums(data))
    assert math.isnan(found["energy_mae"])
    assert found["energy_forces_within_threshold"] <= 0.5


def test_a_system_without_free_atoms_is_decided_by_its_energy():
    data = Compared(
        np.array([1, 2]),
        np.array([0.01, 0.01]),
        np.zeros(2),
        np.full((3, 3), 5.0),
        np.zeros((3, 3)),
        np.array([False, True, True]),
    )
    assert means(s2ef_sums(data))["energy_forces_within_threshold"] == 0.5


def store_of(rng, labels=True, tags=True):
    """Three copper slabs with fixed atoms."""

    def frames():
        for k in range(3):
            n = 3 + k
            yield Frame(
                np.full(n, 29),
                rng.normal(scale=0.1, size=(n, 3)) + 2.6 * np.arange(n)[:, None],
                np.eye(3) * 30,
                np.ones(3, dtype=bool),
                0.5 * k if labels else float("nan"),
                rng.normal(size=(n, 3)) if labels else None,
                fixed=np.arange(n) < 2,
                id=f"frame {k}",
                tags={"sid": 7 + k, "fid": 2 * k} if tags else {},
            )

    return pack_frames(frames(), {"source": "slabs"}, where="slabs")


def test_predictions_of_several_splits_share_a_file(rng, tmp_path):
    path = tmp_path / "p.npz"
    store = store_of(rng)
    ids, n_atoms, forces = submission_ids(store, forces=True), np.array(store.n_atoms), store.forces
    assert ids == ["7_0", "8_2", "9_4"]
    assert write_predictions(path, "id", ids, store.energy, n_atoms=n_atoms, forces=forces) == ["id"]
    free = ~store.fixed
    done = write_predictions(path, "ood_ads", ids, store.energy, n_atoms=n_atoms, forces=forces, free=free)
    assert done == ["id", "ood_ads"]
    arrays = read_predictions(path)
    assert arrays["id_chunk_idx"].tolist() == [3, 7]
    pieces = np.split(arrays["id_forces"], arrays["id_chunk_idx"])
    assert [len(p) for p in pieces] == [3, 4, 5]
    np.testing.assert_array_equal(pieces[1], store.forces[3:7].astype(np.float32))
    pieces = np.split(arrays["ood_ads_forces"], arrays["ood_ads_chunk_idx"])
    assert [len(p) for p in pieces] == [1, 2, 3]
    np.testing.assert_array_equal(pieces[2], store.forces[9:].astype(np.float32))
    assert arrays["ood_ads_energy"].dtype == np.float64
    write_predictions(path, "id", ids[:2], store.energy[:2])
    assert sorted(read_predictions(path)) == [
        "id_energy",
        "id_ids",
        "ood_ads_chunk_idx",
        "ood_ads_energy",
        "ood_ads_forces",
        "ood_ads_ids",
    ]


def test_names_on_the_leaderboard(rng):
    assert submission_ids(store_of(rng), forces=False) == ["7", "8", "9"]
    assert submission_ids(store_of(rng, tags=False), forces=True) == ["frame 0", "frame 1", "frame 2"]
    twice = store_of(rng)
    twice.tags["sid"][:] = 1
    with pytest.raises(DataError, match="same name, such as '1'"):
        submission_ids(twice, forces=False)


def test_other_files_are_not_overwritten(rng, tmp_path):
    (tmp_path / "a.npz").write_bytes(b"thesis")
    np.savez(tmp_path / "b.npz", results=np.ones(3))
    np.savez(tmp_path / "c.npz", id_ids=np.array([object()]))
    for name in "abc":
        before = (tmp_path / f"{name}.npz").read_bytes()
        with pytest.raises(DataError, match="not a file of predictions"):
            write_predictions(tmp_path / f"{name}.npz", "id", ["1"], np.ones(1))
        assert (tmp_path / f"{name}.npz").read_bytes() == before
    with pytest.raises(ConfigError, match="not finite"):
        write_predictions(tmp_path / "d.npz", "id", ["1"], np.full(1, np.nan))


def test_the_task_is_told_from_the_labels(rng):
    store = store_of(rng)
    assert require_protocol("oc20", None, store).task == "s2ef"
    assert require_protocol("oc22", "is2re", store).task == "is2re"
    with pytest.raises(ConfigError, match="no labels"):
        require_protocol("oc20", None, store_of(rng, labels=False))
    with pytest.raises(ConfigError, match="oc20, oc22, pubchemqcr"):
        require_protocol("oc23", None, store)
    with pytest.raises(ConfigError, match="no task is2re"):
        require_protocol("pubchemqcr", "is2re", store)


class Offset(torch.nn.Module):
    """Energy 0.5 eV, forces 0.1 eV/Å."""

    cutoff, conservative, device = 2.0, True, torch.device("cpu")

    def forward(self, graph, *, forces=True, stress=False, create_graph=False):
        n = torch.bincount(graph.batch, minlength=graph.num_graphs)
        return {"energy": torch.full((len(n),), 0.5).double(), "forces": torch.full((len(graph.z), 3), 0.1)}


def test_free_atoms_only_with_oc20_all_with_pubchemqcr(rng):
    store = store_of(rng)
    for name, atoms in (("oc20", 6), ("oc22", 6), ("pubchemqcr", 12)):
        protocol = require_protocol(name, None, store)
        result = evaluate(Offset(), store, free_only=protocol.free_only)
        content = protocol_metrics(protocol, result, store)
        assert content["free atoms"] == atoms
        free = ~store.fixed if atoms == 6 else np.ones(12, dtype=bool)
        error = np.abs(0.1 - store.forces[free])
        key = "forces_mae" if atoms == 6 else "forces_mae_components"
        assert content["metrics"][key] == pytest.approx(error.mean())
        assert result.metrics["forces_mae"] == pytest.approx(error.mean())


def test_oc20_frames_as_downloaded(shared_data):
    """The numbers of the store, and plain loops over what ASE and the .txt files say."""
    folder = shared_data / "oc20" / "raw_reserialised"
    store = load_frames(folder / "0.extxyz.xz").subset(np.arange(30))
    result = evaluate(Offset(), store, free_only=True)
    content = protocol_metrics(require_protocol("oc20", None, store), result, store)
    energies, components, cosines, right = [], [], [], 0
    text = lzma.decompress((folder / "0.extxyz.xz").read_bytes()).decode()
    lines = lzma.decompress((folder / "0.txt.xz").read_bytes()).decode().splitlines()
    for atoms, line in zip(read(io.StringIO(text), ":30", format="extxyz"), lines[:30], strict=True):
        fixed = [i for c in atoms.constraints for i in c.get_indices()]
        forces = np.delete(atoms.get_forces(apply_constraint=False), fixed, axis=0)
        energies.append(abs(0.5 - (atoms.get_potential_energy() - float(line.split(",")[2]))))
        components.append(np.abs(0.1 - forces).ravel())
        cosines += [f.sum() / np.sqrt(3) / np.linalg.norm(f) if f.any() else 0.0 for f in forces]
        right += energies[-1] < 0.02 and components[-1].max() < 0.03
    found = content["metrics"]
    assert content["frames"] == len(energies) == 30
    assert found["energy_mae"] == pytest.approx(np.mean(energies))
    assert found["forces_mae"] == pytest.approx(np.concatenate(components).mean(), rel=1e-6)
    assert found["forces_cos"] == pytest.approx(np.mean(cosines), rel=1e-5)
    assert found["energy_forces_within_threshold"] == right / len(energies)
    assert result.metrics["forces_mae"] == pytest.approx(found["forces_mae"])
    assert len(submission_ids(store, forces=True)) == len(energies)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    config = TDNConfig(lmax=1, channels=4, layers=1, cutoff=3.5, radial_hidden=[8])
    potential = build_potential(config, elements=[29], e0={29: 0.0}, average_neighbors=2.0, scale=1.0, seed=0)
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    save_model(potential, path)
    return path


def run(*arguments):
    app = typer.Typer()
    evaluate_command.register(app)
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_the_command_prints_and_writes(model, rng, tmp_path):
    store_of(rng).save(tmp_path / "labelled")
    files = ["--json", tmp_path / "m.json", "--predictions", tmp_path / "p.npz"]
    output = run(model, tmp_path / "labelled", "--protocol", "oc20", *files)
    assert "energy_forces_within" in output.replace("\n", "")
    content = json.loads((tmp_path / "m.json").read_text())
    assert content["protocol"]["sums"]["forces_mae"]["number"] == 18
    assert content["forces_mae"] == pytest.approx(content["protocol"]["metrics"]["forces_mae"])
    store_of(rng, labels=False).save(tmp_path / "bare")
    more = ["--split", "ood_both", "--task", "s2ef", "--predictions", tmp_path / "p.npz"]
    output = run(model, tmp_path / "bare", "--protocol", "oc20", *more)
    assert "id, ood_both" in " ".join(output.split())
    arrays = read_predictions(tmp_path / "p.npz")
    assert arrays["ood_both_forces"].shape == (12, 3)
    store = load_frames(tmp_path / "labelled")
    energy = [evaluate_energy(model, store, k) for k in range(3)]
    np.testing.assert_allclose(arrays["id_energy"], energy, rtol=1e-5)


def evaluate_energy(model, store, k):
    from atomml.potentials import load_model

    return load_model(model).predict([store[k]])[0].energy


def test_options_that_do_not_fit_are_refused(model, rng, tmp_path):
    store_of(rng).save(tmp_path / "s")
    with pytest.raises(ConfigError, match="belong to a protocol"):
        run(model, tmp_path / "s", "--predictions", tmp_path / "p.npz")
    with pytest.raises(ConfigError, match="no leaderboard file"):
        run(model, tmp_path / "s", "--protocol", "pubchemqcr", "--predictions", tmp_path / "p.npz")
    with pytest.raises(ConfigError, match="not a split"):
        run(model, tmp_path / "s", "--protocol", "oc20", "--predictions", tmp_path / "p.npz", "--split", "x")
