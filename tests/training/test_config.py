"""Configuration: problems are found before anything runs, with the key and a remedy."""

from __future__ import annotations

import pytest
import yaml

from atomml.config import load_config, parse_config
from atomml.config_manual import settings_of, template_of
from atomml.errors import ConfigError
from atomml.training.config import FinetuneConfig, TrainConfig, resolve_path

GOOD = {"run_dir": "run", "model": {"kind": "tdn"}, "data": {"train": "x.xyz"}, "epochs": 3}


def parse(**changes):
    return parse_config(TrainConfig, GOOD | changes, where="test")


def test_defaults_are_complete():
    config = parse()
    assert config.loss.kind == "huber"
    assert config.data.valid == 0.1
    assert config.resolved()["model"]["channels"] == config.model.channels


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimiser": {}}, "did you mean 'optimizer'"),
        ({"optimizer": {"learning_rate": 1}}, "optimizer.learning_rate: unknown key"),
        ({"loss": {"force": 1.0}}, "did you mean 'forces'"),
        ({"model": {"kind": "tdn", "chanels": 3}}, "did you mean 'channels'"),
        ({"epochs": None}, "at least one of epochs, max_steps, max_minutes"),
        ({"epochs": None, "max_minutes": 1.0}, "cosine"),
        ({"batch": {}}, "at least one of batch_size"),
        ({"loss": {"energy": 0, "forces": 0}}, "positive weight"),
        ({"data": {"train": "x", "valid": None}, "early_stop": 3}, "need data.valid"),
        ({"data": {"train": "x", "test": 0.1, "test_where": "T > 1"}}, "either test or test_where"),
        ({"ema": 1.0}, "ema"),
        ({"optimizer": {"lr": -1}}, "optimizer.lr"),
    ],
)
def test_bad_values_name_the_key(changes, message):
    with pytest.raises(ConfigError, match=message):
        parse(**changes)


def test_a_part_is_a_number_a_fraction_or_files():
    data = {"train": ["a.xyz", "b.xyz"], "valid": 50, "test": 0.2}
    assert parse(data=data).data.valid == 50
    assert isinstance(parse(data=data).data.valid, int)
    assert parse(data=data).data.test == 0.2
    assert parse(data=data | {"valid": "v.xyz"}).data.valid == "v.xyz"


def test_overrides_replace_values(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    config = load_config(TrainConfig, path, {"optimizer.lr": "1e-3", "model.channels": "8"})
    assert (config.optimizer.lr, config.model.channels) == (1e-3, 8)


def test_finetuning_has_no_model_section():
    good = {key: value for key, value in GOOD.items() if key != "model"}
    assert parse_config(FinetuneConfig, good, where="test").e0 == "refit"
    with pytest.raises(ConfigError, match="model: unknown key"):
        parse_config(FinetuneConfig, GOOD, where="test")


def test_a_path_beside_the_configuration_is_found(tmp_path, monkeypatch):
    folder = tmp_path / "recipe"
    folder.mkdir()
    (folder / "x.xyz").touch()
    monkeypatch.chdir(tmp_path)
    assert resolve_path("x.xyz", folder) == folder / "x.xyz"
    (tmp_path / "x.xyz").touch()
    assert resolve_path("x.xyz", folder).samefile(tmp_path / "x.xyz")
    assert str(resolve_path("absent.xyz", folder)) == "absent.xyz"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"loss": {"kind": "nll", "warmpu": 0.1}}, "loss.warmpu: unknown key; did you mean 'warmup'?"),
        ({"loss": {"kind": "huber", "warmup": 0.1}}, "loss.warmup: not a key of this kind"),
        ({"loss": {"warmup": 0.1}}, "loss.warmup: not a key of this kind"),
        ({"loss": {"kind": "nll", "mean": {"kinf": "mse"}}}, "loss.mean.kinf: unknown key"),
        ({"loss": {"kind": "nll", "energy": 0, "forces": 0}}, "loss: one of energy, forces and stress needs"),
        ({"loss": 3}, "loss: Input should be a valid dictionary"),
        ({"uncertainty": {"kind": "swag", "members": 3}}, "uncertainty.members: not a key of this kind"),
        (
            {"uncertainty": {"kind": "swag", "sampels": 3}},
            "uncertainty.sampels: unknown key; did you mean 'samples'?",
        ),
        (
            {"uncertainty": {"kind": "ivon", "beta1": 2}},
            "uncertainty.beta1: Input should be less than 1 (got 2)",
        ),
        ({"uncertainty": {"kind": "ensemble", "members": 1}}, "uncertainty.members: Input should be greater"),
        ({"uncertainty": {"kind": "magic"}}, "uncertainty.kind: choose one of 'heads', 'ensemble', 'swag'"),
        ({"uncertainty": {}}, "uncertainty.kind: choose one of 'heads'"),
        ({"model": {"kind": "tdn", "noise": {"forces": "x"}}}, "model.noise.forces: Input should be 'expm'"),
        (
            {"model": {"kind": "race", "noise": {"hiden": 3}}},
            "model.noise.hiden: unknown key; did you mean 'hidden'?",
        ),
        ({"model": {"kind": "tdn", "gaussians": 3}}, "model.gaussians: not a key of this kind"),
        ({"model": {"kind": "tdn_paper", "noise": {}}}, "model.noise: not a key of this kind"),
    ],
)
def test_a_problem_in_one_of_several_kinds_is_named_as_it_is_written(changes, line):
    """Without the name of the kind in the path, which no file has."""
    with pytest.raises(ConfigError) as caught:
        parse(**changes)
    assert f"- {line}" in str(caught.value)


NOISY = {"model": {"kind": "tdn", "noise": {}}}
IVON = NOISY | {
    "loss": {"kind": "nll", "normalization": "structure"},
    "uncertainty": {"kind": "ivon"},
    "ema": 0,
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": {"kind": "nll"}}, "loss.kind nll needs deviations: give model.noise, or model.heads > 1"),
        ({"uncertainty": {"kind": "heads"}}, "uncertainty.kind heads needs deviations"),
        (
            NOISY
            | {"loss": {"kind": "nll"}, "epochs": None, "max_minutes": 1.0, "schedule": {"kind": "constant"}},
            "warmup is a share of the training",
        ),
        (IVON | {"loss": {"kind": "nll"}}, "ivon needs loss.kind: nll with loss.normalization: structure"),
        (IVON | {"loss": {}}, "ivon needs loss.kind: nll with loss.normalization: structure"),
        (IVON | {"ema": 0.9}, "ivon averages by itself: set ema: 0"),
    ],
)
def test_deviations_need_what_they_are_made_of(changes, message):
    with pytest.raises(ConfigError, match=message):
        parse(**changes)


def test_deviations_come_from_noise_or_from_heads():
    assert parse(**IVON).uncertainty.kind == "ivon"
    assert parse(loss={"kind": "nll"}, model={"kind": "race", "heads": 2}).loss.warmup == 0.3
    minutes = {"epochs": None, "max_minutes": 1.0, "schedule": {"kind": "constant"}}
    assert parse(**NOISY, **minutes, loss={"kind": "nll", "warmup": 0}).loss.warmup == 0


@pytest.mark.parametrize("model", [TrainConfig, FinetuneConfig])
def test_an_optional_group_is_listed_and_absent_by_default(model):
    settings = {setting.key: setting for setting in settings_of(model)}
    assert settings["uncertainty"].default is None
    assert settings["uncertainty"].type == "group | null"
    assert not settings["uncertainty"].required
    assert settings["uncertainty[swag].epochs"].default == 20
    assert settings["uncertainty[swag]"].optional
    assert not settings["loss[nll]"].optional
    template = yaml.safe_load(template_of(model))
    assert template["uncertainty"] is None
    assert parse_config(model, template, where="template").uncertainty is None


def test_the_kind_stands_first():
    template = yaml.safe_load(template_of(TrainConfig))
    assert next(iter(template["model"])) == next(iter(template["loss"])) == "kind"
    assert template["model"]["noise"] is None


def test_resolved_uncertainty_gives_the_same_configuration():
    config = parse(**IVON)
    assert TrainConfig.model_validate(config.resolved()) == config


@pytest.mark.parametrize("kind", ["ensemble", "swag", "llpr", "laplace_diagonal"])
def test_another_method_would_lose_the_spread_of_several_heads(kind):
    settings = {
        "run_dir": "runs/x",
        "data": {"train": "x.xyz"},
        "model": {"kind": "tdn", "heads": 4},
        "epochs": 1,
        "uncertainty": {"kind": kind},
    }
    with pytest.raises(ConfigError, match="would lose the spread"):
        parse_config(TrainConfig, settings, where="test")
