"""`Calibration`: what was fitted on held-out structures, to be kept with the model and applied to predictions."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field, PositiveInt

from atomml.config import Config, parse_config
from atomml.errors import ConfigError, ModelFileError
from atomml.shapes import Float64, Int64, ndarray
from atomml.uncertainty.calibration.isotonic import IsotonicMap
from atomml.uncertainty.calibration.scale import Method, Scale, factors_of_groups

__all__ = ["Calibration", "Quantity", "QuantityCalibration"]


Quantity = Literal["energy", "forces", "stress"]
Element = Annotated[int, Field(ge=1, le=118)]
Level = Annotated[float, Field(gt=0, lt=1)]
Radius = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Undefined = BeforeValidator(lambda x: math.nan if x is None else x)  # JSON has no NaN
Measures = dict[str, Annotated[float, Undefined]]


class QuantityCalibration(Config):
    """Calibration of the energies, the forces or the stresses."""

    scale: Scale
    """Of all values; of the elements that ``by_element`` lacks, if it is given."""
    by_element: dict[Element, Scale] = {}
    """Of the forces on each element that has enough labels."""
    isotonic: IsotonicMap
    """Of `pit` (forces: `ellipsoid_probability`) of the scaled deviations."""
    conformal: dict[Level, Radius]
    """Level → factor of the scaled deviation (forces: Mahalanobis radius) with this coverage."""
    conformal_by_element: dict[Element, dict[Level, Radius]] = {}
    """The same for each element alone."""
    count: PositiveInt
    """Values that were fitted: structures with an energy, atoms with forces, components of stresses."""
    frames: PositiveInt
    """Structures that they come from."""
    before: Measures
    """`energy_measures`, `force_measures` or `stress_measures` of these values; empty if they had no deviation."""
    after: Measures
    """The same, scaled. Measured on the fitted values, so a little better than on others."""


class Calibration(Config):
    """Scales σ² ← α² (σ²_aleatoric + γ² σ²_epistemic) + β² of energies, forces and stresses, and intervals on top.

    Energies are fitted as error/√n_atoms beside σ/√n_atoms. α is the same for total energies and for energies per
    atom; only β and the weights of the CRPS depend on the choice. This is the one for which independent noise of the
    atoms has the same deviation in structures of every size, as the energy head has: σ² of a total energy gains
    n_atoms β², that of an atom's energy β², and the total stays the sum over atoms.

    Stresses are Mandel vectors: every component gains β², and so a Voigt shear component β²/2.

    The scales make deviations right on average for structures like those fitted. They cannot make deviations
    right for other structures, whose errors and deviations must be judged apart.
    """

    method: Method
    """How the scales were fitted."""
    epistemic: dict[Quantity, Annotated[float, Field(ge=1, allow_inf_nan=False)]] = {}
    """γ: factor of the epistemic deviation before anything else, where there are both parts; see `balance`."""
    quantities: dict[Quantity, QuantityCalibration]
    """What was calibrated; what is absent keeps its deviations."""
    data: dict[str, Any] = {}
    """What it was fitted on: name, fingerprint, rows."""
    notes: tuple[str, ...] = ()
    """What was left out, and why."""

    @property
    def id(self) -> str:
        """First 16 digits of the SHA-256 of the content, without what has its default value.

        A later version that knows more keys gives the same.
        """
        text = json.dumps(json.loads(self.model_dump_json(exclude_defaults=True)), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def energy_factors(self) -> tuple[float, float]:
        """α and β (eV/√atom): energy_var ← α² energy_var + n_atoms β², energies_var ← α² energies_var + β²."""
        return self._common("energy")

    def force_factors(
        self, numbers: Int64[ndarray, " atoms"]
    ) -> tuple[Float64[ndarray, " atoms"], Float64[ndarray, " atoms"]]:
        """α and β (eV/Å) of each atom: forces_cov ← α² forces_cov + β² 1."""
        found = self.quantities.get("forces")
        if found is None:
            return np.ones(len(numbers)), np.zeros(len(numbers))
        return factors_of_groups(numbers, found.scale, found.by_element)

    def stress_factors(self) -> tuple[float, float]:
        """α and β (eV/Å³) of every Mandel component."""
        return self._common("stress")

    def epistemic_factor(self, quantity: Quantity) -> float:
        """γ of a quantity."""
        return self.epistemic.get(quantity, 1.0)

    def to_dict(self) -> dict[str, Any]:
        """Only what JSON knows; measures that are NaN become None."""
        return {"id": self.id, **self._content()}

    @staticmethod
    def from_dict(data: Mapping[str, Any], *, where: str = "calibration") -> Calibration:
        """Inverse of `to_dict`.

        Raises:
            ModelFileError: keys that are missing or unknown, values out of range, or content changed since it was
                fitted.
        """
        content = {key: value for key, value in data.items() if key != "id"}
        try:
            calibration = parse_config(Calibration, content, where=where)
        except ConfigError as error:
            what = error.what.replace("configuration", "calibration")
            raise ModelFileError(what, where=where, fix="calibrate the model again") from error
        if calibration.id != data.get("id"):
            raise ModelFileError(
                f"The calibration is not the one that was fitted ({data.get('id')} by its name).",
                where=where,
                fix="calibrate the model again",
            )
        return calibration

    def _common(self, quantity: Quantity) -> tuple[float, float]:
        found = self.quantities.get(quantity)
        return (found.scale.alpha, found.scale.beta) if found else (1.0, 0.0)

    def _content(self) -> dict[str, Any]:
        return json.loads(self.model_dump_json())
