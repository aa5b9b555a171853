"""Relaxations that are killed or meet a full disk or another process: nothing finished is lost or done twice."""

from __future__ import annotations

import os
import resource
import signal

import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixedPlane
from ase.io import read, write
from typer.testing import CliRunner

from atomml.cli.main import app
from atomml.errors import ConfigError, DataError
from atomml.simulate import relax
from atomml.simulate.batched import relax_batched
from atomml.simulate.relax_files import RelaxJournal, write_finished, write_relaxed
from tests.simulate.conftest import MorsePotential
from tests.simulate.test_uncertainty import uncertain
from tests.training.helpers import KILLED, in_child

LOADED = "atomml.simulate.commands.load_model"
OUTPUTS = ("relaxed.extxyz", "relaxed.csv", "relaxed.json")
SETTINGS = {"fmax": 0.01, "model": "a"}


@pytest.fixture
def crystals():
    """Six, of which the third and the last cannot be relaxed; the second must be relaxed alone."""
    found = [bulk("Cu", "fcc", a=a) * (2, 1, 1) for a in (3.7, 3.75, 3.8, 3.85, 3.9)]
    for k, atoms in enumerate(found):
        atoms.rattle(0.05, seed=k)
    found[1].set_constraint(FixedPlane(0, (0, 0, 1)))
    found[2] = bulk("Au")
    return [*found, Atoms("Cu2", [[0, 0, 0], [0, 0, 0.05]])]


@pytest.fixture
def folder(crystals, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(LOADED, lambda *args, **options: MorsePotential())
    for k, atoms in enumerate(crystals):
        atoms.info["name"] = f"crystal {k}"
    write("crystals.extxyz", crystals)
    return tmp_path


def command(*options, out="relaxed.extxyz"):
    """`atomml relax`, as it is typed; two of the six fail."""
    words = ["relax", "model", "crystals.extxyz", "--steps", "2", "--out", str(out), *map(str, options)]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 1
    return result.output


def deadly(after):
    """A journal that is killed instead of its next record once it has so many structures."""
    original = RelaxJournal.append

    def append(journal, result):
        if len(journal.done) == after:
            os.kill(os.getpid(), signal.SIGKILL)
        original(journal, result)

    return append


@pytest.mark.parametrize("way", ["--batched", "--one-by-one"])
def test_killed_again_and_again_it_relaxes_each_structure_once(folder, monkeypatch, way):
    command(way, out="whole/relaxed.extxyz")

    def die(after):
        monkeypatch.setattr(RelaxJournal, "append", deadly(after))
        command(way, "--resume")

    for after in (0, 2, 3):
        assert in_child(die, after) == KILLED
        assert not any((folder / name).exists() for name in OUTPUTS)
        with (folder / "relaxed.extxyz.journal").open("ab") as file:
            file.write(b"0123456789abcdef {torn")
    relaxed = []
    original = RelaxJournal.append
    monkeypatch.setattr(RelaxJournal, "append", lambda j, r: (relaxed.append(r.index), original(j, r))[1])
    assert "3 of 6 structures were relaxed before" in command(way, "--resume")
    assert len(relaxed) == 3
    frames, whole = (read(folder / name, ":") for name in ("relaxed.extxyz", "whole/relaxed.extxyz"))
    assert [atoms.info["relax_index"] for atoms in frames] == [*range(6)]
    for atoms, expected in zip(frames, whole, strict=True):
        assert atoms.positions == pytest.approx(expected.positions, abs=1e-6)
        assert (atoms.info["name"], atoms.info["converged"]) == (
            expected.info["name"],
            expected.info["converged"],
        )
    if way == "--one-by-one":
        for name in OUTPUTS:
            assert (folder / name).read_bytes() == (folder / "whole" / name).read_bytes()


def test_a_finished_relaxation_is_written_again_by_resume_and_replaced_without(folder, monkeypatch):
    command()
    before = (folder / "relaxed.extxyz").read_bytes()
    (folder / "relaxed.csv").unlink()
    monkeypatch.setattr("atomml.simulate.commands.relax_batched", None)
    assert "6 of 6 structures were relaxed before" in command("--resume")
    assert (folder / "relaxed.extxyz").read_bytes() == before
    assert (folder / "relaxed.csv").exists()
    assert "relaxed before" not in command("--one-by-one", "--steps", 1)
    assert (folder / "relaxed.extxyz").read_bytes() != before


def test_unfinished_work_is_neither_lost_nor_mixed_up(potential, crystals, tmp_path):
    path, (result,) = tmp_path / "new" / "journal", relax(crystals[0], potential, steps=1)
    with RelaxJournal(path, SETTINGS, resume=False) as journal:
        journal.append(result)
    with pytest.raises(ConfigError, match="unfinished relaxation: 1 structures") as caught:
        RelaxJournal(path, SETTINGS, resume=False)
    assert "--resume" in caught.value.fix
    with pytest.raises(
        ConfigError, match=r"another one \(fmax: was 0.01, now 0.02; model: was 'a', now 'b'\)"
    ):
        RelaxJournal(path, {"fmax": 0.02, "model": "b"}, resume=True)
    with RelaxJournal(path, SETTINGS, resume=True) as journal:
        assert journal.done[0].row == result.row()
    with RelaxJournal(path, {"fmax": 0.02}, resume=False, overwrite=True) as journal:
        assert not journal.done
    path.write_bytes(b"x" * 10 + path.read_bytes())
    with RelaxJournal(path, SETTINGS, resume=True) as journal:  # damaged, and nothing was finished
        journal.append(result)
    path.write_bytes(b"x" * 10 + path.read_bytes())
    with pytest.raises(DataError, match="first line"):
        RelaxJournal(path, SETTINGS, resume=True)


def test_the_model_and_the_structures_are_part_of_the_settings(folder, crystals, monkeypatch):
    def die():
        monkeypatch.setattr(RelaxJournal, "append", deadly(2))
        command("--resume")

    assert in_child(die) == KILLED
    other = MorsePotential()
    with torch.no_grad():
        other.depth += 1e-9
    monkeypatch.setattr(LOADED, lambda *args, **options: other)
    with pytest.raises(ConfigError, match="model: was"):
        command("--resume")
    monkeypatch.setattr(LOADED, lambda *args, **options: MorsePotential())
    write("crystals.extxyz", crystals[::-1])
    with pytest.raises(ConfigError, match="structures: was"):
        command("--resume")


def test_a_second_process_is_locked_out(potential, tmp_path):
    with (
        RelaxJournal(tmp_path / "journal", SETTINGS, resume=False),
        pytest.raises(ConfigError, match="Another process"),
    ):
        RelaxJournal(tmp_path / "journal", SETTINGS, resume=True)
    RelaxJournal(tmp_path / "journal", SETTINGS, resume=True).close()


@pytest.mark.parametrize("size", [50, 2500])
def test_a_full_disk_is_an_error_and_the_rest_is_relaxed_later(folder, size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        with pytest.raises(DataError, match="Cannot write what is finished") as caught:
            command("--one-by-one")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "--resume" in caught.value.fix
    assert caught.value.where == "relaxed.extxyz.journal"
    assert not (folder / "relaxed.extxyz").exists()
    command("--one-by-one", "--resume")
    command("--one-by-one", out="whole/relaxed.extxyz")
    for name in OUTPUTS:
        assert (folder / name).read_bytes() == (folder / "whole" / name).read_bytes()


def test_a_disk_too_full_for_the_results_keeps_the_journal(folder, monkeypatch):
    def no_space(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("atomml.files.os.replace", no_space)
        with pytest.raises(DataError, match="No space left"):
            command()
    with pytest.raises(ConfigError, match="unfinished relaxation: 6 structures"):
        command()
    monkeypatch.setattr("atomml.simulate.commands.relax_batched", None)
    command("--resume")
    assert len(read(folder / "relaxed.extxyz", ":")) == 6


def test_results_come_as_they_are_there(potential, crystals):
    came = []
    results = relax_batched(crystals, potential, steps=1, on_result=came.append)
    assert [r.index for r in came[:2]] == [1, 2]  # alone, then refused
    assert sorted(r.index for r in came) == [r.index for r in results] == [*range(6)]
    assert {id(r) for r in came} == {id(r) for r in results}
    came.clear()
    assert relax(crystals[:2], potential, steps=1, on_result=came.append) == came


def test_deviations_are_there_when_a_result_comes():
    salts = [bulk("LiCl", "rocksalt", a) for a in (5.0, 5.2)]
    salts[1].rattle(0.05, seed=1)
    came = []
    relax_batched(salts, uncertain("heads"), steps=2, cell=False, on_result=came.append)
    assert all(r.max_force_std >= 0 and r.atoms.has("forces_std") for r in came)
    assert len(came) == 2


def test_written_frames_are_those_of_ase(potential, crystals, tmp_path):
    results = relax(crystals[:3], potential, steps=1)
    write_relaxed(results, tmp_path / "a.extxyz")
    with RelaxJournal(tmp_path / "journal", {}, resume=False) as journal:
        for result in results:
            journal.append(result)
    write_finished([*journal.done.values()], tmp_path / "b.extxyz")
    for suffix in ("extxyz", "csv", "json"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
