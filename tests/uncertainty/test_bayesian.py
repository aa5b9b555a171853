"""`BayesianPotential`: two parts of the variance, the factors of a calibration, and what it refuses."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from torch_geometric.data import Batch

from atomml.errors import UnsupportedError
from atomml.graph.atom_graph import graph_from_ase
from atomml.uncertainty.bayesian import BayesianPotential
from atomml.uncertainty.calibration import Calibration
from atomml.uncertainty.likelihood import voigt_var
from atomml.uncertainty.model_file import head_posterior
from atomml.uncertainty.posterior import LastLayer, Members, PointEstimate
from tests.potentials.conftest import make_paper_potential, make_potential, rock_salt

ALPHA, BETA = {"energy": 2.0, "forces": 3.0, "stress": 4.0}, {"energy": 0.5, "forces": 0.25, "stress": 0.125}
BY_ELEMENT = {3: {"alpha": 5.0, "beta": 0.75}}
PARTS = ("energy_std_epistemic", "energy_std_aleatoric")
NAMES = ("energy_std", *PARTS, "energies_std", "forces_std", "forces_cov", "stress_std")


def calibration(**changes):
    """Factors that are easy to recognise; made by hand, as no fit would give them."""
    straight = {"expected": [0.0, 1.0], "observed": [0.0, 1.0]}
    common = {"isotonic": straight, "conformal": {}, "count": 20, "frames": 20}
    quantities = {
        name: {"scale": {"alpha": ALPHA[name], "beta": BETA[name]}, "before": {}, "after": {}, **common}
        for name in ALPHA
    }
    quantities["forces"]["by_element"] = BY_ELEMENT
    return Calibration(**({"method": "affine", "quantities": quantities} | changes))


def noisy_ensemble():
    return Members([make_potential(seed, noise={}).double() for seed in range(3)])


def silent_ensemble():
    return Members([make_potential(seed).double() for seed in range(3)])


def noise_alone():
    return PointEstimate(make_potential(noise={}).double())


def heads():
    return head_posterior(make_potential(heads=3, noise={"forces": "isotropic"}).double())


def graph():
    return Batch.from_data_list([graph_from_ase(a, 4.0) for a in (molecule("H2O"), rock_salt(), Atoms("C"))])


@pytest.fixture(scope="module", params=[noisy_ensemble, silent_ensemble, noise_alone, heads])
def posterior(request):
    return request.param()


def raw_of(posterior):
    out = posterior(graph(), forces=True, stress=True, exact=False, members=False)
    return {name: value.detach() for name, value in out.items()}


def parts_of(raw, name):
    """Epistemic and aleatoric (co)variance, 0 for what there is not."""
    kind = "cov" if name == "forces" else "var"
    epistemic, aleatoric = raw.get(f"{name}_{kind}_epistemic", 0.0), raw.get(f"{name}_{kind}", 0.0)
    if name == "stress" and "stress_var" in raw:
        six = voigt_var(raw["stress_var"])
        aleatoric = torch.stack([six[:, [0, 5, 4]], six[:, [5, 1, 3]], six[:, [4, 3, 2]]], 1)
    return epistemic, aleatoric


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15, equal_nan=True)


def test_variances_of_both_parts_add_up(posterior):
    out, raw = BayesianPotential(posterior)(graph(), stress=True), raw_of(posterior)
    for name in ("energy", "energies", "stress"):
        close(out[f"{name}_std"].square(), sum(parts_of(raw, name)) + 0 * out[name])
    close(out["forces_cov"], sum(parts_of(raw, "forces")))
    close(out["forces_std"], out["forces_cov"].diagonal(dim1=1, dim2=2).sqrt())
    close(
        out["energy_std"].square(),
        out["energy_std_epistemic"].square() + out["energy_std_aleatoric"].square(),
    )
    close(out["forces_cov"], out["forces_cov_epistemic"] + out["forces_cov_aleatoric"])
    for name in ("energy", "energies", "forces", "stress"):
        close(out[name], raw[name])


def test_factors_of_a_calibration_are_applied(posterior):
    out, raw = BayesianPotential(posterior, calibration())(graph(), stress=True), raw_of(posterior)
    n_atoms = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    close(out["energy_std"].square(), 4 * sum(parts_of(raw, "energy")) + 0.25 * n_atoms)
    close(out["energies_std"].square(), 4 * sum(parts_of(raw, "energies")) + 0.25)
    lithium = (graph().z == 3)[:, None, None]
    one = torch.eye(3, dtype=torch.float64)
    alpha2, beta2 = torch.where(lithium, 25.0, 9.0), torch.where(lithium, 0.75**2, 0.0625)
    close(out["forces_cov"], alpha2 * sum(parts_of(raw, "forces")) + beta2 * one)
    close(out["forces_cov_epistemic"], alpha2 * parts_of(raw, "forces")[0] + 0 * beta2 * one)
    # β² of a Mandel component √2 σ_xy is β²/2 of σ_xy
    floor = 0.125**2 * torch.tensor([[1, 0.5, 0.5], [0.5, 1, 0.5], [0.5, 0.5, 1]], dtype=torch.float64)
    close(out["stress_std"].square(), 16 * sum(parts_of(raw, "stress")) + floor + 0 * raw["stress"])


def test_parts_do_not_contain_the_floor(posterior):
    out = BayesianPotential(posterior, calibration())(graph(), forces=False)
    parts = out["energy_std_epistemic"].square() + out["energy_std_aleatoric"].square()
    close(
        out["energy_std"].square() - parts,
        0.25 * torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64) + 0 * parts,
    )


def test_a_quantity_that_was_not_calibrated_keeps_its_deviations(posterior):
    only_energy = calibration(quantities={"energy": calibration().quantities["energy"]})
    plain, some = (BayesianPotential(posterior, c)(graph(), stress=True) for c in (None, only_energy))
    close(plain["forces_cov"], some["forces_cov"])
    close(plain["stress_std"], some["stress_std"])
    assert not torch.equal(plain["energy_std"], some["energy_std"])


def test_total_energies_and_energies_of_atoms_agree_on_the_floor():
    """Σ of the atoms' floors is that of the structure."""
    model = BayesianPotential(noise_alone(), calibration())
    out = model(graph(), forces=False)
    summed = torch.zeros(3, dtype=torch.float64).index_add(0, graph().batch, out["energies_std"].square())
    close(out["energy_std"].square(), summed)


def test_predictions_have_the_deviations_of_the_batch(posterior):
    model = BayesianPotential(posterior, calibration())
    structures = [molecule("H2O"), rock_salt(), Atoms("C")]
    out = model(graph(), stress=True)
    for k, p in enumerate(model.predict(structures)):
        rows = graph().batch == k
        assert p.energy_std == pytest.approx(out["energy_std"][k].item(), rel=1e-12)
        np.testing.assert_allclose(p.forces_cov, out["forces_cov"][rows], rtol=1e-12)
        np.testing.assert_allclose(p.energies_std, out["energies_std"][rows], rtol=1e-12)
        assert p.calibration == model.calibration_id
        assert (p.stress_std is None) == (k != 1)
    salt, expected = model.predict(structures[1])[0], out["stress_std"][1]
    pairs = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]
    np.testing.assert_allclose(salt.stress_std, [expected[pair].item() for pair in pairs], rtol=1e-12)


@pytest.mark.parametrize("forces", [True, False])
def test_members_are_in_the_prediction_when_asked_for(forces):
    model = BayesianPotential(noisy_ensemble())
    options = {"forces": forces, "stress": forces}
    with_members = model.predict(rock_salt(), members=True, **options)[0]
    assert with_members.energy_members.shape == (3,)
    assert with_members.energy_members.std() == pytest.approx(with_members.energy_std_epistemic, rel=1e-6)
    assert (with_members.forces_members is not None) == forces
    if forces:
        assert with_members.forces_members.shape == (3, 2, 3)
        assert with_members.stress_members.shape == (3, 6)
        np.testing.assert_allclose(with_members.stress_members.mean(0), with_members.stress, atol=1e-12)
    assert model.predict(rock_salt(), **options)[0].energy_members is None


def test_a_plain_potential_with_heads_has_no_deviations_in_its_predictions():
    prediction = make_potential(heads=3).predict(molecule("H2O"))[0]
    assert prediction.energy_members is None
    assert prediction.energy_std is None


def test_what_a_potential_is_asked_for_is_that_of_the_potential(posterior):
    model, own = BayesianPotential(posterior), posterior.potential
    names = ("cutoff", "elements", "conservative", "config", "e0", "dtype", "device")
    assert all(getattr(model, name) == getattr(own, name) for name in names)
    assert model.potential is own
    assert model.method == posterior.method
    assert model.calibration_id is None
    assert model.deviations == NAMES
    assert BayesianPotential(posterior, calibration()).calibration_id == calibration().id


def test_models_with_direct_forces_have_no_deviation_of_stress():
    members = Members([make_paper_potential(), make_paper_potential()])
    assert BayesianPotential(members).deviations == NAMES[:-1]
    assert not BayesianPotential(members).conservative


@pytest.mark.parametrize("make", [make_potential, make_paper_potential])
def test_a_model_that_has_nothing_to_say_is_refused(make):
    with pytest.raises(UnsupportedError, match="no uncertainty") as caught:
        BayesianPotential(PointEstimate(make()))
    assert "model.noise" in str(caught.value)


def test_deviations_cannot_be_trained_through(posterior):
    with pytest.raises(UnsupportedError, match="differentiated"):
        BayesianPotential(posterior)(graph(), create_graph=True)


def test_results_have_no_graph_and_no_gradients_are_left(posterior):
    model = BayesianPotential(posterior)
    with torch.enable_grad():
        out = model(graph(), stress=True, exact=True, members=True)
    assert not any(value.requires_grad for value in out.values())
    assert all(p.grad is None for p in model.parameters())


def test_a_last_layer_in_single_precision_is_close_to_double():
    potential = make_potential()
    factor = 0.1 * np.random.default_rng(0).normal(size=(potential.last_layer().shape[0], 4))
    single = BayesianPotential(LastLayer(potential, factor, "llpr"))(graph(), stress=True, exact=True)
    double = BayesianPotential(LastLayer(potential.double(), factor, "llpr"))(
        graph(), stress=True, exact=True
    )
    for name in NAMES:
        torch.testing.assert_close(single[name], double[name], rtol=1e-3, atol=1e-5, equal_nan=True)
        assert single[name].dtype == torch.float64


def test_disagreement_can_have_a_factor_of_its_own(posterior):
    """γ multiplies the epistemic part before both are scaled by α."""
    gamma = {"energy": 3.0, "forces": 4.0, "stress": 5.0}
    plain = BayesianPotential(posterior, calibration())(graph(), stress=True)
    out, raw = (
        BayesianPotential(posterior, calibration(epistemic=gamma))(graph(), stress=True),
        raw_of(posterior),
    )
    close(out["energy_std_epistemic"], 3 * plain["energy_std_epistemic"])
    close(out["energy_std_aleatoric"], plain["energy_std_aleatoric"])
    epistemic, aleatoric = parts_of(raw, "energies")
    close(out["energies_std"].square(), 4 * (9 * epistemic + aleatoric) + 0.25)
    close(out["forces_cov_epistemic"], 16 * plain["forces_cov_epistemic"])
    close(out["forces_cov_aleatoric"], plain["forces_cov_aleatoric"])
    close(
        out["stress_std"].square() - plain["stress_std"].square(), 24 * plain["stress_std_epistemic"].square()
    )


@pytest.mark.parametrize("make", [noisy_ensemble, heads])
def test_members_are_as_far_apart_as_the_calibrated_disagreement(make):
    model = BayesianPotential(make(), calibration(epistemic={"energy": 3.0, "forces": 2.0}))
    out = model(graph(), stress=True, members=True)
    spread = out["energy_members"].var(1, correction=0)
    torch.testing.assert_close(spread, out["energy_std_epistemic"].square(), rtol=1e-6, atol=1e-10)
    torch.testing.assert_close(out["energy_members"].mean(1), out["energy"], rtol=0, atol=1e-8)
    trace = out["forces_members"].var(0, correction=0).sum(1)
    expected = out["forces_cov_epistemic"].diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(trace, expected, rtol=1e-8, atol=1e-14)
    torch.testing.assert_close(
        out["stress_members"].std(0, correction=0),
        out["stress_std_epistemic"],
        rtol=1e-6,
        atol=1e-12,
        equal_nan=True,
    )


def test_deviations_are_derived_if_they_were_when_they_were_calibrated():
    posterior = heads()
    derived = BayesianPotential(posterior, calibration(data={"exact": True}))
    estimated = BayesianPotential(posterior, calibration())
    close(derived(graph())["forces_cov"], estimated(graph(), exact=True)["forces_cov"])
    close(derived(graph(), exact=False)["forces_cov"], estimated(graph())["forces_cov"])
    assert not torch.equal(derived(graph())["forces_cov"], estimated(graph())["forces_cov"])
