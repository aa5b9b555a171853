"""What a calculator answers about one structure: labels that are whole and finite, or a failure of a known kind."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from atomml.labelling.outcome import Failure

__all__ = ["LabelFailureError", "Labels", "finite"]


class Labels(NamedTuple):
    """What a calculator gave.

    Attributes:
        energy: eV.
        forces: raw, eV/Å [N, 3].
        stress: eV/Å³, ASE's sign [3, 3]; None if there is none.
        version: of the program, if it is another one than a package installed here.
    """

    energy: float
    forces: Any
    stress: Any = None
    version: str = ""


class LabelFailureError(Exception):
    """A failure whose kind is known where it happens."""

    def __init__(self, kind: Failure, message: str) -> None:
        self.kind: Failure = kind
        super().__init__(message)


def finite(labels: Labels, number: int) -> Labels:
    """The same as lists.

    Raises:
        LabelFailureError: a shape is wrong, or something is NaN or infinite.
    """
    arrays = {"energy": (labels.energy, ()), "forces": (labels.forces, (number, 3))}
    if labels.stress is not None:
        arrays["stress"] = (labels.stress, (3, 3))
    out = {}
    for name, (values, shape) in arrays.items():
        array = np.asarray(values, dtype=np.float64)
        if array.shape != shape:
            raise LabelFailureError("error", f"the {name} have shape {array.shape}, not {shape}")
        if not np.isfinite(array).all():
            raise LabelFailureError("not_finite", f"the {name} are NaN or infinite")
        out[name] = array.tolist()
    return labels._replace(**out)
