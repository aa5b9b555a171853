"""Crystals in CSV and CIF files are read as pymatgen reads them; what is left out or not read is counted."""

import csv
import gzip
import io
import zipfile
from collections import Counter
from functools import cache

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter

from atomml.datasets.lattice import lattice_parameters, wrap_fractional
from atomml.datasets.readers import read_frames
from atomml.datasets.readers.crystals import csv_files
from atomml.datasets.readers.crystals.cif_files import READER as CIF_READER
from atomml.datasets.readers.crystals.cif_text import parse_cif
from atomml.datasets.readers.crystals.csv_files import READER
from atomml.errors import AtommlError, DataError

FILES = {
    "aflow_prototypes_1054.csv.gz": 1054,
    "carbon_24/train.csv.gz": 2633,
    "carbon_24/val.csv.gz": 792,
    "mp_20/biternary_val.csv.gz": 7140,
    "mp_20/slices_mini.csv.gz": 2573,
    "mpts_52/val.csv.gz": 5000,
    "perov_5/train_dev1024.csv.gz": 1024,
    "perov_5/val.csv.gz": 3787,
    "wbm/val_10k.csv.gz": 10000,
}
ARCHIVES = {"aflow": 2500, "alexandria": 2475, "mp": 2473, "oqmd": 2487}
AS_WRITTEN = {"niggli": False}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pymatgen")


@cache
def salt(**options):
    structure = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])
    return str(CifWriter(structure, **options))


def skewed(n=3, seed=0):
    rng = np.random.default_rng(seed)
    lattice = Lattice.from_parameters(3.1, 4.2, 7.3, 71, 98, 34)
    return Structure(lattice, ["Li", "O", "Fe"][:n], rng.random((n, 3)))


def write_csv(path, rows, newline="\n"):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator=newline)
    writer.writeheader()
    writer.writerows(rows)
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def read(path, **options):
    return read_frames(path, READER, **options)


def texts_of(path):
    csv.field_size_limit(1 << 27)
    with gzip.open(path, "rt", newline="") as file:
        return [row["cif"] for row in csv.DictReader(file)]


def by_place(numbers, fractional):
    order = np.lexsort((*fractional.T, numbers))
    return numbers[order], fractional[order]


def check_as_pymatgen(texts):
    for text in texts:
        theirs = Structure.from_str(text, fmt="cif")
        if not all(site.specie.symbol != "M" for site in theirs):
            continue
        ours = parse_cif(text, "here")
        assert np.array_equal(ours.cell, theirs.lattice.matrix)
        expected = by_place(np.array(theirs.atomic_numbers), wrap_fractional(np.array(theirs.frac_coords)))
        found = by_place(ours.numbers, ours.fractional)
        assert np.array_equal(found[0], expected[0])
        assert np.array_equal(found[1], expected[1])


@pytest.mark.parametrize("name", FILES)
def test_crystals_are_those_of_pymatgen_to_the_last_bit(shared_data, name):
    check_as_pymatgen(texts_of(shared_data / "crystals" / name)[:: FILES[name] // 40])


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_every_crystal_is_that_of_pymatgen_to_the_last_bit(shared_data, name):
    check_as_pymatgen(texts_of(shared_data / "crystals" / name))


@pytest.mark.parametrize("name", ["perov_5/train_dev1024.csv.gz", "mp_20/slices_mini.csv.gz"])
def test_frames_are_the_rows_as_written(shared_data, name):
    path = shared_data / "crystals" / name
    store = read(path, **AS_WRITTEN)
    assert len(store) == FILES[name]
    with gzip.open(path, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(store.ids) == [row["material_id"] for row in rows]
    for i in range(0, len(store), 100):
        theirs = Structure.from_str(rows[i]["cif"], fmt="cif")
        assert sorted(store.numbers[store.atoms_of(i)]) == sorted(theirs.atomic_numbers)
        assert np.array_equal(store.cell[i], theirs.lattice.matrix)
        wrapped = wrap_fractional(np.array(theirs.frac_coords)) @ store.cell[i]
        ours = store.positions[store.atoms_of(i)]
        assert np.allclose(np.sort(ours, axis=0), np.sort(wrapped, axis=0), atol=1e-12)
        for tag in ("heat_all", "dir_gap", "band_gap", "e_above_hull"):
            assert tag not in rows[i] or store.tags[tag][i] == float(rows[i][tag])
    assert store.label_counts() == {"energy": 0, "forces": 0, "stress": 0}


def test_columns_become_tags_and_lists_are_named_as_not_read(shared_data):
    store = read(shared_data / "crystals" / "mp_20" / "slices_mini.csv.gz")
    assert store.tags["spacegroup.number"].dtype.kind == "i"
    assert store.tags["pretty_formula"].dtype.kind == "U"
    assert store.tags["spacegroup.number"][0] == 8
    assert store.info["not_read"]["elements"] == store.info["not_read"]["Unnamed: 0"] == 2573


def test_the_prototypes_with_impossible_distances_and_dummy_elements_are_counted(shared_data):
    path = shared_data / "crystals" / "aflow_prototypes_1054.csv.gz"
    with pytest.raises(DataError, match="holds M, which is not an element"):
        read(path)
    store = read(path, skip_bad=True, min_distance=0.7)
    counts = {reason: entry["frames"] for reason, entry in store.info["skipped"].items()}
    assert counts == {
        "atoms closer than min_distance = 0.7 Å": 10,
        "A site holds M, which is not an element.": 3,
    }
    assert len(store) == 1041


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_of_cif_files_are_joined_with_their_table(shared_data, name):
    path = shared_data / "crystals" / "lemat_baseline" / f"{name}.zip"
    (piece,) = CIF_READER.pieces([path], CIF_READER.options())
    assert piece.stop == ARCHIVES[name]
    first = type(piece)(path, 0, 60)
    store = CIF_READER.read(first, CIF_READER.options(**AS_WRITTEN))
    assert (store.tags["formula"] != "").all()
    assert not any(i.startswith(f"{name}_") for i in store.ids)
    with zipfile.ZipFile(path) as archive:
        cifs = sorted(n for n in archive.namelist() if n.endswith(".cif"))[:60]
        check_as_pymatgen(archive.read(n).decode() for n in cifs[:20])


def test_reduced_crystals_are_the_same_crystals(tmp_path):
    structures = [skewed(seed=k) for k in range(10)]
    path = write_csv(
        tmp_path / "s.csv", [{"material_id": k, "cif": str(CifWriter(s))} for k, s in enumerate(structures)]
    )
    matcher = StructureMatcher(primitive_cell=False, ltol=1e-4, stol=1e-4, angle_tol=1e-3)
    for options in ({}, {"canonical": False}, {"niggli_by": "pymatgen"}):
        store = read(path, **options)
        for i, structure in enumerate(structures):
            part = store.atoms_of(i)
            found = Structure(
                store.cell[i], store.numbers[part], store.positions[part], coords_are_cartesian=True
            )
            assert matcher.fit(found, structure)
            reduced = structure.get_reduced_structure()
            assert np.allclose(lattice_parameters(store.cell[i])[0], reduced.lattice.abc, atol=1e-5)
            assert np.linalg.det(store.cell[i]) > 0
            if options.get("canonical", True):
                upright = Lattice.from_parameters(*reduced.lattice.parameters).matrix
                assert np.allclose(store.cell[i], upright, atol=1e-5)


def test_files_with_symmetry_are_expanded_by_pymatgen(tmp_path):
    path = write_csv(tmp_path / "s.csv", [{"material_id": "salt", "cif": salt(symprec=0.01)}])
    store = read(path, **AS_WRITTEN)
    assert sorted(store.numbers) == [11] * 4 + [17] * 4
    assert len(read(path, primitive=True).numbers) == 2


def test_coordinates_at_thirds_are_rounded_as_pymatgen_does_and_counted():
    structure = Structure(
        Lattice.hexagonal(3.2, 5.1), ["Zn", "Zn"], [[0.33334, 0.66664, 0.25], [2 / 3, 1 / 3, 0.75]]
    )
    text = str(CifWriter(structure, significant_figures=5))
    notes = Counter()
    assert np.array_equal(parse_cif(text, "", notes=notes).fractional[0], [1 / 3, 2 / 3, 0.25])
    assert sum(notes.values()) == 4
    assert np.array_equal(parse_cif(text, "", thirds=False).fractional[0], [0.33334, 0.66664, 0.25])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  Na  Na0  1  0.00000000  0.00000000  0.00000000  1\n", "  Na+  Na0  1  0.0  0.0  0.0  1\n"),
        ("'x, y, z'", "x,y,z"),
        ("_cell_length_a   5.64000000", "_cell_length_a   5.64(2)"),
        ("data_NaCl", "data_NaCl\n_journal_year 1999"),
    ],
)
def test_irregular_files_are_read_by_pymatgen(old, new):
    text = salt()
    assert old in text
    ours, theirs = parse_cif(text.replace(old, new), "here"), Structure.from_str(text, fmt="cif")
    assert np.array_equal(np.sort(ours.numbers), np.sort(theirs.atomic_numbers))
    assert np.allclose(ours.cell, theirs.lattice.matrix)


def test_deuterium_and_charges_are_read_as_elements_and_counted():
    text = salt().replace("Na  Na", "D  D").replace("Na4", "D4").replace("NaCl", "DCl")
    notes = Counter()
    assert (parse_cif(text, "", notes=notes).numbers == 1).sum() == 4
    assert notes["isotopes D and T (atoms)"] == 4


BROKEN = {
    "partly occupied": salt().replace("0.00000000  1\n", "0.00000000  0.5\n"),
    "Occupancy": salt().replace("0.50000000  0.50000000  0.00000000", "0.00000000  0.00000000  0.00000000"),
    "no structures": "data_nothing\n_cell_length_a 5.0\n",
    "pymatgen cannot read": "",
    "Incorrect stoichiometry": salt().replace("'Na4 Cl4'", "'Na4 Cl5'"),
    "Missing elements": salt().replace("'Na4 Cl4'", "'Na4 Cl4 H4'"),
    "not an element": salt().replace("Na  Na", "Xx  Xx").replace("Na4", "Xx4"),
    "pymatgen cannot": salt().replace("5.64000000", "nan"),
    "2 structures": salt() + salt().replace("data_NaCl", "data_again"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_unusable_crystals_are_named_or_skipped_and_counted(tmp_path, what):
    rows = [{"material_id": "good", "cif": salt()}, {"material_id": "mp-13", "cif": BROKEN[what]}]
    path = write_csv(tmp_path / "s.csv", rows)
    with pytest.raises(DataError, match="mp-13") as error:
        read(path)
    assert "row 1" in error.value.where
    store = read(path, skip_bad=True)
    assert list(store.ids) == ["good"]
    assert sum(e["frames"] for e in store.info["skipped"].values()) == 1


@pytest.mark.parametrize("name", ["s.csv", "s.csv.gz"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_pieces_join_to_the_whole_file(tmp_path, monkeypatch, name, newline):
    monkeypatch.setattr(csv_files, "PIECE_FRAMES", 3)
    rows = [{"cif": str(CifWriter(skewed(seed=k))), "material_id": f'a "{k}"\n, b', "T": k} for k in range(8)]
    path = write_csv(tmp_path / name, rows, newline)
    made = READER.pieces([path], READER.options())
    assert [p.first for p in made] == [0, 3, 6]
    store = read(path)
    assert list(store.ids) == [row["material_id"] for row in rows]
    assert store.tags["T"].tolist() == list(range(8))
    monkeypatch.undo()
    whole = read(path)
    assert whole.fingerprint() == store.fingerprint()
    assert READER.recognises(path)


def test_blank_lines_and_a_last_row_without_a_line_break_are_no_trouble(tmp_path):
    path = write_csv(tmp_path / "s.csv", [{"material_id": k, "cif": salt(), "T": 1.5} for k in "abc"])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"1.5\nb", b"1.5\n\nb").rstrip(b"\n"))
    assert list(read(path).ids) == ["a", "b", "c"]


def test_tags_keep_their_kind(tmp_path):
    words = {"formula": "NaN", "code": "007", "flag": "True", "gap": "", "n": "3", "mixed": "4"}
    others = {"formula": "NaCl", "code": "1", "flag": "False", "gap": "1e-3", "n": "nan", "mixed": "x"}
    path = write_csv(tmp_path / "s.csv", [{"cif": salt(), **words}, {"cif": salt(), **others}])
    tags = read(path).tags
    assert tags["formula"].tolist() == ["NaN", "NaCl"]
    assert tags["code"].tolist() == ["007", "1"]
    assert tags["flag"].tolist() == [True, False]
    assert np.isnan(tags["gap"][0])
    assert tags["gap"][1] == 1e-3
    assert tags["n"][0] == 3
    assert np.isnan(tags["n"][1])
    assert tags["mixed"].tolist() == ["4", "x"]
    assert read(path, text_columns=["gap"]).tags["gap"].tolist() == ["", "1e-3"]


def test_energies_are_labels_only_when_it_is_stated(tmp_path):
    path = write_csv(
        tmp_path / "s.csv", [{"cif": salt(), "e": -3.5, "x": "low"}, {"cif": salt(), "e": "", "x": ""}]
    )
    assert read(path).label_counts()["energy"] == 0
    store = read(path, energy_column="e", energy_per_atom=True)
    assert store.energy[0] == -28.0
    assert np.isnan(store.energy[1])
    assert "e" not in store.tags
    assert read(path, energy_column="e", energy_per_atom=False).energy[0] == -3.5
    assert store.info["labels"]["energy"]["key"] == "e"
    assert store.info["labels"]["energy"]["found"] == 1
    for options in (
        {"energy_column": "e"},
        {"energy_column": "x", "energy_per_atom": True},
        {"energy_column": "E", "energy_per_atom": True},
        {"energy_column": "e", "energy_per_atom": False, "primitive": True},
        {"energy_col": "e"},
    ):
        with pytest.raises(AtommlError):
            read(path, **options)


def test_large_cells_are_left_out_and_counted(tmp_path):
    path = write_csv(tmp_path / "s.csv", [{"cif": salt()}, {"cif": str(CifWriter(skewed()))}])
    store = read(path, max_atoms=5)
    assert list(store.ids) == ["1"]
    assert store.info["skipped"]["more than max_atoms = 5 atoms"]["frames"] == 1


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"a,b\n1,2\n", "no column 'cif'"),
        (b"cif,cif\n1,2\n", "Two columns"),
        (b"cif\n", "no rows"),
        (b'cif,b\n"data_\n', "not closed"),
        (b"cif,b\n1,2,3\n", "not regular CSV"),
        (b"cif,b\n\xff\xfe,2\n", "not regular CSV"),
        (b'cif,b\nx"y,2\nx"y,2\n', "irregular"),
        (b"\xff\xfe\n", "not CSV"),
    ],
)
def test_broken_csv_is_refused(tmp_path, data, match):
    path = tmp_path / "s.csv"
    path.write_bytes(data)
    with pytest.raises(DataError, match=match):
        read(path)


def test_folders_and_single_files_are_read_in_the_order_of_their_names(tmp_path):
    for name in ("b", "a", "sub/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.cif").write_text(salt())
    (tmp_path / "readme.txt").write_text("no crystal")
    store = read_frames(tmp_path, CIF_READER)
    assert list(store.ids) == ["a", "b", "c"]
    assert store.info["not_read"]["files that are not CIF"] == 1
    assert list(read_frames(tmp_path / "b.cif", CIF_READER).ids) == ["b"]
    assert CIF_READER.recognises(tmp_path)
    assert CIF_READER.recognises(tmp_path / "b.cif")
    assert not CIF_READER.recognises(tmp_path / "readme.txt")


def write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def test_a_table_in_the_archive_gives_names_tags_and_energies(tmp_path):
    table = "jid,cif_filename,e,tags\nJ-1,x.cif,-1.0,\"['a', 'b']\"\n"
    path = write_zip(tmp_path / "c.zip", [("x.cif", salt()), ("y.cif", salt()), ("metadata.csv", table)])
    store = read_frames(path, CIF_READER, energy_column="e", energy_per_atom=False)
    assert list(store.ids) == ["J-1", "y"]
    assert store.energy[0] == -1.0
    assert np.isnan(store.energy[1])
    assert store.info["not_read"] == {"tags": 1, "CIF files without a row in metadata.csv": 1}


@pytest.mark.parametrize(
    ("members", "match"),
    [
        ([("../x.cif", salt())], "outside"),
        ([("/x.cif", salt())], "outside"),
        ([("x.cif", "#" * (17 << 20))], "more than"),
        ([("x.txt", "no crystal")], "no .cif"),
        ([("x.cif", salt()), ("metadata.csv", "a,b\n1,2\n")], "names the CIF files"),
        ([("x.cif", salt()), ("metadata.csv", "id,b\nx,2\nx,3\n")], "different things of x"),
    ],
)
def test_dangerous_and_contradictory_archives_are_refused(tmp_path, members, match):
    path = write_zip(tmp_path / "c.zip", members)
    with pytest.raises(DataError, match=match):
        read_frames(path, CIF_READER)


def test_damaged_archives_are_refused(tmp_path):
    path = write_zip(tmp_path / "c.zip", [("x.cif", salt())])
    whole = path.read_bytes()
    for data in (whole[:-30], whole[:60] + b"\0" * 40 + whole[100:], b"PK\x03\x04" + b"\0" * 100):
        path.write_bytes(data)
        with pytest.raises(DataError):
            read_frames(path, CIF_READER)
