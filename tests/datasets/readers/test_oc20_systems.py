"""Tables of OC20 by system, official parts, linear references and constants."""

import io
import pickle
import zipfile

import numpy as np
import pytest
from ase.data import chemical_symbols

from atomml.datasets.readers import read_frames
from atomml.datasets.readers.oc20.common import part_of
from atomml.datasets.readers.oc20.lmdb_shards import PICKLE_READER, READER
from atomml.datasets.readers.oc20.reference import (
    NORMALISERS,
    gas_reference,
    linear_references,
    load_linear_reference,
    subtract_linear_reference,
)
from atomml.datasets.readers.oc20.systems import load_mapping, load_references, official_split
from atomml.errors import DataError

from .oc20_files import modern, record, write_lmdb


def mapping_entry(split, **changes):
    return {
        "bulk_id": 6646,
        "ads_id": np.int64(69),
        "bulk_mpid": "mp-569196",
        "bulk_symbols": "Ca36Al18",
        "ads_symbols": "*CHCH2",
        "miller_index": (2, 0, 1),
        "shift": np.float64(0.145),
        "top": False,
        "adsorption_site": ((np.float64(1.0), np.float64(2.0), np.float64(3.0)),),
        "class": 1,
        "anomaly": 0,
        "split": split,
    } | changes


SPLITS = ("train", "val_is", "val_oos_ads", "val_oos_bulk", "val_oos_ads_bulk", "test_oos_bulk")


@pytest.fixture
def mapped(tmp_path):
    table = tmp_path / "oc20_data_mapping.pkl"
    table.write_bytes(pickle.dumps({f"random{100 + k}": mapping_entry(s) for k, s in enumerate(SPLITS)}))
    path = write_lmdb(tmp_path / "data.lmdb", {k: modern(record(k)) for k in range(len(SPLITS))})
    return read_frames(path, READER, mapping=str(table))


def test_the_mapping_becomes_tags_and_old_names_of_parts_new_ones(mapped):
    assert mapped.tags["split"].tolist() == [
        "train",
        "val_id",
        "val_ood_ads",
        "val_ood_cat",
        "val_ood_both",
        "test_ood_cat",
    ]
    tags = mapped.tags_of(0)
    assert tags["bulk_id"] == 6646
    assert tags["ads_id"] == 69
    assert tags["class"] == 1
    assert tags["bulk_mpid"] == "mp-569196"
    assert tags["miller_index"] == "2 0 1"
    assert tags["shift"] == 0.145
    assert tags["top"] is False
    assert "adsorption_site" not in tags
    assert "warnings" not in mapped.info


def test_systems_that_the_mapping_does_not_know_are_counted(tmp_path):
    table = tmp_path / "m.pkl"
    table.write_bytes(pickle.dumps({"random100": mapping_entry("train")}))
    path = write_lmdb(tmp_path / "data.lmdb", {k: modern(record(k)) for k in range(3)})
    store = read_frames(path, READER, mapping=str(table))
    assert store.tags["split"].tolist() == ["train", "", ""]
    assert store.info["warnings"] == [f"{path} [0:3]: the mapping knows the systems of 1 of 3 frames."]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "not a dictionary by names"),
        ({1: 2}, "not a dictionary by names"),
        ({"random1": -1.0}, "entry of 'random1' is not a dictionary"),
        ({"random1": print}, "print"),
    ],
)
def test_other_pickles_are_no_mapping(tmp_path, content, message):
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=message) as caught:
        load_mapping(path)
    assert str(path) in caught.value.where


@pytest.mark.parametrize("value", ["low", float("nan"), {"bulk_id": 1}, None])
def test_other_pickles_are_no_references(tmp_path, value):
    path = tmp_path / "r.pkl"
    path.write_bytes(pickle.dumps({"random1": value}))
    with pytest.raises(DataError, match="'random1' is not a finite number"):
        load_references(path)
    with pytest.raises(DataError, match="does not exist"):
        load_references(tmp_path / "absent.pkl")


def test_the_tables_are_read_again_when_they_change(tmp_path):
    path = tmp_path / "r.pkl"
    path.write_bytes(pickle.dumps({"random1": -1.0}))
    assert load_references(path) == {"random1": -1.0}
    path.write_bytes(pickle.dumps({"random1": np.float64(-2.0), "random2": 3}))
    assert load_references(path) == {"random1": -2.0, "random2": 3.0}


def test_official_parts_become_a_split(mapped):
    split = official_split(mapped)
    assert split.train.tolist() == [0]
    assert split.valid.tolist() == [1]
    assert split.test.tolist() == [4]
    split = official_split(mapped, valid=("val_is", "val_ood_ads"), test=("val_oos_bulk",))
    assert split.valid.tolist() == [1, 2]
    assert split.test.tolist() == [3]
    with pytest.raises(DataError, match="'val_ood' is the part of no frame"):
        official_split(mapped, test=("val_ood",))
    with pytest.raises(DataError, match="'train' is in two"):
        official_split(mapped, test=("train",))
    with pytest.raises(DataError, match="no tag 'part'"):
        official_split(mapped, tag="part")


@pytest.mark.parametrize(
    ("folder", "part"),
    [
        ("train", "train"),
        ("val_id", "val_id"),
        ("s2ef_train_200K", "train"),
        ("s2ef_val_ood_both", "val_ood_both"),
        ("is2res_train_trajectories", "train"),
        ("val_ood", "val_ood"),
        ("val_oos_ads", "val_ood_ads"),
        ("all", None),
        ("training", None),
    ],
)
def test_parts_are_known_by_the_name_of_the_folder(tmp_path, folder, part):
    assert part_of(tmp_path / folder / "data.0000.lmdb") == part


@pytest.mark.parametrize("name", ["oc20_linref.npz", "oc22_linfit_coeffs.npz"])
def test_garbage_of_elements_that_were_not_fitted_is_missing(shared_data, name):
    path = shared_data / "oc20" / "linref" / name
    coefficients = load_linear_reference(path)
    with np.load(path) as raw:
        stored = raw["coeff"]
    known = np.isfinite(coefficients)
    assert np.array_equal(coefficients[known], stored[known])
    dropped = stored[~known]
    assert ((dropped == 0) | (np.abs(dropped) > 1e3)).all()
    assert not known[0]
    table = linear_references(coefficients)
    assert table.method == "table"
    assert set(table.energies) == set(np.flatnonzero(known).tolist())


def test_the_linear_reference_is_subtracted_from_real_totals(shared_data):
    coefficients = load_linear_reference(shared_data / "oc20" / "linref" / "oc22_linfit_coeffs.npz")
    store = read_frames(shared_data / "oc20" / "pickles", PICKLE_READER)
    residual = subtract_linear_reference(store, coefficients)
    expected = [store.energy[k] - coefficients[store.frame(k).numbers].sum() for k in range(len(store))]
    assert np.allclose(residual, expected, rtol=0, atol=1e-9)
    assert residual.std() < 0.4 * store.energy.std()
    coefficients[8] = np.nan
    with pytest.raises(DataError, match=f"no coefficient of {chemical_symbols[8]}"):
        subtract_linear_reference(store, coefficients)


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_files_that_are_no_linear_reference_are_refused(tmp_path):
    bad = {
        "absent": npz(tmp_path / "absent.npz", other=np.zeros(3)),
        "object": npz(tmp_path / "object.npz", coeff=np.array([print, None])),
        "matrix": npz(tmp_path / "matrix.npz", coeff=np.ones((3, 3))),
        "garbage": npz(tmp_path / "garbage.npz", coeff=np.array([0.0, np.nan, 1e9])),
        "integers": npz(tmp_path / "integers.npz", coeff=np.arange(5)),
        "large": npz(tmp_path / "large.npz", coeff=np.ones(100_000)),
    }
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})
    bad["claim"] = tmp_path / "claim.npz"
    with zipfile.ZipFile(bad["claim"], "w") as archive:
        archive.writestr("coeff.npy", header.getvalue() + b"\0" * 80)
    bad["bomb"] = tmp_path / "bomb.npz"
    with zipfile.ZipFile(bad["bomb"], "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("coeff.npy", b"\0" * 10_000_000)
    bad["text"] = tmp_path / "text.npz"
    bad["text"].write_text("coeff")
    good = npz(tmp_path / "good.npz", coeff=np.array([0.0, -3.5]))
    bad["cut"] = tmp_path / "cut.npz"
    bad["cut"].write_bytes(good.read_bytes()[:-30])
    for path in bad.values():
        with pytest.raises(DataError) as caught:
            load_linear_reference(path)
        assert caught.value.where == str(path)
    assert load_linear_reference(good).tolist()[1] == -3.5


def test_constants_of_oc20():
    assert gas_reference([6, 1, 1]) == pytest.approx(-7.282 - 2 * 3.477)
    assert gas_reference([8, 7]) == pytest.approx(-7.204 - 8.083)
    with pytest.raises(DataError, match="no gas reference of Pt"):
        gas_reference([78, 8])
    assert NORMALISERS["oc20_s2ef"].forces_std == NORMALISERS["oc20_s2ef"].energy_std == 2.887317180633545
    assert NORMALISERS["oc20_is2re"].energy_mean == -1.525913953781128
