"""`compile_potential`: tabulate the radial functions of a potential and measure what that costs in accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from hashlib import sha256
from typing import Literal, cast

import numpy as np
import torch
from ase import Atoms
from torch import nn

from atomml.errors import CheckError, UnsupportedError
from atomml.nn.radial_table import table_error, tabulate
from atomml.potentials.compile_structures import sample_structures
from atomml.potentials.compiled import ENGINES, CompiledPotential, native_available
from atomml.potentials.config import TDNConfig
from atomml.potentials.potential import Potential
from atomml.potentials.prediction import Prediction
from atomml.potentials.tdn import TDN, TDNLayer
from atomml.shapes import Float64, ndarray

__all__ = ["compile_potential", "differences", "weights_sha256"]

RADIAL_TOLERANCES = (1e-4, 1e-5, 1e-6)
"""Relative errors of w and w' tried one after the other, when the number of knots is not given."""
SHARE_OF_TABLE = 0.1
"""Part of the tolerances that the table alone may use before a finer one is tried."""

Differences = dict[str, Float64[ndarray, " structures"]]


def compile_potential(
    potential: Potential,
    *,
    structures: Sequence[Atoms] | None = None,
    tolerance_energy: float = 1e-5,
    tolerance_forces: float = 1e-4,
    knots: int | None = None,
    dtype: Literal["float32", "float64"] = "float32",
) -> CompiledPotential:
    """A potential for inference with tabulated radial functions, refused if it is not accurate enough.

    Two errors against ``potential`` in float64 are measured and kept in ``compilation``: that of the result in
    its precision with each engine, which the tolerances apply to; and that of the table alone, everything in
    float64. Both are the largest over the structures, see `differences`.

    Args:
        potential: of kind ``tdn``; left as it is.
        structures: where the errors are measured; by default made from the elements, see `sample_structures`.
        tolerance_energy: eV per atom; more by as many times as the binding energy exceeds 1 eV per atom.
        tolerance_forces: eV/Å; more by as many times as the RMS force component of a structure exceeds 1 eV/Å.
        knots: of each table; by default as many as it takes for the table to use a tenth of the tolerances.
        dtype: precision of the result.

    Raises:
        UnsupportedError: a network without radial functions of one distance, or compiled already; a structure
            with an element that the model does not know.
        AtommlError: the radial functions are too rough for a table.
        CheckError: an error is above its tolerance.
    """
    _require_tdn(potential)
    exact = deepcopy(potential).cpu().double().eval()
    given = structures is not None
    structures = sample_structures(potential.elements) if structures is None else list(structures)
    truth = exact.predict(structures)
    tolerance = {"energy": tolerance_energy, "forces": tolerance_forces}
    for radial_tolerance in RADIAL_TOLERANCES:
        compiled = _tabulated(exact, knots, radial_tolerance)
        by_table = _largest(differences(compiled, truth, structures))
        fine = all(by_table[f"scaled_{name}"] <= SHARE_OF_TABLE * limit for name, limit in tolerance.items())
        if fine or knots is not None:
            break
    compiled.to(getattr(torch, dtype))
    engines = [engine for engine in ENGINES if engine == "torch" or native_available()]
    found = {engine: differences(compiled.use_engine(engine), truth, structures) for engine in engines}
    for engine, errors in found.items():
        _refuse_above(tolerance, errors, by_table, engine, structures)
    compiled.compilation |= {
        "source_sha256": weights_sha256(potential),
        "structures": {"number": len(structures), "origin": "given" if given else "made from the elements"},
        "tolerance": tolerance,
        "difference": {engine: _largest(errors) for engine, errors in found.items()},
        "difference_by_table": by_table,
    }
    return compiled.use_engine("auto")


def differences(
    potential: Potential, truth: Sequence[Prediction], structures: Sequence[Atoms]
) -> Differences:
    """How far ``potential`` is from ``truth`` on each structure.

    Returns:
        ``energy`` in eV per atom, ``forces`` in eV/Å and ``stress`` in eV/Å³, the largest component (0 where
        there is no stress); ``scaled_energy``, divided by the binding energy |E − Σ E0| / N in eV where that is
        above 1; ``scaled_forces``, divided by the RMS force component in eV/Å where that is above 1.
    """
    found: dict[str, list[float]] = {}
    for atoms, a, b in zip(structures, potential.predict(structures), truth, strict=True):
        assert a.forces is not None and b.forces is not None  # noqa: PT018
        binding = abs(b.energy - sum(potential.e0[z] for z in atoms.numbers.tolist())) / len(atoms)
        energy = abs(a.energy - b.energy) / len(atoms)
        forces = float(np.abs(a.forces - b.forces).max())
        stress = 0.0 if a.stress is None or b.stress is None else float(np.abs(a.stress - b.stress).max())
        row = {"energy": energy, "forces": forces, "stress": stress}
        row["scaled_energy"] = energy / max(1.0, binding)
        row["scaled_forces"] = forces / max(1.0, float(np.sqrt(np.mean(b.forces**2))))
        for name, value in row.items():
            found.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in found.items()}


def weights_sha256(potential: nn.Module) -> str:
    """Fingerprint of all weights: their names and bytes in alphabetical order."""
    digest = sha256()
    for name, value in sorted(potential.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _require_tdn(potential: Potential) -> None:
    if isinstance(potential, CompiledPotential):
        raise UnsupportedError("This model is compiled already.", fix="compile the model that it came from")
    if not isinstance(potential.config, TDNConfig):
        raise UnsupportedError(
            f"A model of kind {potential.config.kind} cannot be compiled: only the conservative tensor"
            " decomposition network has a fused evaluation.",
            where="kind",
            fix="train a model with kind: tdn",
        )
    if potential.config.heads > 1 or potential.config.noise is not None:
        raise UnsupportedError(
            "A model with several energy heads or predicted deviations cannot be compiled: the fused evaluation"
            " gives energy, forces and stress only.",
            where="model.heads, model.noise",
            fix="use the model itself where deviations matter, and train one without them for speed",
        )


def _tabulated(exact: Potential, knots: int | None, tolerance: float) -> CompiledPotential:
    radial = [cast(TDNLayer, layer).radial for layer in cast(TDN, exact.body).layers]
    tables = [tabulate(f, exact.cutoff, knots=knots, tolerance=tolerance) for f in radial]
    facts = {
        "knots": [table.knots for table in tables],
        "radial_errors": [table_error(table, f) for table, f in zip(tables, radial, strict=True)],
    }
    return CompiledPotential(exact, tables, compilation=facts)


def _largest(errors: Differences) -> dict[str, float]:
    return {name: float(values.max()) for name, values in errors.items()}


def _refuse_above(
    tolerance: Mapping[str, float],
    errors: Differences,
    by_table: Mapping[str, float],
    engine: str,
    structures: Sequence[Atoms],
) -> None:
    for name, unit in (("energy", "eV/atom"), ("forces", "eV/Å")):
        scaled = errors[f"scaled_{name}"]
        worst, table = int(scaled.argmax()), by_table[f"scaled_{name}"]
        if scaled[worst] <= tolerance[name]:
            continue
        raise CheckError(
            f"The compiled model is not accurate enough: the difference of {name} is {scaled[worst]:.1e} {unit},"
            f" above {tolerance[name]:g}; that of the table alone {table:.1e}.",
            where=f"structure {worst} of {len(structures)}, {structures[worst].symbols}; engine {engine}",
            fix="give more knots"
            if table > scaled[worst] / 2
            else "use float64, or allow a larger difference",
        )
