import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pymatgen.core import Lattice, Structure

from atomml.datasets import load_frames
from atomml.datasets.readers import read_frames
from atomml.datasets.readers.parquet.reader import READER, ParquetOptions
from atomml.errors import ConfigError, DataError
from tests.conftest import ROOT

VOIGT, VASP = [0, 4, 8, 5, 2, 1], [0, 4, 8, 1, 5, 2]
STATED = {"stress_unit": "eV/A^3", "stress_sign": "ase"}


@pytest.fixture(scope="module")
def halides():
    """Forty frames of several sizes, read from extxyz by ASE."""
    return load_frames(ROOT / "data" / "li_halide" / "sample" / "li_halide.extxyz.gz").subset(
        range(0, 455, 11)
    )


@pytest.fixture(scope="module")
def structures(halides):
    """The same as dictionaries of pymatgen."""
    made = []
    for i in range(len(halides)):
        atoms = halides[i]
        structure = Structure(
            Lattice(atoms.cell.array),
            atoms.get_chemical_symbols(),
            atoms.positions,
            coords_are_cartesian=True,
        )
        made.append(json.loads(json.dumps(structure.as_dict())))
    return made


def per_atom(store, name):
    return [getattr(store, name)[store.atoms_of(i)].tolist() for i in range(len(store))]


def symbols(store):
    return [store[i].get_chemical_symbols() for i in range(len(store))]


def labels(store, energy="energy", forces="forces", stress="stress"):
    return {
        energy: store.energy.tolist(),
        forces: per_atom(store, "forces"),
        stress: store.stress.tolist(),
    }


def write(path, columns, types=None, **options):
    arrays = {
        name: values if isinstance(values, pa.Array) else pa.array(values, (types or {}).get(name))
        for name, values in columns.items()
    }
    pq.write_table(pa.table(arrays), path, **options)
    return path


def read(path, **options):
    return read_frames(path, READER, **options)


def colabfit(store):
    return {
        "property_id": [f"PO_{i}" for i in range(len(store))],
        "atomic_numbers": per_atom(store, "numbers"),
        "positions": per_atom(store, "positions"),
        "cell": store.cell.tolist(),
        "pbc": store.pbc.tolist(),
        "dimension_types": store.pbc.astype(int).tolist(),
        "elements": [["Li", "Cl"]] * len(store),
        **labels(store, "energy", "atomic_forces", "cauchy_stress"),
        "cauchy_stress_volume_normalized": [True] * len(store),
        "metadata": [json.dumps({"T": 300 + i, "deep": {"x": "y"}, "list": [1]}) for i in range(len(store))],
        "max_force_norm": store.index.max_force.tolist(),
    }


def optimade(store):
    return {
        "immutable_id": [f"a{i}" for i in range(len(store))],
        "lattice_vectors": store.cell.tolist(),
        "cartesian_site_positions": per_atom(store, "positions"),
        "species": ['[{"name": "Li"}]'] * len(store),
        "species_at_sites": symbols(store),
        "dimension_types": store.pbc.astype(np.int8).tolist(),
        **labels(store, "energy", "forces", "stress_tensor"),
        "energy_corrected": (store.energy + 1).tolist(),
        "functional": ["pbe"] * len(store),
    }


def ase_columns(store):
    return {
        "numbers": per_atom(store, "numbers"),
        "positions": [np.ravel(p).tolist() for p in per_atom(store, "positions")],
        "cell": store.cell.reshape(-1, 9).tolist(),
        "pbc": [True] * len(store),
        "natoms": store.n_atoms.tolist(),
        "total_energy": store.energy.tolist(),
        "force": [np.ravel(f).tolist() for f in per_atom(store, "forces")],
        "stress": store.stress.reshape(-1, 9)[:, VOIGT].tolist(),
    }


def ase_struct(store):
    parts = ("numbers", "positions", "cell", "pbc")
    columns = ase_columns(store)
    rows = [
        dict(zip(parts, values, strict=True)) for values in zip(*(columns[p] for p in parts), strict=True)
    ]
    return {"atoms": rows, **labels(store)}


def json_columns(store):
    columns = colabfit(store)
    for name in ("atomic_numbers", "positions", "cell", "pbc", "atomic_forces", "cauchy_stress"):
        columns[name] = [json.dumps(value) for value in columns[name]]
    return columns


def ase_json(store):
    rows = ase_struct(store)["atoms"]
    rows = [row | {"positions": np.reshape(row["positions"], (-1, 3)).tolist()} for row in rows]
    rows = [row | {"cell": np.reshape(row["cell"], (3, 3)).tolist(), "pbc": [True] * 3} for row in rows]
    return {"structure": [json.dumps(row) for row in rows], **labels(store)}


def symbol_columns(store):
    coded = pa.array(symbols(store), pa.list_(pa.dictionary(pa.int32(), pa.string())))
    vectors = pa.list_(pa.list_(pa.float64(), 3))
    return {
        "symbols": coded,
        "pos": pa.array(per_atom(store, "positions"), vectors),
        "lattice": pa.array(store.cell.tolist(), pa.list_(pa.list_(pa.float64(), 3), 3)),
        "pbc": pa.array(store.pbc.tolist(), pa.list_(pa.bool_(), 3)),
        **labels(store),
    }


COLUMN_STYLES = [colabfit, optimade, ase_columns, ase_struct, json_columns, ase_json, symbol_columns]


@pytest.mark.parametrize("style", COLUMN_STYLES, ids=lambda style: style.__name__)
def test_every_way_of_writing_columns_gives_the_same_frames(tmp_path, halides, style):
    store = read(write(tmp_path / "a.parquet", style(halides)), stress_order="voigt", **STATED)
    assert store.fingerprint() == halides.fingerprint()
    assert store.label_counts() == {"energy": 42, "forces": 42, "stress": 42}
    assert store.ids[3] == "a.parquet:3"


def pymatgen_struct(structures):
    rows = [
        {
            "lattice": {"matrix": s["lattice"]["matrix"], "pbc": s["lattice"]["pbc"]},
            "sites": [
                {
                    "species": [{"element": e["element"], "occu": e["occu"]} for e in site["species"]],
                    "abc": site["abc"],
                    "xyz": site["xyz"],
                    "label": site["label"],
                }
                for site in s["sites"]
            ],
        }
        for s in structures
    ]
    return {"structure": rows}


def pymatgen_text(structures):
    return {"structure": [json.dumps(s) for s in structures]}


def pymatgen_columns(structures):
    rows = pymatgen_struct(structures)["structure"]
    return {"lattice": [row["lattice"] for row in rows], "sites": [row["sites"] for row in rows]}


def without(part):
    def style(structures):
        rows = pymatgen_struct(structures)
        for row in rows["structure"]:
            for site in row["sites"]:
                del site[part]
            del row["lattice"]["pbc"]
        return rows

    style.__name__ = f"without_{part}"
    return style


PYMATGEN_STYLES = [pymatgen_struct, pymatgen_text, pymatgen_columns, without("abc"), without("xyz")]


@pytest.mark.parametrize("style", PYMATGEN_STYLES, ids=lambda style: style.__name__)
def test_structures_of_pymatgen_are_what_pymatgen_reads(tmp_path, halides, structures, style):
    store = read(write(tmp_path / "a.parquet", style(structures) | labels(halides)), **STATED)
    for i, dictionary in enumerate(structures):
        expected = Structure.from_dict(dictionary)
        frame = store.frame(i)
        assert frame.numbers.tolist() == list(expected.atomic_numbers)
        assert np.array_equal(frame.cell, expected.lattice.matrix)
        assert np.abs(frame.positions - expected.cart_coords).max() < 1e-12
        assert frame.pbc.all()
    assert np.array_equal(store.energy, halides.energy)
    assert np.array_equal(store.forces, halides.forces)


@pytest.mark.parametrize("style", [pymatgen_struct, pymatgen_text], ids=["struct", "text"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda site: site.update(species=[{"element": "Li", "occu": 0.5}]), "disordered"),
        (
            lambda site: site.update(
                species=[{"element": "Li", "occu": 0.5}, {"element": "Na", "occu": 0.5}]
            ),
            "dis",
        ),
        (lambda site: site.update(species=[]), "disordered"),
        (lambda site: site.update(species=[{"element": "Vac", "occu": 1}]), "not an element"),
        (lambda site: site.update(xyz=[9.0, 9.0, 9.0]), "abc.* and .*xyz"),
        (lambda site: site.update(abc=[0.0, 0.0]), ""),
    ],
)
def test_sites_that_cannot_be_used_are_named_by_row(tmp_path, structures, style, change, words):
    changed = json.loads(json.dumps(structures))
    change(changed[2]["sites"][1])
    path = write(tmp_path / "a.parquet", style(changed))
    with pytest.raises(DataError, match=words or None) as caught:
        read(path)
    assert "row 2" in str(caught.value)
    store = read(path, on_error="skip")
    assert len(store) == len(structures) - 1
    (entry,) = store.info["skipped"].values()
    assert entry == {"frames": 1, "examples": [f"{path}, row 2"]}


def test_struct_scalars_and_scalar_columns_become_tags_and_lists_are_named(tmp_path, halides):
    few = halides.subset(range(4))
    columns = ase_struct(few) | {
        "temperature": [300, 600, None, 2100],
        "sampled": [True, False, True, True],
        "aimd": [True, None, False, None],
        "frame_id": [f"f{i}" for i in range(4)],
        "metadata": [{"provenance": "mp", "halide_substitution": True, "deep": {"a": i}} for i in range(3)]
        + [None],
        "composition": [{"Li": 1.0, "Cl": 1.0}] * 4,
        "elements": [["Li", "Cl"]] * 4,
        "cif": ["x" * 2000] * 4,
        "when": pa.array([0, 1, 2, 3], pa.date32()),
        "kind": pa.array(["a", "b", "a", None]).dictionary_encode(),
    }
    store = read(write(tmp_path / "a.parquet", columns), **STATED)
    assert store.tags["temperature"].tolist()[:2] == [300, 600]
    assert np.isnan(store.tags["temperature"][2])
    assert store.tags_of(1) == {
        "temperature": 600.0,
        "sampled": False,
        "frame_id": "f1",
        "metadata.provenance": "mp",
        "metadata.halide_substitution": 1.0,
        "metadata.deep.a": 1.0,
        "when": "1970-01-02",
        "kind": "b",
    }
    assert store.tags["sampled"].dtype == bool
    assert store.info["not_read"] == {"cif": 4, "composition": 4, "elements": 4}
    chosen = read(tmp_path / "a.parquet", tags=("temperature", "metadata.deep.a"), id="frame_id", **STATED)
    assert sorted(chosen.tags) == ["metadata.deep.a", "temperature"]
    assert chosen.ids[2] == "f2"
    assert chosen.info["not_read"]["metadata.provenance"] == 4


def test_json_metadata_is_taken_apart_and_other_text_kept(tmp_path, halides):
    few = halides.subset(range(3))
    store = read(write(tmp_path / "a.parquet", colabfit(few)), **STATED)
    assert store.tags_of(2)["metadata.T"] == 302
    assert store.tags_of(2)["metadata.deep.x"] == "y"
    assert store.info["not_read"] == {"dimension_types": 3, "elements": 3, "metadata.list": 3}
    plain = colabfit(few) | {"metadata": ["{}", "no JSON", None]}
    assert read(write(tmp_path / "b.parquet", plain), **STATED).tags["metadata"].tolist() == [
        "{}",
        "no JSON",
        "",
    ]


# stress


@pytest.mark.parametrize("lacking", [("stress_unit",), ("stress_sign",), ("stress_unit", "stress_sign")])
def test_a_stress_needs_a_unit_and_a_sign(tmp_path, halides, lacking):
    path = write(tmp_path / "a.parquet", colabfit(halides))
    with pytest.raises(DataError, match=" and ".join(lacking)):
        read(path, **{key: value for key, value in STATED.items() if key not in lacking})
    ignored = read(path, stress="ignore")
    assert np.isnan(ignored.stress).all()
    assert "stress" not in ignored.info["columns"]


@pytest.mark.parametrize(
    ("factor", "order", "options"),
    [
        (1.0, VOIGT, {"stress_order": "voigt", "stress_unit": "eV/A^3", "stress_sign": "ase"}),
        (-160.21766208, VOIGT, {"stress_order": "voigt", "stress_unit": "GPa", "stress_sign": "pressure"}),
        (-1602.1766208, VASP, {"stress_order": "vasp", "stress_unit": "kbar", "stress_sign": "pressure"}),
        ("virial", slice(None), {"stress_unit": "eV", "stress_sign": "pressure"}),
    ],
)
def test_units_signs_and_orders_of_stress(tmp_path, halides, factor, order, options):
    volume = np.abs(np.linalg.det(halides.cell))[:, None]
    scale = -volume if factor == "virial" else factor
    columns = ase_struct(halides) | {"stress": (scale * halides.stress.reshape(-1, 9))[:, order].tolist()}
    store = read(write(tmp_path / "a.parquet", columns), **options)
    assert np.allclose(store.stress, halides.stress, rtol=1e-7, atol=1e-12)


def test_the_order_of_six_numbers_has_to_be_stated(tmp_path, halides):
    with pytest.raises(DataError, match="order"):
        read(write(tmp_path / "a.parquet", ase_columns(halides)), **STATED)


def test_a_stress_that_contradicts_the_volume_is_refused(tmp_path):
    whole = load_frames(ROOT / "data" / "li_halide" / "sample" / "li_halide.extxyz.gz")
    path = write(tmp_path / "a.parquet", colabfit(whole))
    wrong = {"stress_unit": "eV/A^3", "stress_sign": "pressure"}
    with pytest.raises(DataError, match=r"correlation -0\.\d\d over \d+ frames"):
        read(path, **wrong)
    assert np.array_equal(read(path, check_stress_sign=False, **wrong).stress, -whole.stress)
    assert read(path, **STATED).info["stress_sign"] == "ase"


def test_a_stress_that_was_not_divided_by_the_volume_contradicts_its_unit(tmp_path, halides):
    columns = colabfit(halides) | {"cauchy_stress_volume_normalized": [False] * len(halides)}
    with pytest.raises(DataError, match="contradicts"):
        read(write(tmp_path / "a.parquet", columns), **STATED)


def test_an_unsymmetric_stress_is_refused(tmp_path, halides):
    stress = halides.stress.copy()
    stress[3, 0, 1] += 1.0
    columns = colabfit(halides) | {"cauchy_stress": stress.tolist()}
    with pytest.raises(DataError, match="symmetric") as caught:
        read(write(tmp_path / "a.parquet", columns), **STATED)
    assert "row 3" in str(caught.value)


def test_the_stress_of_molecules_is_left_out_and_counted(tmp_path, halides):
    columns = colabfit(halides) | {"pbc": [[True, True, False]] * len(halides)}
    store = read(write(tmp_path / "a.parquet", columns), **STATED)
    assert store.info["labels"]["stress"] == {
        "key": "cauchy_stress",
        "found": 0,
        "of": 42,
        "ignored_without_3d_cell": 42,
    }


# roles


@pytest.mark.parametrize(
    ("more", "words", "fix"),
    [
        ({"total_energy": [1.0] * 3}, "energy: energy, total_energy", {"energy": "energy"}),
        ({"forces": [[[0.0] * 3]] * 3}, "forces: forces, atomic_forces", {"forces": "atomic_forces"}),
        ({"virial": [[[0.0] * 3] * 3] * 3}, "stress: cauchy_stress, virial", {"stress": "cauchy_stress"}),
        ({"numbers": [[1]] * 3}, "numbers: atomic_numbers, numbers", {"numbers": "atomic_numbers"}),
        ({"structure": ["{}"] * 3}, "structure, positions", {"positions": "positions"}),
    ],
)
def test_two_candidates_for_a_part_are_listed_and_one_can_be_stated(tmp_path, halides, more, words, fix):
    few = halides.subset(range(3))
    path = write(tmp_path / "a.parquet", colabfit(few) | more)
    with pytest.raises(DataError, match=words):
        read(path, **STATED)
    assert read(path, **STATED, **fix).fingerprint() == few.fingerprint()


def test_columns_of_other_names_can_be_stated(tmp_path, halides):
    few = halides.subset(range(3))
    columns = ase_struct(few)
    renamed = [
        {"Z": a["numbers"], "R": a["positions"], "h": a["cell"], "p": a["pbc"]} for a in columns["atoms"]
    ]
    made = {"geo": renamed, "E": columns["energy"], "F": columns["forces"]}
    path = write(tmp_path / "a.parquet", made)
    with pytest.raises(DataError, match="positions or the numbers"):
        read(path)
    names = {
        "numbers": "geo.Z",
        "positions": "geo.R",
        "cell": "geo.h",
        "pbc": "geo.p",
        "energy": "E",
        "forces": "F",
    }
    store = read(path, **names)
    assert np.array_equal(store.positions, few.positions)
    assert np.array_equal(store.forces, few.forces)
    with pytest.raises(DataError, match=r"no column 'geo\.X'"):
        read(path, **names | {"numbers": "geo.X"})


def test_names_with_the_wrong_type_are_no_candidates(tmp_path, halides):
    columns = colabfit(halides) | {"forces": [1.0] * len(halides), "total_energy": ["high"] * len(halides)}
    store = read(write(tmp_path / "a.parquet", columns), **STATED)
    assert store.fingerprint() == halides.fingerprint()
    assert {"forces", "total_energy"} <= set(store.tags)


def test_periodicity_is_not_guessed(tmp_path, halides):
    columns = {
        k: v for k, v in colabfit(halides).items() if k not in ("pbc", "dimension_types", "cauchy_stress")
    }
    path = write(tmp_path / "a.parquet", columns)
    with pytest.raises(DataError, match="periodic"):
        read(path)
    assert read(path, periodic=True).pbc.all()
    assert not read(path, periodic=False).pbc.any()
    molecules = {k: v for k, v in columns.items() if k != "cell"}
    assert not read(write(tmp_path / "b.parquet", molecules)).pbc.any()


# labels and rows that cannot be used


def test_null_labels_are_absent(tmp_path, halides):
    few = halides.subset(range(4))
    columns = colabfit(few)
    columns["energy"][0] = None
    columns["atomic_forces"][1] = None
    columns["cauchy_stress"][2] = None
    store = read(write(tmp_path / "a.parquet", columns), **STATED)
    assert {k: v.tolist() for k, v in store.has_label().items()} == {
        "energy": [False, True, True, True],
        "forces": [True, False, True, True],
        "stress": [True, True, False, True],
    }
    assert np.array_equal(store.frame(2).forces, few.frame(2).forces)
    assert store.info["labels"]["forces"]["found"] == 3


def replaced(column, value):
    def change(columns):
        columns[column][1] = value(columns[column][1]) if callable(value) else value

    return change


BAD = {
    "nan energy": (replaced("energy", float("nan")), "energy is NaN"),
    "infinite energy": (replaced("energy", float("inf")), "energy is NaN"),
    "nan force": (replaced("atomic_forces", lambda f: [[float("nan")] * 3, *f[1:]]), "forces are NaN"),
    "nan stress": (replaced("cauchy_stress", [[float("nan")] * 3] * 3), "stress is NaN"),
    "nan position": (replaced("positions", lambda p: [[float("nan")] * 3, *p[1:]]), "positions are NaN"),
    "nan cell": (replaced("cell", [[float("nan")] * 3] * 3), "cell is NaN"),
    "one force short": (replaced("atomic_forces", lambda f: f[1:]), "not three per atom"),
    "one position more": (replaced("positions", lambda p: [*p, [0.0] * 3]), "not three per atom"),
    "null in positions": (replaced("positions", lambda p: [[None, 0.0, 0.0], *p[1:]]), "null"),
    "null vector": (replaced("positions", lambda p: [None, *p[1:]]), "null"),
    "no positions": (replaced("positions", None), "not three per atom"),
    "no numbers": (replaced("atomic_numbers", None), "no atoms"),
    "no atoms": (replaced("atomic_numbers", []), "no atoms"),
    "element 0": (replaced("atomic_numbers", lambda z: [0, *z[1:]]), "unknown element"),
    "element 119": (replaced("atomic_numbers", lambda z: [119, *z[1:]]), "unknown element"),
    "two vectors": (replaced("cell", [[1.0, 0.0, 0.0]] * 2), "9 numbers"),
    "stress of four": (replaced("cauchy_stress", [[1.0, 1.0]] * 2), "6 nor 9"),
    "no pbc": (replaced("pbc", None), "pbc is missing"),
    "two flags": (replaced("pbc", [True, True]), "3 numbers"),
}


@pytest.mark.parametrize(("change", "words"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("as_text", [False, True], ids=["lists", "text"])
def test_bad_rows_are_refused_by_number_or_skipped_and_counted(tmp_path, halides, change, words, as_text):
    few = halides.subset([0, 5, 9, 20])
    columns = colabfit(few)
    change(columns)
    if as_text:
        for name in ("atomic_numbers", "positions", "cell", "pbc", "atomic_forces", "cauchy_stress"):
            columns[name] = [None if value is None else json.dumps(value) for value in columns[name]]
    path = write(tmp_path / "a.parquet", columns)
    with pytest.raises(DataError, match=None if as_text else words) as caught:
        read(path, **STATED)
    assert "row 1" in str(caught.value)
    store = read(path, on_error="skip", **STATED)
    assert store.fingerprint() == few.subset([0, 2, 3]).fingerprint()
    (entry,) = store.info["skipped"].values()
    assert entry == {"frames": 1, "examples": [f"{path}, row 1"]}
    assert list(store.ids) == ["a.parquet:0", "a.parquet:2", "a.parquet:3"]


def test_nan_labels_can_be_declared_absent(tmp_path, halides):
    few = halides.subset(range(3))
    columns = colabfit(few)
    columns["energy"][1] = float("nan")
    columns["atomic_forces"][1][0][0] = float("nan")
    columns["cauchy_stress"][1] = [[float("nan")] * 3] * 3
    store = read(write(tmp_path / "a.parquet", columns), nan_is_absent=True, **STATED)
    assert store.label_counts() == {"energy": 2, "forces": 2, "stress": 2}


def test_positions_of_two_coordinates_are_refused(tmp_path, halides):
    columns = colabfit(halides) | {
        "positions": [np.reshape(p, (-1, 1)).tolist() for p in per_atom(halides, "positions")]
    }
    with pytest.raises(DataError, match="three numbers"):
        read(write(tmp_path / "a.parquet", columns), **STATED)


def test_units_are_converted(tmp_path, halides):
    few = halides.subset(range(2))
    columns = {k: v for k, v in colabfit(few).items() if k != "cauchy_stress"}
    store = read(write(tmp_path / "a.parquet", columns), energy_unit="Hartree", length_unit="Bohr")
    assert np.allclose(store.energy, few.energy * 27.211386, rtol=1e-7)
    assert np.allclose(store.forces, few.forces * 51.422067, rtol=1e-6)
    assert np.allclose(store.cell, few.cell * 0.52917721, rtol=1e-7)


def test_numbers_of_single_precision_and_large_lists_are_read(tmp_path, halides):
    types = {
        "positions": pa.large_list(pa.large_list(pa.float32())),
        "atomic_numbers": pa.large_list(pa.int8()),
        "energy": pa.float32(),
    }
    store = read(write(tmp_path / "a.parquet", colabfit(halides), types), **STATED)
    assert np.array_equal(store.positions, halides.positions.astype(np.float32).astype(np.float64))
    assert np.array_equal(store.energy, halides.energy.astype(np.float32).astype(np.float64))


# files


def test_large_files_are_read_by_row_group_and_small_groups_together(tmp_path, halides, monkeypatch):
    monkeypatch.setattr("atomml.datasets.readers.parquet.reader.PIECE_FRAMES", 20)
    path = write(tmp_path / "a.parquet", colabfit(halides), row_group_size=8)
    pieces = READER.pieces([path], ParquetOptions(**STATED))
    assert [(p.start, p.stop, p.first) for p in pieces] == [(0, 2, 0), (2, 4, 16), (4, 6, 32)]
    store = read(path, **STATED)
    assert store.fingerprint() == halides.fingerprint()
    assert list(store.ids) == [f"a.parquet:{i}" for i in range(42)]
    large = write(tmp_path / "b.parquet", colabfit(halides), row_group_size=42)
    assert read(large, **STATED).fingerprint() == halides.fingerprint()


def test_a_file_without_rows_gives_no_frames(tmp_path, halides):
    columns = colabfit(halides)
    schema = pa.table(columns).schema
    pq.write_table(schema.empty_table(), tmp_path / "a.parquet")
    store = read(tmp_path / "a.parquet", **STATED)
    assert len(store) == 0
    path = write(tmp_path / "b.parquet", columns)
    assert len(read([tmp_path / "a.parquet", path], **STATED)) == 42


def test_of_a_colabfit_folder_only_the_rows_are_read(tmp_path, halides):
    for name in ("co", "cs", "cs_co_map"):
        (tmp_path / name).mkdir()
    write(tmp_path / "co" / "co_1.parquet", colabfit(halides.subset(range(5, 9))))
    write(tmp_path / "co" / "co_0.parquet", colabfit(halides.subset(range(5))))
    write(tmp_path / "cs" / "cs_0.parquet", {"name": ["x"]})
    write(tmp_path / "ds.parquet", {"name": ["x"]})
    store = read(tmp_path, **STATED)
    assert store.fingerprint() == halides.subset(range(9)).fingerprint()
    assert store.info["parts"][0]["ignored_files"] == ["cs", "cs_co_map", "ds.parquet"]
    assert READER.recognises(tmp_path)


def test_an_empty_folder_is_refused(tmp_path):
    assert not READER.recognises(tmp_path)
    with pytest.raises(DataError, match="no files"):
        read(tmp_path)


def test_only_parquet_files_are_recognised(tmp_path, halides):
    path = write(tmp_path / "a.parquet", colabfit(halides))
    assert READER.recognises(path)
    other = tmp_path / "b.parquet"
    other.write_bytes(b"text")
    assert not READER.recognises(other)
    assert not READER.recognises(path.rename(tmp_path / "a.data"))


@pytest.mark.parametrize("kept", [0, 3, 8, 100, -1, -9, -300])
def test_truncated_files_are_refused(tmp_path, halides, kept):
    path = write(tmp_path / "a.parquet", colabfit(halides))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match="cannot be read"):
        read(path, **STATED)


def test_damaged_files_are_refused_or_read_but_never_crash(tmp_path, halides, rng):
    path = write(tmp_path / "a.parquet", colabfit(halides.subset(range(4))))
    content = path.read_bytes()
    for _ in range(60):
        damaged = bytearray(content)
        for at in rng.integers(4, len(content) - 8, size=3):
            damaged[at] = rng.integers(256)
        path.write_bytes(bytes(damaged))
        try:
            store = read(path, on_error="skip", **STATED)
        except (DataError, ConfigError):
            continue
        assert len(store) <= 4


def test_a_table_without_structures_is_refused(tmp_path):
    with pytest.raises(DataError, match="positions or the numbers") as caught:
        read(write(tmp_path / "a.parquet", {"nsites": [2], "energy": [1.0]}))
    assert "nsites (int64)" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["data_LiCl\n_cell_length_a 5", "[1, 2]", "{}", '{"lattice": 5, "sites": 3}']
)
def test_texts_that_are_no_structures_are_refused(tmp_path, text):
    with pytest.raises(DataError):
        read(write(tmp_path / "a.parquet", {"structure": [text]}))


def test_structs_that_are_no_structures_are_refused(tmp_path):
    with pytest.raises(DataError, match="neither a pymatgen structure"):
        read(write(tmp_path / "a.parquet", {"structure": [{"a": 1}]}))
    with pytest.raises(DataError, match="not those of pymatgen"):
        read(write(tmp_path / "b.parquet", {"structure": [{"lattice": {"a": 1}, "sites": [{"b": 2}]}]}))


def test_too_many_scalar_columns_are_refused_and_can_be_chosen(tmp_path, halides):
    few = halides.subset(range(2))
    path = write(tmp_path / "a.parquet", colabfit(few) | {f"x{k}": [1, 2] for k in range(300)})
    with pytest.raises(DataError, match="256 scalar columns"):
        read(path, **STATED)
    assert list(read(path, tags=("x7",), **STATED).tags) == ["x7"]


def test_aqvolt26_carries_its_licence_and_the_largest_force(tmp_path, halides):
    path = write(tmp_path / "a.parquet", ase_struct(halides))
    store = read(path, dataset="aqvolt26", **STATED)
    assert "NON-COMMERCIAL" in store.info["licence"]
    assert store.info["level_of_theory"] == "r2SCAN"
    assert np.array_equal(store.tags["fmax"], halides.index.max_force)
