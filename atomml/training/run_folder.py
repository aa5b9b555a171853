"""What surrounds any training: its settings, its folder, its threads, and a full disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from atomml.config import load_config, parse_config, set_by_path
from atomml.errors import ConfigError
from atomml.training.loop_config import LoopConfig

__all__ = ["prepare_run_dir", "settings_of", "threads"]

C = TypeVar("C", bound=LoopConfig)


def settings_of(
    model: type[C], config: C | str | Path, overrides: Mapping[str, Any] | None
) -> tuple[C, Path | None]:
    """Validated configuration with overrides, and the folder of its file."""
    if isinstance(config, str | Path):
        return load_config(model, config, overrides), Path(config).parent
    data = config.model_dump()
    for key, value in (overrides or {}).items():
        set_by_path(data, key, value)
    return parse_config(model, data, where="overrides"), None


def prepare_run_dir(run_dir: Path, *, overwrite: bool, resume: bool) -> None:
    """Make the run folder, or empty it when ``overwrite``; a resumed run without a checkpoint starts anew.

    Raises:
        ConfigError: the folder has files and neither was asked for, or it is not a run folder.
    """
    files = list(run_dir.iterdir()) if run_dir.is_dir() else []
    if files and not (run_dir / "config.yaml").exists():
        raise ConfigError(
            "The folder has files in it and is not a run folder.",
            where=str(run_dir),
            fix="choose another run_dir",
        )
    if files and not (overwrite or resume):
        raise ConfigError(
            "The run folder is in use.",
            where=str(run_dir),
            fix="choose another run_dir, go on with --resume, or discard it with --overwrite",
        )
    for path in files:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    run_dir.mkdir(parents=True, exist_ok=True)


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Use ``number`` threads inside the block; None leaves torch as it is."""
    before = torch.get_num_threads()
    try:
        if number is not None:
            torch.set_num_threads(number)
        yield
    finally:
        if number is not None:
            torch.set_num_threads(before)
