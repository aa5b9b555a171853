"""Crystals in the variables of the flows, constraints, properties, and files of models."""

import json

import numpy as np
import pytest
import torch
from ase.build import bulk
from safetensors.torch import load_file, save_file

from atomml.crystals.batch import CrystalBatch
from atomml.crystals.model import Constraint
from atomml.crystals.model_file import load_crystal_model, save_crystal_model
from atomml.crystals.properties import densities, property_scales, property_table
from atomml.datasets import from_ase
from atomml.errors import ConfigError, ModelFileError, UnsupportedError
from tests.crystals.models import batch_of, perovskite, salts, small_model


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_crystals_come_back_from_the_variables_of_the_flows():
    model, batch = small_model(), batch_of()
    back = model.crystals(model.target(batch), batch.numbers, batch.mask)
    away = (back.fractional - batch.fractional + 0.5) % 1 - 0.5
    assert away.abs().max() < 1e-6
    torch.testing.assert_close(back.lattice.float(), batch.lattice, rtol=0, atol=1e-6)
    assert torch.equal(back.numbers, batch.numbers)
    assert torch.equal(back.n_atoms, batch.n_atoms)


def test_an_unknown_element_is_refused():
    with pytest.raises(UnsupportedError, match=r"Z = \[29\]"):
        small_model().target(batch_of(bulk("Cu")))


@pytest.mark.parametrize("steps", [5, 10])
@pytest.mark.parametrize("flow", ["von_mises", "additive"])
def test_at_the_end_everything_is_known(flow, steps):
    model, batch = small_model(flow={"coordinates": flow, "beta1_types": 20.0}), batch_of()
    target, known = model.target(batch), Constraint(torch.zeros_like(batch.mask))
    done = torch.full((len(batch),), steps)
    state = model.after(target, done, steps, known, generator=generator())
    mask = batch.mask[..., None]
    assert torch.cos((state.coordinates.mean - target.angles) * mask).min() > 0.98
    assert (state.lattice - target.lattice).abs().max() < 0.2
    assert (state.types.argmax(-1) == target.types.argmax(-1))[batch.mask].all()


def test_given_elements_are_certain_from_the_start():
    model, batch = small_model(given_types=0.5), batch_of()
    target = model.target(batch)
    given = batch.mask & (torch.arange(5) < 2)
    state = model.after(target, torch.zeros(3).long(), 5, Constraint(given), generator=generator())
    assert torch.equal(state.types[given], target.types[given])
    torch.testing.assert_close(state.types[~given], torch.full_like(state.types[~given], 0.2))


@pytest.mark.parametrize("name", ["after", "add"])
def test_forbidden_elements_have_no_probability(name):
    model, batch = small_model(given_types=0.0), batch_of()
    target = model.target(batch)
    allowed = torch.tensor([True, True, True, False, False]).expand(3, 5, 5)
    known = Constraint(torch.zeros_like(batch.mask), allowed)
    state = model.after(target, torch.full((3,), 2), 5, known, generator=generator())
    if name == "add":
        state = model.add(state, target, 3, 5, known, generator=generator())
    assert (state.types[~allowed] == 0).all()
    torch.testing.assert_close(state.types.sum(-1), torch.ones(3, 5))


def test_properties_that_are_not_asked_for_are_all_the_same():
    model = small_model(properties={"density": (3.0, 1.0), "energy": (-4.0, 2.0)})
    torch.nn.init.normal_(model.properties.unknown)
    values = torch.tensor([[3.5, torch.nan], [torch.nan, -4.0], [torch.nan, torch.nan]])
    condition = model.properties(values, 3)
    torch.testing.assert_close(condition[2], model.properties(None, 3)[0])
    assert torch.isfinite(condition).all()
    assert (condition[0] - condition[1]).abs().max() > 1e-3


def test_density_is_mass_over_volume():
    (density,) = densities(CrystalBatch.from_atoms([bulk("NaCl", "rocksalt", 5.64)])).tolist()
    assert density == pytest.approx(2.16, abs=0.01)


def test_the_table_of_properties_names_what_it_cannot_find():
    atoms = salts()
    for k, a in enumerate(atoms):
        a.info |= {"gap": float(k), "family": "salt"}
    store = from_ase(atoms)
    crystals = CrystalBatch.from_atoms(atoms)
    table = property_table(["density", "gap"], store, crystals)
    np.testing.assert_allclose(table[:, 1], [0, 1, 2])
    assert property_scales(["gap"], table[:, 1:])["gap"] == pytest.approx((1.0, np.std([0, 1, 2])))
    assert property_table([], store, crystals).shape == (3, 0)
    with pytest.raises(ConfigError, match="no column 'gpa'"):
        property_table(["gpa"], store, crystals)
    with pytest.raises(ConfigError, match="is text"):
        property_table(["family"], store, crystals)
    with pytest.raises(ConfigError, match="nothing to learn"):
        property_scales(["gap"], np.full((3, 1), np.nan))


def test_a_model_file_gives_the_same_model(tmp_path):
    model = small_model(properties={"density": (3.0, 1.0)}, given_types=0.5)
    path = save_crystal_model(model, tmp_path / "m.safetensors", metrics={"valid_loss": 1.5})
    loaded = load_crystal_model(path)
    assert (loaded.elements, loaded.lattice_scale, loaded.atom_counts) == (
        model.elements,
        2.0,
        {2: 0.5, 5: 0.5},
    )
    assert loaded.property_scales == {"density": (3.0, 1.0)}
    assert loaded.predicts == "everything"
    assert loaded.metadata["metrics"] == {"valid_loss": 1.5}
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_foreign_truncated_and_inconsistent_files_are_refused(tmp_path):
    path = save_crystal_model(small_model(), tmp_path / "m.safetensors")
    with pytest.raises(ModelFileError, match="no such model file"):
        load_crystal_model(tmp_path / "absent.safetensors")
    with pytest.raises(ModelFileError, match="'atomml-model', where 'atomml-crystal-model'"):
        load_crystal_model("atomml/assets/demo.safetensors")
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ModelFileError, match="not one of atomml"):
        load_crystal_model(tmp_path / "foreign.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ModelFileError, match="truncated"):
        load_crystal_model(tmp_path / "cut.safetensors")
    model = small_model()
    header = load_crystal_model(path).metadata
    for change, message in (({"elements": [3]}, "inconsistent"), ({"format_version": 99}, "reads up to 1")):
        save_file(load_file(path), tmp_path / "x.safetensors", {"atomml": json.dumps(header | change)})
        with pytest.raises(ModelFileError, match=message):
            load_crystal_model(tmp_path / "x.safetensors")
    assert model.metadata == {}


def test_the_perovskite_of_these_tests_is_one():
    distances = perovskite().get_distances(1, [2, 3, 4], mic=True)
    np.testing.assert_allclose(distances, 1.95)
