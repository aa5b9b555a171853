"""Generation to memory and to folders: reproducible, resumable, honest about what failed."""

import json
import tracemalloc

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk
from pymatgen.core import Structure

from atomml.crystals.config import CrystalModelConfig, CSPNetConfig
from atomml.crystals.drawing import SamplingSettings, blocks
from atomml.crystals.generate import fingerprint_of, generate, generate_folder
from atomml.crystals.model import CrystalModel
from atomml.crystals.outputs import iterate_generated, read_generated, read_records
from atomml.crystals.requests import plan_requests
from atomml.errors import ConfigError, UnsupportedError
from tests.crystals.generators import Prototypes, perturbed, spoiled

FILES = (
    "structures.jsonl",
    "structures.extxyz",
    "structures.state.json",
    "settings.json",
    "summary.json",
    "sheet.png",
)


@pytest.fixture(autouse=True)
def _no_picture(monkeypatch):
    """Slow, and seen elsewhere."""
    monkeypatch.setattr("atomml.crystals.generate.write_sheet", lambda crystals, path: path.write_bytes(b""))


def settings(**given):
    return SamplingSettings(**{"n": 7, "batch": 3, "steps": 5} | given)


def run(folder, sampler=perturbed, how=None, **given):
    return generate_folder(Prototypes(), folder, how or settings(), sampler=sampler, **given)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def tiny_model(**config):
    torch.manual_seed(0)
    network = CSPNetConfig(hidden=8, layers=1, frequencies=4, time_channels=4)
    return CrystalModel(
        CrystalModelConfig(network=network, **config),
        elements=Prototypes.elements,
        lattice_scale=3.0,
        atom_counts=Prototypes.atom_counts,
        property_scales={},
    )


def interrupted_after(batches):
    """A sampler that meets Ctrl-C in batch number ``batches``."""

    def sampler(model, requests, *, seed, **rest):
        if seed[1] == batches:
            raise KeyboardInterrupt
        return perturbed(model, requests, seed=seed, **rest)

    return sampler


def test_a_folder_has_everything_that_is_promised(tmp_path):
    summary = run(tmp_path, formula="TiO2", symmetrize=False)
    assert summary["n"] == summary["valid"] == 7
    assert {name for name in FILES if (tmp_path / name).exists()} == set(FILES)
    atoms, rows = read_generated(tmp_path)
    assert [row["index"] for row in rows] == list(range(7))
    assert {row["z"] for row in rows} <= {1, 2}
    assert all(row["n_atoms"] == 3 * row["z"] for row in rows)
    for k, (crystal, row) in enumerate(zip(atoms, rows, strict=True)):
        cif = Structure.from_file(tmp_path / "cif" / f"{k:06d}.cif")
        assert [site.specie.Z for site in cif] == crystal.numbers.tolist()
        np.testing.assert_allclose(cif.lattice.abc, crystal.cell.lengths(), atol=1e-6)
        assert row["log_probability"] < 0
    facts = json.loads((tmp_path / "settings.json").read_text())
    assert facts["wishes"]["formula"] == "TiO2"
    assert facts["sampling"] == {
        "n": 7,
        "batch": 3,
        "steps": 5,
        "seed": 0,
        "strategy": "end_back",
        "guidance": 0.0,
    }


@pytest.mark.parametrize("batches", [0, 1, 2])
def test_an_interrupted_run_ends_with_the_same_files(tmp_path, batches):
    run(tmp_path / "whole", chemical_system="Li-O")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", interrupted_after(batches), chemical_system="Li-O")
    assert len(read_records(tmp_path / "killed")) == 3 * batches
    calls = []

    def counted(model, requests, **rest):
        calls.append(len(requests))
        return perturbed(model, requests, **rest)

    run(tmp_path / "killed", counted, chemical_system="Li-O", resume=True)
    assert calls == [3, 3, 1][batches:]
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_finished_run_is_not_repeated(tmp_path):
    run(tmp_path)
    before = contents(tmp_path)
    run(tmp_path, sampler=interrupted_after(0), resume=True)
    assert contents(tmp_path) == before
    with pytest.raises(ConfigError, match="already has results"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"how": settings(seed=1)}, r"sampling.seed was 0, now 1"),
        ({"how": settings(batch=4)}, r"sampling.batch was 3, now 4"),
        ({"formula": "LiCl"}, r"wishes.formula was None, now 'LiCl'"),
    ],
)
def test_a_run_goes_on_only_with_the_same_settings(tmp_path, change, message):
    run(tmp_path)
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, resume=True, **change)
    assert run(tmp_path, overwrite=True, **change)["n"] == 7


def test_new_structures_make_the_relaxed_ones_disappear(tmp_path):
    run(tmp_path)
    (tmp_path / "relaxed_cif").mkdir()
    for name in ("relaxed.jsonl", "relaxed_cif/000000.cif"):
        (tmp_path / name).write_text("{}")
    run(tmp_path, resume=True)
    assert (tmp_path / "relaxed.jsonl").exists()
    run(tmp_path, overwrite=True)
    assert not [path for path in tmp_path.rglob("relaxed*") if path.is_file()]
    assert not list((tmp_path / "relaxed_cif").iterdir())


def nan(k, batch):
    if k == 1:
        batch.fractional[k] = torch.nan


def flat(k, batch):
    if k == 1:
        batch.lattice[k] = 0.0


def foreign(k, batch):
    if k == 1:
        batch.numbers[k, 0] = 92


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(nan, "not finite"), (flat, "degenerate lattice"), (foreign, "elements that were not allowed")],
)
def test_what_is_no_crystal_is_kept_in_the_table_with_its_reason(tmp_path, spoil, reason):
    summary = run(tmp_path, spoiled(spoil), chemical_system="Li-O-Ti-Cl-Na")
    assert summary["valid"] == 5
    assert summary["left_out"] == {reason: 2}
    rows = read_records(tmp_path)
    assert [row["reason"] for row in rows] == [None, reason, None, None, reason, None, None]
    assert len(rows[1]["numbers"]) == len(rows[1]["fractional"]) == rows[1]["n_atoms"]
    assert len(rows[1]["lattice"]) == 3
    assert [row["index"] for _, row in iterate_generated(tmp_path)] == [0, 2, 3, 5, 6]
    assert sorted(p.name for p in (tmp_path / "cif").iterdir())[1] == "000002.cif"
    assert len(ase.io.read(tmp_path / "structures.extxyz", ":")) == 5


def test_a_composition_that_was_missed_is_left_out():
    with pytest.warns(UserWarning, match="2 of 7 crystals were left out: 2 not the composition"):
        found = generate(Prototypes(), n=7, batch=3, sampler=spoiled(foreign), formula="LiCl")
    assert len(found) == 5


def test_exactly_leaves_out_crystals_without_an_element(tmp_path):
    summary = run(tmp_path, how=settings(n=40), chemical_system="Li-O", exactly=True)
    reasons = set(summary["left_out"])
    assert reasons
    assert reasons <= {"without Li", "without O"}
    assert summary["valid"] + sum(summary["left_out"].values()) == 40
    for atoms, _ in iterate_generated(tmp_path):
        assert set(atoms.symbols) == {"Li", "O"}


def test_known_atoms_and_cell_are_kept_to_the_last_digit(tmp_path):
    known = bulk("NaCl", "rocksalt", 5.6123456789)
    known.rotate(20, "z", rotate_cell=True)
    path = tmp_path / "known.extxyz"
    ase.io.write(path, known)
    known = ase.io.read(path)

    def single(k, batch):
        batch.fractional[k] = batch.fractional[k].float().double()

    found = generate(Prototypes(), n=2, sampler=spoiled(single), template=path, n_atoms=4)
    for atoms in found:
        np.testing.assert_array_equal(atoms.cell, known.cell)
        np.testing.assert_allclose(
            atoms.get_scaled_positions()[:2], known.get_scaled_positions() % 1, atol=1e-12
        )


def shifted(k, batch):
    batch.fractional[k] += 0.01


def stretched(k, batch):
    batch.lattice[k] *= 1.01


@pytest.mark.parametrize(
    ("spoil", "reason"), [(shifted, "known atoms were moved"), (stretched, "cell was changed")]
)
def test_a_sampler_that_loses_what_is_known_is_noticed(tmp_path, spoil, reason):
    path = tmp_path / "known.extxyz"
    ase.io.write(path, bulk("NaCl", "rocksalt", 5.6))
    with pytest.warns(UserWarning, match=reason):
        assert generate(Prototypes(), n=2, sampler=spoiled(spoil), template=path, n_atoms=4) == []


def test_compositions_of_a_set_are_predicted_in_turn(tmp_path):
    path = tmp_path / "set.extxyz"
    ase.io.write(path, [bulk("NaCl", "rocksalt", 5.6), bulk("LiCl", "rocksalt", 5.1)])
    run(tmp_path / "one", how=settings(n=None), like=path)
    assert [row["reference"] for row in read_records(tmp_path / "one")] == [0, 1]
    run(tmp_path / "two", how=settings(n=4), like=path)
    assert [row["reference"] for row in read_records(tmp_path / "two")] == [0, 1, 0, 1]
    assert {row["formula"] for row in read_records(tmp_path / "two")} == {"Na1 Cl1", "Li1 Cl1"}


def test_memory_does_not_grow_with_the_number_of_crystals():
    plan, peaks = plan_requests(Prototypes(), n_atoms=2), []
    for n in (60, 240):
        tracemalloc.start()
        for _ in blocks(Prototypes(), plan, settings(n=n, batch=20), perturbed):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n": 0}, "n must be 1 or more"),
        ({"steps": 0}, "steps must be"),
        ({"batch": -1}, "batch must be"),
        ({"seed": -1}, "seed must be"),
        ({"strategy": "best"}, "end_back, vanilla, mix"),
    ],
)
def test_impossible_settings_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        settings(**given)


def test_guidance_needs_something_to_be_guided_by(tmp_path):
    with pytest.raises(ConfigError, match="properties"):
        run(tmp_path / "new", how=settings(guidance=1.0))
    assert not (tmp_path / "new").exists()


def test_an_impossible_wish_leaves_no_folder_behind(tmp_path):
    with pytest.raises(UnsupportedError, match="does not know U"):
        run(tmp_path / "new", formula="UO2")
    assert not (tmp_path / "new").exists()


def test_fingerprints_tell_models_apart():
    model = tiny_model()
    first = fingerprint_of(model)
    assert first == fingerprint_of(tiny_model())
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    assert fingerprint_of(model) != first
    assert fingerprint_of(Prototypes()) == "Prototypes"


@pytest.mark.parametrize("wishes", [{"formula": "LiCl", "z": 1}, {"chemical_system": "Li-O", "n_atoms": 4}])
def test_a_real_model_generates_what_is_asked_for(tmp_path, wishes):
    model = tiny_model(given_types=0.5)
    summary = generate_folder(model, tmp_path, settings(n=5), **wishes)
    assert summary["n"] == 5
    assert not set(summary["left_out"]) - {"degenerate lattice"}
    for row in read_records(tmp_path):
        assert row["n_atoms"] == (2 if "formula" in wishes else 4)
    again = generate_folder(model, tmp_path / "again", settings(n=5), **wishes)
    assert again == summary
    assert contents(tmp_path / "again")["structures.extxyz"] == (tmp_path / "structures.extxyz").read_bytes()
