"""Compiling: tables as fine as the tolerances need, measured errors, refusals, model files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

import atomml
from atomml.errors import CheckError, ModelFileError, UnsupportedError
from atomml.potentials import load_model, model_file, read_header, save_model
from atomml.potentials.compile import compile_potential, differences, weights_sha256
from atomml.potentials.compile_structures import sample_structures
from atomml.potentials.compiled import CompiledPotential, native_available
from atomml.training import finetune
from atomml.training.config import FinetuneConfig
from tests.potentials.conftest import ELEMENTS, make_paper_potential, make_potential


@pytest.fixture(scope="module")
def source():
    return make_potential(layers=1, lmax=1)


@pytest.fixture(scope="module")
def compiled(source):
    return compile_potential(source)


def rattled(n, seed):
    rng = np.random.default_rng(seed)
    found = []
    for k in range(n):
        atoms = bulk("LiCl", "rocksalt", rng.uniform(4.9, 5.8), cubic=True)
        atoms.numbers[1::2] = rng.choice([9, 17, 35], len(atoms) // 2)
        atoms.rattle(rng.uniform(0.02, 0.15), seed=k)
        found.append(atoms)
    return found


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_measured_errors_are_those_of_the_result(source, dtype):
    structures = sample_structures(ELEMENTS)
    result = compile_potential(source, dtype=dtype)
    truth = make_potential(layers=1, lmax=1).double().predict(structures)
    assert result.dtype == getattr(torch, dtype)
    for engine, stored in result.compilation["difference"].items():
        again = differences(result.use_engine(engine), truth, structures)
        assert {name: float(values.max()) for name, values in again.items()} == pytest.approx(
            stored, rel=1e-6
        )
        assert stored["scaled_energy"] <= 1e-5
        assert stored["scaled_forces"] <= 1e-4
    assert set(result.compilation["difference"]) == ({"native", "torch"} if native_available() else {"torch"})
    assert 0 < result.compilation["difference_by_table"]["scaled_forces"] < 1e-5


def test_tables_become_finer_with_the_tolerance(source):
    knots = [
        compile_potential(source, tolerance_forces=t, dtype="float64").compilation["knots"][0]
        for t in (1e-2, 1e-6)
    ]
    assert knots[0] < knots[1]


def test_a_given_number_of_knots_is_used(source):
    result = compile_potential(source, knots=700)
    assert [table.knots for table in result.tables] == result.compilation["knots"] == [700]


def test_the_bundled_model_in_single_precision_says_the_same_on_a_hundred_structures():
    potential = atomml.load("demo")
    result, structures = compile_potential(potential), rattled(100, seed=1)
    source = potential.predict(structures)
    assert 2 < max(np.abs(b.forces).max() for b in source) < 50
    for a, b in zip(result.predict(structures), source, strict=True):
        np.testing.assert_allclose(a.forces, b.forces, atol=1e-4)
        assert a.energy == pytest.approx(b.energy, abs=1e-5 * len(b.energies))


def test_too_few_knots_are_refused_with_the_numbers(source):
    with pytest.raises(CheckError, match=r"difference of \w+ is \d\.\de-\d\d eV") as error:
        compile_potential(source, knots=17)
    assert "give more knots" in str(error.value)
    assert "structure" in error.value.where


def test_too_low_a_precision_is_refused_with_other_advice(source):
    with pytest.raises(CheckError, match="difference of forces") as error:
        compile_potential(source, tolerance_forces=1e-8, knots=4097)
    assert "float64" in str(error.value)
    compile_potential(source, tolerance_forces=1e-8, knots=8193, dtype="float64")


def test_errors_are_measured_on_the_structures_that_are_given(source):
    result = compile_potential(source, structures=[molecule("H2O")])
    assert result.compilation["structures"] == {"number": 1, "origin": "given"}
    assert result.compilation["difference"]["torch"]["stress"] == 0
    with pytest.raises(UnsupportedError, match="does not know N"):
        compile_potential(source, structures=[molecule("NH3")])


def test_networks_that_cannot_be_tabulated_are_refused(compiled):
    with pytest.raises(UnsupportedError, match="tdn_paper cannot be compiled: only the conservative"):
        compile_potential(make_paper_potential(layers=1))
    with pytest.raises(UnsupportedError, match="compiled already"):
        compile_potential(compiled)


@pytest.mark.parametrize("elements", [[1], [3, 17], ELEMENTS, list(range(1, 90))])
def test_sample_structures_cover_elements_distances_and_boundary_conditions(elements):
    structures = sample_structures(elements)
    assert {int(z) for atoms in structures for z in atoms.numbers} == set(elements)
    assert {tuple(a.pbc.tolist()) for a in structures} >= {(True,) * 3, (False,) * 3, (True, True, False)}
    assert {len(a) for a in structures} >= {1, 2}
    dimers = [a.get_distance(0, 1) for a in structures if len(a) == 2]
    assert max(dimers) > 3 * min(dimers) * 0.3
    again = sample_structures(elements)
    assert all(np.array_equal(a.positions, b.positions) for a, b in zip(structures, again, strict=True))


def test_a_compiled_model_comes_back_from_its_file_bit_for_bit(compiled, tmp_path):
    path = save_model(compiled, tmp_path / "m.safetensors", licence="MIT")
    loaded = load_model(path)
    assert isinstance(loaded, CompiledPotential)
    structures = [molecule("CH3CH2OH"), bulk("LiCl", "rocksalt", 5.1), Atoms("O")]
    for a, b in zip(compiled.predict(structures), loaded.predict(structures), strict=True):
        assert a.energy == b.energy
        np.testing.assert_array_equal(a.forces, b.forces)
    assert loaded.compilation == compiled.compilation
    assert loaded.e0 == compiled.e0
    assert loaded.offsets == compiled.offsets
    assert loaded.metadata["licence"] == "MIT"
    second = save_model(loaded, tmp_path / "again.safetensors", licence="MIT")
    assert load_model(second).predict(structures)[0].energy == loaded.predict(structures)[0].energy


def test_tables_stay_exact_in_the_file(compiled, tmp_path):
    path = save_model(compiled, tmp_path / "m.safetensors")
    double = load_model(path, dtype="float64")
    for kept, given in zip(double.tables, compiled.tables, strict=True):
        assert kept.values.dtype == torch.float64
        np.testing.assert_array_equal(kept.values.numpy(), given.masters()[0])


def test_the_header_tells_errors_and_source(source, compiled, tmp_path):
    header = read_header(save_model(compiled, tmp_path / "m.safetensors"))
    assert header["compiled"]["source_sha256"] == weights_sha256(source)
    assert weights_sha256(source) != weights_sha256(make_potential(seed=1, layers=1, lmax=1))
    assert header["compiled"]["tolerance"] == {"energy": 1e-5, "forces": 1e-4}
    assert header["compiled"]["knots"] == compiled.compilation["knots"]
    assert header["config"]["kind"] == "tdn"
    json.dumps(header, allow_nan=False)


def test_only_compiled_models_need_a_reader_that_knows_them(source, compiled, tmp_path, monkeypatch):
    plain = save_model(source, tmp_path / "plain.safetensors")
    fast = save_model(compiled, tmp_path / "fast.safetensors")
    assert [read_header(p)["format_version"] for p in (plain, fast)] == [1, 2]
    monkeypatch.setattr(model_file, "FORMAT_VERSION", 1)
    load_model(plain)
    with pytest.raises(ModelFileError, match="format version 2") as error:
        load_model(fast)
    assert "update atomml" in str(error.value)


def test_a_file_without_its_tables_is_inconsistent(compiled, tmp_path, monkeypatch):
    monkeypatch.setattr(model_file, "_tensors_of_tables", lambda _: {})
    path = save_model(compiled, tmp_path / "m.safetensors")
    with pytest.raises(ModelFileError, match=r"inconsistent: 'tables\.0\.values'"):
        load_model(path)


def test_a_compiled_file_from_the_past_gives_the_numbers_recorded_with_it():
    golden = Path(__file__).parent / "golden"
    recorded = json.loads((golden / "tdn_compiled_v2.json").read_text())
    prediction = load_model(golden / "tdn_compiled_v2.safetensors").predict(molecule("CH3CH2OH"))[0]
    assert prediction.energy == pytest.approx(recorded["energy"], abs=1e-5)
    np.testing.assert_allclose(prediction.forces, recorded["forces"], atol=1e-5)


def test_finetuning_a_compiled_model_is_refused_before_data_are_read(compiled, tmp_path):
    path = save_model(compiled, tmp_path / "m.safetensors")
    config = {
        "run_dir": str(tmp_path / "run"),
        "data": {"train": str(tmp_path / "absent.extxyz")},
        "epochs": 1,
    }
    with pytest.raises(UnsupportedError, match="cannot be trained"):
        finetune(path, FinetuneConfig.model_validate(config), quiet=True)
    assert not (tmp_path / "run").exists()
