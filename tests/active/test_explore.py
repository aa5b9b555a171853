"""Exploration: what each way gives, that it is repeatable, and that one bad structure is not fatal."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.io import write

from atomml.active.explore.config import (
    CrystalsExplorer,
    FilesExplorer,
    MDExplorer,
    RattleExplorer,
    RelaxExplorer,
    StrainExplorer,
)
from atomml.active.explore.plan import Exploration, plan_units
from atomml.active.history import ModelFile
from atomml.simulate.md_config import Limits
from atomml.simulate.sampling.units import Workers
from atomml.training.deviations import calibrated
from atomml.uncertainty.model_file import save_model
from tests.training.uncertain import ensemble, scattered, structures


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    save_model(calibrated(ensemble(2), scattered(ensemble(2), structures(24)), method="affine"), path)
    return ModelFile(path, "one")


def given(tmp_path, model=None, atoms=None, **changes):
    copper = bulk("Cu", cubic=True, a=3.8) if atoms is None else atoms
    start = {
        "round": 1,
        "seed": 3,
        "folder": tmp_path / "units",
        "model": model,
        "structures": [("Cu", copper)],
    }
    return Exploration(**(start | {"labelled": [], "stop_above": None} | changes))


def explored(explorer, exploration):
    """Frames and records of all units."""
    plan = plan_units([explorer], exploration)
    with Workers(1) as workers:
        list(workers.run(plan.units))
    assert all(unit.done() for unit in plan.units)
    found = [unit.compute() for unit in plan.units]
    return [store[k] for store in found for k in range(len(store))], [s.info["record"] for s in found], plan


def test_rattled_structures_have_the_displacements_that_were_asked_for(tmp_path):
    frames, _, _ = explored(RattleExplorer(n=40, displacement=(0.05, 0.05)), given(tmp_path))
    moved = np.array([a.get_scaled_positions(wrap=False) @ a.cell.array for a in frames])
    moved -= bulk("Cu", cubic=True, a=3.8).positions
    moved -= 3.8 * np.round(moved / 3.8)
    assert len(frames) == 40
    assert moved.std() == pytest.approx(0.05, rel=0.1)


def test_strained_cells_cover_the_range(tmp_path):
    explorer = StrainExplorer(n=5, isotropic=(-0.1, 0.1), shear=0.0, displacement=0.0)
    frames, _, _ = explored(explorer, given(tmp_path))
    strains = [a.cell.lengths()[0] / 3.8 - 1 for a in frames]
    assert min(strains) < -0.06 < 0.06 < max(strains)
    assert strains == pytest.approx([a.info["strain"] for a in frames])


def test_a_molecule_is_displaced_and_not_strained(tmp_path):
    molecule = bulk("Cu", cubic=True, a=3.8)
    molecule.pbc, molecule.cell = False, None
    frames, records, _ = explored(StrainExplorer(n=3), given(tmp_path, atoms=molecule))
    assert len(frames) == 3
    assert records[0]["status"] == "done"
    assert not frames[0].cell.any()


def test_dynamics_runs_at_every_temperature_strain_and_pressure(tmp_path, model):
    explorer = MDExplorer(
        temperatures=[300, 600], strains=[0.0, 0.02], pressures=[0.0], steps=4, record_every=2, replicas=2
    )
    frames, records, plan = explored(explorer, given(tmp_path, model))
    assert len(plan.units) == 8
    assert len({unit.folder for unit in plan.units}) == 8
    assert {a.info["T"] for a in frames} == {300.0, 600.0}
    assert {a.info["step"] for a in frames} == {0, 2, 4}
    assert [r["status"] for r in records] == ["done"] * 8
    assert len({a.get_volume().round(6) for a in frames}) > 2


def test_dynamics_ends_where_the_model_is_too_uncertain(tmp_path, model):
    explorer = MDExplorer(temperatures=[900], steps=20, record_every=5)
    frames, records, _ = explored(explorer, given(tmp_path, model, stop_above=1e-6))
    assert records[0]["status"] == "stopped"
    assert 1 <= len(frames) <= 2  # in the perfect crystal all deviations vanish by symmetry


def test_exploded_dynamics_keeps_what_was_recorded_before(tmp_path, model):
    limits = Limits(max_temperature=1.0)
    frames, records, _ = explored(
        MDExplorer(temperatures=[900], steps=20, record_every=5, limits=limits), given(tmp_path, model)
    )
    assert records[0]["status"] == "exploded"
    assert "temperature" in records[0]["reason"]
    assert len(frames) <= 1


def test_a_killed_run_of_dynamics_goes_on_from_its_state(tmp_path, model, monkeypatch):
    import atomml.simulate.md as md

    explorer = MDExplorer(temperatures=[600], steps=8, record_every=2)
    (whole, *_), _, _ = explored(explorer, given(tmp_path / "a", model))
    whole_frames, _, _ = explored(explorer, given(tmp_path / "a", model))
    unit = plan_units([explorer], given(tmp_path / "b", model)).units[0]
    original, steps = md._log, []

    def killed(run):
        steps.append(run.step)
        if run.step == 6:
            raise KeyboardInterrupt
        original(run)

    with monkeypatch.context() as patch:
        patch.setattr(md, "_log", killed)
        patch.setattr(md, "_state_interval", lambda config: 2)
        with pytest.raises(KeyboardInterrupt):
            unit.compute()
    store = unit.compute()
    assert len(store) == len(whole_frames) == 5
    for k, atoms in enumerate(whole_frames):
        assert np.array_equal(store[k].positions, atoms.positions)
    assert whole.info["step"] == 0


def test_relaxations_give_the_frames_on_the_way(tmp_path, model):
    frames, records, _ = explored(
        RelaxExplorer(steps=6, fmax=1e-9, record_every=2, cell=False), given(tmp_path, model)
    )
    assert records[0]["status"] in ("done", "exploded")
    assert len(frames) == 4
    assert [a.info["step"] for a in frames] == [0, 2, 4, 6]


@pytest.mark.slow
def test_generated_crystals_are_candidates(tmp_path):
    explorer = CrystalsExplorer(formulas=["LiCl"], n=2, steps=3, z=3)
    frames, _, plan = explored(explorer, given(tmp_path))
    assert len(plan.units) == 1
    assert 1 <= len(frames) <= 2
    assert {a.info["formula"] for a in frames} == {a.get_chemical_formula() for a in frames} == {"Cl3Li3"}


def test_a_pool_of_files_is_drawn_from(tmp_path):
    write(tmp_path / "pool.extxyz", structures(9))
    explorer = FilesExplorer(files=[str(tmp_path / "pool.extxyz")], n=4)
    one, _, _ = explored(explorer, given(tmp_path))
    two, _, _ = explored(explorer, given(tmp_path, round=2))
    assert len(one) == len(two) == 4
    assert {a.info["row"] for a in one} != {a.info["row"] for a in two}
    assert all(a.calc is None for a in one)


def test_structures_with_unknown_elements_are_left_out_and_named(tmp_path, model):
    plan = plan_units([MDExplorer()], given(tmp_path, model, atoms=bulk("Fe")))
    assert plan.units == []
    assert plan.left_out == [("Cu", "the model does not know Fe")]


def test_without_a_model_only_what_needs_none_is_explored(tmp_path):
    plan = plan_units([MDExplorer(), RattleExplorer(n=1)], given(tmp_path))
    assert [unit.name for unit in plan.units] == ["01_rattle2_Cu"]
    assert plan.left_out == [("md 1", "there is no model yet")]


def test_labelled_frames_are_drawn_anew_in_each_round(tmp_path):
    labelled = [(str(k), atoms) for k, atoms in enumerate(structures(20))]
    explorer = RattleExplorer(begin="labelled", starts=5, n=1)
    names = [
        {
            u.name.split("_")[-1]
            for u in plan_units([explorer], given(tmp_path, labelled=labelled, round=r)).units
        }
        for r in (1, 1, 2)
    ]
    assert names[0] == names[1] != names[2]
    assert len(names[0]) == 5


def test_units_do_not_depend_on_each_other_or_on_the_number_of_processes(tmp_path):
    explorers = [RattleExplorer(n=2), StrainExplorer(n=2)]
    both = plan_units(explorers, given(tmp_path)).units
    alone = plan_units(explorers[:1], given(tmp_path)).units
    assert both[0].folder == alone[0].folder
    assert both[0].compute().fingerprint() == alone[0].compute().fingerprint()
    assert Path(both[0].folder).name != Path(both[1].folder).name
    shutil.rmtree(tmp_path / "units", ignore_errors=True)
