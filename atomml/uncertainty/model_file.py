"""Model files with an uncertainty: members along a first axis of the weights, or a covariance beside them.

| method | tensors | header, ``uncertainty`` |
|---|---|---|
| ``ensemble``, ``swag``, ``ivon``, ``laplace_diagonal`` | ``weights.<name>`` [M, …] | members, constants, stretch |
| ``llpr`` | ``posterior.factor`` [P, R], ``posterior.per_force`` [species] | per_stress |
| ``heads`` | ``posterior.per_force`` [species] with several heads | per_stress |

``calibration`` in the header is that of `atomml.uncertainty.calibration`, or null. ``frames`` [n] are fingerprints of
the training frames, so that nobody calibrates on them by mistake.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from atomml.errors import ConfigError, ModelFileError, UnsupportedError
from atomml.potentials.devices import find_device
from atomml.potentials.model_file import potential_of, read_model
from atomml.potentials.model_file import save_model as save_potential
from atomml.potentials.potential import Potential
from atomml.shapes import Int64, Tensor, ndarray
from atomml.uncertainty.bayesian import BayesianPotential
from atomml.uncertainty.calibration import Calibration
from atomml.uncertainty.last_layer import spread_factor
from atomml.uncertainty.posterior import LastLayer, Members, PointEstimate, Posterior

__all__ = ["FRAMES", "head_posterior", "load_model", "save_model"]

FRAMES = "frames"
OF_WEIGHTS = ("ensemble", "swag", "ivon", "laplace_diagonal")
OF_LAST_LAYER = ("heads", "llpr")


def save_model(
    model: Potential | BayesianPotential,
    path: str | Path,
    *,
    frames: Int64[ndarray, " frames"] | None = None,
    **facts: Any,
) -> Path:
    """Write a potential, with what is known about its uncertainty, to one file.

    Args:
        model: what to save.
        path: a name ending in ``.safetensors``.
        frames: fingerprints of the training frames, see `atomml.datasets.frame_fingerprints`.
        facts: ``training``, ``data``, ``metrics``, ``licence`` as in `atomml.potentials.save_model`.

    Raises:
        ModelFileError: the file cannot be written.
    """
    extra = {} if frames is None else {FRAMES: torch.from_numpy(frames)}
    if isinstance(model, Potential):
        return save_potential(model, path, extra=extra, **facts)
    posterior, calibration = model.posterior, model.calibration
    entry: dict[str, Any] = {"method": model.method, "members": 1}
    if isinstance(posterior, Members):
        potentials: list[Any] = list(posterior.members)
        entry |= {"members": len(potentials), "constants": [_constants(p) for p in potentials]}
        entry["stretch"] = posterior.stretch
        for name in potentials[0].state_dict():
            extra[f"weights.{name}"] = torch.stack([p.state_dict()[name].detach().cpu() for p in potentials])
    if isinstance(posterior, LastLayer):
        entry["per_stress"] = float(posterior.per_stress)
        extra["posterior.per_force"] = posterior.per_force.cpu()
        if posterior.method == "llpr":
            extra["posterior.factor"] = posterior.factor.cpu().contiguous()
    entry["calibration"] = None if calibration is None else calibration.to_dict()
    return save_potential(model.potential, path, uncertainty=entry, extra=extra, **facts)


def load_model(
    path: str | Path, *, device: str = "cpu", dtype: Literal["float32", "float64"] | None = None
) -> Any:
    """A `Potential`, or a `BayesianPotential` where the file has an uncertainty; this is `atomml.load`.

    Args:
        path: a model file, or the name of a model in the package ("demo").
        device: where to put the weights: ``cpu``, ``cuda``, ``cuda:1``, or ``auto``.
        dtype: precision; that of the file by default.

    Raises:
        ModelFileError: no such file, not a model file, truncated, of a newer version, or inconsistent.
        ConfigError: there is no such device.
    """
    where = find_device(device)
    header, tensors = read_model(path)
    entry = header.get("uncertainty")
    if entry is None:
        return potential_of(header, tensors, path, dtype=dtype).to(where).eval()
    try:
        posterior = _posterior(header, tensors, entry, path, dtype)
        calibration = entry["calibration"]
        model = BayesianPotential(
            posterior, None if calibration is None else Calibration.from_dict(calibration)
        )
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
        ConfigError,
        UnsupportedError,
    ) as error:
        raise ModelFileError(
            f"What the file says about its uncertainty is inconsistent: {error}",
            where=str(path),
            fix="get a fresh copy of the file",
        ) from error
    model.metadata = header
    return model.to(where).eval()


def head_posterior(potential: Potential, **scales: Any) -> Posterior:
    """The spread of the energy heads, or nothing for one head; see `LastLayer` for ``scales``."""
    if potential.spread is None:
        return PointEstimate(potential)
    factor = spread_factor(potential.spread.detach())
    return LastLayer(potential, factor.cpu().numpy(), "heads", **scales)


def _constants(potential: Potential) -> dict[str, Any]:
    return {
        "e0": {str(z): e for z, e in potential.e0.items()},
        "scale": potential.scale,
        "average_neighbors": potential.average_neighbors,
    }


def _posterior(
    header: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    entry: Mapping[str, Any],
    path: str | Path,
    dtype: Any,
) -> Posterior:
    method, count = entry["method"], entry["members"]
    if method not in (OF_WEIGHTS if count > 1 else OF_LAST_LAYER):
        raise ValueError(f"method {method!r} with {count} members")
    if count > 1:
        stacked = {len(x) for name, x in tensors.items() if name.startswith("weights.")}
        if stacked | {len(entry["constants"])} != {count}:
            raise ValueError(f"weights of {sorted(stacked)} members, not {count}")
        potentials = [
            potential_of(header | constants, _member(tensors, k), path, dtype=dtype)
            for k, constants in enumerate(entry["constants"])
        ]
        return Members(potentials, method, stretch=entry["stretch"])
    potential = potential_of(header, tensors, path, dtype=dtype)
    scales: dict[str, Any] = {}
    if "posterior.per_force" in tensors:
        scales = {"per_force": tensors["posterior.per_force"].numpy(), "per_stress": entry["per_stress"]}
    if method == "llpr":
        return LastLayer(potential, np.asarray(tensors["posterior.factor"]), "llpr", **scales)
    return head_posterior(potential, **scales)


def _member(tensors: Mapping[str, Tensor], k: int) -> dict[str, Tensor]:
    return {name: x[k] if name.startswith("weights.") else x for name, x in tensors.items()}
