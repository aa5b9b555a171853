"""The whole state of a training in one safetensors file, replaced in one step and never half-written."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn
from torch.optim import Optimizer

from atomml.errors import ModelFileError, TrainingError
from atomml.files import replace_file
from atomml.shapes import Tensor

__all__ = [
    "CHECKPOINT",
    "FORMAT",
    "differences",
    "load_into_optimizer",
    "load_into_parameters",
    "optimizer_tensors",
    "read_checkpoint",
    "restore_rng",
    "rng_tensors",
    "write_checkpoint",
]

CHECKPOINT = Path("checkpoint") / "state.safetensors"
FORMAT = "atomml-checkpoint-1"


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write tensors and a JSON state as one file; the file that was there stays until this one is complete.

    Raises:
        TrainingError: the disk is full or the file cannot be written; the previous checkpoint is intact.
    """
    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    data = save(plain, {"format": FORMAT, "state": json.dumps(state)})
    try:
        replace_file(path, data)
    except OSError as error:
        kept = "the previous checkpoint is intact" if path.exists() else "there is no earlier checkpoint"
        full = error.errno == errno.ENOSPC
        raise TrainingError(
            f"The checkpoint could not be written ({error.strerror}): {kept}.",
            where=f"{path}, step {state.get('step', '?')}, {len(data) / 2**20:.1f} MiB",
            fix=("free some space" if full else "make the folder writable") + ", then go on with --resume",
        ) from error


def read_checkpoint(path: Path, device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and state of a checkpoint.

    Raises:
        ModelFileError: the file is truncated, is not a checkpoint, or is of another version.
    """
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ModelFileError(
                    f"This is not a checkpoint of this version ({metadata.get('format')!r}, not {FORMAT!r}).",
                    where=str(path),
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, json.loads(metadata["state"])
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise ModelFileError(
            f"This checkpoint cannot be read; it is truncated or damaged ({error}).",
            where=str(path),
            fix="remove it to train from the start, or copy back a good one",
        ) from error


def optimizer_tensors(optimizer: Optimizer, names: Mapping[nn.Parameter, str]) -> dict[str, Tensor]:
    """State of an optimiser as ``optimizer.<parameter>.<moment>``."""
    return {
        f"optimizer.{names[cast(nn.Parameter, p)]}.{key}": torch.as_tensor(value)
        for p, moments in optimizer.state.items()
        for key, value in moments.items()
    }


def load_into_optimizer(
    optimizer: Optimizer, names: Mapping[nn.Parameter, str], tensors: Mapping[str, Tensor]
) -> None:
    """Put the moments back; a parameter without any had none when the checkpoint was written."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            prefix = f"optimizer.{names[cast(nn.Parameter, p)]}."
            moments = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
            if moments:  # the step counter lives on the CPU unless the optimiser is capturable or fused
                moments["step"] = moments["step"].cpu()
                optimizer.state[p] = moments


@torch.no_grad()
def load_into_parameters(module: nn.Module, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Copy ``prefix + name`` into every parameter.

    Raises:
        ModelFileError: a parameter is absent or has another shape.
    """
    for name, p in module.named_parameters():
        value = tensors.get(prefix + name)
        if value is None or value.shape != p.shape:
            found = "absent" if value is None else f"of shape {tuple(value.shape)}"
            raise ModelFileError(f"Parameter {name!r} {tuple(p.shape)} is {found} in the checkpoint.")
        p.copy_(value)


def rng_tensors(device: torch.device) -> dict[str, Tensor]:
    """State of torch's random generators as bytes."""
    out = {"rng.cpu": torch.get_rng_state()}
    if device.type == "cuda":
        out["rng.cuda"] = torch.cuda.get_rng_state(device)
    return out


def restore_rng(tensors: Mapping[str, Tensor], device: torch.device) -> None:
    """Put torch's random generators back."""
    torch.set_rng_state(tensors["rng.cpu"].cpu())
    if device.type == "cuda" and "rng.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng.cuda"].cpu(), device)


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
    """Keys, as dotted paths, whose values differ, with both values."""
    out: dict[str, tuple[Any, Any]] = {}
    for key in [*old, *(k for k in new if k not in old)]:
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            out |= differences(a, b, f"{prefix}{key}.")
        elif a != b:
            out[f"{prefix}{key}"] = (a, b)
    return out
