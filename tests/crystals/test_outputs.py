"""Files of generated crystals: whole after a kill, equal in every format, readable by others."""

import json

import ase.io
import matplotlib.image
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure
from pymatgen.io.ase import AseAtomsAdaptor

from atomml.crystals.outputs import (
    Journal,
    contact_sheet,
    iterate_generated,
    read_generated,
    read_records,
    write_cif,
    write_cifs,
    write_sheet,
)
from atomml.crystals.outputs.describe import content_of, crystal_of, description_of, flaw_of, pretty_formula
from atomml.crystals.outputs.journal import discard, rows_done
from atomml.errors import ConfigError, DataError

SETTINGS = {"seed": 0, "nested": {"steps": 10}}


def crystals(n=3):
    """Rocksalt cells of different sizes, with rows."""
    found = []
    for k in range(n):
        atoms = bulk("NaCl", "rocksalt", 5.0 + 0.1 * k)
        row = {"index": k, **description_of(atoms), "valid": True, "reason": None}
        atoms.info = {"index": k, "formula": row["formula"]}
        found.append((row, atoms))
    return found


def journal(folder, *, resume=False, overwrite=False, settings=SETTINGS):
    return Journal(folder, "structures", settings, resume=resume, overwrite=overwrite)


def fill(log, pairs):
    for row, atoms in pairs:
        log.append([row], [atoms])


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def test_what_was_appended_is_read_in_order(tmp_path):
    log = journal(tmp_path / "new" / "folder")
    fill(log, crystals())
    log.append([{"index": 3, "valid": False, "reason": "not finite"}], [])
    atoms, rows = read_generated(tmp_path / "new" / "folder")
    assert [row["index"] for row in rows] == [0, 1, 2]
    assert [row["reason"] for row in read_records(tmp_path / "new" / "folder")][3] == "not finite"
    for (_, before), after in zip(crystals(), atoms, strict=True):
        assert after.info["spacegroup"] == "Fm-3m"
        np.testing.assert_allclose(after.positions, before.positions, atol=1e-8)


@pytest.mark.parametrize("torn", ['{"index": 2, "val', "\n\n", "x" * 5000])
def test_a_torn_end_is_cut_off_when_the_work_goes_on(tmp_path, torn):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    fill(journal(whole), crystals())
    fill(journal(killed), crystals()[:2])
    for name in ("structures.jsonl", "structures.extxyz"):
        with (killed / name).open("a") as file:
            file.write(torn)
    assert rows_done(killed, "structures") == 2
    log = journal(killed, resume=True)
    assert log.done == 2
    fill(log, crystals()[2:])
    assert contents(killed) == contents(whole)


def test_results_are_not_replaced_by_accident(tmp_path):
    fill(journal(tmp_path), crystals(1))
    with pytest.raises(ConfigError, match=r"already has results(.|\n)*--resume"):
        journal(tmp_path)
    assert journal(tmp_path, resume=True).done == 1
    assert journal(tmp_path, overwrite=True).done == 0
    assert read_records(tmp_path) == []


def test_a_run_that_failed_before_its_first_result_may_be_started_differently(tmp_path):
    journal(tmp_path)
    assert journal(tmp_path, settings={"seed": 1}).done == 0
    assert journal(tmp_path, settings={"seed": 2}, resume=True).done == 0


def test_other_settings_are_named(tmp_path):
    fill(journal(tmp_path), crystals(1))
    with pytest.raises(ConfigError, match=r"nested.steps was 10, now 20; extra was None, now 1"):
        journal(tmp_path, resume=True, settings={"seed": 0, "nested": {"steps": 20}, "extra": 1})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("structures.state.json", "{", "how far these results go"),
        ("structures.state.json", '{"done": 1}', "how far these results go"),
        ("structures.extxyz", "2", "bytes"),
    ],
)
def test_damaged_files_are_refused(tmp_path, name, text, message):
    fill(journal(tmp_path), crystals(1))
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        journal(tmp_path, resume=True)
    assert journal(tmp_path, overwrite=True).done == 0


def test_another_version_is_refused(tmp_path):
    fill(journal(tmp_path), crystals(1))
    state = tmp_path / "structures.state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"version": 99}))
    with pytest.raises(DataError, match="version 99"):
        rows_done(tmp_path, "structures")


def test_a_file_where_the_folder_should_be_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Cannot write"):
        journal(tmp_path / "file")


def test_discarding_is_complete(tmp_path):
    fill(journal(tmp_path), crystals(1))
    discard(tmp_path, "structures")
    assert contents(tmp_path) == {}
    assert rows_done(tmp_path, "structures") == 0


def test_a_folder_without_results_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no generated crystals"):
        read_generated(tmp_path)


@pytest.mark.parametrize("change", ["structures.extxyz", "structures.jsonl"])
def test_files_that_do_not_belong_together_are_refused(tmp_path, change):
    fill(journal(tmp_path), crystals())
    lines = (tmp_path / change).read_text().splitlines(keepends=True)
    (tmp_path / change).write_text("".join(lines[4:] if change.endswith("xyz") else lines[:-1]))
    with pytest.raises(DataError, match="do not belong together"):
        list(iterate_generated(tmp_path))


def test_a_line_that_is_not_json_is_named(tmp_path):
    fill(journal(tmp_path), crystals(2))
    with (tmp_path / "structures.jsonl").open("a") as file:
        file.write("{oops")
    with pytest.raises(DataError, match="line 3"):
        read_records(tmp_path)


@pytest.mark.parametrize("formula", ["NaN", "InF", "F2", "TiO2", "LiMn3O4"])
def test_no_formula_is_taken_for_a_number(tmp_path, formula):
    atoms = Atoms(
        formula, positions=np.arange(len(Atoms(formula)) * 3).reshape(-1, 3), cell=[30] * 3, pbc=True
    )
    atoms.info["formula"] = content_of(atoms)
    ase.io.write(tmp_path / "a.extxyz", atoms)
    found = ase.io.read(tmp_path / "a.extxyz").info["formula"]
    assert isinstance(found, str)
    assert Atoms(found.replace(" ", "")).symbols.formula.count() == atoms.symbols.formula.count()


def test_formulas_for_the_eye_have_small_numbers():
    assert pretty_formula(Atoms("LiMn3O4")) == "LiMn₃O₄"


@pytest.mark.parametrize(("unit", "z"), [(0, 4), (2, 4), (4, 2)])
def test_rows_say_what_a_crystal_is(unit, z):
    row = description_of(bulk("NaCl", "rocksalt", 5.64, cubic=True), unit=unit)
    assert row["formula"] == "Na4 Cl4"
    assert (row["z"], row["n_atoms"]) == (z, 8)
    assert (row["spacegroup"], row["spacegroup_number"]) == ("Fm-3m", 225)
    assert row["density"] == pytest.approx(2.163, abs=0.005)  # halite, CRC Handbook
    assert row["volume_per_atom"] == pytest.approx(5.64**3 / 8)


@pytest.mark.parametrize(
    ("lattice", "fractional", "flaw"),
    [
        (np.eye(3) * 3, 0.5, None),
        (np.eye(3) * 3, np.nan, "not finite"),
        (np.diag([3.0, np.inf, 3.0]), 0.5, "not finite"),
        (np.zeros((3, 3)), 0.5, "degenerate lattice"),
        (np.ones((3, 3)), 0.5, "degenerate lattice"),
        (np.diag([0.4, 0.4, 0.4]), 0.5, "degenerate lattice"),
        (np.diag([0.05, 10, 10]), 0.5, "degenerate lattice"),
        (np.diag([-3.0, 3, 3]), 0.5, None),
    ],
)
def test_what_is_no_crystal_is_said(lattice, fractional, flaw):
    assert flaw_of(np.full((1, 3), fractional), lattice.astype(float)) == flaw


def test_cells_are_turned_to_the_usual_orientation_and_atoms_stay(rng):
    lattice, fractional = 3 * np.eye(3) + rng.normal(size=(3, 3)), rng.random((4, 3))
    for given in (lattice, -lattice, lattice[:, [1, 0, 2]]):
        atoms = crystal_of(np.array([3, 3, 8, 8]), fractional, given)
        assert np.linalg.det(atoms.cell) > 0
        np.testing.assert_allclose(atoms.cell[0, 1:], 0, atol=1e-12)
        np.testing.assert_allclose(atoms.cell.array @ atoms.cell.array.T, given @ given.T, rtol=1e-9)
        np.testing.assert_allclose(atoms.get_scaled_positions(), fractional, atol=1e-12)
    np.testing.assert_array_equal(
        crystal_of(np.array([3]), fractional[:1], lattice, keep_lattice=True).cell, lattice
    )


def perturbed(rng):
    atoms = bulk("NaCl", "rocksalt", 5.64)
    atoms.rattle(0.01, rng=np.random.RandomState(0))
    return atoms


def test_a_cif_has_the_same_atoms_in_the_same_order(tmp_path, rng):
    atoms = perturbed(rng)
    assert write_cif(atoms, tmp_path / "a.cif")
    text = (tmp_path / "a.cif").read_text()
    assert "'P 1'" in text
    found = Structure.from_file(tmp_path / "a.cif")
    assert [site.specie.Z for site in found] == atoms.numbers.tolist()
    np.testing.assert_allclose(found.frac_coords % 1, atoms.get_scaled_positions() % 1, atol=1e-7)
    np.testing.assert_allclose(found.lattice.parameters, atoms.cell.cellpar(), atol=1e-6)
    assert ase.io.read(tmp_path / "a.cif").numbers.tolist() == atoms.numbers.tolist()


def test_a_symmetrised_cif_names_its_space_group(tmp_path, rng):
    atoms = perturbed(rng)
    assert write_cif(atoms, tmp_path / "a.cif", symprec=0.1)
    text = (tmp_path / "a.cif").read_text()
    assert "Fm-3m" in text
    assert "_symmetry_Int_Tables_number   225" in text
    found = Structure.from_file(tmp_path / "a.cif")
    assert found.get_space_group_info(0.001)[1] == 225
    assert StructureMatcher().fit(found, AseAtomsAdaptor.get_structure(atoms))


def test_where_no_symmetry_is_found_a_cif_is_p1_and_counted(tmp_path, monkeypatch):
    from pymatgen.symmetry import analyzer

    def fail(*_, **__):
        raise analyzer.SymmetryUndeterminedError("none")

    monkeypatch.setattr("pymatgen.io.cif.SpacegroupAnalyzer", fail)
    pairs = [(atoms, row) for row, atoms in crystals()]
    assert write_cifs(pairs, tmp_path, symprec=0.1) == 3
    assert "'P 1'" in (tmp_path / "000000.cif").read_text()


def test_old_cifs_disappear_and_other_files_stay(tmp_path):
    pairs = [(atoms, row) for row, atoms in crystals()]
    (tmp_path / "mine.cif").write_text("")
    assert write_cifs(pairs, tmp_path) == 0
    write_cifs(pairs[:1], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000.cif", "mine.cif"]


def test_a_sheet_shows_at_most_sixteen(tmp_path):
    figure = contact_sheet([atoms for _, atoms in crystals(20)])
    assert len(figure.axes) == 16
    assert "NaCl" in figure.axes[0].get_title()
    write_sheet((atoms for _, atoms in crystals(2)), tmp_path / "sheet.png")
    picture = matplotlib.image.imread(tmp_path / "sheet.png")
    assert np.unique(picture.reshape(-1, 4), axis=0).shape[0] > 50
    write_sheet([], tmp_path / "empty.png")
    assert matplotlib.image.imread(tmp_path / "empty.png").std() > 0
