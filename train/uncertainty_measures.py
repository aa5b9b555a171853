"""What predicted deviations are worth: calibration on held-out frames, and measures on others.

All functions work on the arrays of an `atomml.training.evaluation.Evaluation`, so that nothing has to be predicted
again to calibrate or measure in another way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from atomml.errors import DataError
from atomml.shapes import ndarray
from atomml.training.deviation_measures import deviation_measures, residuals_of, tell_apart
from atomml.training.evaluation import summary
from atomml.uncertainty.calibration import Scale, balance, fit_isotonic, fit_scale, scaled_cov
from atomml.uncertainty.metrics import (
    absolute_calibration_error,
    ellipsoid_probability,
    pit,
    squared_calibration_error,
)

Arrays = Mapping[str, ndarray]
OF_ATOMS = ("numbers", "forces", "forces_label", "forces_cov", "forces_cov_epistemic")
QUANTITIES = ("energy", "forces", "stress")
KEPT = frozenset(
    ["count", "rmse", "per_atom_rmse", "nll", "per_atom_nll", "crps", "energy_score", "ce", "ace"]
    + ["coverage_68", "coverage_95", "z_rms", "sharpness", "spearman"]
)


def mixture_of(members: Sequence[Arrays]) -> dict[str, ndarray]:
    """Predictions of a deep ensemble from those of its members.

    What `atomml.uncertainty.posterior.Members` computes: μ = mean_m μ_m; variance = mean_m σ_m² + mean_m (μ_m − μ)²,
    for forces as matrices, the second one rounded; σ_m = 0 of members that predict no deviations.
    """
    out = {key: value for key, value in members[0].items() if key not in QUANTITIES}
    mean = {name: np.mean([m[name] for m in members], axis=0) for name in QUANTITIES}
    centred = {name: np.stack([m[name] for m in members]) - mean[name] for name in QUANTITIES}
    noise = {
        name: np.mean([m[name] ** power if name in m else 0 * m[like] for m in members], axis=0)
        for name, like, power in (("energy_std", "energy", 2), ("stress_std", "stress", 2))
    }
    cov = np.einsum("mni,mnj->nij", centred["forces"], centred["forces"]) / len(members)
    w = 3 / (len(members) + 3)  # as `atomml.uncertainty.posterior.Members` draws it towards a sphere
    cov = (1 - w) * cov + w * np.trace(cov, axis1=1, axis2=2)[:, None, None] / 3 * np.eye(3)
    spread = (centred["energy"] ** 2).mean(0)
    return (
        out
        | mean
        | {
            "energy_std": np.sqrt(spread + noise["energy_std"]),
            "energy_std_epistemic": np.sqrt(spread),
            "energy_std_aleatoric": np.sqrt(noise["energy_std"]),
            "forces_cov": cov + np.mean([m.get("forces_cov", np.zeros_like(cov)) for m in members], axis=0),
            "forces_cov_epistemic": cov,
            "stress_std": np.sqrt((centred["stress"] ** 2).mean(0) + noise["stress_std"]),
            "stress_std_epistemic": np.sqrt((centred["stress"] ** 2).mean(0)),
        }
    )


def take(arrays: Arrays, frames: ndarray) -> dict[str, ndarray]:
    """The arrays of the frames where the mask is true."""
    atoms = np.repeat(frames, arrays["n_atoms"])
    return {name: value[atoms if name in OF_ATOMS else frames] for name, value in arrays.items()}


class Fitted(NamedTuple):
    """A calibration: γ of the epistemic deviations where there are both parts, then α and β of each quantity."""

    gamma: dict[str, float]
    scales: dict[str, Scale]


def gammas_of(arrays: Arrays) -> dict[str, float]:
    """`balance` of energies and forces; nothing for a method that has one part only. Stresses have that of forces."""
    if not all(arrays.get(f"energy_std_{part}", np.zeros(1)).any() for part in ("aleatoric", "epistemic")):
        return {}
    energy = [arrays[f"energy_std_{part}"][:, None, None] ** 2 for part in ("aleatoric", "epistemic")]
    known = np.isfinite(arrays["forces_label"]).all(axis=1)
    epistemic = arrays["forces_cov_epistemic"][known]
    error = (arrays["forces_label"] - arrays["forces"])[known]
    forces = balance(error, arrays["forces_cov"][known] - epistemic, epistemic)
    energies = balance((arrays["energy_label"] - arrays["energy"])[:, None], *energy)
    return {"energy": energies, "forces": forces, "stress": forces}


def balanced(arrays: Arrays, gamma: Mapping[str, float]) -> dict[str, ndarray]:
    """The arrays with γ times the epistemic deviations."""
    more = {name: value**2 - 1 for name, value in gamma.items()}
    out = dict(arrays)
    for name in more:
        if name == "forces":
            out["forces_cov"] = arrays["forces_cov"] + more[name] * arrays["forces_cov_epistemic"]
        else:
            own, part = (arrays[f"{name}_std{end}"] ** 2 for end in ("", "_epistemic"))
            out[f"{name}_std"] = np.sqrt(own + more[name] * part)
    return out


def calibration_of(arrays: Arrays, method: str) -> Fitted:
    """`balance`, and `fit_scale` of every quantity that has labels.

    Raises:
        DataError: deviations that no factor makes right.
    """
    gamma = gammas_of(arrays)
    residuals = residuals_of(balanced(arrays, gamma)).residuals
    parts = {name: residuals.labelled(name) for name in QUANTITIES}
    scales = {name: fit_scale(p.error, p.spread, method) for name, p in parts.items() if p is not None}
    return Fitted(gamma, scales)


def scaled(arrays: Arrays, fitted: Fitted) -> dict[str, ndarray]:
    """The arrays with the deviations of a calibrated `BayesianPotential`: α²σ² + β², of energies α²σ² + N β²."""
    energy, forces, stress = (fitted.scales.get(name, Scale()) for name in QUANTITIES)
    floor = stress.beta**2 * (1 + np.eye(3)) / 2
    out = balanced(arrays, fitted.gamma)
    return out | {
        "energy_std": np.hypot(energy.alpha * out["energy_std"], energy.beta * np.sqrt(out["n_atoms"])),
        "forces_cov": scaled_cov(out["forces_cov"], forces.alpha, forces.beta),
        "stress_std": np.sqrt((stress.alpha * out["stress_std"]) ** 2 + floor),
    }


def scaled_by_others(arrays: Arrays, groups: ndarray, method: str) -> dict[str, ndarray]:
    """Each group (trajectory) calibrated on all the others, so that no frame is measured with its own calibration."""
    names = np.unique(groups)
    parts = [
        scaled(take(arrays, groups == g), calibration_of(take(arrays, groups != g), method)) for g in names
    ]
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    frames = np.argsort(np.concatenate([np.flatnonzero(groups == g) for g in names]))
    starts = np.cumsum(joined["n_atoms"]) - joined["n_atoms"]
    atoms = np.concatenate([np.arange(starts[k], starts[k] + joined["n_atoms"][k]) for k in frames])
    return {key: value[atoms if key in OF_ATOMS else frames] for key, value in joined.items()}


def measured(arrays: Arrays) -> dict[str, Any]:
    """The `KEPT` measures of energy, forces and stress; ``notes`` says what could not be measured."""
    found = deviation_measures(arrays)
    kept = {name: {k: v for k, v in m.items() if k in KEPT} for name, m in found.measures.items()}
    return kept | ({"notes": list(found.notes)} if found.notes else {})


def record_of(
    sets: Mapping[str, Arrays], others: Mapping[str, ndarray], calibrations: Mapping[str, str]
) -> dict[str, Any]:
    """Everything about one model from its predictions.

    Args:
        sets: ``calibration``, ``id`` and sets from elsewhere. Without ``calibration`` the frames of ``id`` are
            calibrated on each other, see `scaled_by_others`.
        others: groups of the frames of ``id``, for calibrations on the other groups: name → group of each frame.
        calibrations: what it is called in the results → method.
    """
    accuracy = {name: summary(dict(a), np.ones(len(a["n_atoms"]), dtype=bool))[0] for name, a in sets.items()}
    record: dict[str, Any] = {"accuracy": accuracy}
    if "energy_std" not in sets["id"]:
        return record
    elsewhere = {name: a for name, a in sets.items() if name not in ("calibration", "id")}
    record["raw"] = {name: measured(a) for name, a in (("id", sets["id"]), *elsewhere.items())}
    record["detection"] = {"raw": {name: tell_apart(sets["id"], a) for name, a in elsewhere.items()}}
    if sets["id"].get("forces_cov_epistemic", np.zeros(1)).any():
        spread = {name: _epistemic(a) for name, a in sets.items()}
        record["detection"]["epistemic"] = {n: tell_apart(spread["id"], spread[n]) for n in elsewhere}
    groups = next(iter(others.values()))
    pairs = [(take(sets["id"], groups != g), take(sets["id"], groups == g)) for g in np.unique(groups)]
    try:
        held = [(sets["calibration"], sets["id"])] if "calibration" in sets else pairs
        record["isotonic"] = isotonic_errors(held)
    except DataError as error:
        record["notes"] = [f"no monotone map: {error}"]
    for title, method in calibrations.items():
        try:
            record[title], found = _calibrated(sets, elsewhere, others, method)
            record["detection"][title] = found
        except DataError as error:
            record[title] = {"method": method, "note": str(error)}
    return record


def _calibrated(
    sets: Mapping[str, Arrays], elsewhere: Mapping[str, Arrays], others: Mapping[str, ndarray], method: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Scales, and measures of every set with them, of ``id`` also calibrated on its other groups; and detection."""
    fitted = calibration_of(sets.get("calibration", sets["id"]), method)
    known = {f"id by {name}": scaled_by_others(sets["id"], groups, method) for name, groups in others.items()}
    same = scaled(sets["id"], fitted)
    known["id"] = same if "calibration" in sets else next(iter(known.values()))
    rest = {name: scaled(a, fitted) for name, a in elsewhere.items()}
    record = {
        "method": method,
        "gamma": fitted.gamma,
        "scales": {name: [s.alpha, s.beta] for name, s in fitted.scales.items()},
        **{name: measured(a) for name, a in (known | rest).items()},
    }
    return record, {name: tell_apart(same, a) for name, a in rest.items()}


def _epistemic(arrays: Arrays) -> dict[str, ndarray]:
    """The arrays with the disagreement of the members alone."""
    return dict(arrays) | {name: arrays[f"{name}_epistemic"] for name in ("energy_std", "forces_cov")}


def isotonic_errors(pairs: Iterable[tuple[Arrays, Arrays]]) -> dict[str, float]:
    """Calibration errors that are left by a monotone map of the probabilities, fitted on the first of each pair.

    It corrects any form of distribution, but intervals only: no deviation comes of it. Deviations are scaled first,
    for probabilities that are all 1 cannot be told apart.

    Raises:
        DataError: deviations that no factor makes right.
    """
    forces, energies = [], []
    for fitted, tested in pairs:
        calibration = calibration_of(fitted, "coverage")
        both = [residuals_of(scaled(a, calibration)).residuals for a in (fitted, tested)]
        f, e = ([r.labelled(name) for r in both] for name in ("forces", "energy"))
        probability = [ellipsoid_probability(p.error, p.spread) for p in f if p is not None]
        forces.append(fit_isotonic(probability[0]).to_observed(probability[1]))
        place = [pit(p.error, p.spread) for p in e if p is not None]
        energies.append(np.abs(2 * fit_isotonic(place[0]).to_observed(place[1]) - 1))
    return {
        "ce_forces": squared_calibration_error(np.concatenate(forces)),
        "ace_energy": absolute_calibration_error(np.concatenate(energies)),
    }
