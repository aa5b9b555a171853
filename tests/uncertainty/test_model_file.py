"""Model files with an uncertainty: the same numbers to the last bit, and nothing accepted that does not fit."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import molecule
from safetensors.torch import load_file, save_file
from torch_geometric.data import Batch

import atomml
from atomml.errors import ModelFileError
from atomml.graph.atom_graph import graph_from_ase
from atomml.potentials import load_model as load_potential
from atomml.potentials import read_header
from atomml.potentials.build import with_constants
from atomml.potentials.model_file import KEY
from atomml.uncertainty.bayesian import BayesianPotential
from atomml.uncertainty.model_file import FRAMES, head_posterior, load_model, save_model
from atomml.uncertainty.posterior import LastLayer, Members
from tests.potentials.conftest import make_paper_potential, make_potential, rock_salt
from tests.uncertainty.test_bayesian import calibration

GOLDEN = Path(__file__).parents[1] / "potentials" / "golden"


def ensemble(method="ensemble", **options):
    return BayesianPotential(Members([make_potential(s, noise={}) for s in range(3)], method, **options))


def llpr():
    potential = make_potential(noise={"forces": "outer"})
    factor = np.random.default_rng(0).normal(size=(potential.last_layer().shape[0], 5))
    scales = {"per_force": np.arange(1.0, 6.0), "per_stress": 0.3}
    return BayesianPotential(LastLayer(potential, factor, "llpr", **scales))


def heads():
    scales = {"per_force": np.arange(2.0, 7.0), "per_stress": 0.2}
    return BayesianPotential(head_posterior(make_potential(heads=4), **scales))


def direct():
    members = [make_paper_potential() for _ in range(2)]
    with torch.no_grad():
        members[1].body.embedding.weight.mul_(1.1)
    return BayesianPotential(Members(members))


MODELS = {
    "ensemble": ensemble,
    "calibrated ensemble": lambda: BayesianPotential(ensemble().posterior, calibration()),
    "stretched samples": lambda: ensemble("laplace_diagonal", stretch=37.5),
    "llpr": llpr,
    "shallow ensemble": heads,
    "noise alone": lambda: BayesianPotential(head_posterior(make_potential(noise={}))),
    "direct forces": direct,
}


def graph():
    return Batch.from_data_list([graph_from_ase(a, 4.0) for a in (molecule("H2O"), rock_salt())])


def assert_same_predictions(one, other, **options):
    stress = one.conservative
    a, b = (model.eval()(graph(), stress=stress, **options) for model in (one, other))
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(torch.nan_to_num(value), torch.nan_to_num(b[name])), name


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("double", [False, True], ids=["float32", "float64"])
def test_a_saved_model_predicts_the_same_to_the_last_bit(make, double, tmp_path):
    model = make()
    model = model.double() if double else model
    loaded = load_model(save_model(model, tmp_path / "m.safetensors"))
    assert isinstance(loaded, BayesianPotential)
    assert loaded.method == model.method
    assert loaded.dtype == model.dtype
    assert loaded.calibration == model.calibration
    assert_same_predictions(model, loaded)
    if not (loaded.method == "heads" and loaded.potential.heads == 1):
        assert_same_predictions(model, loaded, exact=True, members=True)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_loaded_model_can_be_saved_again(make, tmp_path):
    first = save_model(make(), tmp_path / "a.safetensors")
    second = save_model(load_model(first), tmp_path / "b.safetensors")
    one, other = load_file(first), load_file(second)
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert read_header(first)["uncertainty"] == read_header(second)["uncertainty"]


@pytest.mark.parametrize("method", ["swag", "ivon", "laplace_diagonal"])
def test_a_file_of_samples_says_how_they_were_drawn(method, tmp_path):
    assert load_model(save_model(ensemble(method), tmp_path / "m.safetensors")).method == method


def test_members_keep_their_own_constants(tmp_path):
    """Reference energies refitted on other data, or other units, belong to each member."""
    first = make_potential()
    second = with_constants(make_potential(1), e0={1: -14.0}, average_neighbors=9.0, scale=0.5)
    model = BayesianPotential(Members([first, second]))
    loaded = load_model(save_model(model, tmp_path / "m.safetensors"))
    assert [p.scale for p in loaded.posterior.members] == [0.8, 0.5]
    assert [p.e0[1] for p in loaded.posterior.members] == [-13.6, -14.0]
    assert_same_predictions(model, loaded)


def test_header_tells_what_is_known_about_the_uncertainty(tmp_path):
    path = save_model(
        MODELS["calibrated ensemble"](), tmp_path / "m.safetensors", metrics={"forces_rmse": 0.1}
    )
    header = read_header(path)
    entry = header["uncertainty"]
    assert header["format_version"] == 3
    assert header["metrics"] == {"forces_rmse": 0.1}
    assert (entry["method"], entry["members"], entry["stretch"]) == ("ensemble", 3, 1.0)
    assert entry["calibration"]["id"] == calibration().id
    assert load_model(path).metadata["uncertainty"] == entry
    plain = read_header(save_model(llpr(), tmp_path / "n.safetensors"))["uncertainty"]
    assert plain == {"method": "llpr", "members": 1, "per_stress": 0.3, "calibration": None}


def test_fingerprints_of_training_frames_are_kept(tmp_path):
    frames = np.array([3, -(2**62), 2**63 - 1], dtype=np.int64)
    for name, model in {"a": ensemble(), "b": make_potential()}.items():
        path = save_model(model, tmp_path / f"{name}.safetensors", frames=frames)
        np.testing.assert_array_equal(load_file(path)[FRAMES].numpy(), frames)
        load_model(path)


def test_a_plain_potential_stays_one(tmp_path):
    path = save_model(make_potential(), tmp_path / "m.safetensors")
    assert read_header(path)["format_version"] == 1
    for load in (load_model, load_potential, atomml.load):
        assert type(load(path)).__name__ == "Potential"


def test_several_members_are_no_potential(tmp_path):
    path = save_model(ensemble(), tmp_path / "m.safetensors")
    with pytest.raises(ModelFileError, match="3 members, not one potential") as caught:
        load_potential(path)
    assert "atomml.load" in str(caught.value)


@pytest.mark.parametrize("make", [llpr, heads, MODELS["noise alone"]])
def test_the_mean_of_a_last_layer_can_be_loaded_alone(make, tmp_path):
    model = make()
    potential = load_potential(save_model(model, tmp_path / "m.safetensors"))
    out, mean = potential(graph(), stress=True), model(graph(), stress=True)
    for name in ("energy", "forces"):
        assert torch.equal(out[name], mean[name])


def test_the_precision_can_be_chosen(tmp_path):
    path = save_model(llpr(), tmp_path / "m.safetensors")
    double = load_model(path, dtype="float64")
    assert double.dtype == torch.float64
    single = load_model(path)
    np.testing.assert_allclose(double(graph())["energies_std"], single(graph())["energies_std"], rtol=1e-4)


@pytest.mark.parametrize("name", ["tdn_v1", "tdn_compiled_v2"])
def test_model_files_from_before_are_plain_potentials(name):
    recorded = json.loads((GOLDEN / f"{name}.json").read_text())
    model = load_model(GOLDEN / f"{name}.safetensors")
    assert not isinstance(model, BayesianPotential)
    prediction = model.predict(molecule("CH3CH2OH"))[0]
    assert prediction.energy == pytest.approx(recorded["energy"], abs=1e-5)


# -- damaged files


def damaged(path, change):
    """Rewrite a model file after ``change(header, tensors)``."""
    tensors = load_file(path)
    header = read_header(path)
    change(header, tensors)
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, {KEY: json.dumps(header)})
    return path


def set_entry(**values):
    return lambda header, tensors: header["uncertainty"].update(values)


def drop_entry(key):
    return lambda header, tensors: header["uncertainty"].pop(key)


def set_tensor(name, make):
    return lambda header, tensors: tensors.update({name: make(tensors[name])})


def drop_tensor(name):
    return lambda header, tensors: tensors.pop(name)


def change_calibration(header, tensors):
    header["uncertainty"]["calibration"]["quantities"]["energy"]["scale"]["alpha"] = 0.01


DAMAGES = {
    "no method": ("ensemble", drop_entry("method")),
    "unknown method": ("ensemble", set_entry(method="magic")),
    "unknown method of one": ("llpr", set_entry(method="magic")),
    "method of one for several": ("ensemble", set_entry(method="llpr")),
    "method of several for one": ("llpr", set_entry(method="ensemble")),
    "no number of members": ("ensemble", drop_entry("members")),
    "too many members": ("ensemble", set_entry(members=4)),
    "members forgotten": ("ensemble", set_entry(members=2)),
    "one of several": ("ensemble", set_entry(members=1)),
    "no members": ("ensemble", set_entry(members=0)),
    "members in words": ("ensemble", set_entry(members="three")),
    "no constants": ("ensemble", drop_entry("constants")),
    "constants forgotten": ("ensemble", lambda h, t: h["uncertainty"]["constants"].pop()),
    "no stretch": ("ensemble", drop_entry("stretch")),
    "a stretch in words": ("ensemble", set_entry(stretch="much")),
    "a stretch of zero": ("ensemble", set_entry(stretch=0.0)),
    "weights of another size": ("ensemble", set_tensor("weights.body.embedding", lambda x: x[..., :-1])),
    "weights of fewer members": ("ensemble", set_tensor("weights.body.embedding", lambda x: x[:2])),
    "weights missing": ("ensemble", drop_tensor("weights.body.embedding")),
    "no factor": ("llpr", drop_tensor("posterior.factor")),
    "a factor of another size": ("llpr", set_tensor("posterior.factor", lambda x: x[:-1])),
    "a factor without columns": ("llpr", set_tensor("posterior.factor", lambda x: x[:, 0])),
    "scales of other elements": ("llpr", set_tensor("posterior.per_force", lambda x: x[:-1])),
    "no scale of stress": ("llpr", drop_entry("per_stress")),
    "scales of heads for other elements": (
        "shallow ensemble",
        set_tensor("posterior.per_force", lambda x: x[1:]),
    ),
    "no calibration": ("ensemble", drop_entry("calibration")),
    "a calibration in words": ("ensemble", set_entry(calibration="good")),
    "an empty calibration": ("ensemble", set_entry(calibration={})),
    "a changed calibration": ("calibrated ensemble", change_calibration),
    "an entry that is text": ("ensemble", lambda h, t: h.update(uncertainty="much")),
    "no noise, one head": (
        "noise alone",
        lambda h, t: (h["config"].update(noise=None), [t.pop(k) for k in list(t) if ".noise." in k]),
    ),
}


@pytest.mark.parametrize(("name", "change"), DAMAGES.values(), ids=DAMAGES)
def test_what_does_not_fit_is_a_damaged_file(name, change, tmp_path):
    path = save_model(MODELS[name](), tmp_path / "m.safetensors")
    damaged(path, change)
    with pytest.raises(ModelFileError):
        load_model(path)


def test_the_file_is_named(tmp_path):
    path = damaged(save_model(ensemble(), tmp_path / "m.safetensors"), drop_entry("stretch"))
    with pytest.raises(ModelFileError, match="inconsistent") as caught:
        load_model(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("keep", [5, 2000, -1])
def test_a_truncated_file_is_refused(keep, tmp_path):
    path = save_model(ensemble(), tmp_path / "m.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelFileError, match=r"truncated|not a model"):
        load_model(path)


def test_a_header_that_would_be_code_is_only_text(tmp_path):
    marker = tmp_path / "executed"
    text = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    path = save_model(ensemble(), tmp_path / "m.safetensors")
    damaged(path, set_entry(method=text, stretch=text))
    with pytest.raises(ModelFileError):
        load_model(path)
    assert not marker.exists()


def test_a_newer_file_asks_for_an_update(tmp_path):
    path = damaged(
        save_model(ensemble(), tmp_path / "m.safetensors"), lambda h, t: h.update(format_version=99)
    )
    with pytest.raises(ModelFileError, match="format version 99") as caught:
        load_model(path)
    assert "update atomml" in str(caught.value)


def test_damaged_files_are_readable_safetensors(tmp_path):
    """The damages above are found by what they say, not by a broken container."""
    path = damaged(save_model(ensemble(), tmp_path / "m.safetensors"), lambda h, t: None)
    content = path.read_bytes()
    assert struct.unpack("<Q", content[:8])[0] < len(content)
    assert_same_predictions(ensemble(), load_model(path))
