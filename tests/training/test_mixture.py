"""Training on several sets: energies, shares, factors, errors of each set, resume and processes."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
import yaml
from ase.constraints import FixAtoms
from ase.data import atomic_numbers
from ase.io import read, write

from atomml.datasets import Split, load_frames
from atomml.errors import ConfigError, DataError, TrainingError
from atomml.potentials import load_model, read_header
from atomml.training import finetune, loop, train
from atomml.training.config import DataConfig, FinetuneConfig, LossConfig
from atomml.training.data import load_training_data
from atomml.training.loss import combine, loss_sums, weights_of
from tests.training.helpers import KILLED, configured, in_child, kill_on_call
from tests.training.test_distributed import run_two
from tests.training.test_loss import batch, prediction
from tests.training.test_resume import assert_same_run

pytestmark = pytest.mark.usefixtures("no_figures")
OFFSET = {29: 3.0, 79: -40.0}  # another level of theory: eV per atom


@pytest.fixture(scope="session")
def other_file(frames_file, tmp_path_factory):
    """The first 12 frames with the energies of another level of theory."""
    frames = read(frames_file, ":12")
    for atoms in frames:
        atoms.calc.results["energy"] += sum(OFFSET[z] for z in atoms.numbers)
        atoms.calc.results.pop("free_energy", None)
    path = tmp_path_factory.mktemp("other") / "other.xyz"
    write(path, frames, format="extxyz")
    return path


@pytest.fixture
def two(settings, frames_file, other_file):
    """Settings of a training on both files."""
    sets = {
        "base": {"train": str(frames_file), "valid": 4, "test_where": "T >= 600"},
        "other": {"train": str(other_file), "valid": 2, "references": "least_squares"},
    }
    return settings | {"data": {"sets": sets}}


def changed(settings, name, **keys):
    sets = settings["data"]["sets"]
    return settings | {"data": settings["data"] | {"sets": sets | {name: sets[name] | keys}}}


def loaded(settings, loss=LossConfig()):  # noqa: B008
    return load_training_data(DataConfig.model_validate(settings["data"]), loss)


def test_labels_of_the_other_level_become_those_of_the_reference_set(two, frames_file):
    table = {"Cu": 1.0, "Au": 2.0}
    other = {"Cu": 4.0, "Au": -38.0}
    data = loaded(changed(changed(two, "base", references=table), "other", references=other))
    part = data.train.sets()["other"]
    expected = load_frames(frames_file).energy[part.rows]
    np.testing.assert_allclose(part.store.energy[part.rows], expected, atol=1e-6)
    assert data.mixture.alignment.model.energies == {29: 1.0, 79: 2.0}


def test_least_squares_align_what_differs_by_element(two):
    """Both sets have the same frames here, so the fitted shift is exact."""
    sets = {
        name: {"train": one["train"], "where": "T < 600 and traj == t0|t1|t2", "valid": None}
        for name, one in two["data"]["sets"].items()
    }
    sets["other"]["references"] = "least_squares"
    data = loaded({"data": {"sets": sets}})
    a, b = data.train.sets().values()
    np.testing.assert_allclose(b.store.energy[b.rows], a.store.energy[a.rows], atol=1e-8)


def test_raw_energies_stay_and_zero_factors_hide_labels(two, other_file):
    data = loaded(changed(two, "other", references="none", energy_weight=0.0))
    part = data.train.sets()["other"]
    assert part.labels() == {"energy": 0, "forces": 10, "stress": 10}
    data = loaded(changed(two, "other", references="none"))
    part = data.train.sets()["other"]
    assert part.store.energy.tolist() == load_frames(other_file).energy.tolist()


def test_where_restricts_the_set(two):
    data = loaded(changed(two, "base", where="traj == t0|t1|t5"))
    assert len(data.train.sets()["base"]) == 4  # 8 below 600 K, 4 of them for validation
    assert len(data.test.sets()["base"]) == 4
    with pytest.raises(ConfigError, match=r"data.sets.base.where: 'T < 3' holds for none of 24"):
        loaded(changed(two, "base", where="T < 3"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "exactly one of train and sets"),
        ({"train": "x", "sets": {"a": {"train": "y"}}}, "exactly one of train and sets"),
        ({"sets": {}}, "at least one"),
        ({"sets": {"a": {"train": "y"}}, "valid": 3}, "valid: write these into each"),
        ({"sets": {"a": {"train": "y"}}, "reference_set": "b"}, "is none of a"),
        ({"sets": {"a": {"train": "y", "weight": 0}}}, "all weights are 0"),
        ({"sets": {"a": {"valid": 1}}}, "name the files"),
        ({"sets": {"a/b": {"train": "y"}}}, "pattern"),
        ({"sets": {"a": {"train": "y", "shares": 1}}}, "did you mean 'share'"),
        ({"train": "x", "epoch_size": 5}, "only for several sets"),
    ],
)
def test_configurations_that_cannot_be_used(settings, data, message):
    with pytest.raises(ConfigError, match=message):
        configured(settings, data=data)


def test_a_resolved_configuration_can_be_trained_again(two):
    config = configured(two)
    assert configured(config.resolved()) == config


def test_a_set_without_usable_labels_is_named(two, tmp_path, other_file):
    frames = read(other_file, ":")
    for atoms in frames:
        atoms.calc.results = {"energy": atoms.get_potential_energy()}
    write(tmp_path / "e.xyz", frames, format="extxyz")
    settings = changed(two, "other", train=str(tmp_path / "e.xyz"), energy_weight=0.0)
    with pytest.raises(TrainingError, match="set 'other' has none of the labels energy, forces"):
        loaded(settings)


def test_an_element_of_no_training_set_is_named(two, tmp_path, other_file):
    frames = read(other_file, ":3")
    for atoms in frames:
        atoms.numbers[0] = 47
    write(tmp_path / "v.xyz", frames, format="extxyz")
    with pytest.raises(DataError, match="other valid set has Ag"):
        loaded(changed(two, "other", valid=str(tmp_path / "v.xyz")))


def test_factors_multiply_the_terms_of_their_set():
    graph = batch()
    graph.set_number = torch.tensor([1, 0])
    factors = torch.tensor([[10.0, 1.0, 1.0], [2.0, 3.0, 5.0]], dtype=torch.float64)
    config = LossConfig(kind="mse", stress=1.0)
    sums, counts = loss_sums(prediction(), graph, config, factors)
    assert counts.tolist() == [2.0, 6.0, 9.0]
    expected = [2 * 0.2**2 + 10 * 0.2**2, 3 * 6 * 0.09, 5 * 9 * 0.0004]
    np.testing.assert_allclose(sums.numpy(), expected, rtol=1e-12)
    plain = loss_sums(prediction(), graph, config, torch.ones(2, 3, dtype=torch.float64))[0]
    assert combine(plain, counts, weights_of(config)) == combine(
        loss_sums(prediction(), graph, config)[0], counts, weights_of(config)
    )


@pytest.fixture(scope="module")
def finished(frames_file, other_file, tmp_path_factory):
    """One finished run on two sets."""
    from tests.training.helpers import tiny_settings

    settings = tiny_settings(frames_file, tmp_path_factory.mktemp("runs") / "mixture")
    sets = {
        "base": {"train": str(frames_file), "valid": 4, "test_where": "T >= 600"},
        "other": {"train": str(other_file), "valid": 2, "references": "least_squares", "weight": 0.5},
    }
    data = {"sets": sets, "sampling_temperature": 1e9, "epoch_size": 12}
    settings |= {"data": data, "loss": {"stress": 1.0}, "checkpoint_steps": 2, "epochs": 4}
    settings |= {"schedule": {"kind": "plateau", "warmup_steps": 3, "patience": 1}}
    return settings, train(configured(settings), quiet=True)


def epochs_of(run_dir):
    lines = map(json.loads, (run_dir / "log.jsonl").read_text().splitlines())
    return [r for r in lines if r["kind"] == "epoch"]


def model_e0(run_dir):
    """Reference energies of the model by atomic number, as the run folder has them."""
    content = json.loads((run_dir / "sets.json").read_text())
    return {str(atomic_numbers[s]): e for s, e in content["alignment"]["model"]["energies"].items()}


def test_the_run_folder_records_the_sets(finished):
    _, result = finished
    content = json.loads((result.run_dir / "sets.json").read_text())
    base, other = content["sets"].values()
    assert base["frames"] == {"train": 16, "valid": 4, "test": 4}
    assert (base["per epoch"], other["per epoch"]) == (6, 6)
    assert other["share"] == pytest.approx(0.5)
    assert (base["shift"], other["references"]) == (0.0, "least_squares")
    per_atom = [(OFFSET[29] * (3 - k) + OFFSET[79] * (1 + k)) / 4 for k in range(3)]
    assert other["shift"] == pytest.approx(-np.mean(per_atom), abs=4.0)
    assert content["fingerprint"] == result.metrics["provenance"]["data"]
    store = load_frames(
        yaml.safe_load((result.run_dir / "config.yaml").read_text())["data"]["sets"]["base"]["train"]
    )
    split = Split.load(result.run_dir / "splits" / "base.json")
    assert split.test.tolist() == [20, 21, 22, 23]
    assert content["fingerprint"]["base: train files"] == store.fingerprint()


def test_the_model_file_records_the_sets(finished):
    _, result = finished
    header = read_header(result.run_dir / "model.safetensors")
    assert header["data"]["sets"] == "base, other"
    assert header["training"]["sets"]["other"]["loss factors"]["forces"] == 0.5
    assert header["metrics"].keys() == {"valid_base", "valid_other", "test_base"}
    assert header["e0"] == pytest.approx(model_e0(result.run_dir))


def test_errors_of_each_set_are_in_log_table_and_report(finished):
    _, result = finished
    last = epochs_of(result.run_dir)[-1]
    assert last["sets"].keys() == {"base", "other"}
    best = min(epochs_of(result.run_dir), key=lambda r: r["valid_loss"])
    for name, row in best["sets"].items():
        assert result.metrics[f"valid_{name}"]["forces_rmse"] == pytest.approx(row["forces_rmse"], rel=1e-5)
    mean = np.mean([row["valid_loss"] for row in last["sets"].values()])
    assert last["valid_loss"] == pytest.approx(mean, rel=1e-8)
    squares = [last["sets"][name]["forces_rmse"] ** 2 * n for name, n in (("base", 4), ("other", 2))]
    assert last["forces_rmse"] == pytest.approx(np.sqrt(sum(squares) / 6), rel=1e-12)
    with (result.run_dir / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["other: valid_loss"]) == last["sets"]["other"]["valid_loss"]
    text = (result.run_dir / "report.md").read_text()
    assert "## Sets" in text
    assert "## valid_other" in text


def test_the_validation_loss_has_the_factors_of_the_set(finished, tmp_path):
    """The same weights with twice the factor give twice the loss of that set."""
    settings, _ = finished
    loss = []
    for k, weight in enumerate((0.5, 1.0)):
        config = changed(settings, "other", weight=weight) | {"optimizer": {"lr": 1e-30}, "epochs": 1}
        result = train(configured(config, run_dir=str(tmp_path / str(k))), quiet=True)
        loss.append(epochs_of(result.run_dir)[0]["sets"])
    assert loss[1]["other"]["valid_loss"] == pytest.approx(2 * loss[0]["other"]["valid_loss"])
    assert loss[1]["base"]["valid_loss"] == pytest.approx(loss[0]["base"]["valid_loss"])


POINTS = {"between two steps": (loop, "training_step", 5), "before a checkpoint": (loop, "append_csv", 2)}


@pytest.mark.parametrize("point", POINTS)
def test_killed_and_resumed_equals_uninterrupted(finished, tmp_path, point, monkeypatch):
    settings, whole = finished
    config = configured(settings, run_dir=str(tmp_path / "run"))

    def die():
        kill_on_call(*POINTS[point])
        train(config, quiet=True)

    assert in_child(die) == KILLED

    def refuse(*args):
        raise AssertionError("the alignment must come from the checkpoint")

    monkeypatch.setattr("atomml.training.mixture._aligned", refuse)
    train(config, resume=True, quiet=True)
    assert_same_run(whole.run_dir, tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampling_temperature": 2.0}, "data.sampling_temperature: 1000000000.0 then, 2.0 now"),
        ({"sets": "other"}, "data.sets.other.weight: 0.5 then, 1.0 now"),
    ],
)
def test_a_changed_mixture_is_named(finished, change, message):
    settings, _ = finished
    if "sets" in change:
        settings = changed(settings, "other", weight=1.0)
    else:
        settings = settings | {"data": settings["data"] | change}
    with pytest.raises(ConfigError, match=message):
        train(configured(settings), resume=True, quiet=True)


def test_the_files_of_a_set_may_have_moved(finished, tmp_path, other_file):
    settings, result = finished
    (tmp_path / "moved.xyz").write_bytes(other_file.read_bytes())
    train(configured(changed(settings, "other", train=str(tmp_path / "moved.xyz"))), resume=True, quiet=True)
    assert epochs_of(result.run_dir)[-1]["epoch"] == 4


def test_two_processes_give_the_loss_of_one(two, tmp_path):
    common = {"dtype": "float64", "epochs": 2, "log_every": 1}
    settings = two | {"data": two["data"] | {"epoch_size": 16, "sampling_temperature": 2.0}}
    one = train(configured(settings, **common, run_dir=str(tmp_path / "one")), quiet=True)
    run_two(configured(settings, **common, batch={"batch_size": 2}, run_dir=str(tmp_path / "two")))
    pairs = zip(epochs_of(one.run_dir), epochs_of(tmp_path / "two"), strict=True)
    for a, b in pairs:
        assert a["step"] == b["step"]
        for key in ("train_loss", "valid_loss", "forces_rmse"):
            assert b[key] == pytest.approx(a[key], rel=1e-5, abs=1e-9)
        for name in ("base", "other"):
            assert b["sets"][name] == pytest.approx(a["sets"][name], rel=1e-5, abs=1e-9)


def test_one_set_of_a_mixture_is_a_plain_training(settings, two, tmp_path):
    """Same frames, same numbers; only the order of the batches is drawn differently."""
    sets = {"base": two["data"]["sets"]["base"]}
    data = settings["data"] | {"valid": 4}
    plain = train(configured(settings, data=data, max_steps=1, batch={"batch_size": 100}), quiet=True)
    mixed = train(
        configured(
            settings,
            data={"sets": sets},
            max_steps=1,
            batch={"batch_size": 100},
            run_dir=str(tmp_path / "m"),
        ),
        quiet=True,
    )
    a, b = epochs_of(plain.run_dir)[0], epochs_of(mixed.run_dir)[0]
    assert b["train_loss"] == pytest.approx(a["train_loss"], rel=1e-5)
    assert b["valid_loss"] == pytest.approx(a["valid_loss"], rel=1e-4)
    assert plain.metrics["test"]["forces_rmse"] == pytest.approx(
        mixed.metrics["test_base"]["forces_rmse"], rel=1e-4
    )


def test_alignment_makes_the_energies_learnable(two, tmp_path):
    """Without a shift the 40 eV per gold atom of the other level cannot be fitted."""
    common = {"epochs": 1, "optimizer": {"lr": 1e-4}}
    aligned = train(configured(two, **common), quiet=True)
    raw = changed(two, "other", references="none")
    raw = train(configured(raw, **common, run_dir=str(tmp_path / "raw")), quiet=True)
    energy = [r.metrics["valid_other"]["energy_per_atom_rmse"] for r in (aligned, raw)]
    assert energy[0] < 0.3
    assert energy[1] > 5.0


def test_a_mixture_finetunes_a_model(finished, two, tmp_path):
    _, result = finished
    settings = {key: value for key, value in two.items() if key != "model"} | {"epochs": 1}
    config = FinetuneConfig.model_validate(settings | {"run_dir": str(tmp_path / "tuned")})
    tuned = finetune(result.run_dir / "model.safetensors", config, quiet=True)
    assert tuned.metrics.keys() >= {"valid_base", "valid_other"}
    new = FinetuneConfig.model_validate(settings | {"run_dir": str(tmp_path / "new"), "e0": "new"})
    tuned = finetune(result.run_dir / "model.safetensors", new, quiet=True)
    e0 = read_header(tmp_path / "new" / "model.safetensors")["e0"]
    assert e0 == pytest.approx(model_e0(tmp_path / "new"))


def test_workers_give_the_same_training(two, tmp_path):
    one = train(configured(two, epochs=1), quiet=True)
    settings = two | {"data": two["data"] | {"workers": 1, "cache": False}}
    other = train(configured(settings, epochs=1, run_dir=str(tmp_path / "w")), quiet=True)
    for a, b in zip(one.potential.parameters(), other.potential.parameters(), strict=True):
        assert torch.equal(a, b)


def test_forces_on_free_atoms_only(settings, frames_file, tmp_path):
    """Fixed atoms with absurd forces change nothing; their number is not in the counts."""
    frames = read(frames_file, ":")
    for atoms in frames:
        atoms.calc.results["forces"][:2] = 1e6
        atoms.set_constraint(FixAtoms([0, 1]))
    write(
        tmp_path / "fixed.xyz",
        frames,
        format="extxyz",
        columns=["symbols", "positions", "move_mask", "forces"],
    )
    store = load_frames(tmp_path / "fixed.xyz")
    assert store.fixed is not None
    assert store.forces.max() == 1e6
    data = {"train": str(tmp_path / "fixed.xyz"), "valid": 4, "forces_on": "free"}
    result = train(configured(settings, data=data, epochs=1), quiet=True)
    assert result.metrics["valid"]["counts"]["forces"] == 4 * 2 * 3
    assert result.metrics["valid"]["forces_rmse"] < 10
    assert epochs_of(result.run_dir)[0]["forces_rmse"] < 10
    assert load_model(result.run_dir / "model.safetensors").scale < 10
    everything = train(
        configured(settings, data=data | {"forces_on": "all"}, epochs=1, run_dir=str(tmp_path / "all")),
        quiet=True,
    )
    assert everything.metrics["valid"]["forces_rmse"] > 1e5
