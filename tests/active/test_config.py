"""Configurations of active learning: what is refused, where files are found, how recipes are read."""

import pytest
import yaml

from atomml.active.config import ActiveConfig, load_active_config
from atomml.active.recipe import finetune_config, train_config
from atomml.config import parse_config
from atomml.errors import ConfigError
from tests.active.helpers import MODEL, settings, written

PLAIN = {"model": MODEL | {"heads": 1}, "batch": {"batch_size": 8}, "max_steps": 3}


def parsed(tmp_path, **changes):
    return parse_config(ActiveConfig, settings(tmp_path) | changes, where="test")


def test_a_small_configuration_is_accepted(tmp_path):
    config = parsed(tmp_path)
    assert config.explore[0].kind == "md"
    assert config.learn.training.model.heads == 4
    assert parse_config(ActiveConfig, config.model_dump(), where="again") == config


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"explore": []}, "explore"),
        ({"explore": [{"kind": "mdd"}]}, "choose one of"),
        ({"explore": [{"kind": "md", "temperature": 3}]}, "did you mean 'temperatures'"),
        ({"explore": [{"kind": "md", "steps": 5}]}, "record_every is larger"),
        ({"explore": [{"kind": "rattle", "displacement": [0.2, 0.1]}]}, "the smaller one first"),
        ({"explore": [{"kind": "crystals", "formulas": ["LiCl"], "chemical_system": "Li-Cl"}]}, "not both"),
        ({"explore": [{"kind": "crystals", "z": 2}]}, "z needs formulas"),
        ({"gate": {"force_std_min": 2.0, "force_std_max": 1.0}}, "must be larger"),
        ({"select": {"settings": {"force_std_min": 0.1}}}, "belong into gate"),
        ({"learn": {"training": PLAIN}}, "select.method force_std needs a model with members"),
        ({"learn": {"training": PLAIN}, "select": {"method": "random"}}, "gate.force_std_min needs a model"),
        ({"learn": {}}, "exactly one of recipe and training"),
        ({"learn": {"training": PLAIN | {"data": {"train": "x"}}}}, "the loop gives the data"),
        ({"start": {"labelled": ["train.extxyz"]}}, "begins with structures"),
        ({"start": {"structures": {"prototypes": ["rocksalt"]}}, "explore": [{"kind": "md"}]}, "or a model"),
        ({"stop": {"max_labels": 0}}, "max_labels"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        parsed(tmp_path, **changes)


def test_random_choice_needs_no_deviations_without_limits(tmp_path):
    gate = {"force_std_min": None, "force_std_max": None}
    config = parsed(tmp_path, learn={"training": PLAIN}, select={"method": "random"}, gate=gate)
    assert config.select.method == "random"


def test_files_are_found_beside_the_configuration(inputs):
    config = load_active_config(written(inputs))
    assert config.start.labelled == [str((inputs / "train.extxyz").resolve())]
    assert config.start.structures.files == [str((inputs / "cu.cif").resolve())]
    start = settings(inputs)["start"] | {"structures": {"files": ["cu.cif@0"]}}
    assert load_active_config(written(inputs, start=start)).start.structures.files[0].endswith("cu.cif@0")
    with pytest.raises(ConfigError, match="no such file"):
        load_active_config(written(inputs, start=start | {"labelled": ["nothing.xyz"]}))


def test_a_recipe_is_a_training_without_its_files(inputs):
    recipe = PLAIN | {"model": MODEL, "run_dir": "x", "data": {"train": "y.xyz", "references": "none"}}
    (inputs / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    config = load_active_config(written(inputs, learn={"recipe": "recipe.yaml", "warm_lr": 1e-4}))
    files = {"train": ["a"], "valid": ["b"], "test": None}
    training = train_config(config.learn, inputs / "t", files)
    assert (training.data.train, training.data.valid, training.data.references) == (["a"], ["b"], "none")
    assert training.run_dir == str(inputs / "t")
    later = finetune_config(config.learn.model_copy(update={"warm_steps": 2}), inputs / "t", files)
    assert (later.max_steps, later.epochs, later.optimizer.lr) == (2, None, 1e-4)


def test_a_recipe_without_deviations_is_refused_when_it_is_read(inputs):
    (inputs / "plain.yaml").write_text(yaml.safe_dump(PLAIN), encoding="utf-8")
    with pytest.raises(ConfigError, match="needs a model with members"):
        load_active_config(written(inputs, learn={"recipe": "plain.yaml"}))
