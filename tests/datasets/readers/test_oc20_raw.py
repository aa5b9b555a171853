"""Raw OC20 shards and relaxations: equal to ASE's reading, and errors that name file and frame."""

import contextlib
import io
import lzma
import pickle

import ase.io
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atomml.datasets import load_frames
from atomml.datasets.readers import read_frames
from atomml.datasets.readers.oc20.extxyz import parse_block, text_blocks
from atomml.datasets.readers.oc20.raw import READER
from atomml.errors import AtommlError, DataError

HEADER = (
    'Lattice="4 0 0 0 5 0 0 0 20" Properties=species:S:1:pos:R:3:move_mask:L:1:tags:I:1:forces:R:3 '
    'energy=%s free_energy=-99.0 pbc="T T T"'
)
ATOMS = [
    "Pt 0.10000000 0.2 10.0 F 0 0.5 -0.25 0.125",
    "Pt 2.00000000 2.5 12.0 T 1 0.0 0.0 1.0",
    "O 2.0 2.5 13.7 T 2 -0.5 0.25 -1.125",
]


def frame_text(energy="-10.5", atoms=ATOMS, header=HEADER):
    return "\n".join([str(len(atoms)), header % energy, *atoms]) + "\n"


def write_shard(folder, texts, names, stem="0", packed=True):
    folder.mkdir(exist_ok=True, parents=True)
    for suffix, text in ((".extxyz", "".join(texts)), (".txt", "\n".join(names) + "\n")):
        data = text.encode() if isinstance(text, str) else text
        path = folder / (stem + suffix + (".xz" if packed else ""))
        path.write_bytes(lzma.compress(data) if packed else data)
    return folder / (stem + ".extxyz" + (".xz" if packed else ""))


def same_as_ase(store, frames):
    assert len(store) == len(frames)
    for k, atoms in enumerate(frames):
        frame = store.frame(k)
        held = np.zeros(len(atoms), bool)
        for constraint in atoms.constraints:
            held[constraint.index] = True
        assert frame.energy == atoms.get_potential_energy(apply_constraint=False)
        assert np.array_equal(frame.forces, atoms.get_forces(apply_constraint=False))
        assert np.array_equal(frame.positions, atoms.positions)
        assert np.array_equal(frame.cell, atoms.cell.array)
        assert np.array_equal(frame.numbers, atoms.numbers)
        assert np.array_equal(frame.pbc, atoms.pbc)
        assert np.array_equal(frame.fixed, held)


def test_real_shards_equal_what_ase_reads(shared_data):
    folder = shared_data / "oc20" / "raw_reserialised"
    assert READER.recognises(folder)
    assert READER.recognises(folder / "0.extxyz.xz")
    store = read_frames(folder, READER)
    frames = []
    for stem in ("0", "1"):
        text = lzma.decompress((folder / f"{stem}.extxyz.xz").read_bytes()).decode()
        frames += ase.io.read(io.StringIO(text), ":", format="extxyz")
    same_as_ase(store, frames)
    assert np.array_equal(store.atom_tags, np.concatenate([a.get_tags() for a in frames]))
    with lzma.open(folder / "0.txt.xz", "rt") as file:
        lines = file.read().split()
    assert [f"{name},0.0" for name in list(store.ids)[:120]] == lines
    assert store.tags["sid"][0] == 1000151
    assert store.tags["fid"][0] == 211
    info = store.info["parts"][0]
    assert info["labels"]["energy"] == {"key": "info:energy", "found": 120, "of": 120}
    assert info["not_read"] == {"free_energy": 120}


@pytest.mark.parametrize("name", ["random1000156.traj", "random1000163.traj"])
def test_relaxations_as_traj_keep_raw_forces_and_fixed_atoms(shared_data, name):
    path = shared_data / "oc20" / "traj" / name
    store = load_frames(path)
    frames = ase.io.read(path, ":")
    same_as_ase(store, frames)
    assert store.fixed.any()
    assert not store.fixed.all()
    assert np.abs(store.forces[store.fixed]).max() > 0.0


@pytest.mark.parametrize("packed", [True, False])
def test_the_default_energy_is_the_adsorption_energy(tmp_path, packed):
    names = ["random7,frame3,-9.25", "random8,frame0,-1e1"]
    path = write_shard(tmp_path, [frame_text("-10.5"), frame_text("-11.0")], names, packed=packed)
    store = read_frames(path, READER)
    assert store.energy.tolist() == [-1.25, -1.0]
    assert list(store.ids) == ["random7,frame3", "random8,frame0"]
    assert store.tags["reference_energy"].tolist() == [-9.25, -10.0]
    assert store.tags["sid"].tolist() == [7, 8]
    assert store.tags["fid"].tolist() == [3, 0]
    assert store.fixed.tolist() == [True, False, False] * 2
    assert store.atom_tags.tolist() == [0, 1, 2] * 2
    assert store.forces[0].tolist() == [0.5, -0.25, 0.125]
    total = read_frames(path, READER, energy="total")
    assert total.energy.tolist() == [-10.5, -11.0]
    assert total.info["stated"] == {"energy": "total", "on_error": "raise"}


def test_without_a_reference_there_is_no_adsorption_energy(tmp_path):
    path = write_shard(tmp_path, [frame_text()], ["random7,frame3"])
    with pytest.raises(DataError, match="reference energy of random7") as caught:
        read_frames(path, READER)
    assert "frame 0" in caught.value.where
    assert "energy: total" in caught.value.fix
    assert read_frames(path, READER, energy="total").energy.tolist() == [-10.5]
    table = tmp_path / "oc20_ref.pkl"
    table.write_bytes(pickle.dumps({"random7": -9.0}))
    assert read_frames(path, READER, reference_pickle=str(table)).energy.tolist() == [-1.5]


def test_columns_are_found_by_their_description(tmp_path):
    header = (
        'Properties=species:S:1:magmoms:R:1:forces:R:3:tags:I:1:pos:R:3 pbc="T T F" energy=-1.0 '
        'Lattice="4 0 0 0 5 0 0 0 20" note=%s'
    )
    text = frame_text("x", ["Cu 0.5 1 2 3 1 7 8 9", "H -0.5 -1 -2 -3 2 10 11 12"], header)
    store = read_frames(write_shard(tmp_path, [text], ["random1,frame1,0"]), READER)
    assert store.positions.tolist() == [[7, 8, 9], [10, 11, 12]]
    assert store.forces.tolist() == [[1, 2, 3], [-1, -2, -3]]
    assert store.fixed is None
    assert store.pbc.tolist() == [[True, True, False]]
    assert store.info["not_read"] == {"magmoms": 1, "note": 1}


def test_shards_are_read_in_numeric_order(tmp_path):
    for k in (10, 2, 0):
        write_shard(tmp_path / "s2ef_val_ood_cat", [frame_text()], [f"random{k},frame0,0.0"], stem=str(k))
    store = read_frames(tmp_path / "s2ef_val_ood_cat", READER)
    assert store.tags["sid"].tolist() == [0, 2, 10]
    assert set(store.tags["part"]) == {"val_ood_cat"}


def test_the_folder_inside_an_official_archive_is_found(tmp_path):
    write_shard(tmp_path / "s2ef_train_200K" / "s2ef_train_200K", [frame_text()], ["random1,frame0,0.0"])
    store = read_frames(tmp_path / "s2ef_train_200K", READER)
    assert store.tags["part"].tolist() == ["train"]
    write_shard(tmp_path / "s2ef_train_200K" / "s2ef_val_id", [frame_text()], ["random1,frame0,0.0"])
    with pytest.raises(DataError, match="2 folders inside"):
        read_frames(tmp_path / "s2ef_train_200K", READER)


def test_relaxations_take_the_reference_from_system_txt(tmp_path):
    for sid in (41, 5):
        packed = lzma.compress((frame_text("-20.0") + frame_text("-21.0")).encode())
        (tmp_path / f"random{sid}.extxyz.xz").write_bytes(packed)
    (tmp_path / "system.txt").write_text("random5,-15.0\nrandom41,-16.0\n")
    assert READER.recognises(tmp_path)
    store = read_frames(tmp_path, READER)
    assert list(store.ids) == ["random5,frame0", "random5,frame1", "random41,frame0", "random41,frame1"]
    assert store.energy.tolist() == [-5.0, -6.0, -4.0, -5.0]
    (tmp_path / "system.txt").write_text("random5,-15.0\nrandom41 -16.0\n")
    with pytest.raises(DataError, match="random<sid>,<reference energy>") as caught:
        read_frames(tmp_path, READER)
    assert caught.value.where.endswith("system.txt, line 2")


THREE = [frame_text("-1.0"), frame_text("-2.0"), frame_text("-3.0")]
NAMES = ["random1,frame0,0.0", "random2,frame0,0.0", "random3,frame0,0.0"]
BAD_LINES = {
    "Xx 0 0 0 T 0 0 0 0": "element 'Xx'",
    "Pt 0 0 zero T 0 0 0 0": "'zero' for a number",
    "Pt 0 0 1_0 T 0 0 0 0": "'1_0' for a number",
    "Pt 0 0 0 T 0 0 0": "8 columns, not 9",
    "Pt 0 0 0 M 0 0 0 0": "move_mask",
    "Pt 0 0 0 T one 0 0 0": "for a tag",
    "Pt 0 0 nan T 0 0 0 0": "NaN or infinite",
    "Pt 0 0 0 T 0 0 inf 0": "NaN or infinite",
}


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_damaged_atom_line_is_named_or_skipped(tmp_path, line):
    texts = [THREE[0], frame_text("-2.0", [ATOMS[0], line, ATOMS[2]]), THREE[2]]
    path = write_shard(tmp_path, texts, NAMES)
    with pytest.raises(DataError, match=BAD_LINES[line]) as caught:
        read_frames(path, READER)
    assert str(path) in caught.value.where
    assert "frame 1" in caught.value.where or "random2,frame0" in caught.value.where
    store = read_frames(path, READER, on_error="skip")
    assert store.energy.tolist() == [-1.0, -3.0]
    assert store.tags["sid"].tolist() == [1, 3]
    (entry,) = store.info["skipped"].values()
    assert entry["frames"] == 1
    assert "frame 1" in entry["examples"][0]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("energy=-2.0", "energy=low", "energy is not a finite number"),
        ("energy=-2.0", "energy=nan", "energy is not a finite number"),
        ('Lattice="4 0 0', 'Lattice="4 0', "8 numbers, not 9"),
        ('pbc="T T T"', 'pbc="T T"', "pbc is"),
        ("species:S:1", "species:S:2", "Properties must describe"),
        (":forces:R:3", ":forces:R", "Properties must describe"),
    ],
)
def test_a_damaged_header_is_named_or_skipped(tmp_path, old, new, message):
    path = write_shard(tmp_path, [THREE[0], THREE[1].replace(old, new), THREE[2]], NAMES)
    with pytest.raises(DataError, match=message) as caught:
        read_frames(path, READER)
    assert f"{path}, frame 1" in caught.value.where
    assert read_frames(path, READER, on_error="skip").tags["sid"].tolist() == [1, 3]


@pytest.mark.parametrize("how", ["text", "xz", "count"])
def test_a_truncated_shard_is_named_or_its_rest_skipped(tmp_path, how):
    texts = list(THREE)
    if how == "text":
        texts[2] = texts[2][: texts[2].index("\nO")]
    if how == "count":
        texts[2] = "three\n" + texts[2].split("\n", 1)[1]
    path = write_shard(tmp_path, texts, NAMES)
    if how == "xz":
        path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError) as caught:
        read_frames(path, READER)
    assert str(path) in str(caught.value)
    assert how == "xz" or "frame 2" in caught.value.where
    store = read_frames(path, READER, on_error="skip")
    skipped = sum(entry["frames"] for entry in store.info["skipped"].values())
    assert len(store) + skipped == 3
    assert store.energy.tolist() == [-1.0, -2.0, -3.0][: len(store)]
    assert how == "xz" or len(store) == 2


def test_names_and_frames_must_be_as_many(tmp_path):
    path = write_shard(tmp_path, THREE, NAMES[:2])
    with pytest.raises(DataError, match="more frames than the 2 lines"):
        read_frames(path, READER)
    assert len(read_frames(path, READER, on_error="skip")) == 2
    path = write_shard(tmp_path, THREE[:2], NAMES)
    with pytest.raises(DataError, match=r"has 2 frames, 0\.txt\.xz has 3 lines"):
        read_frames(path, READER)
    store = read_frames(path, READER, on_error="skip")
    assert len(store) == 2
    assert store.info["skipped"] == {
        "the file ends before the frame of this line of the .txt": {
            "frames": 1,
            "examples": [f"{path.with_name('0.txt.xz')}, line 3"],
        }
    }


def test_a_damaged_name_is_named_or_skipped(tmp_path):
    path = write_shard(tmp_path, THREE, [NAMES[0], "rnd2,frame0,0.0", NAMES[2]])
    with pytest.raises(DataError, match="is not random<sid>") as caught:
        read_frames(path, READER)
    assert caught.value.where.endswith("0.txt.xz, line 2")
    assert read_frames(path, READER, on_error="skip").tags["sid"].tolist() == [1, 3]


def test_an_endless_line_is_refused_without_reading_it_whole(tmp_path):
    path = write_shard(tmp_path, ["0" * 5_000_000], NAMES)
    with pytest.raises(DataError, match="longer than"):
        read_frames(path, READER)


@given(
    st.lists(
        st.tuples(st.integers(0, 10**6), st.integers(0, 3), st.binary(max_size=3)), min_size=1, max_size=6
    )
)
def test_any_damage_is_read_or_refused(changes):
    data = "".join(THREE).encode()
    for at, length, new in changes:
        k = at % len(data)
        data = data[:k] + new + data[k + length :]
    with contextlib.suppress(DataError):
        for block in text_blocks(io.BytesIO(data).read, "file"):
            frame = parse_block(block, "file")
            assert frame.positions.shape == frame.forces.shape if frame.forces is not None else True
            assert frame.positions.shape == (len(frame.numbers), 3)
            assert frame.cell.shape == (3, 3)


def test_files_of_other_kinds_are_not_recognised(tmp_path):
    (tmp_path / "alone.extxyz").write_text(frame_text())
    assert not READER.recognises(tmp_path / "alone.extxyz")
    assert not READER.recognises(tmp_path)
    with pytest.raises(DataError, match=r"no alone\.txt"):
        read_frames(tmp_path / "alone.extxyz", READER)
    with pytest.raises(AtommlError, match="does not exist"):
        read_frames(tmp_path / "absent", READER)
