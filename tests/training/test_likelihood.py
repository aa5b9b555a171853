"""The likelihood as a loss: gradients against an independent implementation, masks, weights, rotations."""

import math

import numpy as np
import pytest
import torch
from ase.build import molecule
from scipy.spatial.transform import Rotation
from torch.distributions import MultivariateNormal, Normal
from torch_geometric.data import Batch

from atomml.graph.atom_graph import atom_graph
from atomml.training.config import LikelihoodConfig, LossConfig
from atomml.training.likelihood import likelihood_sums, phase_of
from atomml.training.loss import combine, loss_sums, weights_of
from tests.potentials.conftest import E0, make_potential, rock_salt

KINDS = ("expm", "outer", "isotropic", "cholesky")
CHOLESKY = pytest.mark.filterwarnings("ignore:noise.forces = 'cholesky'")
ONES = torch.ones(3, dtype=torch.float64)
PLAIN = LossConfig(kind="mse", stress=1.0)


def water():
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=1)
    return atoms


def labelled(atoms, seed, *, forces=True, stress=True, matrix=None):
    """A graph with labels around what an untrained potential predicts, turned by ``matrix``."""
    rng = np.random.default_rng(seed)
    matrix = np.eye(3) if matrix is None else matrix
    labels = {"energy": sum(E0[z] for z in atoms.numbers) + rng.normal()}
    force, virial = 0.5 * rng.normal(size=(len(atoms), 3)), 0.02 * rng.normal(size=(3, 3))
    if forces:
        labels["forces"] = force @ matrix.T
    if stress:
        labels["stress"] = matrix @ (virial + virial.T) @ matrix.T
    positions, cell = atoms.positions @ matrix.T, atoms.cell.array @ matrix.T
    return atom_graph(atoms.numbers, positions, cell, atoms.pbc, 4.0, **labels)


def batch(matrix=None):
    """Energy, forces and stress; energy and forces without a cell; energy alone."""
    return Batch.from_data_list(
        [
            labelled(rock_salt(), 0, matrix=matrix),
            labelled(water(), 1, stress=False, matrix=matrix),
            labelled(water(), 2, forces=False, stress=False, matrix=matrix),
        ]
    )


def potential_with(forces="expm", **keys):
    keys = {"channels": 4, "layers": 1, "radial_hidden": [8], "noise": {"forces": forces}} | keys
    potential = make_potential(**keys).double()
    with torch.no_grad():  # deviations that differ from atom to atom
        if potential.noise is not None:
            list(potential.noise.network.parameters())[-1].mul_(20.0)
    return potential


def config(**keys):
    return LikelihoodConfig(**({"stress": 1.0, "mean": {"kind": "mse", "stress": 1.0}} | keys))


def evaluated(potential, graph, settings, phase="joint", factors=None):
    feedback = settings.feedback if phase == "joint" else 0.0
    out = potential(
        graph,
        forces=settings.forces > 0,
        stress=settings.stress > 0,
        create_graph=True,
        noise_feedback=feedback,
    )
    return likelihood_sums(out, graph, settings, factors, phase=phase)


def loss_of(potential, graph, settings, phase="joint"):
    return combine(*evaluated(potential, graph, settings, phase), weights_of(settings))


def gradients(potential, loss):
    potential.zero_grad()
    loss.backward()
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in potential.named_parameters()
    }


def independent_nll(potential, graph, *, detach=False):
    """Mean −log p of energies, forces and stress, without the constants, by the densities of torch."""
    out = potential(graph, stress=True, create_graph=True)
    if detach:
        out |= {name: out[name].detach() for name in ("energy", "forces", "stress")}
    energy = -Normal(out["energy"], out["energy_var"].sqrt()).log_prob(graph.energy)
    known = torch.isfinite(graph.forces).all(1)
    density = MultivariateNormal(out["forces"][known], out["forces_cov"][known])
    forces = -density.log_prob(graph.forces[known])
    d = out["stress"][0] - graph.stress[0]
    pressure = torch.einsum("ii->", d) / math.sqrt(3)
    rest = d - torch.eye(3, dtype=torch.float64) * torch.einsum("ii->", d) / 3
    h, s = out["stress_var"][0]
    stress = 0.5 * (pressure**2 / h + rest.square().sum() / s + h.log() + 5 * s.log())
    constant = 0.5 * math.log(2 * math.pi)
    return energy.mean() - constant, forces.mean() - 3 * constant, stress


def assert_close(one, other, names):
    assert names
    for name in names:
        torch.testing.assert_close(one[name], other[name], rtol=1e-8, atol=1e-10, msg=name)


def names_in(potential, prefix):
    return [name for name, _ in potential.named_parameters() if name.startswith(prefix)]


# -- values and gradients


@CHOLESKY
@pytest.mark.parametrize("forces", KINDS)
def test_validation_is_the_negative_logarithm_of_the_density(forces):
    potential, graph = potential_with(forces), batch()
    sums, counts = evaluated(potential, graph, config(), "validation")
    assert counts.tolist() == [3.0, 5.0, 1.0]
    expected = torch.stack(independent_nll(potential, graph))
    torch.testing.assert_close(sums / counts, expected, rtol=1e-10, atol=1e-10)
    weighted, _ = evaluated(potential, graph, config(energy=2.0, forces=3.0, stress=5.0), "validation")
    torch.testing.assert_close(weighted, sums * torch.tensor([2.0, 3.0, 5.0], dtype=torch.float64))


@CHOLESKY
@pytest.mark.parametrize("forces", KINDS)
def test_full_feedback_of_the_likelihood_is_its_gradient(forces):
    potential, graph = potential_with(forces), batch()
    settings = config(balance="likelihood", beta=0.0, feedback=1.0, energy=2.0, forces=3.0, stress=5.0)
    ours = gradients(potential, loss_of(potential, graph, settings))
    energy, force, stress = independent_nll(potential, graph)
    theirs = gradients(potential, 2 * energy + 3 * force + 5 * stress)
    assert_close(ours, theirs, list(ours))


@pytest.mark.parametrize("phase", ["warmup", "joint"])
@pytest.mark.parametrize("forces", ["expm", "isotropic"])
def test_heads_learn_the_likelihood_of_the_present_errors(phase, forces):
    potential, graph = potential_with(forces), batch()
    settings = config(energy=2.0, forces=3.0, stress=5.0, beta=0.5)
    ours = gradients(potential, loss_of(potential, graph, settings, phase))
    energy, force, stress = independent_nll(potential, graph, detach=True)
    theirs = gradients(potential, 2 * energy + 3 * force + 5 * stress)
    assert_close(ours, theirs, names_in(potential, "noise."))


def test_in_the_warmup_the_body_learns_from_the_errors_alone():
    potential, graph = potential_with(), batch()
    settings = config(feedback=1.0, mean={"kind": "huber", "energy": 2.0, "forces": 3.0, "stress": 4.0})
    ours = gradients(potential, loss_of(potential, graph, settings, "warmup"))
    mean = settings.mean
    sums = loss_sums(potential(graph, stress=True, create_graph=True), graph, mean)
    theirs = gradients(potential, combine(*sums, weights_of(mean)))
    assert_close(ours, theirs, names_in(potential, "body."))


def test_with_beta_1_and_the_same_width_in_every_direction_the_body_learns_the_squared_error():
    """½ dᵀ Σ⁻¹ d σ̄² = ½ d²: half of the loss of kind mse, with its weights, whatever the deviations are."""
    potential, graph = potential_with("isotropic"), batch()
    mean = LossConfig(kind="mse", energy=2.0, forces=3.0)
    ours = gradients(potential, loss_of(potential, graph, config(stress=0.0, beta=1.0, mean=mean)))
    sums = loss_sums(potential(graph, create_graph=True), graph, mean)
    theirs = gradients(potential, 0.5 * combine(*sums, weights_of(mean)))
    assert_close(ours, theirs, names_in(potential, "body."))


def test_balanced_weights_are_those_of_the_likelihood_in_units_of_the_mean_loss():
    """With beta 0 the force gradient is the likelihood's times ⟨σ̄²⟩ / 3."""
    potential, graph = potential_with("expm"), batch()
    mean = LossConfig(kind="mse", energy=0.0, forces=1.0)
    settings = config(energy=0.0, stress=0.0, beta=0.0, mean=mean)
    ours = gradients(potential, loss_of(potential, graph, settings))
    known = torch.isfinite(graph.forces).all(1)
    variance = potential(graph)["forces_cov"][known].diagonal(dim1=1, dim2=2).mean().detach()
    out = potential(graph, create_graph=True)
    d = (out["forces"] - graph.forces)[known]
    precision = out["forces_precision"][known].detach()
    quadratic = 0.5 * torch.einsum("ni,nij,nj->n", d, precision, d).mean()
    theirs = gradients(potential, quadratic * variance / 3)
    assert_close(ours, theirs, names_in(potential, "body."))


def test_without_feedback_deviations_do_not_reach_the_body():
    potential, graph = potential_with(), batch()
    lone = config(mean={"kind": "mse", "energy": 0.0, "forces": 1.0}, energy=1.0, forces=0.0, stress=0.0)
    body = names_in(potential, "body.")
    none = gradients(potential, loss_of(potential, graph, lone))
    assert all(not none[name].any() for name in body)
    some = gradients(potential, loss_of(potential, graph, lone.model_copy(update={"feedback": 1.0})))
    assert any(some[name].any() for name in body)


def test_heads_are_the_deviation_of_the_energy():
    potential, graph = potential_with(heads=4, noise=None), batch()
    sums, counts = evaluated(potential, graph, config(stress=0.0), "validation")
    out = potential(graph)
    spread = out["energy_members"].std(1, correction=0)
    expected = -Normal(out["energy"], spread).log_prob(graph.energy) - 0.5 * math.log(2 * math.pi)
    assert sums[0].item() == pytest.approx(expected.sum().item(), rel=1e-6)
    squared = (out["forces"] - graph.forces)[torch.isfinite(graph.forces).all(1)].square()
    assert sums[1].item() == pytest.approx(squared.mean(1).sum().item())  # no deviation of forces: ``mean``
    assert counts.tolist() == [3.0, 5.0, 0.0]


def test_heads_and_noise_add_up():
    potential, graph = potential_with(heads=4), batch()
    out = potential(graph)
    variance = out["energy_var"] + out["energy_members"].var(1, correction=0)
    expected = -Normal(out["energy"], variance.sqrt()).log_prob(graph.energy) - 0.5 * math.log(2 * math.pi)
    sums, _ = evaluated(potential, graph, config(), "validation")
    assert sums[0].item() == pytest.approx(expected.sum().item(), rel=1e-6)


@pytest.mark.parametrize(
    ("progress", "phase"), [(0.0, "warmup"), (0.29, "warmup"), (0.3, "joint"), (1.0, "joint")]
)
def test_the_warmup_is_a_share_of_the_training(progress, phase):
    assert phase_of(config(warmup=0.3), progress) == phase
    assert phase_of(config(warmup=0.0), progress) == "joint"


# -- labels


def with_labels(change):
    graph = batch()
    change(graph)
    return graph


def hide_component(graph):
    graph.forces[1, 2] = torch.nan


def hide_atom(graph):
    graph.forces[1] = torch.nan


@pytest.mark.parametrize("phase", ["warmup", "joint", "validation"])
def test_a_partly_labelled_atom_counts_as_unlabelled(phase):
    potential = potential_with()
    one, other = (
        evaluated(potential, with_labels(change), config(), phase) for change in (hide_component, hide_atom)
    )
    torch.testing.assert_close(one[0], other[0], rtol=1e-14, atol=0)
    assert one[1].tolist() == other[1].tolist() == [3.0, 4.0, 1.0]


@pytest.mark.parametrize("phase", ["warmup", "joint"])
@pytest.mark.parametrize("balance", ["mean", "likelihood"])
def test_absent_labels_carry_no_gradient_not_even_nan(phase, balance):
    potential = potential_with()
    settings = config(balance=balance, feedback=1.0)
    found = gradients(potential, loss_of(potential, with_labels(hide_component), settings, phase))
    assert all(value.isfinite().all() for value in found.values())
    without = with_labels(hide_component)
    without.energy[2] = 1e6  # a frame whose energy is no label either
    without.energy[2] = torch.nan
    both = Batch.from_data_list(without.to_data_list()[:2])
    torch.testing.assert_close(
        loss_of(potential, without, settings, phase), loss_of(potential, both, settings, phase)
    )


@pytest.mark.parametrize("phase", ["warmup", "joint", "validation"])
@pytest.mark.parametrize("normalization", ["values", "structure"])
def test_a_term_without_any_label_adds_nothing(phase, normalization):
    potential = potential_with()
    graph = Batch.from_data_list([labelled(water(), 2, forces=False, stress=False)])
    settings = config(normalization=normalization, feedback=1.0, balance="likelihood")
    sums, counts = evaluated(potential, graph, settings, phase)
    assert sums[1:].tolist() == [0.0, 0.0]
    assert counts.tolist() == ([1.0, 0.0, 0.0] if normalization == "values" else [1.0, 1.0, 1.0])
    found = gradients(potential, combine(sums, counts, ONES))
    assert all(value.isfinite().all() for value in found.values())


def test_terms_that_are_left_out_are_not_evaluated():
    potential, graph = potential_with(), batch()
    sums, counts = evaluated(potential, graph, config(forces=0.0, stress=0.0))
    assert sums[1:].tolist() == counts[1:].tolist() == [0.0, 0.0]


def test_the_likelihood_of_structures_is_the_sum_of_their_terms():
    potential, graph = potential_with(), batch()
    values, structure = (
        evaluated(potential, graph, config(normalization=n), "validation") for n in ("values", "structure")
    )
    torch.testing.assert_close(values[0], structure[0])
    assert structure[1].tolist() == [3.0, 3.0, 3.0]
    assert combine(*structure, ONES).item() == pytest.approx(values[0].sum().item() / 3, rel=1e-12)
    alone = [
        combine(
            *evaluated(
                potential, Batch.from_data_list([one]), config(normalization="structure"), "validation"
            ),
            ONES,
        )
        for one in graph.to_data_list()
    ]
    assert combine(*structure, ONES).item() == pytest.approx(torch.stack(alone).mean().item(), rel=1e-10)


@pytest.mark.parametrize("phase", ["warmup", "validation"])
def test_factors_of_several_sets_multiply_each_term(phase):
    potential, graph = potential_with(), batch()
    graph.set_number = torch.tensor([0, 1, 1])
    factors = torch.tensor([[2.0, 3.0, 5.0], [0.0, 7.0, 11.0]], dtype=torch.float64)
    sums, counts = evaluated(potential, graph, config(), phase, factors)
    first, second = (
        evaluated(potential, Batch.from_data_list(graph.to_data_list()[part]), config(), phase)
        for part in (slice(0, 1), slice(1, 3))
    )
    torch.testing.assert_close(sums, factors[0] * first[0] + factors[1] * second[0])
    assert counts.tolist() == [3.0, 5.0, 1.0]


# -- rotations


def changes_on_rotation(forces):
    """How much each of the losses changes when the structures and their labels are turned."""
    potential = potential_with(forces)
    graphs = [batch(), batch(Rotation.random(random_state=5).as_matrix())]
    outputs = [potential(graph, stress=True) for graph in graphs]
    cases = [
        (balance, phase) for balance in ("mean", "likelihood") for phase in ("warmup", "joint", "validation")
    ]
    each = [
        [
            combine(*likelihood_sums(out, graph, config(balance=balance), phase=phase), ONES).item()
            for out, graph in zip(outputs, graphs, strict=True)
        ]
        for balance, phase in cases
    ]
    return [abs(one - other) for one, other in each]


@pytest.mark.parametrize("forces", ["expm", "outer", "isotropic"])
def test_the_loss_does_not_depend_on_the_orientation(forces):
    assert max(changes_on_rotation(forces)) < 1e-10


@CHOLESKY
def test_the_published_covariance_depends_on_the_orientation():
    assert min(changes_on_rotation("cholesky")) > 1e-3


# -- weights


def fitted(settings):
    """Output of a potential whose typical deviations fit the errors of its fixed prediction."""
    potential, graph = potential_with("expm").requires_grad_(False), batch()
    parameter = potential.noise.log_std.requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [parameter], max_iter=60, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = combine(
            *likelihood_sums(potential(graph, noise_feedback=0.0), graph, settings, phase="warmup"), ONES
        )
        loss.backward(inputs=[parameter])
        return loss

    optimizer.step(closure)
    potential.noise.untemper(energy=settings.lambda_energy, forces=settings.lambda_forces)
    return potential(graph)


@pytest.fixture(scope="module")
def best_fit():
    return fitted(config(stress=0.0))


def test_fitted_deviations_are_those_of_the_errors(best_fit):
    """Of every element dᵀ Σ⁻¹ d is 3 on average, and (E − μ)²/σ² is 1."""
    graph = batch()
    known = torch.isfinite(graph.forces).all(1)
    d = (best_fit["forces"] - graph.forces)[known].detach()
    quadratic = torch.einsum("ni,nij,nj->n", d, best_fit["forces_precision"][known].detach(), d)
    for z in (1, 8, 3, 17):
        assert quadratic[graph.z[known] == z].mean().item() == pytest.approx(3.0, rel=1e-3)
    ratio = (best_fit["energy"] - graph.energy).square() / best_fit["energy_var"]
    assert ratio[0].item() == pytest.approx(1.0, rel=1e-3)
    assert ratio[1:].mean().item() == pytest.approx(1.0, rel=1e-3)  # the same molecule with two labels


@pytest.mark.parametrize(
    "changes",
    [
        {"energy": 0.3, "forces": 20.0},
        # the published loss inflates Σ by λ; divided by it the deviations are those that fit
        {"lambda_energy": 0.2, "lambda_forces": 100.0},
    ],
)
def test_weights_do_not_change_the_deviations_that_fit(best_fit, changes):
    other = fitted(config(stress=0.0, **changes))
    known = torch.isfinite(batch().forces).all(1)
    torch.testing.assert_close(other["energy_var"], best_fit["energy_var"], rtol=1e-3, atol=0)
    torch.testing.assert_close(
        other["forces_cov"][known], best_fit["forces_cov"][known], rtol=1e-3, atol=1e-6
    )
