"""Where to compute: the name of a device checked before anything is moved there."""

from __future__ import annotations

import torch

from atomml.errors import ConfigError

__all__ = ["find_device"]


def find_device(name: str) -> torch.device:
    """The device called ``name``: ``cpu``, ``cuda``, ``cuda:1``, or ``auto`` for CUDA where there is one.

    Raises:
        ConfigError: not a device, or one that this machine or this build of torch does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"{name!r} is not a device.", where="device", fix="use auto, cpu, cuda or cuda:1"
        ) from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            build = "" if torch.version.cuda else "; this torch is built without CUDA"
            raise ConfigError(f"No CUDA device is available{build}.", where="device", fix="use device cpu")
        if (device.index or 0) >= count:
            raise ConfigError(
                f"There is no device {name!r}, only {count} CUDA devices.",
                where="device",
                fix=f"use cuda:0 to cuda:{count - 1}",
            )
    return device
