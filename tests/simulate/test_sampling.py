"""Sampling runs from start to end with cheap calculators: what they leave, repeat, resume and refuse."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import ase.io
import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

import atomml
from atomml.calculators import calculator_identity, calculator_name, make_calculator
from atomml.datasets.statistics import stress_sign_test
from atomml.errors import ConfigError, DataError, ModelFileError, SimulationError, UnsupportedError
from atomml.simulate.sampling import figure as sampling_figure
from atomml.simulate.sampling import units as sampling_units
from atomml.simulate.sampling.config import SampleConfig
from atomml.simulate.sampling.correlation import correlation_time
from atomml.simulate.sampling.plan import plan_sampling
from atomml.simulate.sampling.run import load_sample_config, run_sampling

SETTINGS = {
    "seed": 7,
    "calculator": {"kind": "emt"},
    "structures": {"files": ["start.extxyz"]},
    "substitution": {"species": [["Cu", "Ni"]], "charges": {"Cu": 2, "Ni": 2}},
    "cell": {"min_length": 3.0, "min_atoms": 8, "max_atoms": 8},
    "relax": {"steps": 8},
    "strain": {"runs": 2},
    "dynamics": {
        "temperatures": [300, 900],
        "timestep": 4.0,
        "equilibration": 40,
        "sampling": 240,
        "interval": 8,
        "friction": 0.1,
    },
    "labels": {"batch": 20},
}


ONE = {  # a relaxation, two runs
    "substitution": {"species": []},
    "strain": {"runs": 1},
    "dynamics": {"temperatures": [300, 900], "sampling": 160},
}


def merged(base, changes):
    out = dict(base)
    for key, value in changes.items():
        out[key] = (
            merged(out[key], value)
            if isinstance(value, dict) and isinstance(out.get(key), dict) and "kind" not in value
            else value
        )
    return out


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("structures")
    ase.io.write(folder / "start.extxyz", bulk("Cu", a=3.7))
    return folder


@pytest.fixture
def sample(base, tmp_path, monkeypatch):
    monkeypatch.setattr(sampling_figure, "draw_sampling", lambda *arguments: None)  # slow, and seen elsewhere

    def run(name="run", changes=None, **options):
        data = merged(merged(SETTINGS, ONE), {"run_dir": str(tmp_path / name), **(changes or {})})
        return run_sampling(SampleConfig.model_validate(data), base=base, **options)

    return run


@pytest.fixture(scope="module")
def reference(base, tmp_path_factory):
    data = merged(merged(SETTINGS, ONE), {"run_dir": str(tmp_path_factory.mktemp("reference") / "run")})
    return run_sampling(SampleConfig.model_validate(data), base=base)


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
    data = merged(SETTINGS, {"run_dir": str(tmp_path_factory.mktemp("finished") / "run")})
    data["labels"] = {"batch": 20, "extxyz": True, "licence": "CC0", "level_of_theory": "EMT, ASE"}
    return run_sampling(SampleConfig.model_validate(data), base=base)


def test_every_label_is_exactly_what_the_calculator_gives(finished):
    store = finished.store
    assert len(store) > 30
    for k in range(0, len(store), 5):
        atoms = store[k]
        atoms.calc = EMT()
        assert atoms.get_potential_energy() == pytest.approx(store.energy[k], abs=1e-12)
        np.testing.assert_allclose(atoms.get_forces(), store.forces[store.atoms_of(k)], atol=1e-12)
        np.testing.assert_allclose(atoms.get_stress(voigt=False), store.stress[k], atol=1e-12)


def test_frames_say_where_they_come_from(finished):
    store, tags = finished.store, finished.store.tags
    assert set(tags["system"]) == {"Cu_start", "Ni_start"}
    assert set(tags["T"]) == {0.0, 300.0, 900.0}
    assert set(tags["provenance"]) == {"start.extxyz#0"}
    assert set(tags["substitution"]) == {"", "Cu>Ni"}
    assert not tags["halide_substitution"].any()
    sampled = np.asarray(tags["sampled"])
    assert np.sum(~sampled) == 2
    assert set(np.asarray(tags["traj"])[~sampled]) == {"Cu_start_relaxed", "Ni_start_relaxed"}
    np.testing.assert_allclose(tags["fmax"], store.index.max_force, rtol=1e-12)
    np.testing.assert_allclose(tags["time_fs"], 4.0 * np.asarray(tags["step"]))
    assert tags["time_fs"][sampled].min() > 40
    strain = np.array([tags["strain"][i] for i in range(len(store)) if sampled[i]])
    assert strain.min() < 0.005 < strain.max()
    assert store.ids[5] == f"{tags['traj'][5]}#{tags['step'][5]}"


def test_atoms_are_inside_the_cell(finished):
    store = finished.store
    for k in range(0, len(store), 7):
        fractional = store[k].get_scaled_positions(wrap=False)
        assert fractional.min() > -1e-6
        assert fractional.max() < 1 + 1e-6


def test_header_and_files_of_a_run(finished):
    folder, info = finished.folder, finished.store.info
    assert info["level_of_theory"] == "EMT, ASE"
    assert info["licence"] == "CC0"
    assert info["calculator"]["kind"] == "emt"
    assert info["seed"] == 7
    assert info["units"]["stress_sign"] == "ase"
    assert info["labels"]["stress"]["found"] == len(finished.store)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["fingerprint"] == finished.store.fingerprint()
    assert summary["frames"] == len(finished.store)
    report = (folder / "report.md").read_text()
    for text in ("| 900 |", "Cu>Ni", "near-duplicate", "agrees"):
        assert text in report
    assert (folder / "sampling.png").stat().st_size > 10_000
    again = atomml.datasets.load_frames(folder / "frames.extxyz")
    np.testing.assert_allclose(again.positions, finished.store.positions, atol=1e-7)
    np.testing.assert_allclose(again.energy, finished.store.energy, atol=1e-7)


def test_temperatures_are_reached_and_stress_has_ase_sign(finished):
    for row in finished.summary["temperatures"]:
        assert row["exploded"] == 0
        assert row["temperature_mean"] == pytest.approx(row["T"], rel=0.25)
    assert finished.summary["stress_check"]["verdict"] == "agrees"
    assert finished.summary["stress_sign"]["verdict"] == "ase"
    assert stress_sign_test(finished.store)["verdict"] == "ase"


def test_frames_of_a_run_are_at_least_a_correlation_time_apart(finished):
    spaced = 0
    for run in finished.summary["runs"]:
        rows = np.flatnonzero(np.asarray(finished.store.tags["traj"]) == run["name"])
        time = np.sort(finished.store.tags["time_fs"][rows])
        assert run["independent"] == pytest.approx(run["sampled_steps"] * 4.0 / max(2 * run["tau_fs"], 4.0))
        if len(time) > 1:
            assert np.diff(time).min() >= 2 * run["tau_fs"] - 1e-6
            spaced += 1
    assert spaced > 3


def test_correlation_time_is_that_of_every_step(finished):
    """Frames 8 fs apart are not enough to know a time of some fs: the run measures it at every step."""
    assert correlation_time(np.zeros(5)).inefficiency == 1.0
    assert {run["sampled_steps"] for run in finished.summary["runs"]} == {60}


def test_the_same_seed_gives_the_same_frames_and_another_does_not(sample, reference):
    assert sample().store.fingerprint() == reference.store.fingerprint()
    assert sample("other", {"seed": 8}).store.fingerprint() != reference.store.fingerprint()


def test_two_processes_give_the_same_frames_and_bytes(sample, reference):
    result = sample(workers=2)
    for file in sorted((reference.folder / "frames").iterdir()):
        assert (result.folder / "frames" / file.name).read_bytes() == file.read_bytes(), file.name


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the package catches it."""


@pytest.mark.parametrize("at", [1, 3, 4])
def test_a_run_killed_in_a_unit_goes_on_to_the_same_frames(sample, reference, monkeypatch, at):
    compute, calls = sampling_units._compute, []

    def mortal(unit):
        calls.append(unit)
        if len(calls) == at:
            (unit.folder.parent / f".{unit.folder.name}.abcd.tmp").mkdir(parents=True)  # half of a store
            raise Killed
        compute(unit)

    monkeypatch.setattr(sampling_units, "_compute", mortal)
    with pytest.raises(Killed):
        sample()
    monkeypatch.setattr(sampling_units, "_compute", lambda unit: (calls.append(unit), compute(unit)))
    with pytest.raises(ConfigError, match="has a run in it"):
        sample()
    result = sample(resume=True)
    assert result.store.fingerprint() == reference.store.fingerprint()
    assert len(calls) == 1 + len({unit.folder for unit in calls})
    assert not list(result.folder.rglob("*.tmp"))


def test_other_selection_and_more_temperatures_reuse_what_is_done(sample, monkeypatch):
    sample(changes={"dynamics": {"temperatures": [300]}})
    compute, names = sampling_units._compute, []
    monkeypatch.setattr(sampling_units, "_compute", lambda unit: (names.append(unit.name), compute(unit)))
    sample(changes={"dynamics": {"temperatures": [300]}, "selection": {"max_frames": 5}}, resume=True)
    assert all(name.startswith("labels") for name in names)
    names.clear()
    result = sample(resume=True)
    assert sum(name.endswith(("_0", "_1")) for name in names if "900K" in name) == 1
    assert not any("300K" in name or name.endswith("start") for name in names)
    assert set(result.store.tags["T"]) == {0.0, 300.0, 900.0}
    names.clear()
    sample(changes={"dynamics": {"friction": 0.03}}, resume=True)
    assert sum("K_" in name for name in names) == 2  # all trajectories anew


def test_at_most_so_many_frames_and_limits_of_force(sample):
    result = sample(
        changes={"selection": {"max_frames": 9, "fmax_max": 1.0, "fmax_min": 0.05, "relaxed": False}}
    )
    fmax = np.asarray(result.store.tags["fmax"])
    assert len(result.store) <= 9
    assert fmax.max() <= 1.0
    assert fmax.min() >= 0.05
    assert result.summary["counts"]["within_force_limits"] < result.summary["counts"]["recorded"]


def test_exploded_runs_are_recorded_and_not_labelled(sample):
    hot = {"dynamics": {"temperatures": [100, 900], "sampling": 800}}
    result = sample(changes={**hot, "explosion": {"max_force": 2.0}})
    cold, lost = result.summary["runs"]
    assert (cold["status"], lost["status"]) == ("done", "exploded")
    assert "the force on Cu" in lost["reason"]
    assert lost["frames"] == lost["sampled_steps"] == 0
    assert set(result.store.tags["T"]) == {0.0, 100.0}
    report = (result.folder / "report.md").read_text()
    assert "## Runs that did not end" in report
    assert lost["reason"] in report
    assert any("exploded" in warning for warning in result.summary["warnings"])
    keep = {"max_force": 2.0, "keep_before": True, "margin": 12.0}
    result = sample("kept", {**hot, "explosion": keep})
    lost = result.summary["runs"][1]
    times = result.store.tags["time_fs"][np.asarray(result.store.tags["T"]) == 900.0]
    assert lost["frames"] == len(times)
    assert np.all(times < lost["time_fs"] - 12.0)


def test_a_start_with_overlapping_atoms_is_left_out(sample, tmp_path):
    overlap = Atoms("Cu2", [[0, 0, 0], [0.7, 0, 0]], cell=[8, 8, 8], pbc=True)
    ase.io.write(tmp_path / "overlap.extxyz", overlap)
    files = {"structures": {"files": ["start.extxyz", str(tmp_path / "overlap.extxyz")]}}
    result = sample(changes={**files, "substitution": {"species": []}, "cell": {"min_atoms": 2}})
    failed = [r for r in result.summary["relaxed"] if r["status"] == "failed"]
    assert [r["name"] for r in failed] == ["Cu_overlap"]
    assert "Å apart" in failed[0]["reason"] or "force" in failed[0]["reason"]
    assert set(result.store.tags["system"]) == {"Cu_start"}
    only = {**files, "structures": {"files": [str(tmp_path / "overlap.extxyz")]}, "cell": {"min_atoms": 2}}
    with pytest.raises(DataError, match="No structure could be relaxed"):
        sample("none", {**only, "substitution": {"species": []}})


def module(tmp_path, monkeypatch, name, text):
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(tmp_path)


def test_labels_of_a_calculator_with_the_wrong_stress_sign_are_pointed_out(sample, tmp_path, monkeypatch):
    module(
        tmp_path,
        monkeypatch,
        "flipped_stress",
        """
        from ase.calculators.emt import EMT

        class Flipped(EMT):
            def calculate(self, *args, **kwargs):
                super().calculate(*args, **kwargs)
                self.results["stress"] = -self.results["stress"]

        def make():
            return Flipped()
        """,
    )
    labels = {"labels": {"calculator": {"kind": "import", "target": "flipped_stress:make"}}}
    result = sample(changes={**labels, "strain": {"runs": 3, "isotropic": [-0.04, 0.05]}})
    assert result.summary["stress_check"]["verdict"] == "opposite sign"
    assert result.summary["stress_sign"]["verdict"] == "pressure"
    assert any("not the derivative of the energy" in w for w in result.summary["warnings"])
    assert result.store.info["level_of_theory"] == "flipped_stress:make"
    assert result.store.info["driver"]["kind"] == "emt"


def test_frames_that_cannot_be_labelled_are_counted(sample, tmp_path, monkeypatch):
    module(
        tmp_path,
        monkeypatch,
        "sometimes",
        """
        from ase.calculators.emt import EMT

        class Sometimes(EMT):
            def __init__(self, most):
                super().__init__()
                self.most = most

            def calculate(self, *args, **kwargs):
                super().calculate(*args, **kwargs)
                if abs(self.results["forces"]).max() > self.most:
                    raise RuntimeError("not converged")
                self.results["energy"] += 1.0

        make = Sometimes
        """,
    )
    calculator = {"kind": "import", "target": "sometimes:make", "arguments": {"most": 0.8}}
    result = sample(changes={"labels": {"calculator": calculator}})
    (reason, entry), *rest = result.store.info["skipped"].items()
    assert reason == "the labelling calculator failed: RuntimeError"
    assert not rest
    counts = result.summary["counts"]
    assert entry["frames"] + len(result.store) == counts["chosen"] + counts["relaxed"]
    assert any("were not labelled" in warning for warning in result.summary["warnings"])
    with pytest.raises(DataError, match="No frame could be labelled"):
        sample("none", {"labels": {"calculator": {**calculator, "arguments": {"most": -1.0}}}})


def test_labels_outside_the_limits_of_force_are_skipped(sample, tmp_path, monkeypatch):
    module(
        tmp_path,
        monkeypatch,
        "stiffer",
        """
        from ase.calculators.emt import EMT

        class Stiffer(EMT):
            def calculate(self, *args, **kwargs):
                super().calculate(*args, **kwargs)
                self.results["forces"] = 2.0 * self.results["forces"]

        def make():
            return Stiffer()
        """,
    )
    labels = {"labels": {"calculator": {"kind": "import", "target": "stiffer:make"}}}
    result = sample(changes={**labels, "selection": {"fmax_max": 1.5}})
    tags = result.store.tags
    assert np.asarray(tags["fmax"]).max() <= 1.5
    np.testing.assert_allclose(tags["fmax"], 2.0 * np.asarray(tags["fmax_driver"]), rtol=1e-12)
    assert list(result.store.info["skipped"]) == ["the labelled force is outside the limits"]


def test_npt_and_nose_hoover_run(sample):
    npt = {"ensemble": "npt", "temperatures": [300]}
    result = sample("npt", {"dynamics": npt, "selection": {"min_difference": 0.0}})
    volumes = {round(float(np.linalg.det(c)), 3) for c in result.store.cell}
    assert len(volumes) == len(result.store) > 4
    sample("chain", {"dynamics": {"thermostat": "nose-hoover", "temperatures": [300]}})


def test_molecules_run_without_strain_and_stress(sample, tmp_path):
    ase.io.write(tmp_path / "water.xyz", molecule("H2O"))
    changes = {
        "structures": {"files": [str(tmp_path / "water.xyz")]},
        "substitution": {"species": []},
        "strain": {"values": [0.0]},
        "dynamics": {"temperatures": [300], "timestep": 0.5, "interval": 4, "sampling": 100},
        "cell": {"min_atoms": 1},
    }
    result = sample(changes=changes)
    assert result.store.label_counts()["stress"] == 0
    assert result.summary["stress_check"]["verdict"] == "no stress"
    with pytest.raises(ConfigError, match="cannot be strained"):
        sample("strained", {**changes, "strain": {"values": [0.02]}})
    with pytest.raises(SimulationError, match="three directions"):
        sample("npt", {**changes, "dynamics": {**changes["dynamics"], "ensemble": "npt"}})


def test_run_folders_are_not_mixed_up(sample, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious.txt").write_text("mine")
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(ConfigError, match="something else"):
            sample(**options)
    first = sample("two", {"dynamics": {"temperatures": [300]}})
    again = sample("two", {"dynamics": {"temperatures": [900]}}, overwrite=True)
    assert set(again.store.tags["T"]) == {0.0, 900.0}
    assert first.folder == again.folder
    assert len(list((again.folder / "trajectories").iterdir())) == 1


DEMO = {
    "calculator": {"kind": "atomml"},
    "structures": {"files": [], "prototypes": ["rocksalt"]},
    "substitution": {"species": [["F", "Cl"]]},
    "cell": {"min_length": 0.0, "min_atoms": 4, "max_atoms": 4},
    "relax": {"steps": 2},
    "strain": {"runs": 1},
    "dynamics": {
        "temperatures": [2100],
        "timestep": 2.0,
        "equilibration": 20,
        "sampling": 40,
        "interval": 10,
    },
}


def test_the_bundled_model_runs_halides_at_2100_kelvin(sample):
    result = sample(changes=DEMO)
    assert result.summary["temperatures"][0]["exploded"] == 0
    assert result.summary["temperatures"][0]["temperature_mean"] > 800
    assert set(result.store.tags["halide_substitution"]) == {False, True}
    assert result.summary["stress_check"]["verdict"] == "agrees"
    model = atomml.load("demo")
    for k in range(len(result.store)):
        atoms = result.store[k]
        atoms.calc = atomml.Calculator(model, skin=0.0)
        assert atoms.get_potential_energy() == result.store.energy[k]
        np.testing.assert_array_equal(atoms.get_forces(), result.store.forces[result.store.atoms_of(k)])
    assert len(result.store.info["calculator"]["model_sha256"]) == 64


def test_elements_that_the_model_does_not_know_stop_the_run(sample):
    with pytest.raises(UnsupportedError, match="does not know O"):
        sample(
            changes={
                **DEMO,
                "structures": {"files": [], "prototypes": ["li3ox_antiperovskite"]},
                "cell": {"max_atoms": 5},
            }
        )


def test_chgnet_labels_are_those_of_its_own_calculator(sample):
    pytest.importorskip("chgnet")
    from chgnet.model import CHGNet
    from chgnet.model.dynamics import CHGNetCalculator

    dynamics = {**DEMO["dynamics"], "equilibration": 4, "sampling": 20}
    changes = {
        **DEMO,
        "calculator": {"kind": "chgnet"},
        "dynamics": dynamics,
        "substitution": {"species": []},
    }
    result = sample(changes=changes)
    atoms = result.store[len(result.store) - 1]
    atoms.calc = CHGNetCalculator(CHGNet.load(model_name="r2scan", use_device="cpu"), use_device="cpu")
    assert float(atoms.get_potential_energy()) == pytest.approx(result.store.energy[-1], abs=1e-5)
    np.testing.assert_allclose(atoms.get_forces(), result.store.forces[-len(atoms) :], atol=1e-5)
    assert result.summary["stress_check"]["verdict"] in ("agrees", "too small")
    assert result.store.info["level_of_theory"].endswith("model r2scan")


def test_calculators_are_made_as_configured(tmp_path):
    parse = SampleConfig.model_fields["calculator"]
    assert parse.is_required()

    def of(**settings):
        data = {"run_dir": "x", "structures": {"prototypes": ["rocksalt"]}, "calculator": settings}
        return SampleConfig.model_validate(data).calculator

    lj = make_calculator(of(kind="lj", epsilon=0.02, sigma=3.0))
    assert lj.parameters["epsilon"] == 0.02
    assert calculator_name(of(kind="emt")).startswith("emt 3.")
    assert calculator_identity(of(kind="atomml"))["model"] == "demo"
    with pytest.raises(ConfigError, match="cannot be imported"):
        make_calculator(of(kind="import", target="no_such_module:make"))
    with pytest.raises(ConfigError, match="not an ASE calculator"):
        make_calculator(of(kind="import", target="builtins:dict"))
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"nothing")
    with pytest.raises(ModelFileError):
        make_calculator(of(kind="atomml", model=str(bad)))
    with pytest.raises(ValueError, match="target"):
        of(kind="import", target="os.system('x')")


def test_missing_packages_are_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tblite.ase", None)
    data = {"run_dir": "x", "structures": {"prototypes": ["rocksalt"]}, "calculator": {"kind": "tblite"}}
    with pytest.raises(UnsupportedError) as caught:
        make_calculator(SampleConfig.model_validate(data).calculator)
    assert "pip install" in caught.value.fix


def test_paths_are_found_beside_the_configuration(base):
    path = base / "sample.yaml"
    path.write_text(yaml.safe_dump({**SETTINGS, "run_dir": "x"}))
    config, folder = load_sample_config(path, {"dynamics.temperatures": "[300, 600, 900]"})
    plan = plan_sampling(config, folder)
    assert plan.runs == 2 * 3 * 2
    assert plan.steps == plan.runs * (10 + 60)
    assert plan.atom_steps == 8 * plan.steps
    assert plan.recorded == plan.runs * 30
    data = {**SETTINGS, "run_dir": "x", "calculator": {"kind": "atomml", "model": "no.safetensors"}}
    config = SampleConfig.model_validate(data)
    with pytest.raises(ConfigError, match="no such model file"):
        run_sampling(config, base=base)


@pytest.mark.parametrize(
    "wrong",
    [
        {"structures": {"files": []}},
        {"structures": {"prototypes": ["unobtainium"]}},
        {"dynamics": {"temperatures": []}},
        {"dynamics": {"temperatures": [0]}},
        {"selection": {"fmax_min": 3, "fmax_max": 2}},
        {"calculator": {"kind": "magic"}},
        {"colour": "red"},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError):
        SampleConfig.model_validate(merged({**SETTINGS, "run_dir": "x"}, wrong))


def test_the_recipe_in_the_repository_is_valid():
    recipe = Path(__file__).parents[2] / "data" / "aqvolt26" / "sample.yaml"
    config, base = load_sample_config(recipe)
    plan = plan_sampling(config, base)
    assert len(plan.structures) == 32
    assert max(config.dynamics.temperatures) == 2100
