"""How each round learns: a training configuration without data, from scratch or from the model before."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from atomml.config import Config, parse_config, read_yaml
from atomml.errors import ConfigError
from atomml.training.config import (
    DataConfig,
    FinetuneConfig,
    Paths,
    TrainConfig,
    resolve_path,
)

__all__ = ["LearnConfig", "RecipeConfig", "RecipeData", "finetune_config", "train_config"]

OF_LOOP = "set by the loop"
KEPT = ("references", "forces_on", "cache", "workers")
"""Keys of ``data`` that a recipe decides; files and their division are the loop's."""


class RecipeData(DataConfig):
    """Of ``data`` only references, forces_on, cache and workers: the loop knows the files."""

    train: Paths | None = OF_LOOP
    """Not to be given: the labels of the loop."""

    @model_validator(mode="after")
    def _without_files(self) -> RecipeData:
        foreign = sorted(k for k in self.model_fields_set - {*KEPT} if getattr(self, k) != _default(k))
        if foreign:
            raise ValueError(f"{', '.join(foreign)}: the loop gives the data; leave this out")
        return self


def _default(key: str) -> Any:
    return RecipeData.model_fields[key].default


class RecipeConfig(TrainConfig):
    """The keys of a training (`atomml schema train`) without run_dir and without files of data."""

    run_dir: str = OF_LOOP
    """Not to be given: the folder of the round."""
    data: RecipeData = RecipeData()


class LearnConfig(Config):
    """How each round learns."""

    recipe: str | None = Field(default=None, examples=["recipe.yaml"])
    """A training configuration, `atomml template train`; its run_dir and its files of data are not used. Give this or
    ``training``."""
    training: RecipeConfig | None = None
    """The training written here, instead of in a file of its own."""
    mode: Literal["scratch", "warm"] = "scratch"
    """scratch: every round trains a new model on all frames. warm: it goes on from the model before, on the new
    frames and those replayed: faster, and it remembers its first data longer than it should."""
    replay: Annotated[float, Field(ge=0, le=1)] | Annotated[int, Field(ge=2)] = 1.0
    """warm: share of the older training frames (0 to 1), or their number, that each training sees besides the new
    ones; drawn anew each time."""
    warm_steps: PositiveInt | None = None
    """warm: optimiser steps instead of the epochs and steps of the recipe."""
    warm_lr: PositiveFloat | None = None
    """warm: learning rate instead of that of the recipe."""
    e0: Literal["keep", "refit"] = "refit"
    """warm: keep the reference energies of the model before, or correct them by the new frames."""

    @model_validator(mode="after")
    def _one_recipe(self) -> LearnConfig:
        if (self.recipe is None) == (self.training is None):
            raise ValueError("give exactly one of recipe and training")
        return self

    def with_recipe(self, base: Path) -> LearnConfig:
        """The same with the content of the recipe in place of its path.

        Raises:
            ConfigError: the recipe cannot be read or is no training configuration.
        """
        if self.recipe is None:
            return self
        path = resolve_path(self.recipe, base)
        content = read_yaml(path)
        content.pop("run_dir", None)
        data = content.pop("data", None) or {}
        content["data"] = {key: data[key] for key in KEPT if key in data}
        references = content["data"].get("references")
        if isinstance(references, str) and resolve_path(references, path.parent).exists():
            content["data"]["references"] = str(resolve_path(references, path.parent).resolve())
        training = parse_config(RecipeConfig, content, where=str(path))
        return self.model_copy(update={"recipe": None, "training": training})


def train_config(learn: LearnConfig, run_dir: Path, files: dict[str, Any]) -> TrainConfig:
    """The training of a round from scratch on ``files`` (train, valid, test)."""
    return parse_config(TrainConfig, _settings(learn, run_dir, files), where="learn.training")


def finetune_config(learn: LearnConfig, run_dir: Path, files: dict[str, Any]) -> FinetuneConfig:
    """The training of a round that begins with the weights of the model before."""
    settings = _settings(learn, run_dir, files)
    settings.pop("model")
    if learn.warm_steps is not None:
        settings |= {"epochs": None, "max_steps": learn.warm_steps}
    if learn.warm_lr is not None:
        settings["optimizer"]["lr"] = learn.warm_lr
    return parse_config(FinetuneConfig, settings | {"e0": learn.e0}, where="learn.training")


def _settings(learn: LearnConfig, run_dir: Path, files: dict[str, Any]) -> dict[str, Any]:
    if learn.training is None:
        raise ConfigError("The recipe was not read.", where="learn.recipe", fix="call with_recipe first")
    settings = learn.training.model_dump()
    settings["data"] = {key: settings["data"][key] for key in KEPT} | files
    return settings | {"run_dir": str(run_dir)}
