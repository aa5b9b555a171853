from __future__ import annotations

import csv
import json
import warnings
from copy import deepcopy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces
from ase.io import read, write
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

import atomml
from atomml.calculators import AtommlCalculator, make_calculator
from atomml.cli.main import app
from atomml.errors import ConfigError, DataError, SimulationError, UnsupportedError
from atomml.potentials import TDNConfig, build_potential
from atomml.potentials.compile import compile_potential
from atomml.simulate import (
    Calculator,
    MDConfig,
    checks_deviations,
    frame_of,
    relax,
    run_checks,
    run_md,
    write_relaxed,
)
from atomml.simulate.deviations import MissingDeviationError, force_std_norm
from atomml.simulate.md_guard import UncertaintyWarning
from atomml.simulate.md_summary import summarise
from atomml.uncertainty.bayesian import BayesianPotential
from atomml.uncertainty.calibration import Calibration, IsotonicMap, QuantityCalibration, Scale
from atomml.uncertainty.model_file import head_posterior, save_model
from atomml.uncertainty.posterior import LastLayer, Members, PointEstimate

E0 = {1: -0.4, 3: -0.5, 6: -1.5, 8: -2.0, 17: -0.2}
METHODS = ("ensemble", "heads", "noise", "llpr")
RUN = {"temperature": 60.0, "timestep": 0.5, "log_every": 4, "state_every": 4}


def network(seed=0, dtype=torch.float64, **keys):
    keys = {"lmax": 2, "channels": 4, "layers": 1, "cutoff": 4.0, "radial_hidden": [8], "zbl": True} | keys
    potential = build_potential(
        TDNConfig(**keys), elements=list(E0), e0=E0, average_neighbors=20.0, scale=0.2, seed=seed
    )
    return potential.to(dtype).eval()


@cache
def uncertain(method, dtype=torch.float64):
    if method == "ensemble":
        return BayesianPotential(Members([network(seed, dtype) for seed in range(3)]))
    if method == "heads":
        return BayesianPotential(head_posterior(network(0, dtype, heads=3)))
    potential = network(0, dtype, noise={} if method == "noise" else None)
    if method == "noise":
        return BayesianPotential(PointEstimate(potential))
    size = potential.body.last_layer().shape[0]
    factor = 0.1 * np.random.default_rng(0).normal(size=(size, size))
    return BayesianPotential(LastLayer(potential, factor, "llpr"))


@pytest.fixture(scope="module")
def ensemble():
    return uncertain("ensemble")


@pytest.fixture
def salt():
    atoms = bulk("LiCl", "rocksalt", a=5.1, cubic=True)
    atoms.rattle(0.05, seed=1)
    return atoms


@pytest.fixture
def ethanol():
    return molecule("CH3CH2OH")


def calibration_of(*, exact):
    """Deviations of forces are doubled."""
    identity = IsotonicMap(expected=(0.0, 1.0), observed=(0.0, 1.0))
    forces = QuantityCalibration(
        scale=Scale(alpha=2.0), isotonic=identity, conformal={}, count=1, frames=1, before={}, after={}
    )
    return Calibration(method="nll", quantities={"forces": forces}, data={"exact": exact})


def largest_norms(model, atoms, steps):
    """σ_F of the most uncertain atom at every step of an NVE run."""
    return run_md(atoms, model, steps=steps, ensemble="nve", **{**RUN, "log_every": 1}).log[
        "max_force_std_eV_A"
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_results_have_the_shapes_types_and_values_of_the_prediction(method, dtype, salt):
    model = uncertain(method, dtype)
    salt.calc = Calculator(model)
    (expected,) = model.predict([salt])
    for name, shape in {
        "energy_std": (),
        "energy_std_epistemic": (),
        "energy_std_aleatoric": (),
        "energies_std": (8,),
        "forces_std": (8, 3),
        "forces_cov": (8, 3, 3),
        "stress_std": (6,),
    }.items():
        value = salt.calc.get_property(name, salt)
        assert np.shape(value) == shape
        np.testing.assert_allclose(value, getattr(expected, name), rtol=1e-4)
        assert np.asarray(value).dtype == np.float64
    assert type(salt.calc.results["energy_std"]) is float
    assert salt.calc.evaluations == 1
    assert set(salt.calc.results) <= set(salt.calc.implemented_properties)


@pytest.mark.parametrize("method", METHODS)
def test_stress_of_a_molecule_has_no_deviation_and_the_rest_does(method, ethanol):
    ethanol.calc = Calculator(uncertain(method))
    assert ethanol.calc.get_property("energy_std", ethanol) > 0
    with pytest.raises(PropertyNotImplementedError):
        ethanol.calc.get_property("stress_std", ethanol)


def test_the_mean_force_of_an_ensemble_is_the_derivative_of_the_mean_energy(ensemble):
    water = molecule("H2O")
    water.rattle(0.05, seed=2)
    water.calc = Calculator(ensemble)
    numeric = calculate_numerical_forces(water, eps=1e-5)
    np.testing.assert_allclose(water.get_forces(), numeric, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_only_the_mean_gives_the_same_mean_and_nothing_else(method, salt):
    model, other = uncertain(method), salt.copy()
    salt.calc, other.calc = Calculator(model), Calculator(model, deviations=False)
    np.testing.assert_allclose(salt.get_forces(), other.get_forces(), atol=1e-12)
    np.testing.assert_allclose(salt.get_stress(), other.get_stress(), atol=1e-12)
    assert set(other.calc.results) == {"energy", "free_energy", "energies", "forces", "stress"}
    assert isinstance(other.calc.potential, BayesianPotential) == (method == "ensemble")
    with pytest.raises(MissingDeviationError, match="deviations=True"):
        other.calc.get_property("forces_std", other)


@pytest.mark.parametrize("name", ["forces_std", "energy_std_epistemic", "forces_members"])
def test_a_model_without_uncertainty_says_how_to_get_one(name, salt):
    salt.calc = Calculator(network())
    with pytest.raises(UnsupportedError, match=rf"(?s)no uncertainty, so no {name}.*train with"):
        salt.calc.get_property(name, salt)
    with pytest.raises(PropertyNotImplementedError):  # what ASE and its users expect to catch
        salt.calc.get_property(name, salt)
    with pytest.raises(UnsupportedError, match="no uncertainty"):
        Calculator(network(), deviations=True)
    assert "forces_std" not in salt.calc.implemented_properties


def test_noise_of_a_bare_network_is_not_passed_off_as_the_deviation(salt):
    salt.calc = Calculator(network(noise={}))
    salt.get_forces()
    assert set(salt.calc.results) == {"energy", "free_energy", "energies", "forces", "stress"}


@pytest.mark.parametrize("method", ["ensemble", "heads"])
def test_members_are_given_when_asked_for(method, salt):
    salt.calc = Calculator(uncertain(method), members=True, exact=True)
    salt.get_forces()
    results = salt.calc.results
    assert results["energy_members"].shape == (3,)
    assert results["forces_members"].shape == (3, 8, 3)
    assert results["stress_members"].shape == (3, 6)
    for name in ("energy", "forces", "stress"):
        np.testing.assert_allclose(results[f"{name}_members"].mean(0), results[name], atol=1e-8)
        if name != "forces" or method == "heads":  # of a few members Σ is drawn towards a sphere
            np.testing.assert_allclose(results[f"{name}_members"].std(0), results[f"{name}_std"], atol=1e-8)
    spread = np.square(results["forces_members"].std(0)).sum(1)
    np.testing.assert_allclose(spread, np.trace(results["forces_cov"], axis1=1, axis2=2), atol=1e-10)
    salt.calc = Calculator(uncertain(method))
    with pytest.raises(MissingDeviationError, match="members=True"):
        salt.calc.get_property("forces_members", salt)


def test_exact_derives_the_spread_that_is_otherwise_estimated(salt):
    model = uncertain("heads")
    estimate, exact = Calculator(model), Calculator(model, exact=True)
    members = Calculator(model, members=True)
    spread = [c.get_property("forces_cov", salt) for c in (estimate, exact, members)]
    np.testing.assert_allclose(spread[1], spread[2], atol=1e-12)
    assert np.abs(spread[0] - spread[1]).max() > 1e-6
    np.testing.assert_allclose(spread[0][:, 0, 1], 0, atol=1e-15)  # the estimate is isotropic


@pytest.mark.parametrize("fitted", [False, True])
def test_forces_are_derived_by_default_where_the_calibration_was_fitted_so(fitted, salt):
    model = uncertain("heads")
    scaled = BayesianPotential(model.posterior, calibration_of(exact=fitted))
    given = Calculator(scaled).get_property("forces_cov", salt)
    expected = Calculator(model, exact=fitted).get_property("forces_cov", salt)
    np.testing.assert_allclose(given, 4.0 * expected, rtol=1e-9)
    other = Calculator(scaled, exact=not fitted).get_property("forces_cov", salt)
    assert np.abs(other - given).max() > 1e-6


@pytest.mark.parametrize(
    ("method", "options", "error"),
    [
        ("plain", {"exact": True}, UnsupportedError),
        ("plain", {"members": True}, UnsupportedError),
        ("noise", {"members": True}, UnsupportedError),
        ("heads", {"members": True, "deviations": False}, ConfigError),
    ],
)
def test_impossible_options_are_refused_at_once(method, options, error):
    with pytest.raises(error):
        Calculator(network() if method == "plain" else uncertain(method), **options)


def test_one_member_is_no_ensemble():
    with pytest.raises(ConfigError, match="no spread"):
        Members([network()])


def test_a_member_that_returns_nan_is_named_and_nothing_is_cached(salt, tmp_path):
    members = [network(seed) for seed in range(3)]
    with torch.no_grad():
        members[1].body.bias.fill_(float("nan"))
    model = BayesianPotential(Members(members))
    salt.calc = Calculator(model)
    with pytest.raises(DataError, match="member 1"):
        salt.get_forces()
    assert salt.calc.results == {}
    with pytest.raises(DataError, match="member 1"):
        run_md(salt, model, steps=2, out_dir=tmp_path, **RUN)


def test_deviations_that_are_nan_stop_with_the_atoms(salt):
    model = deepcopy(uncertain("llpr"))
    model.posterior.factor[0, 0] = float("nan")
    salt.calc = Calculator(model)
    with pytest.raises(SimulationError, match=r"energies_std that are not finite for atoms Li 0"):
        salt.get_potential_energy()


def test_compiled_models_work_as_before(salt):
    salt.calc = Calculator(compile_potential(network(), structures=[salt], knots=512))
    salt.get_stress()
    assert set(salt.calc.results) == {"energy", "free_energy", "energies", "forces", "stress"}
    with pytest.raises(MissingDeviationError):
        salt.calc.get_property("energy_std", salt)


def test_norm_of_a_deviation_does_not_depend_on_the_axes():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(4, 3, 3))
    covariances = a @ a.transpose(0, 2, 1)
    q = Rotation.random(random_state=0).as_matrix()
    norms = [
        force_std_norm(np.sqrt(np.diagonal(c, axis1=1, axis2=2)))
        for c in (covariances, q @ covariances @ q.T)
    ]
    np.testing.assert_allclose(*norms)
    np.testing.assert_allclose(norms[0], np.sqrt(np.trace(covariances, axis1=1, axis2=2) / 3))


def test_ase_writes_and_exports_what_it_knows(ensemble, salt, tmp_path):
    salt.calc = Calculator(ensemble, members=True)
    forces = salt.get_forces()
    for name in ("a.extxyz", "a.traj", "a.json"):
        write(tmp_path / name, salt)
        np.testing.assert_allclose(read(tmp_path / name).get_forces(), forces, atol=1e-6)
    assert salt.get_properties(["energy", "stress"])["stress"].shape == (6,)


def test_frames_keep_the_deviations_through_a_file(ensemble, salt, tmp_path):
    salt.calc = Calculator(ensemble)
    salt.get_forces()
    write(tmp_path / "frame.extxyz", frame_of(salt))
    frame = read(tmp_path / "frame.extxyz")
    np.testing.assert_allclose(frame.arrays["forces_std"], salt.calc.results["forces_std"], atol=1e-7)
    assert frame.info["energy_std"] == pytest.approx(salt.calc.results["energy_std"])
    frame.calc = Calculator(network())
    frame.get_forces()
    plain = frame_of(frame)  # the deviations in the file belong to another model
    assert "forces_std" not in plain.arrays
    assert "energy_std" not in plain.info


def test_files_of_a_run_have_the_deviations(ensemble, salt, tmp_path):
    limits = {"warn_above": 1e-6, "stop_above": 1e6}
    with pytest.warns(UncertaintyWarning):
        result = run_md(salt, ensemble, steps=6, out_dir=tmp_path, limits=limits, **RUN)
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    frames = read(tmp_path / "trajectory.extxyz", ":")
    assert len(rows) == len(frames) == 3
    for row, frame in zip(rows, frames, strict=True):
        norms = force_std_norm(frame.arrays["forces_std"])
        assert float(row["max_force_std_eV_A"]) == pytest.approx(norms.max(), abs=1e-7)
        assert int(row["max_force_std_atom"]) == norms.argmax()
        assert float(row["energy_std_eV"]) == pytest.approx(frame.info["energy_std"])
    summary = json.loads((tmp_path / "summary.json").read_text())
    found = summary["uncertainty"]
    assert summary["stopped_by"] is None
    assert found["max_force_std_eV_A"]["max"] == result.log["max_force_std_eV_A"].max()
    assert found["energy_std_eV"]["mean"] == pytest.approx(result.log["energy_std_eV"].mean())
    assert (found["frames"], found["frames_warn_above"], found["frames_stop_above"]) == (3, 3, 0)


def test_a_run_without_uncertainty_has_the_columns_it_always_had(salt, tmp_path):
    result = run_md(salt, network(), steps=4, out_dir=tmp_path, **RUN)
    assert (tmp_path / "log.csv").read_text().splitlines()[0].endswith("max_force_eV_A,min_distance_A")
    assert result.summary["uncertainty"] is None
    assert "forces_std" not in read(tmp_path / "trajectory.extxyz").arrays


def test_a_run_stops_at_the_limit_and_goes_on_bit_for_bit(tmp_path):
    ensemble = BayesianPotential(Members([network(seed, lmax=1) for seed in range(2)]))
    salt = bulk("LiCl", "rocksalt", a=5.1, cubic=True)  # by symmetry no force, no deviation of it
    norms = largest_norms(ensemble, salt, 9)
    limit = float(norms[5]) * (1 + 1e-6)
    stops_at = int(np.flatnonzero(norms > limit)[0])
    assert stops_at == 6
    settings = {**RUN, "ensemble": "nve", "steps": 9}
    whole = run_md(salt, ensemble, **settings)
    first = run_md(salt, ensemble, out_dir=tmp_path, limits={"stop_above": limit}, **settings)
    stop = first.summary["stopped_by"]
    assert stop["step"] == stops_at == first.summary["steps"]
    assert stop["force_std_eV_A"] == pytest.approx(norms[stops_at], rel=1e-12)
    assert stop["element"] == salt.symbols[stop["atom"]]
    assert read(tmp_path / "trajectory.extxyz").info["step"] == stops_at
    assert first.log["step"][-1] == stops_at
    again = run_md(salt, ensemble, out_dir=tmp_path, resume=True, limits={"stop_above": limit}, **settings)
    assert again.summary["stopped_by"]["step"] == stops_at
    assert len(again.log["step"]) == len(first.log["step"])
    rest = run_md(salt, ensemble, out_dir=tmp_path, resume=True, limits={"stop_above": 1e3}, **settings)
    assert rest.summary["stopped_by"] is None
    np.testing.assert_array_equal(whole.atoms.positions, rest.atoms.positions)
    np.testing.assert_array_equal(whole.atoms.get_momenta(), rest.atoms.get_momenta())
    common = np.isin(rest.log["step"], whole.log["step"])
    for column in whole.log:
        np.testing.assert_array_equal(whole.log[column], rest.log[column][common])


@pytest.mark.parametrize("thermostat", ["langevin", "nose-hoover"])
def test_thermostats_go_on_bit_for_bit_after_a_stop(salt, tmp_path, thermostat):
    model, settings = uncertain("heads"), {**RUN, "thermostat": thermostat, "steps": 6}
    whole = run_md(salt, model, **settings)
    low = float(whole.log["max_force_std_eV_A"].min()) - 1e-9
    stopped = run_md(salt, model, out_dir=tmp_path, limits={"stop_above": low}, **settings)
    assert stopped.summary["steps"] == 0
    rest = run_md(salt, model, out_dir=tmp_path, resume=True, **settings)
    np.testing.assert_array_equal(whole.atoms.positions, rest.atoms.positions)
    np.testing.assert_array_equal(whole.log["energy_std_eV"], rest.log["energy_std_eV"])


def test_warnings_name_atoms_once_until_they_double(ensemble, salt):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run_md(salt, ensemble, steps=8, limits={"warn_above": 1e-6}, **RUN)
    texts = [str(w.message) for w in caught if issubclass(w.category, UncertaintyWarning)]
    assert texts[0].startswith("step 0, 0 fs: the deviation of the force exceeds 1e-06 eV/Å on ")
    assert "and 3 more" in texts[0]
    assert len(texts) < 5
    named = texts[0].split(" on ")[1].split(" (")[0].split()
    assert salt.symbols[int(named[1])] == named[0]


@pytest.mark.parametrize("limit", ["stop_above", "warn_above"])
def test_limits_on_deviations_need_a_model_that_has_them(salt, tmp_path, limit):
    for potential in (network(), Calculator(uncertain("heads"), deviations=False)):
        with pytest.raises(ConfigError, match=f"(?s){limit}.*gives none.*leave the limit out"):
            run_md(salt, potential, steps=5, out_dir=tmp_path / "run", limits={limit: 0.1}, **RUN)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match=limit):
        run_md(salt, uncertain("heads"), steps=5, limits={limit: -0.1}, **RUN)


def test_a_run_is_not_resumed_with_deviations_that_it_did_not_have(salt, tmp_path):
    model = uncertain("heads")
    run_md(salt, Calculator(model, deviations=False), steps=4, out_dir=tmp_path, **RUN)
    log = (tmp_path / "log.csv").read_bytes()
    with pytest.raises(ConfigError, match="deviations only if it had them"):
        run_md(salt, model, steps=8, out_dir=tmp_path, resume=True, **RUN)
    assert (tmp_path / "log.csv").read_bytes() == log


def test_summary_counts_frames_above_each_limit(salt):
    result = run_md(salt, uncertain("heads"), steps=8, **RUN)
    largest = result.log["max_force_std_eV_A"]
    limits = {"stop_above": float(np.median(largest))}
    chosen = MDConfig.model_validate(result.summary["settings"] | {"limits": limits})
    found = summarise(result.log, chosen, salt, 1.0)["uncertainty"]
    assert found["frames_stop_above"] == (largest > np.median(largest)).sum() == 1


def test_relaxation_reports_the_deviations_of_the_last_structure(ensemble, salt, tmp_path):
    good, bad = relax([salt, bulk("Au")], ensemble, steps=2, cell=False)
    results = good.atoms.calc.results
    assert "energy_std" not in results  # ASE has no place for it
    assert good.energy_std_per_atom == pytest.approx(good.atoms.info["energy_std"] / 8)
    assert good.max_force_std == pytest.approx(force_std_norm(good.atoms.arrays["forces_std"]).max())
    assert np.isnan(bad.max_force_std)
    path, table, _ = write_relaxed([good, bad], tmp_path / "relaxed.extxyz")
    assert read(path, 0).arrays["forces_std"].shape == (8, 3)
    assert float(next(csv.DictReader(table.open()))["max_force_std"]) == good.max_force_std


def call(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    return str(save_model(uncertain("heads"), tmp_path_factory.mktemp("model") / "heads.safetensors"))


def test_loading_by_name_brings_the_uncertainty(model_file, salt):
    assert isinstance(atomml.load(model_file), BayesianPotential)
    assert "forces_std" in Calculator(model_file).implemented_properties
    driver = make_calculator(AtommlCalculator(model=model_file))
    assert driver.get_property("energy", salt) == pytest.approx(
        Calculator(model_file).get_property("energy", salt)
    )


def test_commands_stop_warn_and_go_on(model_file, salt, tmp_path):
    start, out, report = tmp_path / "licl.extxyz", tmp_path / "run", tmp_path / "md.json"
    write(start, salt)
    options = ("md", model_file, start, "--temperature", 60, "--timestep", 0.5, "--steps", 8, "--out", out)
    stopped = call(*options, "--stop-above", 1e-6, "--warn-above", 1e-6, "--json", report)
    assert stopped.exit_code == 0
    assert "stopped at step 0" in stopped.output
    assert "warning: step 0" in stopped.output
    assert json.loads(report.read_text())["stopped_by"]["step"] == 0
    rest = call(*options, "--stop-above", 1000, "--resume", "--json", report)
    assert "0 above the limit of 1000 (--stop-above)" in rest.output
    assert json.loads(report.read_text())["steps"] == 8
    relaxed = call("relax", model_file, start, "--steps", 1, "--no-cell", "--out", tmp_path / "out.extxyz")
    assert "σ(F)" in relaxed.output


@pytest.mark.parametrize("method", METHODS)
def test_checks_of_deviations_pass(method, salt, ethanol):
    rows = checks_deviations.check_deviations(uncertain(method), [salt, ethanol])
    assert all(row.passed is not False for row in rows), rows
    assert len(rows) == (5 if method in ("heads", "llpr") else 4)


class Skewed(BayesianPotential):
    """Deviations that belong to the axes of the laboratory and to the first atom."""

    def predict(self, atoms, **options):
        found = super().predict(atoms, **options)
        factor = np.array([1.0, 1.0, 1.2])
        for k, p in enumerate(found):
            covariances = p.forces_cov * factor[:, None] * factor
            covariances[0] *= 2.0
            found[k] = replace(p, forces_cov=covariances)
        return found


def test_deviations_of_the_laboratory_fail_the_checks(salt):
    model = Skewed(Members([network(seed) for seed in range(3)]))
    positive, turned, relabelled, isolated = checks_deviations.check_deviations(model, [salt])
    assert (positive.passed, turned.passed, relabelled.passed, isolated.passed) == (True, False, False, True)


def test_negative_and_missing_deviations_fail_the_checks(salt):
    class Broken(BayesianPotential):
        def predict(self, atoms, **options):
            alone = [len(a) == 1 for a in atoms]
            found = super().predict(atoms, **options)
            return [
                replace(p, energy_std=float("nan")) if lonely else replace(p, energies_std=-p.energies_std)
                for p, lonely in zip(found, alone, strict=True)
            ]

    model = Broken(Members([network(seed) for seed in range(2)]))
    positive, *_, isolated = checks_deviations.check_deviations(model, [salt])
    assert (positive.value, positive.passed) == (8, False)
    assert (isolated.value, isolated.passed) == (len(E0), False)


@pytest.mark.slow
def test_ensembles_pass_every_exact_check(ensemble, salt):
    report = run_checks(ensemble, [salt], quick=True)
    exact = ("forces", "stress", "rotation", "reflection", "permutation", "E(2×2×2)", "deviations")
    rows = [row for row in report.rows if row.name.startswith(exact)]
    assert len(rows) == 12
    assert all(row.passed for row in rows), report.markdown()


@pytest.mark.parametrize("potential", [network(), uncertain("heads")])
def test_checks_include_the_deviations_of_models_that_have_them(potential, monkeypatch, salt):
    names: list[str] = []
    monkeypatch.setattr("atomml.simulate.checks._run", lambda name, task: names.append(name) or ([], []))
    run_checks(potential, [salt], quick=True)
    assert ("deviations" in names) == isinstance(potential, BayesianPotential)


def test_isolated_atom_of_a_crystal_can_be_simulated(ensemble):
    alone = Atoms("Li", positions=[[0, 0, 0]])
    alone.calc = Calculator(ensemble)
    assert np.isfinite(alone.calc.get_property("energy_std", alone))
    np.testing.assert_array_equal(alone.calc.get_property("forces_std", alone), 0.0)
