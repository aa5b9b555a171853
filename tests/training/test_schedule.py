"""Learning rate, plateau rule and averaged weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from atomml.training.ema import ema_decay, start_ema, swapped_weights, update_ema
from atomml.training.loop_config import ScheduleConfig
from atomml.training.schedule import Plateau, after_validation, learning_rate_factor


def test_cosine_starts_at_one_and_ends_at_the_lowest_factor():
    config = ScheduleConfig(kind="cosine", min_factor=0.1)
    values = [learning_rate_factor(config, s, s / 100, 10, Plateau()) for s in (0, 50, 100)]
    assert values == pytest.approx([1.0, 0.55, 0.1])


def test_warmup_is_linear_and_the_cosine_follows_without_a_jump():
    config = ScheduleConfig(kind="cosine", warmup_steps=4, warmup_epochs=0.6, min_factor=0.0)
    values = [learning_rate_factor(config, s, s / 100, 10, Plateau()) for s in range(12)]
    assert values[:10] == pytest.approx([(s + 1) / 10 for s in range(10)])
    assert values[10] == pytest.approx(1.0)
    assert values[11] == pytest.approx(0.5 * (1 + math.cos(math.pi * 1 / 90)), abs=1e-4)


def test_warmup_longer_than_the_training_is_only_a_warmup():
    config = ScheduleConfig(warmup_steps=1000)
    assert learning_rate_factor(config, 49, 0.5, 10, Plateau()) == pytest.approx(0.05)


def test_plateau_halves_after_patience_epochs_and_not_below_the_lowest_factor():
    config = ScheduleConfig(kind="plateau", patience=2, factor=0.5, min_factor=0.3)
    plateau = Plateau()
    factors = []
    for loss in (1.0, 0.9, 0.95, 0.9, 0.91, 0.92, 0.93, 0.5):
        plateau = after_validation(config, plateau, loss)
        factors.append(learning_rate_factor(config, 10, 0.1, 10, plateau))
    assert factors == pytest.approx([1.0, 1.0, 1.0, 0.5, 0.5, 0.3, 0.3, 0.3])
    assert plateau.best == 0.5


def test_constant_is_constant():
    config = ScheduleConfig(kind="constant")
    assert {learning_rate_factor(config, s, s / 10, 5, Plateau()) for s in range(10)} == {1.0}


def test_ema_forgets_the_start_then_averages():
    assert ema_decay(0.999, 0) == pytest.approx(0.1)
    assert ema_decay(0.999, 10**6) == 0.999
    module = nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(1.0)
    average = start_ema(module)
    module.weight.data.fill_(2.0)
    update_ema(average, module, 0.9, 0)
    assert average["weight"].item() == pytest.approx(0.1 * 1.0 + 0.9 * 2.0)


def test_frozen_weights_stay_in_the_average():
    module = nn.Linear(1, 1)
    module.bias.requires_grad_(False)
    average = start_ema(module)
    before = average["bias"].clone()
    module.bias.data.add_(1.0)
    update_ema(average, module, 0.9, 3)
    assert torch.equal(average["bias"], before)


def test_swapped_weights_come_back_bit_for_bit_even_after_an_error():
    module = nn.Linear(2, 2)
    own = {name: p.detach().clone() for name, p in module.named_parameters()}
    other = {name: torch.zeros_like(p) for name, p in own.items()}

    def fail():
        with swapped_weights(module, other):
            assert module.weight.abs().max() == 0
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert all(torch.equal(p, own[name]) for name, p in module.named_parameters())
