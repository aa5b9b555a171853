import json

import ase.io
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from typer.testing import CliRunner

from atomml.cli.main import app
from atomml.datasets import FrameStore, Split
from atomml.errors import ConfigError, DataError


@pytest.fixture
def source(tmp_path):
    frames = []
    for k in range(12):
        atoms = Atoms("LiCl", [[0, 0, 0], [2.4 + 0.01 * k, 0, 0]], cell=[6, 6, 6], pbc=True)
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0 * k, forces=[[0, 0, 1.0], [0, 0, -1.0]])
        atoms.info.update(traj=f"run{k // 3}", T=300 * (1 + k // 6), REF_energy=5.0)
        frames.append(atoms)
    path = tmp_path / "source.extxyz"
    ase.io.write(path, frames)
    return path


def run(*args):
    result = CliRunner().invoke(app, ["data", *map(str, args)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_convert_writes_a_store_and_says_what_it_found(source, tmp_path):
    out = tmp_path / "store"
    text = run(
        "convert",
        source,
        source,
        out,
        "--info",
        "licence=CC0",
        "--energy-unit",
        "Ry",
        "--json",
        tmp_path / "x.json",
    )
    assert "24 frames, 48 atoms: energy 24/24, forces 24/24, stress 0/24" in text
    store = FrameStore.open(out)
    assert store.info["licence"] == "CC0"
    assert json.loads((tmp_path / "x.json").read_text())["fingerprint"] == store.fingerprint()


def test_second_energy_in_the_file_is_pointed_out(source, tmp_path):
    assert "also present: info:REF_energy" in run("convert", source, tmp_path / "store")
    run("convert", source, tmp_path / "other", "--energy-key", "REF_energy")
    assert set(FrameStore.open(tmp_path / "other").energy) == {5.0}


def test_report_names_its_file(source, tmp_path):
    assert "report.md" in run("report", source, "--out", tmp_path / "report", "--json", tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["frames"] == 12


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        (("--valid", "0.25"), (9, 3, 0)),
        (("--valid", "2", "--test", "4"), (6, 2, 4)),
        (("--valid", "3", "--test", "3", "--group", "traj"), (6, 3, 3)),
        (("--valid", "3", "--group", "traj", "--test-where", "T >= 600"), (3, 3, 6)),
    ],
)
def test_split_is_saved_for_this_data_set(source, tmp_path, options, sizes):
    run("convert", source, tmp_path / "store")
    run("split", tmp_path / "store", "--out", tmp_path / "s.json", *options)
    split = Split.load(tmp_path / "s.json", FrameStore.open(tmp_path / "store"))
    assert tuple(len(p) for p in split.parts()) == sizes


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (("convert", "SRC", "OUT", "--info", "nonsense"), ConfigError),
        (("convert", "SRC", "OUT", "--info", "labels=none"), ConfigError),
        (("convert", "SRC", "OUT", "--stress-sign", "up"), ConfigError),
        (("split", "SRC", "--valid", "many"), ConfigError),
        (("split", "SRC", "--test", "3", "--test-where", "T > 300"), ConfigError),
        (("split", "SRC", "--group", "colour"), DataError),
        (("report", "nowhere.xyz"), DataError),
    ],
)
def test_wrong_use_is_an_error_with_a_remedy(source, tmp_path, args, error, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error) as caught:
        run(*(str(source) if a == "SRC" else a for a in args))
    assert caught.value.fix
