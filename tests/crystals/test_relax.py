"""Relaxation of generated crystals: by any calculator, resumable, no failure stops the others."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from atomml._optional import installed
from atomml.crystals.drawing import SamplingSettings
from atomml.crystals.evaluate.equality import structure_of
from atomml.crystals.generate import generate_folder
from atomml.crystals.outputs import read_generated, read_records
from atomml.crystals.relax import relax_crystals, relax_folder
from atomml.errors import ConfigError, DataError, ModelFileError
from atomml.simulate import Calculator
from tests.crystals.generators import Prototypes, perturbed
from tests.training.uncertain import ensemble


def distorted(symbol="Cu", a=3.7, seed=0):
    atoms = bulk(symbol, "fcc", a, cubic=True)
    atoms.rattle(0.1, rng=np.random.RandomState(seed))
    return atoms


def test_a_crystal_finds_its_lattice_constant():
    (done,) = relax_crystals([distorted()], EMT(), fmax=0.01)
    row = done.row
    assert row["valid"]
    assert row["converged"]
    assert done.atoms.get_volume() / 4 == pytest.approx(3.59**3 / 4, rel=0.01)  # EMT's copper
    assert row["energy_per_atom"] < row["energy_per_atom_first"]
    assert row["energy_per_atom"] == pytest.approx(done.atoms.get_potential_energy() / 4)
    assert row["spacegroup"] == "Fm-3m"
    assert row["rms_displacement"] > 0.05
    assert 0 < row["rms_matched"] < 0.1
    assert row["volume_change"] == pytest.approx(done.atoms.get_volume() / distorted().get_volume() - 1)
    assert row["energy_std_per_atom"] is None


def test_a_translation_is_no_displacement():
    crystal = bulk("Cu", "fcc", 3.59, cubic=True)
    crystal.positions += [1.0, -2.0, 0.3]
    (done,) = relax_crystals([crystal], EMT(), fmax=0.01, cell=False)
    assert done.row["rms_displacement"] == pytest.approx(0, abs=1e-6)
    assert done.row["volume_change"] == 0


def test_one_failure_does_not_stop_the_others():
    crystals = [distorted(), distorted("Fe"), distorted(seed=1)]
    rows = [row for row, _ in relax_crystals(crystals, EMT())]
    assert [row["valid"] for row in rows] == [True, False, True]
    assert "NotImplementedError" in rows[1]["reason"]
    assert [row["index"] for row in rows] == [0, 1, 2]


def test_overlapping_atoms_are_a_failure_with_a_reason():
    crystal = distorted()
    crystal.positions[1] = crystal.positions[0] + [0.05, 0, 0]
    ((row, atoms),) = relax_crystals([crystal], LennardJones(sigma=2.5, rc=5.0))
    assert "apart" in row["reason"]
    assert atoms is None


def test_few_steps_are_no_failure_but_no_convergence():
    ((row, atoms),) = relax_crystals([distorted()], EMT(), steps=1)
    assert row["valid"]
    assert not row["converged"]
    assert atoms is not None


def test_deviations_of_a_potential_are_kept():
    ((row, atoms),) = relax_crystals([distorted()], Calculator(ensemble()), steps=2)
    assert row["energy_std_per_atom"] > 0
    assert row["energy_std_per_atom"] == pytest.approx(atoms.info["energy_std"] / 4)
    assert row["max_force_std"] > 0


def test_a_name_and_a_loaded_potential_are_the_same():
    crystal = bulk("LiCl", "rocksalt", 5.2)
    rows = [
        row
        for potential in ("demo", Calculator("demo"))
        for row, _ in relax_crystals([crystal], potential, steps=3)
    ]
    assert rows[0] == rows[1]
    assert rows[0]["valid"]


@pytest.fixture
def folder(tmp_path):
    """Four generated crystals of lithium chloride."""
    generate_folder(
        Prototypes(), tmp_path, SamplingSettings(n=4), sampler=perturbed, formula="LiCl", max_atoms=4
    )
    return tmp_path


def contents(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("relaxed*")) if p.is_file()
    }


def test_a_folder_gets_relaxed_structures_beside_the_others(folder):
    summary = relax_folder(folder, "demo", steps=5, cell=False)
    assert summary["n"] == summary["relaxed"] == 4
    atoms, rows = read_generated(folder, "relaxed")
    assert len(list((folder / "relaxed_cif").glob("*.cif"))) == 4
    for crystal, row in zip(atoms, rows, strict=True):
        assert crystal.get_potential_energy() / len(crystal) == pytest.approx(
            row["energy_per_atom"], abs=1e-6
        )
        assert crystal.info["index"] == row["index"]
    with pytest.raises(ConfigError, match="already has results"):
        relax_folder(folder, "demo", steps=5)
    with pytest.raises(ConfigError, match="steps was 5, now 6"):
        relax_folder(folder, "demo", steps=6, cell=False, resume=True)


@pytest.mark.parametrize("kind", ["demo", "foreign"])
def test_an_interrupted_relaxation_goes_on(folder, monkeypatch, kind):
    from atomml.crystals import relax as module

    model = "demo" if kind == "demo" else LennardJones(sigma=2.3, rc=5.0)
    monkeypatch.setattr(module, "TOGETHER", 2)
    relax_folder(folder, model, steps=3)
    whole = contents(folder)
    name, blocks = ("relax_batched", 2) if kind == "demo" else ("relax", 4)
    original, calls = getattr(module, name), []

    def interrupted(*arguments, **settings):
        calls.append(1)
        if len(calls) == blocks:
            raise KeyboardInterrupt
        return original(*arguments, **settings)

    monkeypatch.setattr(module, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        relax_folder(folder, model, steps=3, overwrite=True)
    assert len(read_records(folder, "relaxed")) == 4 - 4 // blocks
    relax_folder(folder, model, steps=3, resume=True)
    assert len(calls) == blocks + 1
    assert contents(folder) == whole


def test_a_batch_that_breaks_is_relaxed_one_by_one(monkeypatch):
    from atomml.crystals import relax as module

    original = module.relax_batched

    def small_machine(structures, *arguments, **settings):
        if len(structures) > 1 or structures[0].numbers[0] == 9:
            raise MemoryError("too much")
        return original(structures, *arguments, **settings)

    monkeypatch.setattr(module, "relax_batched", small_machine)
    crystals = [bulk("LiCl", "rocksalt", 5.2), bulk("FLi", "rocksalt", 4.0), bulk("LiBr", "rocksalt", 5.5)]
    rows = [row for row, _ in relax_crystals(crystals, "demo", steps=2)]
    assert [row["valid"] for row in rows] == [True, False, True]
    assert rows[1]["reason"] == "MemoryError: too much"


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [("chgnet:9", ConfigError, "no CHGNet"), ("nowhere.safetensors", (ModelFileError, DataError), "nowhere")],
)
def test_unknown_potentials_are_refused(folder, model, error, message):
    with pytest.raises(error, match=message):
        relax_folder(folder, model)
    assert not (folder / "relaxed.jsonl").exists()


@pytest.mark.skipif(not installed("chgnet"), reason="chgnet is not installed")
def test_chgnet_relaxes_rocksalt():
    from chgnet.model.model import CHGNet

    crystal = bulk("NaCl", "rocksalt", 5.9)
    ((row, atoms),) = relax_crystals([crystal], "chgnet", fmax=0.1)
    assert row["converged"]
    assert (4 * atoms.get_volume()) ** (1 / 3) == pytest.approx(5.69, abs=0.07)  # PBE
    energy = CHGNet.load(verbose=False).predict_structure(structure_of(atoms), task="e")["e"]
    assert row["energy_per_atom"] == pytest.approx(float(energy), abs=1e-5)
