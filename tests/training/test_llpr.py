"""Last-layer posterior from training frames: exact Bayesian linear regression on the features of the network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch

from atomml.errors import UnsupportedError
from atomml.graph.atom_graph import atom_graph
from atomml.training.llpr import fit_llpr
from tests.potentials.conftest import make_paper_potential
from tests.training.uncertain import E0, potential, structures

N_FRAMES, N_FORCES = 24, 6
STEP = 1e-4


def graph_of(atoms, **labels):
    return atom_graph(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, 3.5, **labels)


@pytest.fixture(scope="module")
def network():
    return potential(seed=3, readout_hidden=4)  # few features, so that the regression is well conditioned


def labelled(network, seed=0):
    """Frames with energies and forces 20 meV/atom and 0.1 eV/Å around the network's."""
    rng = np.random.default_rng(seed)
    frames = structures(N_FRAMES, seed=seed)
    graphs = []
    for atoms, p in zip(frames, network.predict(frames), strict=True):
        energy = p.energy + 0.02 * len(atoms) * rng.normal()
        forces = p.forces + 0.1 * rng.normal(size=p.forces.shape)
        graphs.append(graph_of(atoms, energy=energy, forces=forces))
    return frames, graphs


def summed_features(network, atoms):
    """Σ_i f_i of one structure, in the unit of energy."""
    graph = Batch.from_data_list([graph_of(atoms)])
    return network.scale * network(graph, forces=False)["features"].detach().sum(0).numpy()


def force_rows(network, atoms):
    """−∂(Σ f)/∂r by central differences, a row for each component of each atom."""
    rows = []
    for i in range(len(atoms)):
        for k in range(3):
            both = []
            for sign in (1, -1):
                moved = atoms.copy()
                moved.positions[i, k] += sign * STEP
                both.append(summed_features(network, moved))
            rows.append(-(both[0] - both[1]) / (2 * STEP))
    return np.array(rows)


def rms(x):
    return np.sqrt(np.mean(np.concatenate([np.ravel(v) for v in x]) ** 2))


def fitted(network, graphs, force_graphs, messages=None):
    batches = [Batch.from_data_list(graphs[k : k + 5]) for k in range(0, len(graphs), 5)]
    forces = [Batch.from_data_list(force_graphs)] if force_graphs else []
    say = (lambda text: None) if messages is None else messages.append
    return fit_llpr(network, lambda: iter(batches), iter(forces), say)


def errors_of(network, frames, graphs):
    """RMS errors of the energy per atom and of a force component."""
    energies, forces = [], []
    for atoms, graph, p in zip(frames, graphs, network.predict(frames), strict=True):
        energies.append((p.energy - graph.energy.item()) / len(atoms))
        forces.append(p.forces - graph.forces.numpy())
    return rms([[e for e in energies if np.isfinite(e)]]), rms([f[np.isfinite(f)] for f in forces])


def gram_by_hand(network, frames, graphs, with_forces):
    energy_error, force_error = errors_of(network, frames, graphs)
    rows = [
        summed_features(network, a) / len(a) / energy_error
        for a, g in zip(frames, graphs, strict=True)
        if torch.isfinite(g.energy)
    ]
    for k in with_forces:
        known = np.isfinite(graphs[k].forces.numpy().ravel())
        rows.extend(force_rows(network, frames[k])[known] / force_error)
    rows = np.array(rows)
    return rows.T @ rows, len(rows)


def precision_of(posterior):
    """(A Aᵀ)⁻¹ = G + ς² 1 from the triangular A."""
    inverse = np.linalg.inv(posterior.factor.numpy())
    return inverse.T @ inverse


@pytest.mark.parametrize("n_forces", [N_FORCES, 0])
def test_the_posterior_is_that_of_linear_regression_on_energies_and_forces(network, n_forces):
    frames, graphs = labelled(network)
    messages = []
    posterior = fitted(network, graphs, graphs[:n_forces], messages)
    gram, rows = gram_by_hand(network, frames, graphs, range(n_forces))
    precision = precision_of(posterior)
    scale = np.abs(gram).max()
    np.testing.assert_allclose(precision, gram, rtol=0, atol=2e-7 * scale)
    assert f"{rows} rows" in messages[0]
    assert posterior.method == "llpr"


def test_predicted_variances_are_those_of_linear_regression(network):
    """y = Φ w + noise with a flat prior: Cov(w) = (Σ φφᵀ/σ²)⁻¹, and φᵀ Cov(w) φ for another structure."""
    frames, graphs = labelled(network)
    posterior = fitted(network, graphs, graphs[:N_FORCES])
    gram, _ = gram_by_hand(network, frames, graphs, range(N_FORCES))
    assert np.linalg.cond(gram) < 1e6
    covariance = np.linalg.inv(gram)
    other = structures(4, seed=9)[3]
    out = posterior(
        Batch.from_data_list([graph_of(other)]), forces=True, stress=False, exact=True, members=False
    )
    features, jacobian = summed_features(network, other), force_rows(network, other)
    assert out["energy_var_epistemic"].item() == pytest.approx(features @ covariance @ features, rel=1e-3)
    expected = (jacobian @ covariance @ jacobian.T).reshape(len(other), 3, len(other), 3)
    for i in range(len(other)):
        np.testing.assert_allclose(
            out["forces_cov_epistemic"][i].detach(), expected[i, :, i], rtol=2e-3, atol=1e-3 * expected.max()
        )


def test_frames_without_a_label_do_not_count(network):
    frames, graphs = labelled(network)
    graphs[0].energy = torch.full_like(graphs[0].energy, torch.nan)
    graphs[1].forces[0, 1] = torch.nan
    messages = []
    posterior = fitted(network, graphs, graphs[:2], messages)
    gram, rows = gram_by_hand(network, frames, graphs, range(2))
    np.testing.assert_allclose(precision_of(posterior), gram, rtol=0, atol=2e-7 * np.abs(gram).max())
    assert rows == N_FRAMES - 1 + 3 * (len(frames[0]) + len(frames[1])) - 1
    assert f"{rows} rows" in messages[0]


def test_twice_the_frames_halve_the_variance(network):
    _, graphs = labelled(network)
    one, two = fitted(network, graphs, graphs[:4]), fitted(network, graphs * 2, graphs[:4] * 2)
    np.testing.assert_allclose(precision_of(two), 2 * precision_of(one), rtol=1e-6, atol=1e-3)


def test_forces_in_the_fit_make_their_deviations_smaller(network):
    _, graphs = labelled(network)
    graph = Batch.from_data_list(graphs[10:14])
    energies, both = fitted(network, graphs, []), fitted(network, graphs, graphs[:N_FORCES])
    options = {"forces": True, "stress": False, "exact": True, "members": False}
    traces = [
        p(graph, **options)["forces_cov_epistemic"].diagonal(dim1=1, dim2=2).sum() for p in (energies, both)
    ]
    assert traces[1] < traces[0]


def test_scales_of_the_estimate_are_fitted(network):
    _, graphs = labelled(network)
    posterior = fitted(network, graphs, graphs[:N_FORCES])
    graph = Batch.from_data_list(graphs[:N_FORCES])
    traces = []
    for exact in (False, True):
        out = posterior(graph, forces=True, stress=True, exact=exact, members=False)
        trace = out["forces_cov_epistemic"].diagonal(dim1=1, dim2=2).sum(1).detach()
        traces.append([trace[graph.z == z].sum().item() for z in E0])
    assert traces[0] == pytest.approx(traces[1], rel=1e-9)


def test_a_network_without_a_last_layer_is_refused():
    with pytest.raises(UnsupportedError, match="no linear last layer"):
        fit_llpr(make_paper_potential(), list, [], print)
