from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from atomml.errors import UnsupportedError
from atomml.simulate import checks_curves as curves
from atomml.simulate import checks_physics as physics
from atomml.simulate import run_checks
from atomml.simulate.check_report import CheckReport, CheckRow, limited
from atomml.simulate.check_structures import (
    cluster_of,
    default_structures,
    perturbed,
    supercell,
    uncovered,
)
from atomml.simulate.checks import in_precision


@pytest.fixture(scope="module")
def copper():
    return bulk("Cu", "fcc", a=3.8, cubic=True)


def failed_names(report):
    return {row.name for row in report.failed}


def test_correct_potential_passes_every_check(potential, copper, tmp_path):
    report = run_checks(potential, [copper], tmp_path, quick=True)
    assert report.passed, [(r.name, r.value, r.comment) for r in report.failed]
    names = {row.name for row in report.rows}
    assert {"forces = −dE/dr", "stress = dE/dε / V", "rotation (float64)", "reflection (float32)"} <= names
    assert {"permutation", "E(2×2×2) = 8 E", "NVE drift (float32)", "NVE fluctuation ∝ dt²"} <= names
    assert {p.name for p in tmp_path.iterdir()} == {"check.md", "check.json", "check.png", "check_curves.csv"}
    stored = json.loads((tmp_path / "check.json").read_text())
    assert stored["passed"] is True
    assert len(stored["rows"]) == len(report.rows)


@pytest.mark.parametrize(
    ("flaw", "check", "name"),
    [
        ("sign", physics.check_forces, "forces = −dE/dr"),
        ("sign", physics.check_stress, "stress = dE/dε / V"),
        ("direct", physics.check_forces, "forces = −dE/dr"),
        ("extensive", physics.check_extensivity, "E(2×2×2) = 8 E"),
        ("extensive", physics.check_fragments, "separate pieces add up"),
    ],
)
def test_broken_potential_fails_the_check_made_for_it(potential, make_potential, copper, flaw, check, name):
    moved = [perturbed(copper, seed=1)]
    good, bad = check(potential, moved), check(make_potential(flaw=flaw), moved)
    assert good.name == bad.name == name
    assert good.passed is True
    assert bad.passed is False
    assert bad.value > 1000 * good.value


def test_forces_that_depend_on_the_frame_fail_rotation_and_reflection(make_potential, copper):
    bad, moved = make_potential(flaw="rotation"), [perturbed(copper, seed=1)]
    assert physics.check_rotation(bad, moved, 1e-9, "float64").passed is False
    assert physics.check_reflection(bad, moved, 1e-9, "float64").passed is False


def test_jump_at_the_cutoff_is_found(potential, make_potential):
    assert all(row.passed for row in curves.check_cutoff(potential))
    energy, force, _ = curves.check_cutoff(make_potential(flaw="cutoff"))
    assert energy.passed is False
    assert force.passed is False
    pair = potential.depth.item() * ((1 - math.exp(-1.5 * 3.2)) ** 2 - 1)
    assert energy.value == pytest.approx(abs(pair), rel=1e-2)


def test_model_with_direct_forces_is_called_not_conservative(make_potential, copper):
    report = run_checks(make_potential(flaw="direct"), [copper], quick=True)
    rows = {row.name: row for row in report.rows}
    assert rows["conservative"].passed is False
    assert rows["stress = dE/dε / V"].passed is None
    for name in ("forces = −dE/dr", "NVE drift (float64)"):
        assert rows[name].passed is False
        assert "not conservative" in rows[name].comment


def test_nan_becomes_failed_rows_and_not_an_exception(make_potential, copper):
    report = run_checks(make_potential(flaw="nan"), [copper], quick=True)
    assert {"energies sum to energy", "forces = −dE/dr", "NVE drift"} <= failed_names(report)


def test_equation_of_state_finds_the_minimum(potential, copper):
    (row,), (curve,) = curves.check_equation_of_state(potential, copper, must_pass=True)
    assert row.passed
    lowest = curve.x[np.argmin(curve.y)]
    assert f"V0 {lowest:.0f}"[:5] in row.comment or row.value > 0
    assert 1 < row.value < 500


def test_missing_minimum_fails_only_for_the_users_structure(potential):
    stretched = bulk("Cu", "fcc", a=5.5)
    for must_pass, expected in ((True, False), (False, None)):
        (row,), _ = curves.check_equation_of_state(potential, stretched, must_pass=must_pass)
        assert row.passed is expected


def test_dimers_and_isolated_atoms(potential):
    (row,), lines = curves.check_dimers(potential)
    assert row.value == 0
    assert len(lines) == 6
    assert lines[0].x[0] == 0.5
    assert curves.check_isolated_atoms(potential).value == pytest.approx(0, abs=1e-12)


def test_molecules_leave_out_what_needs_a_volume(make_potential):
    report = run_checks(make_potential(elements=(1, 8)), [molecule("H2O")], quick=True)
    rows = {row.name: row for row in report.rows}
    assert rows["E(2×2×2) = 8 E"].passed is None
    assert "not applicable" in rows["stress = dE/dε / V"].comment


def test_unknown_element_in_a_structure_is_refused(potential):
    with pytest.raises(UnsupportedError, match="Au"):
        run_checks(potential, [bulk("Au")])


@pytest.mark.parametrize(
    ("elements", "formulas"),
    [
        ([3, 9, 17], {"Cl4Li4", "F4Li4"}),
        ([1, 6, 8], {"C2H6O"}),
        ([29], {"Cu4"}),
        ([12, 8], {"Mg4O4"}),
        ([30], {"Zn4"}),
        ([50, 16], {"S4Sn4"}),
    ],
)
def test_default_structures_suit_the_elements(elements, formulas):
    made = default_structures(elements)
    assert {a.get_chemical_formula() for a in made} == formulas
    assert uncovered(made, elements) == []


def test_supercell_grows_the_shortest_axis():
    cell = supercell(bulk("Cu", cubic=True) * (2, 1, 1), 16)
    assert len(cell) == 16
    assert np.argmax(cell.cell.lengths()) != 2 or len(set(cell.cell.lengths().round(3))) == 2
    assert len(supercell(molecule("H2O"), 16)) == 3


def test_cluster_has_no_cell(copper):
    piece = cluster_of(copper, 5)
    assert len(piece) == 5
    assert piece.cell.rank == 0
    assert not piece.pbc.any()


def test_precision_copy_leaves_the_potential_as_it_was(potential):
    single = in_precision(potential, torch.float32)
    assert single.dtype == torch.float32
    assert potential.dtype == torch.float64
    assert in_precision(potential, torch.float64) is potential


def test_nan_never_passes_a_limit():
    assert limited("x", float("nan"), 1.0, "eV").passed is False
    assert limited("x", 1.0, 1.0, "eV").passed is True


def test_report_counts_failures_and_marks_them():
    report = CheckReport((CheckRow("a", 1.0, None, "", None), limited("b|c", 2.0, 1.0, "eV", "x|y")))
    assert not report.passed
    assert "**FAIL**" in report.markdown()
    assert "x\\|y" in report.markdown()
