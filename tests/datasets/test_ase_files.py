import gzip
import lzma

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.db import connect
from ase.stress import voigt_6_to_full_3x3_stress

from atomml.datasets import LabelKeys, from_ase, label_summary, load_frames, read_ase
from atomml.errors import DataError

CELL = 'Lattice="4 0 0 0 5 0 0 0 6"'
BODY = "Li 0 0 0 0.1 0.2 0.3\nCl 1.5 0 0 -0.1 -0.2 -0.3\n"
HEAD = f"2\n{CELL} Properties=species:S:1:pos:R:3:forces:R:3"
GOOD = f'{HEAD} energy=-1.5 pbc="T T T"\n{BODY}'


def write(tmp_path, text, name="data.xyz"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_frames_written_by_ase_are_read_exactly(frames, tmp_path):
    path = tmp_path / "set.extxyz"
    ase.io.write(path, frames)
    store = read_ase(path)
    assert label_summary(store) == "energy 8/9, forces 7/9, stress 6/9"
    assert store.ids[3] == "set.extxyz#3"
    np.testing.assert_allclose(store.positions, np.concatenate([a.positions for a in frames]), atol=1e-8)
    assert store.info["labels"]["energy"] == {"key": "calculator:energy", "found": 8, "of": 9, "also": []}


OC20_LIKE = """3
Properties=species:S:1:pos:R:3:move_mask:L:1:tags:I:1:forces:R:3 energy=1 pbc="F F F"
Li 0 0 0 F 0 1 2 3
Cl 2 0 0 F 1 4 5 6
Cl 0 2 0 T 2 7 8 9
"""


@pytest.mark.parametrize("suffix", [".traj", ".extxyz", ".db", ".extxyz.gz", ".extxyz.xz"])
def test_forces_of_constrained_atoms_are_not_zeroed(tmp_path, suffix):
    atoms = Atoms("LiCl2", [[0, 0, 0], [2, 0, 0], [0, 2, 0]], cell=[8, 8, 8], pbc=True)
    forces = np.arange(9.0).reshape(3, 3) + 1.0
    atoms.calc = SinglePointCalculator(atoms, energy=1.0, forces=forces)
    atoms.set_constraint(FixAtoms([0, 1]))
    plain = tmp_path / ("frame" + suffix.removesuffix(".gz").removesuffix(".xz"))
    if suffix == ".db":
        connect(plain).write(atoms)
    elif suffix == ".traj":
        ase.io.write(plain, atoms)
    else:
        plain.write_text(OC20_LIKE)
    path = plain
    if suffix.endswith((".gz", ".xz")):
        path = tmp_path / f"frame{suffix}"
        path.write_bytes((gzip if suffix.endswith("gz") else lzma).compress(plain.read_bytes()))
    store = read_ase(path)
    np.testing.assert_allclose(store.forces, forces)
    assert store.fixed.tolist() == [True, True, False]
    if "extxyz" in suffix:
        assert store.atom_tags.tolist() == [0, 1, 2]
    np.testing.assert_allclose(store[0].get_forces(apply_constraint=False), forces)


@pytest.mark.parametrize("energy", ["energy", "Energy", "REF_energy", "dft_energy", "TotEnergy"])
@pytest.mark.parametrize("forces", ["forces", "force", "REF_forces"])
def test_common_key_names_are_found(tmp_path, energy, forces):
    text = GOOD.replace("energy=", f"{energy}=").replace(":forces:", f":{forces}:")
    store = read_ase(write(tmp_path, text))
    assert store.energy[0] == -1.5
    assert store.forces[1].tolist() == [-0.1, -0.2, -0.3]
    assert store.info["labels"]["energy"]["key"].endswith(energy)
    assert store.tags == {}


def test_stated_keys_win_and_the_others_are_reported(tmp_path):
    text = GOOD.replace("energy=-1.5", "energy=-1.5 REF_energy=-2.5 mine=-3.5")
    path = write(tmp_path, text)
    store = read_ase(path)
    assert store.energy[0] == -1.5
    assert store.info["labels"]["energy"]["also"] == ["info:REF_energy"]
    assert read_ase(path, energy_key="mine").energy[0] == -3.5


def test_stated_key_that_is_absent_names_the_ones_that_exist(tmp_path):
    with pytest.raises(DataError, match="'E0'") as caught:
        read_ase(write(tmp_path, GOOD), energy_key="E0")
    assert "energy" in caught.value.fix


def test_frames_with_different_keys_are_not_mixed(tmp_path):
    text = GOOD + GOOD.replace("energy=", "REF_energy=")
    with pytest.raises(DataError, match="frame 1"):
        read_ase(write(tmp_path, text))


KBAR = {"stress_key": "kb", "stress_unit": "kbar", "stress_sign": "pressure"}
ATOMIC = {"energy_unit": "Hartree", "length_unit": "Bohr"}
STRESS = np.array([[0.1, 0.01, 0.02], [0.01, 0.2, 0.03], [0.02, 0.03, 0.3]])
VOLUME = 120.0


@pytest.mark.parametrize(
    ("key", "value", "options"),
    [
        ("stress", STRESS.ravel(), {}),
        ("REF_stress", STRESS.ravel(), {}),
        ("REF_stress", [0.1, 0.2, 0.3, 0.03, 0.02, 0.01], {}),
        ("virial", -VOLUME * STRESS.ravel(), {}),
        ("my_virial", -VOLUME * STRESS.ravel(), {"stress_key": "my_virial"}),
        ("virial", VOLUME * STRESS.ravel(), {"stress_sign": "pressure"}),
        ("vasp", -STRESS.ravel(), {"stress_key": "vasp", "stress_sign": "pressure"}),
        ("gpa", STRESS.ravel() / units.GPa, {"stress_key": "gpa", "stress_unit": "GPa"}),
        (
            "kb",
            -10 * STRESS.ravel() / units.GPa,
            {"stress_key": "kb", "stress_unit": "kbar", "stress_sign": "pressure"},
        ),
    ],
)
def test_stress_in_every_form_becomes_the_same_tensor(tmp_path, key, value, options):
    text = GOOD.replace("energy=", f'{key}="{" ".join(map(str, value))}" energy=')
    store = read_ase(write(tmp_path, text), **options)
    np.testing.assert_allclose(store.stress[0], STRESS, rtol=1e-12)


def test_virial_and_stress_agree_with_ase_voigt_order():
    atoms = Atoms("Li", cell=[4, 5, 6], pbc=True)
    atoms.calc = SinglePointCalculator(atoms, energy=0.0, stress=[1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(
        from_ase([atoms]).stress[0], voigt_6_to_full_3x3_stress(np.arange(1.0, 7.0))
    )


def test_stress_without_a_three_dimensional_cell_is_counted_as_ignored(tmp_path):
    text = GOOD.replace("T T T", "T T F").replace("energy=", 'stress="1 0 0 0 1 0 0 0 1" energy=')
    store = read_ase(write(tmp_path, text))
    assert np.isnan(store.stress).all()
    assert store.info["labels"]["stress"]["ignored_without_3d_cell"] == 1
    assert store.info["labels"]["stress"]["found"] == 0


@pytest.mark.parametrize(
    ("options", "energy", "force", "length"),
    [
        (
            {"energy_unit": "Hartree", "length_unit": "Bohr"},
            units.Hartree,
            units.Hartree / units.Bohr,
            units.Bohr,
        ),
        ({"energy_unit": "kcal/mol"}, units.kcal / units.mol, units.kcal / units.mol, 1.0),
        ({"energy_unit": "Ry"}, units.Ry, units.Ry, 1.0),
    ],
)
def test_stated_units_are_converted(tmp_path, options, energy, force, length):
    store = read_ase(write(tmp_path, GOOD), **options)
    np.testing.assert_allclose(store.energy[0], -1.5 * energy)
    np.testing.assert_allclose(store.forces[0], np.array([0.1, 0.2, 0.3]) * force)
    np.testing.assert_allclose(store.positions[1], [1.5 * length, 0, 0])
    np.testing.assert_allclose(np.diag(store.cell[0]), np.array([4, 5, 6]) * length)


@pytest.mark.parametrize("option", ["energy_unit", "length_unit", "stress_unit", "stress_sign"])
def test_unknown_units_are_refused_with_the_known_ones(option):
    with pytest.raises(DataError, match=option) as caught:
        LabelKeys(**{option: "furlong"})
    assert "use one of" in caught.value.fix


BAD = {
    "energy of NaN": (GOOD.replace("-1.5", "nan"), "energy is NaN"),
    "infinite force": (GOOD.replace("-0.3", "inf"), "forces are NaN"),
    "position of NaN": (GOOD.replace("Cl 1.5", "Cl nan"), "position"),
    "two force columns": (
        GOOD.replace("forces:R:3", "REF_forces:R:2:more:R:1"),
        r"forces have shape \(2, 2\)",
    ),
    "stress of five numbers": (GOOD.replace("energy=", 'REF_stress="1 2 3 4 5" energy='), r"shape \(5,\)"),
    "asymmetric stress": (
        GOOD.replace("energy=", 'REF_stress="1 2 3 0 1 0 0 0 1" energy='),
        "not symmetric",
    ),
    "energy as a list": (GOOD.replace("energy=-1.5", 'REF_energy="1 2"'), "not one number"),
    "energy as a word": (GOOD.replace("energy=-1.5", "REF_energy=low"), "not numeric"),
    "unknown element": (GOOD.replace("Cl 1.5", "X 1.5"), "unknown element"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_frame_is_refused_with_file_number_and_remedy(tmp_path, case):
    text, message = BAD[case]
    first = GOOD if "REF_" not in text else text.split("REF_")[0] and ""
    path = write(tmp_path, first + text)
    number = 1 if first else 0
    with pytest.raises(DataError, match=message) as caught:
        read_ase(path)
    assert caught.value.where == f"{path}, frame {number} (counting from 0)"
    assert caught.value.fix


def test_frame_without_atoms_is_refused(tmp_path):
    with pytest.raises(DataError, match="no atoms"):
        from_ase([Atoms()])


def test_file_without_energies_names_the_keys_it_has(tmp_path):
    path = write(tmp_path, GOOD.replace("energy=", "enthalpy="))
    with pytest.raises(DataError, match="None of the 1 frames has an energy") as caught:
        read_ase(path)
    assert "enthalpy" in caught.value.fix
    assert label_summary(read_ase(path, require_energy=False)) == "energy 0/1, forces 1/1, stress 0/1"


def test_truncated_file_is_refused_with_the_frame(tmp_path):
    path = write(tmp_path, GOOD + GOOD[: len(GOOD) - 30])
    with pytest.raises(DataError) as caught:
        read_ase(path)
    assert str(path) in caught.value.where


@pytest.mark.parametrize("content", [b"", b"\x00\x01garbage", gzip.compress(GOOD.encode())[:-12]])
def test_unreadable_file_is_refused(tmp_path, content):
    path = tmp_path / "data.xyz.gz"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_ase(path)
    assert str(path) in caught.value.where


def test_absent_file_folder_and_empty_list_are_refused(tmp_path):
    for bad in (tmp_path / "no.xyz", tmp_path, []):
        with pytest.raises(DataError):
            read_ase(bad)


def test_labels_of_another_geometry_are_refused(frames):
    frames[2].positions += 0.1 * np.arange(3)
    with pytest.raises(DataError, match="another geometry") as caught:
        from_ase(frames)
    assert "frame 2" in caught.value.where


def test_scalars_become_tags_and_the_rest_is_reported(tmp_path):
    text = GOOD.replace("energy=", 'charge=-1 config_type=bulk good=T point="0.5 0.5 0.5" energy=')
    store = read_ase(write(tmp_path, text))
    assert store.tags["charge"].tolist() == [-1]
    assert store.tags["config_type"].tolist() == ["bulk"]
    assert store.tags["good"].dtype == bool
    assert store.info["not_read"] == {"point": 1}
    assert store[0].info == {"charge": -1, "config_type": "bulk", "good": True}


def test_several_files_are_joined_and_tagged(tmp_path):
    paths = [write(tmp_path, GOOD, "a.xyz"), write(tmp_path, GOOD + GOOD, "b.xyz")]
    store = load_frames(paths)
    assert store.tags["file"].tolist() == [str(paths[0]), str(paths[1]), str(paths[1])]
    native = store.save(tmp_path / "native")
    assert len(load_frames([native, paths[0]])) == 4
    assert load_frames(native).fingerprint() == store.fingerprint()


def test_index_selects_frames(tmp_path):
    assert len(read_ase(write(tmp_path, GOOD * 7), index="::3")) == 3


REAL = {
    "3bpa/train_300K.xyz": (500, "energy 500/500, forces 500/500, stress 0/500"),
    "3bpa/iso_atoms.xyz": (4, "energy 4/4, forces 0/4, stress 0/4"),
    "ethanol/test_dimers.xyz": (429, "energy 429/429, forces 0/429, stress 0/429"),
    "li_halide/li_halide_dft_r2scan.extxyz": (45, "energy 45/45, forces 45/45, stress 45/45"),
    "format_fixtures/sevennet_hfo2.extxyz": (2, "energy 2/2, forces 2/2, stress 2/2"),
    "format_fixtures/Cu-ACE-21_Cu_df2_1k.extxyz": (1000, "energy 1000/1000, forces 1000/1000, stress 0/1000"),
    "mlearn/Cu_train.extxyz": (262, "energy 262/262, forces 262/262, stress 262/262"),
    "mattersim_benchmarks/mpf-TP.xyz": (1069, "energy 1069/1069, forces 1069/1069, stress 1069/1069"),
    "oc20/raw_reserialised/0.extxyz.xz": (120, "energy 120/120, forces 120/120, stress 0/120"),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files_are_read_completely(shared_data, name):
    frames, summary = REAL[name]
    store = read_ase(shared_data / name)
    assert len(store) == frames
    assert label_summary(store) == summary


def test_oc20_relaxation_keeps_raw_forces_on_fixed_atoms(shared_data):
    store = read_ase(shared_data / "oc20/traj/random1000156.traj")
    assert store.fixed.sum() == 36 * 36
    assert np.abs(store.forces[store.fixed]).max() > 1e-3


def test_two_fidelities_of_one_file_are_chosen_by_key(shared_data):
    path = shared_data / "li_halide/li_halide_dft_r2scan.extxyz"
    keys = {"energy_key": "umlip_energy", "forces_key": "umlip_forces", "stress_key": "umlip_stress"}
    teacher, dft = read_ase(path, **keys), read_ase(path)
    assert label_summary(teacher) == label_summary(dft)
    slope = np.sum(teacher.forces * dft.forces) / np.sum(dft.forces**2)
    assert abs(slope - 0.959) < 0.01
