"""Models in metatomic's format: the same numbers through its calculator, in batches, and as LAMMPS asks for them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from typer.testing import CliRunner

import atomml
from atomml._optional import installed
from atomml.cli.main import app
from atomml.errors import CheckError, ConfigError, ModelFileError, UnsupportedError
from atomml.graph.neighbors import neighbor_list
from atomml.potentials import TDNConfig, build_potential, save_model
from atomml.potentials.compile import compile_potential
from atomml.potentials.config import PaperTDNConfig, RACEConfig
from atomml.simulate import Calculator
from atomml.simulate.export import metatomic as exporter
from atomml.simulate.export import verify
from atomml.simulate.export.imports import import_metatomic
from atomml.simulate.export.metatomic import export_metatomic
from atomml.uncertainty.bayesian import BayesianPotential
from atomml.uncertainty.calibration import Calibration, IsotonicMap, QuantityCalibration, Scale
from atomml.uncertainty.model_file import head_posterior, load_model
from atomml.uncertainty.model_file import save_model as save_uncertain
from atomml.uncertainty.posterior import LastLayer, Members, PointEstimate

pytestmark = pytest.mark.skipif(not installed("metatomic"), reason="metatomic is not installed")

E0 = {1: -0.4, 3: -0.5, 6: -1.5, 8: -2.0, 17: -0.2}
TIGHT = {"float32": 1e-5, "float64": 1e-10}
SMALL = {"channels": 4, "layers": 2, "cutoff": 4.0, "radial_hidden": [8]}
BODIES = {
    "tdn": TDNConfig(**SMALL),
    "tdn with repulsion": TDNConfig(**SMALL, zbl=True),
    "tdn with a weight per path": TDNConfig(
        **SMALL, path_weights="per_path", nonlinearity="norm", products=3
    ),
    "tdn of one layer": TDNConfig(**{**SMALL, "layers": 1}, lmax=1, products=0, nonlinearity="none"),
    "race": RACEConfig(**{**SMALL, "layers": 4}, parity="both"),
}
QUICK = (("tdn with repulsion", "float32"), ("race", "float64"), "heads", "noise")


def quick_or_slow(cases):
    return [
        case
        if case in QUICK
        else pytest.param(*([case] if isinstance(case, str) else case), marks=pytest.mark.slow)
        for case in cases
    ]


def build(config, dtype="float64", seed=0):
    potential = build_potential(
        config, elements=list(E0), e0=E0, average_neighbors=20.0, scale=0.5, seed=seed
    )
    return potential.to(getattr(torch, dtype)).eval()


def calibrated(posterior):
    energy = QuantityCalibration(
        scale=Scale(alpha=1.7, beta=0.01),
        isotonic=IsotonicMap(expected=(0.0, 1.0), observed=(0.0, 1.0)),
        conformal={},
        count=1,
        frames=1,
        before={},
        after={},
    )
    return BayesianPotential(
        posterior, Calibration(method="nll", quantities={"energy": energy}, epistemic={"energy": 1.3})
    )


def uncertain(kind):
    if kind == "noisy ensemble":
        members = [build(TDNConfig(**SMALL, noise={"energy": "mean"}), seed=k) for k in range(2)]
        return calibrated(Members(members, stretch=1.5))
    if kind == "heads":
        return calibrated(head_posterior(build(TDNConfig(**SMALL, heads=3))))
    if kind == "noise":
        return calibrated(PointEstimate(build(TDNConfig(**SMALL, noise={}))))
    potential = build(BODIES["tdn"])
    size = len(potential.last_layer())
    return calibrated(LastLayer(potential, 0.1 * np.random.default_rng(0).normal(size=(size, size)), "llpr"))


def structures():
    """Crystals of several sizes, one smaller than the cutoff, a slab, molecules, a lone atom."""
    salt = bulk("LiCl", "rocksalt", a=5.1, cubic=True)
    salt.set_cell(salt.cell.array @ [[1.02, 0.01, 0], [0, 0.99, 0.02], [0, 0, 1]], scale_atoms=True)
    slab = salt * (2, 1, 1)
    slab.pbc = (True, True, False)
    found = [
        salt,
        salt * (2, 1, 2),
        bulk("LiCl", "rocksalt", a=5.1),
        slab,
        molecule("CH3CH2OH"),
        molecule("H2O"),
    ]
    for k, atoms in enumerate(found):
        atoms.rattle(0.05, seed=k)
    return [*found, Atoms("Li"), Atoms("Cl", cell=np.eye(3) * 3.3, pbc=True)]


def reader(path, **options):
    options = {"device": "cpu", "check_consistency": True, "uncertainty_threshold": None} | options
    return import_metatomic("metatomic_ase").MetatomicCalculator(str(path), **options)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model and its file."""
    model, path = build(BODIES["tdn"]), tmp_path_factory.mktemp("exported") / "m.pt"
    export_metatomic(model, path, structures=[Atoms("Li")])
    return model, path


def values(calculator, atoms, name, kind, selected=None):
    request = {name: import_metatomic().ModelOutput(unit="eV", sample_kind=kind)}
    block = calculator.run_model(atoms, request, selected)[name].block()
    return block.values.detach().numpy(), block.samples


@pytest.mark.parametrize(("body", "dtype"), quick_or_slow((b, d) for b in BODIES for d in TIGHT))
def test_energy_forces_and_stress_are_those_of_our_calculator(body, dtype, tmp_path):
    model, tolerance = build(BODIES[body], dtype), TIGHT[dtype]
    facts = export_metatomic(model, tmp_path / "model.pt", structures=structures()[:1])
    assert facts["outputs"] == ["energy"]
    theirs, ours = reader(tmp_path / "model.pt"), Calculator(model)
    for atoms in structures():
        copy = atoms.copy()
        atoms.calc, copy.calc = ours, theirs
        force = max(1.0, np.abs(atoms.get_forces()).max())
        assert copy.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), rel=tolerance)
        np.testing.assert_allclose(copy.get_forces(), atoms.get_forces(), atol=tolerance * force)
        energies = copy.get_potential_energies()
        np.testing.assert_allclose(energies, atoms.calc.results["energies"], rtol=tolerance)
        if atoms.pbc.all():
            stress = atoms.get_stress()
            np.testing.assert_allclose(
                copy.get_stress(), stress, atol=tolerance * max(0.01, np.abs(stress).max())
            )


@pytest.mark.parametrize("kind", quick_or_slow(["noisy ensemble", "heads", "llpr", "noise"]))
def test_deviations_and_members_are_those_of_the_model(kind, tmp_path):
    model, frames = uncertain(kind), structures()
    facts = export_metatomic(model, tmp_path / "model.pt", structures=frames)
    assert facts["difference"]["energy_uncertainty"]["scaled"] < 1e-10
    assert facts["left_out"] == ["deviations of forces and stress"]
    truth, calculator = model.predict(frames, members=kind != "noise"), reader(tmp_path / "model.pt")
    found, _ = values(calculator, frames, "energy_uncertainty", "system")
    np.testing.assert_allclose(found[:, 0], [t.energy_std for t in truth], rtol=1e-10)
    found, _ = values(calculator, frames, "energy_uncertainty", "atom")
    np.testing.assert_allclose(found[:, 0], np.concatenate([t.energies_std for t in truth]), rtol=1e-10)
    assert ("energy_ensemble" in facts["outputs"]) is (kind != "noise")
    if kind != "noise":
        found, _ = values(calculator, frames, "energy_ensemble", "system")
        np.testing.assert_allclose(found, [t.energy_members for t in truth], rtol=1e-10)


def test_selected_atoms_with_images_around_them_give_the_crystal(exported):
    """What LAMMPS does: its own atoms and those of other domains, as a cluster without a cell."""
    (model, path), salt = exported, structures()[0]
    calculator, reach = reader(path), 2 * model.cutoff
    neighbor, _, shift = neighbor_list(salt.positions, salt.cell.array, salt.pbc, reach)
    images = np.unique(np.column_stack([neighbor, shift.astype(int)]), axis=0)
    images = images[np.any(images[:, 1:] != 0, axis=1)]
    cluster = Atoms(
        numbers=np.concatenate([salt.numbers, salt.numbers[images[:, 0]]]),
        positions=np.concatenate(
            [salt.positions, salt.positions[images[:, 0]] + images[:, 1:] @ salt.cell.array]
        ),
    )
    labels = import_metatomic("metatensor.torch").Labels
    own = torch.tensor([[0, k] for k in range(len(salt))], dtype=torch.int32)
    chosen = labels(["system", "atom"], own)
    energy, _ = values(calculator, [cluster], "energy", "system", chosen)
    energies, samples = values(calculator, [cluster], "energy", "atom", chosen)
    (exact,) = model.predict([salt])
    assert energy[0, 0] == pytest.approx(exact.energy, rel=1e-12)
    np.testing.assert_allclose(energies[:, 0], exact.energies, rtol=1e-12)
    assert samples.values.tolist() == own.tolist()


def test_capabilities_and_metadata_say_what_the_model_is(tmp_path):
    save_model(build(BODIES["race"], "float32"), tmp_path / "m.safetensors", licence="CC-BY-4.0")
    frames, authors = structures()[:1], ["A. Author"]
    facts = export_metatomic(
        tmp_path / "m.safetensors", tmp_path / "m.pt", structures=frames, authors=authors
    )
    metatomic = import_metatomic()
    model = metatomic.load_atomistic_model(str(tmp_path / "m.pt"))
    known, about = model.capabilities(), model.metadata()
    assert (known.dtype, known.length_unit, known.interaction_range) == ("float32", "angstrom", 16.0)
    assert sorted(known.atomic_types) == sorted(E0)
    assert known.outputs["energy"].unit == "eV"
    (request,) = model.requested_neighbor_lists()
    assert (request.cutoff, request.full_list, request.strict) == (4.0, True, True)
    assert about.authors == ["A. Author"]
    assert about.extra["licence"] == "CC-BY-4.0"
    assert "2510.03046" in about.references["architecture"][0]
    assert json.loads(about.extra["export"])["difference"] == facts["difference"]
    assert (tmp_path / "m.pt").stat().st_size == facts["bytes"]


def test_an_element_that_the_model_does_not_know_is_refused_by_the_file(exported):
    gold = Atoms("Au")
    gold.calc = reader(exported[1])
    with pytest.raises(Exception, match="does not support the atomic type"):
        gold.get_potential_energy()


def test_the_file_needs_no_library_of_ours(exported):
    extra = {"extensions": ""}
    module = torch.jit.load(str(exported[1]), _extra_files=extra)
    assert json.loads(extra["extensions"]) == []
    assert "atomml::" not in str(module.module.network.inlined_graph)


def test_models_that_the_format_cannot_hold_are_refused(tmp_path):
    source = build(TDNConfig(**{**SMALL, "layers": 1}, lmax=1))
    published = build(PaperTDNConfig(channels=8, gaussians=16, layers=2))
    for model, reason in (
        (compile_potential(source), "compiled model cannot"),
        (published, "tdn_paper cannot be exported"),
    ):
        with pytest.raises(UnsupportedError, match=reason):
            export_metatomic(model, tmp_path / "m.pt")
    assert not (tmp_path / "m.pt").exists()


def test_heads_without_a_posterior_are_reported(tmp_path):
    facts = export_metatomic(
        build(TDNConfig(**SMALL, heads=3, noise={})), tmp_path / "m.pt", structures=[Atoms("Li")]
    )
    assert facts["outputs"] == ["energy"]
    assert "heads" in facts["left_out"][0]


def test_a_difference_is_an_error_and_leaves_what_was_there(tmp_path, monkeypatch):
    old = tmp_path / "m.pt"
    old.write_text("old")
    wrong = build(BODIES["tdn"], seed=1)
    monkeypatch.setattr(
        exporter, "measure", lambda file, model, frames, outputs: verify.measure(file, wrong, frames, outputs)
    )
    with pytest.raises(CheckError, match="differs from the original"):
        export_metatomic(build(BODIES["tdn"]), old, structures=structures()[:1])
    assert old.read_text() == "old"


def test_nan_is_a_difference():
    with pytest.raises(CheckError, match="energy by nan"):
        verify.refuse_above(1.0, {"energy": {"absolute": np.nan, "scaled": np.nan}}, where="here")


def test_other_libraries_keep_their_index_select():
    import_metatomic("metatomic_ase")
    assert torch.index_select.__module__.startswith("torch_geometric")
    assert torch.ops.loaded_libraries


def call(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_command_exports_a_model_with_its_uncertainty(tmp_path):
    model = tmp_path / "m.safetensors"
    save_uncertain(uncertain("heads"), model)
    result = call("export", model, tmp_path / "m.pt", "--dtype", "float32", "--json", tmp_path / "facts.json")
    assert "energy_uncertainty, energy_ensemble" in result.output
    assert "not in the file: deviations of forces" in result.output
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["structures"] == {"number": 15, "origin": "made from the elements"}
    assert load_model(model).dtype is torch.float64  # what is exported is a copy
    assert facts["dtype"] == "float32"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("m.pt", "--format", "onnx"), "no format 'onnx'"),
        (("m.pt", "--dtype", "half"), "not a precision"),
        (("m.safetensors",), "ending .pt"),
    ],
)
def test_impossible_options_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        call("export", "demo", *arguments)


def test_a_missing_model_is_an_error(tmp_path):
    with pytest.raises(ModelFileError, match="no such model"):
        call("export", tmp_path / "none.safetensors", tmp_path / "m.pt")


def test_metatomic_that_is_not_installed_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "metatomic.torch", None)
    with pytest.raises(UnsupportedError, match=r"atomml\[metatomic\]|not installed"):
        export_metatomic(atomml.load("demo"), tmp_path / "m.pt")
