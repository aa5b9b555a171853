"""Configuration: problems are found before anything runs, with the key and a remedy."""

from __future__ import annotations

import pytest
import yaml

from atomml.config import load_config, parse_config
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
