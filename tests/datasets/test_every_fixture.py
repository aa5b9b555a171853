"""Every file of real data converts, is recognised by the right reader, and has the frames that it should have."""

import pytest

from atomml.datasets import convert, verify_conversion

CASES = {
    # paths, reader, options, frames, atoms, frames with energy, forces, stress
    "oc20/raw_reserialised": ("oc20-raw", {}, 240, 18832, (240, 240, 0)),
    "oc20/legacy_lmdb_reserialised/pyg1_protocol4": ("oc20-lmdb", {}, 100, 5630, (100, 100, 0)),
    "oc20/legacy_lmdb_reserialised/pyg2_protocol5": ("oc20-lmdb", {}, 100, 5630, (100, 100, 0)),
    "oc20/lmdb_is2re_format": ("oc20-lmdb", {"geometry": "initial"}, 68, 1594, (68, 0, 0)),
    "oc20/pickles/*.pkl": ("pyg-pickle", {}, 32, 2622, (32, 32, 0)),
    "oc20/aselmdb": ("aselmdb", {}, 375, 32350, (375, 375, 0)),
    "oc20/traj/*.traj": ("ase", {}, 1106, 66909, (1106, 1106, 0)),
    "format_fixtures/matsciml_lips.lmdb": ("dict-lmdb", {}, 200, 16600, (200, 200, 0)),
    "format_fixtures/spice2-1000_429_md_0-1.hdf5": ("mlip-hdf5", {}, 2, 26, (2, 2, 0)),
    "format_fixtures/sevennet_hfo2.extxyz": ("ase", {}, 2, 24, (2, 2, 2)),
    "format_fixtures/Cu-ACE-21_Cu_df2_1k.extxyz": ("ase", {}, 1000, 11309, (1000, 1000, 0)),
    "mlearn/Ge/training.json": ("mlearn", {}, 228, 14072, (228, 228, 228)),
    "mlearn/Li/training.json": ("mlearn", {}, 241, 11576, (241, 241, 241)),
    "mlearn/Mo/training.json": ("mlearn", {}, 194, 10087, (194, 194, 194)),
    "mlearn/Si/training.json": ("mlearn", {}, 214, 13233, (214, 214, 214)),
    "mlearn/*.extxyz": ("ase", {}, 525, 54836, (525, 525, 525)),
    "mattersim_benchmarks/*.xyz": ("ase", {}, 2069, 42513, (2069, 2069, 2069)),
    "crystals/aflow_prototypes_1054.csv.gz": ("crystals-csv", {"skip_bad": True}, 1051, 24389, (0, 0, 0)),
    "crystals/carbon_24/*.csv.gz": ("crystals-csv", {}, 3425, 42420, (0, 0, 0)),
    "crystals/perov_5/train_dev1024.csv.gz": ("crystals-csv", {}, 1024, 5120, (0, 0, 0)),
    "crystals/mp_20/slices_mini.csv.gz": ("crystals-csv", {}, 2573, 26715, (0, 0, 0)),
    "crystals/lemat_baseline/mp.zip": ("cif", {}, 2473, 74361, (0, 0, 0)),
}
SLOW = {
    "crystals/perov_5/val.csv.gz": ("crystals-csv", {}, 3787, 18935, (0, 0, 0)),
    "crystals/mp_20/biternary_val.csv.gz": ("crystals-csv", {}, 7140, 68191, (0, 0, 0)),
    "crystals/mpts_52/val.csv.gz": ("crystals-csv", {}, 5000, 122203, (0, 0, 0)),
    "crystals/wbm/val_10k.csv.gz": ("crystals-csv", {}, 10000, 79978, (0, 0, 0)),
    "crystals/lemat_baseline/aflow.zip": ("cif", {}, 2500, 19788, (0, 0, 0)),
    "crystals/lemat_baseline/alexandria.zip": ("cif", {}, 2475, 23391, (0, 0, 0)),
    "crystals/lemat_baseline/oqmd.zip": ("cif", {}, 2487, 21537, (0, 0, 0)),
}


@pytest.mark.parametrize("name", [*CASES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_fixture_converts(shared_data, tmp_path, name):
    reader, options, frames, atoms, labels = (CASES | SLOW)[name]
    paths = sorted(shared_data.glob(name))
    if reader == "mlip-hdf5":
        pytest.importorskip("h5py")
    store = convert(paths, tmp_path / "out", options=options).store
    assert store.info["reader"] == reader
    assert len(store) == frames
    assert len(store.numbers) == atoms
    assert tuple(store.label_counts().values()) == labels
    skipped = sum(entry["frames"] for entry in store.info.get("skipped", {}).values())
    assert skipped == (1054 - frames if "aflow" in name and name.endswith(".csv.gz") else 0)
    assert verify_conversion(tmp_path / "out", paths, parts=1) > 0
