"""IVON against the closed form of a linear-Gaussian model, and its behaviour as an optimiser."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from atomml.errors import ConfigError, TrainingError
from atomml.training.checkpoint import (
    load_into_optimizer,
    load_into_parameters,
    optimizer_tensors,
    read_checkpoint,
    write_checkpoint,
)
from atomml.uncertainty.ivon import IVON

NOISE_STD, PRIOR_PRECISION, N = 0.5, 4.0, 40  # N: training structures, the effective sample size


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def linear_problem(dtype=torch.float64):
    """Inputs with correlated columns [N, 3] and labels [N] of a linear function with noise."""
    g = generator(1)
    x = torch.randn(N, 3, generator=g, dtype=torch.float64) @ torch.tensor(
        [[1.0, 0.6, 0.0], [0.0, 1.0, -0.5], [0.0, 0.0, 0.7]], dtype=torch.float64
    )
    y = x @ torch.tensor([0.8, -1.2, 0.4], dtype=torch.float64)
    return x.to(dtype), (y + NOISE_STD * torch.randn(N, generator=g, dtype=torch.float64)).to(dtype)


def mean_nll(x, y, w):
    return 0.5 * ((y - x @ w) ** 2).mean(0) / NOISE_STD**2


def ivon(params, **settings):
    return IVON(params, **({"lr": 0.02, "ess": float(N), "prior_precision": PRIOR_PRECISION} | settings))


def module_and_optimizer(dtype=torch.float64, **settings):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 5), nn.SiLU(), nn.Linear(5, 1)).to(dtype)
    return module, ivon(module.parameters(), **settings)


def advance(module, optimizer, steps, g, samples=1):
    x, y = linear_problem(next(module.parameters()).dtype)
    for _ in range(steps):
        optimizer.zero_grad()
        for _ in range(samples):
            with optimizer.sampled(g):
                (0.5 * (module(x)[:, 0] - y) ** 2).mean().backward()
        optimizer.step()


@pytest.mark.parametrize(("dtype", "samples"), [(torch.float64, 2), (torch.float32, 1)], ids=str)
def test_the_posterior_is_the_mean_field_optimum_of_a_linear_model(dtype, samples):
    x, y = linear_problem(dtype)
    w = nn.Parameter(torch.zeros(3, 256, dtype=dtype))  # 256 independent trainings side by side
    optimizer, g = ivon([w], beta2=0.995, hess_init=4.0), generator()
    means, precisions = [], []
    for step in range(1200):
        for _ in range(samples):
            with optimizer.sampled(g):
                mean_nll(x, y[:, None], w).sum().backward()
        optimizer.step()
        if step >= 1000:
            means.append(w.detach().mean(1))
            precisions.append((optimizer.posterior_std()[w] ** -2).mean(1))
    precision = x.T @ x / NOISE_STD**2 + PRIOR_PRECISION * torch.eye(3, dtype=dtype)
    ridge = torch.linalg.solve(precision, x.T @ y / NOISE_STD**2)
    std = precision.diagonal().rsqrt()
    assert torch.allclose(torch.stack(precisions).mean(0), precision.diagonal(), rtol=0.02)
    assert ((torch.stack(means).mean(0) - ridge).abs() < 0.02 * std).all()


def test_a_direction_without_data_gets_the_width_of_the_prior():
    w = nn.Parameter(torch.tensor([0.3, 0.3], dtype=torch.float64))
    optimizer, g = ivon([w], beta2=0.95, lr=0.1), generator()
    for _ in range(400):
        with optimizer.sampled(g):
            (10.0 * w[0] ** 2).backward()
        optimizer.step()
    assert optimizer.posterior_std()[w][1].item() == pytest.approx(PRIOR_PRECISION**-0.5, rel=1e-3)


def test_one_step_is_the_published_one():
    w = nn.Parameter(torch.tensor([0.5, -2.0], dtype=torch.float64))
    settings = {"lr": 0.3, "ess": 20.0, "prior_precision": 3.0, "hess_init": 0.7, "beta1": 0.8, "beta2": 0.9}
    optimizer, start, scale = IVON([w], **settings), w.detach().clone(), torch.tensor([1.5, 0.2])
    gradients, products = [], []
    for seed in (1, 2):
        with optimizer.sampled(generator(seed)):
            shift = w.detach() - start
            (scale * w**3).sum().backward()
            gradients.append(w.grad.clone())
            products.append(shift * w.grad)
    optimizer.step()
    delta, h0 = 3.0 / 20.0, 0.7
    g_hat, h_hat = sum(gradients) / 2, 20.0 * (h0 + delta) * sum(products) / 2
    h = 0.9 * h0 + 0.1 * h_hat + 0.5 * 0.1**2 * (h0 - h_hat) ** 2 / (h0 + delta)
    expected = start - 0.3 * (h0 + delta) * (g_hat + delta * start) / (h + delta)
    assert torch.allclose(optimizer.state[w]["hessian"], h, rtol=1e-12)
    assert torch.allclose(w.detach(), expected, rtol=1e-12)
    assert torch.allclose(optimizer.posterior_std()[w], (20.0 * (h + delta)).rsqrt(), rtol=1e-12)


def test_steps_are_clipped():
    w = nn.Parameter(torch.tensor([1.0, -1.0], dtype=torch.float64))
    optimizer = ivon([w], lr=0.1, clip_radius=0.01)
    with optimizer.sampled(generator()):
        (1e6 * w**2).sum().backward()
    optimizer.step()
    limit = 0.1 * (1.0 + PRIOR_PRECISION / N) * 0.01
    assert torch.allclose(w.detach(), torch.tensor([1.0 - limit, -1.0 + limit], dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_weights_come_back_bit_for_bit(dtype):
    module, optimizer = module_and_optimizer(dtype)
    advance(module, optimizer, 3, generator())
    before = copy.deepcopy(module.state_dict())
    with optimizer.sampled(generator(7)):
        changed = copy.deepcopy(module.state_dict())
    assert all(not torch.equal(changed[name], before[name]) for name in before)
    with pytest.raises(ZeroDivisionError), optimizer.sampled(generator(8)):
        raise ZeroDivisionError
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_samples_have_the_stated_deviation():
    w = nn.Parameter(torch.full((40000,), 2.0, dtype=torch.float64))
    optimizer = ivon([w], hess_init=0.9)
    with optimizer.sampled(generator()):
        sample = w.detach().clone()
    std = (N * 0.9 + PRIOR_PRECISION) ** -0.5
    assert optimizer.posterior_std()[w][0].item() == pytest.approx(std)
    assert (sample - 2.0).std().item() == pytest.approx(std, rel=0.02)


def test_a_backward_pass_after_the_block_is_refused():
    w = nn.Parameter(torch.ones(2))
    optimizer = ivon([w])
    with optimizer.sampled(generator()):
        loss = (w**2).sum()
    with pytest.raises(RuntimeError, match="inplace"):
        loss.backward()


def test_seeds_decide_the_trajectory():
    def weights(seed):
        module, optimizer = module_and_optimizer()
        advance(module, optimizer, 4, generator(seed), samples=2)
        return module[0].weight.detach()

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_training_goes_on_from_a_checkpoint_as_if_nothing_had_happened(tmp_path, dtype):
    module, optimizer = module_and_optimizer(dtype)
    g = generator()
    advance(module, optimizer, 5, g, samples=2)
    names = {p: name for name, p in module.named_parameters()}
    tensors = {f"weights.{name}": p for p, name in names.items()} | optimizer_tensors(optimizer, names)
    write_checkpoint(tmp_path / "state", tensors | {"rng": g.get_state()}, {})
    advance(module, optimizer, 5, g, samples=2)

    other, again = module_and_optimizer(dtype)
    read, _ = read_checkpoint(tmp_path / "state", torch.device("cpu"))
    load_into_parameters(other, read, "weights.")
    load_into_optimizer(again, {p: name for name, p in other.named_parameters()}, read)
    h = torch.Generator()
    h.set_state(read["rng"])
    advance(other, again, 5, h, samples=2)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))
    ends = zip(optimizer.posterior_std().values(), again.posterior_std().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in ends)


def test_the_state_dictionary_of_torch_works_too():
    module, optimizer = module_and_optimizer()
    advance(module, optimizer, 3, generator())
    again = ivon(module.parameters(), lr=1.0)
    again.load_state_dict(optimizer.state_dict())
    assert again.param_groups[0]["lr"] == 0.02
    pairs = zip(optimizer.posterior_std().values(), again.posterior_std().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_frozen_and_unused_parameters_stay():
    used, unused, frozen = (nn.Parameter(torch.ones(2)) for _ in range(3))
    frozen.requires_grad_(False)
    optimizer = ivon([used, unused, frozen])
    with optimizer.sampled(generator()):
        assert frozen.tolist() == [1.0, 1.0]
        (used * frozen).sum().backward()
    optimizer.step()
    assert used.tolist() != [1.0, 1.0]
    assert unused.tolist() == frozen.tolist() == [1.0, 1.0]
    assert set(optimizer.posterior_std()) == {used, unused}


def test_evaluating_a_sample_changes_nothing():
    def run(evaluate):
        w, g = nn.Parameter(torch.ones(3)), generator()
        optimizer = ivon([w])
        with optimizer.sampled(g):
            (w**2).sum().backward()
        if evaluate:
            with optimizer.sampled(generator(9)), torch.no_grad():
                (w**2).sum()
        optimizer.step()
        return w.detach()

    assert torch.equal(run(True), run(False))


def test_gradients_of_before_do_not_count():
    def run(stale):
        w = nn.Parameter(torch.ones(3))
        optimizer = ivon([w])
        if stale:
            (w**2).sum().backward()
        with optimizer.sampled(generator()):
            (w**2).sum().backward()
        optimizer.step()
        return w.detach()

    assert torch.equal(run(True), run(False))


def test_a_closure_is_called_with_a_sample():
    w = nn.Parameter(torch.ones(3))
    optimizer = ivon([w])

    def closure():
        loss = (w**2).sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) not in (None, 3.0)
    assert w.detach().max() < 1.0


def test_misuse_is_explained():
    w = nn.Parameter(torch.ones(3))
    optimizer = ivon([w])
    w.sum().backward()
    with pytest.raises(TrainingError, match="sampled"):
        optimizer.step()
    with optimizer.sampled(), pytest.raises(TrainingError, match="sample already"), optimizer.sampled():
        pass
    with optimizer.sampled():
        w.sum().backward()
    optimizer.zero_grad()
    with pytest.raises(TrainingError, match="sampled"):
        optimizer.step()


@pytest.mark.parametrize(
    "setting",
    [
        {"prior_precision": 0.0},
        {"ess": -1.0},
        {"hess_init": 0.0},
        {"beta2": 1.0},
        {"lr": -0.1},
        {"beta1": -0.1},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        ivon([nn.Parameter(torch.ones(1))], **setting)
