"""PubChemQCR shards are read back exactly, by the rules of the published data; what is left out is counted."""

import dataclasses
import math

import numpy as np
import pytest
from ase import units
from ase.data import atomic_numbers

from atomml.datasets.readers import read_frames
from atomml.datasets.readers.pubchemqcr.labels import (
    ATOM_ENERGIES,
    paper_energy_labels,
    pubchemqcr_references,
)
from atomml.datasets.readers.pubchemqcr.reader import MOLECULES, READER, PubChemQCROptions, valid_cids
from atomml.datasets.store import concatenate
from atomml.errors import ConfigError, DataError
from tests.datasets.readers.pubchemqcr_files import (
    changed,
    make_step,
    make_steps,
    pack,
    record,
    write_shard,
)

HARTREE, BOHR_PER_ANGSTROM = 27.2114, 1.8897
METHYL_CHLORIDE = ("C", "Cl", "H", "H", "H")
METHYL_IODIDE = ("C", "I", "H", "H", "H")


def read(path, **options):
    return read_frames(path, READER, **options)


def skipped(store):
    return {reason: entry["frames"] for reason, entry in store.info.get("skipped", {}).items()}


def coordinates(step):
    return np.array([[a["x"], a["y"], a["z"]] for a in step["coordinates"]])


def gradient(step):
    return np.array([[a["dx"], a["dy"], a["dz"]] for a in step["gradient"]])


def test_every_step_is_a_frame_with_the_numbers_of_the_source(tmp_path):
    steps = make_steps(3, METHYL_CHLORIDE)
    store = read(write_shard(tmp_path / "a.lmdb", {15111: record(steps)}))
    assert len(store) == 3
    assert store.numbers.reshape(3, 5).tolist() == [[6, 17, 1, 1, 1]] * 3
    assert not store.cell.any()
    assert not store.pbc.any()
    for k, step in enumerate(steps):
        frame = store.frame(k)
        assert np.array_equal(frame.positions, coordinates(step))
        assert frame.energy == step["energy"] * HARTREE
        assert np.allclose(frame.forces, -gradient(step) * 51.42138258, rtol=1e-14, atol=0)
        assert store.tags_of(k) == {
            "cid": 15111,
            "traj": "000015111",
            "stage": "DFT_1st",
            "step": k,
            "last": k == 2,
            "smash": False,
        }
    assert list(store.ids) == [f"000015111/DFT_1st/{k}" for k in range(3)]
    assert store.info["labels"]["forces"] == {"key": "-gradient", "found": 3, "of": 3}
    assert store.info["stated"]["constants"] == "paper"
    assert "B3LYP" in store.info["level_of_theory"]


def test_forces_are_minus_the_gradient_of_the_energy(tmp_path):
    def energy(x):  # Hartree, of positions in Å
        return 0.1 * np.sum((x - 0.3) ** 2)

    step = make_step()
    x = coordinates(step)
    slope = 0.2 * (x - 0.3) * units.Bohr  # Hartree/Bohr
    step["energy"] = float(energy(x))
    for atom, (dx, dy, dz) in zip(step["gradient"], slope.tolist(), strict=True):
        atom.update(dx=dx, dy=dy, dz=dz)
    store = read(write_shard(tmp_path / "a.lmdb", {1: record([step])}), constants="codata")
    shift = np.zeros_like(x)
    shift[1, 2] = 1e-4
    difference = -(energy(x + shift) - energy(x - shift)) / 2e-4 * units.Hartree
    assert store.forces[1, 2] == pytest.approx(difference, rel=1e-9)


@pytest.mark.parametrize("case", [str.upper, str.lower, str.capitalize])
def test_symbols_in_any_case(tmp_path, case):
    steps = make_steps(2, METHYL_CHLORIDE, case=case)
    steps[1]["gradient"] = make_step(METHYL_CHLORIDE, 9)[
        "gradient"
    ]  # the case may differ between the two lists
    store = read(write_shard(tmp_path / "a.lmdb", {1: record(steps)}))
    assert store.numbers.reshape(2, 5).tolist() == [[6, 17, 1, 1, 1]] * 2


GOOD = make_step(seed=5)
BAD_STEPS = {
    "step: no coordinates": changed(GOOD, coordinates=[]),
    "step: no energy": changed(GOOD, energy=None),
    "step: no gradient": changed(GOOD, gradient=None),
    "step: another number of atoms than the reference step": make_step(METHYL_CHLORIDE),
    "step: another number of atoms in the gradient than in the coordinates": changed(
        GOOD, gradient=GOOD["gradient"][:2]
    ),
    "step: a number is NaN or infinite": changed(GOOD, coordinates__1__x=math.nan),
    "step: unknown element 'Q'": changed(GOOD, coordinates__1__atom="Q", gradient__1__atom="Q"),
    "step: the atoms of the gradient are not those of the coordinates, or in another order": changed(
        GOOD, gradient=GOOD["gradient"][::-1]
    ),
}


@pytest.mark.parametrize(("reason", "bad"), BAD_STEPS.items(), ids=lambda v: v if isinstance(v, str) else "")
def test_bad_steps_are_left_out_and_counted(tmp_path, reason, bad):
    good = make_steps(3)
    path = write_shard(tmp_path / "a.lmdb", {7: record([good[0], bad, good[1], good[2]]), 9: record(good)})
    store = read(path)
    assert skipped(store) == {reason: 1}
    assert store.info["skipped"][reason]["examples"] == [f"{path}, key 000000007, DFT_1st step 1"]
    assert store.tags["step"].tolist() == [0, 2, 3, 0, 1, 2]
    assert store.tags["last"].tolist() == [False, False, True] * 2


@pytest.mark.parametrize(
    "values",
    [
        {"energy": math.inf},
        {"energy": math.nan},
        {"gradient__2__dz": math.nan},
        {"gradient__2__dz": -math.inf},
        {"coordinates__0__z": None},
        {"coordinates__0__z": 1e308},
    ],
    ids=str,
)
def test_numbers_that_are_not_finite_make_a_bad_step(tmp_path, values):
    steps = make_steps(3)
    store = read(write_shard(tmp_path / "a.lmdb", {1: record([steps[0], changed(GOOD, **values), steps[1]])}))
    assert skipped(store) == {"step: a number is NaN or infinite": 1}
    assert len(store) == 2


def test_the_reference_step_is_the_last_with_an_energy(tmp_path):
    """Its number of atoms decides, even when it cannot be used itself."""
    small, large = make_steps(2), make_steps(2, METHYL_CHLORIDE)
    steps = [*small, *large, changed(GOOD, energy=None)]
    store = read(write_shard(tmp_path / "a.lmdb", {1: record(steps)}))
    assert store.tags["step"].tolist() == [2, 3]
    assert store.tags["last"].tolist() == [False, True]
    useless = changed(GOOD, gradient=[])
    store = read(write_shard(tmp_path / "b.lmdb", {1: record([*large, *small, useless])}))
    assert store.tags["step"].tolist() == [2, 3]
    assert not store.tags["last"].any()


def test_molecules_without_steps_are_counted_by_what_they_lack(tmp_path):
    good = make_steps(1)
    lacking = record(good)
    del lacking["DFT_1st"]
    path = write_shard(
        tmp_path / "a.lmdb",
        {
            1: record(None),
            2: record([]),
            3: lacking,
            4: record([changed(s, energy=None) for s in make_steps(2)]),
            5: record([changed(GOOD, gradient=[])]),
            6: record(good),
        },
    )
    store = read(path)
    assert store.tags["cid"].tolist() == [6]
    assert skipped(store) == {
        "molecule: DFT_1st is None": 1,
        "molecule: DFT_1st is empty": 1,
        "molecule: DFT_1st is missing": 1,
        "molecule: no step has an energy": 1,
        "step: no gradient": 1,
        "molecule: no step is usable": 1,
    }


def stages(tmp_path):
    first, second = make_steps(2), make_steps(3, seed=10)
    smash = make_steps(2, seed=20, charge=False)
    everything = {"pm3": make_steps(4, seed=30), "hf": make_steps(5, seed=40)}
    return write_shard(
        tmp_path / "a.lmdb",
        {
            1: {**everything, "DFT_1st": first, "DFT_2nd": second},
            2: {"DFT_1st": smash, "DFT_2nd": None},
            3: {"DFT_1st": None, "DFT_2nd": second},
        },
    )


@pytest.mark.parametrize(
    ("stage", "expected", "last"),
    [
        ("pm3", [(1, "pm3", k) for k in range(4)], [3]),
        ("hf", [(1, "hf", k) for k in range(5)], [4]),
        ("1st", [(c, "DFT_1st", k) for c in (1, 2) for k in range(2)], [1, 3]),
        ("1st_smash", [(2, "DFT_1st", k) for k in range(2)], [1]),
        ("2nd", [(c, "DFT_2nd", k) for c in (1, 3) for k in range(3)], [2, 5]),
        (
            "mixing",
            [
                *((1, "DFT_1st", k) for k in range(2)),
                *((1, "DFT_2nd", k) for k in range(3)),
                *((2, "DFT_1st", k) for k in range(2)),
                *((3, "DFT_2nd", k) for k in range(3)),
            ],
            [4, 6, 9],
        ),
    ],
)
def test_stages(tmp_path, stage, expected, last):
    store = read(stages(tmp_path), stage=stage)
    found = zip(
        store.tags["cid"].tolist(), store.tags["stage"].tolist(), store.tags["step"].tolist(), strict=True
    )
    assert list(found) == expected
    assert np.flatnonzero(store.tags["last"]).tolist() == last


def test_steps_of_smash_have_no_charge_and_are_named(tmp_path):
    path = stages(tmp_path)
    assert read(path).tags["smash"].tolist() == [False, False, True, True]
    assert skipped(read(path, stage="1st_smash")) == {
        "step: not computed with SMASH": 2,
        "molecule: not computed with SMASH": 1,
        "molecule: DFT_1st is None": 1,
    }


def test_lists_and_keys_that_are_not_read_are_named(tmp_path):
    molecule = record([{**make_step(), "dipole": 1.0}], hf=make_steps(1))
    store = read(write_shard(tmp_path / "a.lmdb", {1: molecule, 2: record(make_steps(1))}))
    assert store.info["not_read"] == {"dipole": 1, "hf": 1}


def test_energies_less_those_of_free_atoms(tmp_path):
    steps = make_steps(2, METHYL_CHLORIDE)
    path = write_shard(tmp_path / "a.lmdb", {1: record(steps)})
    total, less = read(path), read(path, energy="atom_references")
    free = -37.8462799513 - 460.1362417086 - 3 * 0.5002727762
    expected = [(step["energy"] - free) * HARTREE for step in steps]
    assert less.energy == pytest.approx(expected, rel=1e-14)
    assert paper_energy_labels(total) == pytest.approx(np.array(expected) / 5, abs=1e-10)
    assert paper_energy_labels(less) == pytest.approx(np.array(expected) / 5, abs=1e-12)
    assert np.array_equal(total.forces, less.forces)


def test_the_constants_of_the_paper_and_of_codata(tmp_path):
    path = write_shard(tmp_path / "a.lmdb", {1: record(make_steps(2))})
    paper, codata = read(path), read(path, constants="codata")
    assert paper.forces / codata.forces == pytest.approx(
        51.42138258 / (units.Hartree / units.Bohr), rel=1e-12
    )
    assert paper.energy / codata.energy == pytest.approx(HARTREE / units.Hartree, rel=1e-12)
    assert paper_energy_labels(codata) == pytest.approx(paper_energy_labels(paper), rel=1e-6)
    assert pubchemqcr_references("paper").energies[1] == -0.5002727762 * HARTREE


def test_labels_of_mixed_conventions_are_refused(tmp_path):
    path = write_shard(tmp_path / "a.lmdb", {1: record(make_steps(2))})
    total, less = read(path), read(path, energy="atom_references")
    assert len(paper_energy_labels(concatenate([total, total]))) == 4
    for other in (less, read(path, constants="codata"), dataclasses.replace(total, info={})):
        with pytest.raises(DataError, match="another reader"):
            paper_energy_labels(concatenate([total, other]))


def test_the_table_of_free_atoms():
    assert len(ATOM_ENERGIES) == 25
    assert sum(ATOM_ENERGIES.values()) == pytest.approx(-23550.98268512501, abs=1e-9)
    lacking = {"He", "Li", "Ne", "Na", "Mg", "Al", "Ar", "K", "Ca", "Zn", "Kr"}
    assert set(ATOM_ENERGIES) == {s for s, z in atomic_numbers.items() if 1 <= z <= 35} - lacking


def test_molecules_without_a_reference_energy(tmp_path):
    molecules = {1: record(make_steps(2, METHYL_IODIDE)), 2: record(make_steps(2))}
    path = write_shard(tmp_path / "a.lmdb", molecules)
    assert read(path).tags["cid"].tolist() == [1, 1, 2, 2]
    with pytest.raises(DataError, match="E0"):
        paper_energy_labels(read(path))
    store = read(path, energy="atom_references")
    assert store.tags["cid"].tolist() == [2, 2]
    assert skipped(store) == {"molecule: no reference energy (E0) for I": 1}
    stated = read(path, energy="atom_references", extra_references={"I": -297.0})
    free = -37.8462799513 - 297.0 - 3 * 0.5002727762
    assert stated.energy[0] == pytest.approx((-76.4 - free) * HARTREE, rel=1e-14)
    assert stated.info["stated"]["extra_references"] == {"I": -297.0}
    with pytest.raises(DataError, match="Iodine"):
        read(path, energy="atom_references", extra_references={"Iodine": -297.0})


def test_shards_of_a_folder_in_order_and_the_subset(tmp_path):
    for k, name in enumerate(("Data06.lmdb", "Data05.lmdb", "hokusai2017.lmdb")):
        write_shard(tmp_path / name, {10 - k: record(make_steps(1))})
    (tmp_path / "README.md").write_text("not a shard")
    assert read(tmp_path).tags["cid"].tolist() == [9, 10, 8]
    assert read(tmp_path / "Data0*.lmdb").tags["cid"].tolist() == [9, 10]
    assert read(tmp_path, subset=True).tags["cid"].tolist() == [10]
    assert valid_cids([tmp_path]) == [9, 10, 8]
    with pytest.raises(DataError, match="Data06"):
        read(tmp_path / "Data05.lmdb", subset=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no files \*\.lmdb"):
        read(tmp_path / "empty")


def test_pieces_cover_every_molecule_once_and_read_the_same_frames(tmp_path):
    n = 2 * MOLECULES + 5
    path = write_shard(tmp_path / "a.lmdb", {3 * k: record(make_steps(1, seed=k)) for k in range(n)})
    pieces = READER.pieces([path], PubChemQCROptions())
    assert [(p.start, p.stop) for p in pieces] == [(0, 128), (128, 256), (256, 261)]
    cids = np.concatenate([READER.read(piece, PubChemQCROptions()).tags["cid"] for piece in pieces])
    assert cids.tolist() == [3 * k for k in range(n)]


def test_shards_and_folders_of_them_are_recognised(tmp_path):
    path = write_shard(tmp_path / "a.lmdb", {0: record(make_steps(1))})
    assert READER.recognises(path)
    assert READER.recognises(tmp_path)
    (tmp_path / "b.lmdb").write_bytes(path.read_bytes()[:9000])
    assert not READER.recognises(tmp_path / "b.lmdb")
    assert not READER.recognises(tmp_path / "nothing.lmdb")


def test_other_lmdb_files_are_not_recognised(shared_data):
    others = [p for p in shared_data.rglob("*lmdb") if p.is_file()]
    assert len(others) >= 7
    assert not any(READER.recognises(p) for p in others)
    assert not READER.recognises(shared_data)


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("touch pubchemqcr_was_executed",)


BAD_RECORDS = {
    "a call": pack(record([Evil()])),
    "not gzip": b"nothing of the kind",
    "cut": pack(record(make_steps(2)))[:-40],
    "not a dict": pack([1, 2]),
    "stage is text": pack(record("steps")),
    "step is a number": pack(record([1.0])),
    "coordinates as one dict": pack(record([changed(GOOD, coordinates={"atom": "C", "x": [0.0]})])),
    "atoms are numbers": pack(record([changed(GOOD, gradient=[1.0, 2.0, 3.0])])),
    "no x": pack(record([changed(GOOD, coordinates__1={"atom": "H", "y": 0.0, "z": 0.0})])),
    "x is text": pack(record([changed(GOOD, coordinates__1__x="right")])),
    "x is a list": pack(record([changed(GOOD, coordinates__1__x=[1.0, 2.0])])),
    "symbol is a number": pack(record([changed(GOOD, coordinates__1__atom=1)])),
    "energy is a list": pack(record([changed(GOOD, energy=[1.0])])),
}


@pytest.mark.parametrize("name", BAD_RECORDS)
def test_bad_records_are_errors_or_are_left_out_on_request(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = write_shard(tmp_path / "a.lmdb", {5: BAD_RECORDS[name], 6: record(make_steps(2))})
    with pytest.raises(DataError, match="000000005"):
        read(path)
    store = read(path, skip_bad_records=True)
    assert store.tags["cid"].tolist() == [6, 6]
    (reason,) = skipped(store)
    assert reason.startswith("record: cannot be decoded")
    assert not (tmp_path / "pubchemqcr_was_executed").exists()


def test_numpy_numbers_are_read_when_they_are_allowed(tmp_path):
    step = make_step()
    values = changed(step, energy=np.float64(step["energy"]), coordinates__0__x=np.float64(0.25))
    path = write_shard(tmp_path / "a.lmdb", {1: record([values])})
    with pytest.raises(DataError):
        read(path)
    store = read(path, pickles="numpy")
    assert store.energy[0] == step["energy"] * HARTREE
    assert store.positions[0, 0] == 0.25


def test_keys_that_are_not_cids_are_counted(tmp_path):
    store = read(write_shard(tmp_path / "a.lmdb", {1: record(make_steps(1)), b"length": b"x"}))
    assert len(store) == 1
    assert skipped(store) == {"record: the key is not a CID": 1}


def test_options_are_checked():
    with pytest.raises(ConfigError, match="stage"):
        read("nowhere.lmdb", stage="3rd")
