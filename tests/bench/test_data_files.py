import pytest

from atomml.bench.data_files import COMPARED, measure_data
from atomml.datasets import load_frames
from tests.conftest import ROOT


def test_every_access_is_measured_in_the_same_rounds(tmp_path):
    pytest.importorskip("ase_db_backends")
    few = load_frames(ROOT / "data/li_halide/sample/li_halide.extxyz.gz").subset(range(6))
    few.save(tmp_path / "few")
    said = []
    result = measure_data(tmp_path / "few", rounds=2, slot=1e-3, say=said.append)
    assert result["frames"] == 6
    assert result["missing"] == []
    assert {(r["numerator"], r["denominator"]) for r in result["ratios"]} == set(COMPARED)
    assert all(row["us_per_frame"] > 0 for row in result["rows"])
    assert len(result["rows"]) == 7
    assert said[-1] == "round 2 of 2"
