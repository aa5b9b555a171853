"""Whole potentials, with peers that only claim to compute: rows, ratios, shares, scaling, missing peers."""

import json
import sys
from pathlib import Path

import pytest

from atomml.bench.figures import draw_kernels, draw_potentials, draw_scaling
from atomml.bench.models import models, tdn
from atomml.bench.potentials import measure_potentials
from atomml.bench.process import WORKERS, Worker
from atomml.bench.settings import PotentialSettings
from atomml.bench.structures import as_json, silicon
from atomml.bench.tables import as_csv, missing_table, potential_tables


def settings(**changes):
    return PotentialSettings(structures=("si64", "molecule"), rounds=2, slot=0.0, **changes)


@pytest.fixture
def result(stub_peers, tmp_path):
    return measure_potentials(settings(scaling=True, sizes=(64, 512)), tmp_path)


def test_every_task_has_the_models_that_can_do_it(result):
    json.dumps(result)
    done = {(row["task"], row["model"]) for row in result["rows"]}
    ours = {("si64", f"TDN L={lmax}{c}") for lmax in (1, 2) for c in ("", " compiled")}
    assert ours | {("si64", "MACE L=1")} <= done
    assert {m for t, m in done if t.startswith("training")} == {"TDN L=1", "TDN L=2", "MACE L=1"}
    assert {m for t, m in done if t.startswith("dynamics")} == {
        "TDN L=1 compiled",
        "TDN L=2 compiled",
        "MACE L=1",
    }


def test_costs_and_ratios_are_those_of_the_runs(result):
    rows = {(row["task"], row["model"]): row for row in result["rows"]}
    assert rows["si64", "TDN L=1 compiled"]["us_per_atom"] == pytest.approx(1e3)
    assert rows["si64", "TDN L=1"]["us_per_atom"] == pytest.approx(4e3)
    ratios = {(r["task"], r["numerator"], r["denominator"]): r["median"] for r in result["ratios"]}
    assert ratios["si64", "MACE L=1", "TDN L=1 compiled"] == pytest.approx(20)
    assert ratios["si64", "TDN L=1", "TDN L=1 compiled"] == pytest.approx(4)
    # nothing of ours is compiled in a training step: the ratio is to the model as it is trained
    (training,) = {task for task, *_ in ratios if task.startswith("training")}
    assert ratios[training, "MACE L=1", "TDN L=1"] == pytest.approx(5)


def test_shares_of_a_step_are_stated(result):
    (row,) = (r for r in result["rows"] if r["kind"] == "dynamics" and r["model"] == "TDN L=1 compiled")
    assert row["shares"]["neighbor list and input"] == pytest.approx(0.25)


def test_missing_peers_are_reported_and_not_fatal(result):
    reasons = {(m["name"], m["what"]): m["reason"] for m in result["missing"]}
    assert "no network" in reasons["NequIP L=2", "si64"]
    assert "no such degree" in reasons["MACE L=2", "molecule"]
    assert missing_table(result["missing"]).row_count == len(result["missing"])
    assert missing_table([]) is None


def test_scaling_compares_within_each_sweep(result):
    scaling = result["scaling"]
    assert set(scaling) == {"atoms", "channels", "lmax", "cutoff", "threads"}
    assert [row["atoms"] for row in scaling["atoms"]["rows"]] == [64, 512]
    assert scaling["atoms"]["rows"][1]["peak_bytes"] == 512e6
    assert scaling["atoms"]["ratios"][0]["median"] == pytest.approx(1)  # time per atom, not time
    assert scaling["threads"]["ratios"][0]["median"] == pytest.approx(0.5)
    ratios = {(r["numerator"], r["denominator"]): r["median"] for r in scaling["channels"]["ratios"]}
    assert ratios["channels 128", "channels 16"] == pytest.approx(8)
    assert ratios["channels 128", "channels 64"] == pytest.approx(2)


def test_tables_figures_and_csv(result, tmp_path):
    assert len(potential_tables(result)) == 4 + 5
    assert as_csv(result["rows"]).decode().splitlines()[0].startswith("task,kind,model,us_per_atom")
    draw_potentials(tmp_path / "a.png", result)
    draw_scaling(tmp_path / "b.png", result["scaling"])
    row = {"lmax": 1, "mode": "forward", "case": "CP shared R=6", "ms": 1.0}
    draw_kernels(tmp_path / "c.png", {"rows": [row], "settings": {"lmax": [1]}})
    assert all((tmp_path / f"{name}.png").stat().st_size > 1000 for name in "abc")


def test_figures_of_nothing(tmp_path):
    draw_potentials(tmp_path / "a.png", {"rows": []})
    draw_kernels(tmp_path / "c.png", {"rows": [], "settings": {"lmax": [1]}})
    assert all((tmp_path / name).stat().st_size > 0 for name in ("a.png", "c.png"))


def test_models_follow_the_peers_asked_for():
    names = [model.name for model in models(())]
    assert all(name.startswith("TDN") for name in names)
    assert models(("mace",), Path("my.safetensors"))[4].settings["file"].endswith("my.safetensors")
    assert len({model.name for model in models(("mace", "nequip"))}) == 8


def test_our_own_program_evaluates_trains_and_runs_dynamics():
    model = {"cutoff": 4.0, "lmax": 1, "channels": 4, "layers": 1}
    task = {"structures": [as_json(silicon(8))], "stress": True, "threads": 1, "dtype": "float32"}
    python, program = Path(sys.executable), WORKERS / "tdn_worker.py"
    with Worker("TDN", python, program, threads=1) as worker:
        for kind, compiled in (
            ("evaluate", False),
            ("training", False),
            ("evaluate", True),
            ("dynamics", True),
        ):
            facts = worker.prepare({**task, "kind": kind, "model": {**model, "compiled": compiled}})
            assert facts["atoms"] == 8
            assert facts["engine"] in (("native", "torch") if compiled else ("eager",))
            assert worker.seconds(2) > 0
        assert 0 < worker.shares()["neighbor list and input"] < 1
        assert worker.peak_bytes() > 1e7


def test_models_of_ours_have_the_stated_size():
    assert tdn("x", compiled=True, settings={"lmax": 3}).settings == {
        "cutoff": 5.0,
        "lmax": 3,
        "channels": 64,
        "layers": 3,
        "compiled": True,
    }
