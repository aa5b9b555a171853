"""Export in the format of metatomic: TorchScript that LAMMPS, i-PI, ASE and others evaluate without atomml."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from ase import Atoms
from ase.data import chemical_symbols

from atomml._version import __version__
from atomml.errors import ModelFileError
from atomml.files import write_atomically
from atomml.potentials.compile import weights_sha256
from atomml.potentials.compile_structures import sample_structures
from atomml.potentials.potential import Potential
from atomml.potentials.traceable import trace
from atomml.simulate.export.imports import import_metatomic
from atomml.simulate.export.network import EnergyDeviation, ExportedNetwork, deviation_of
from atomml.simulate.export.verify import measure, refuse_above
from atomml.uncertainty.bayesian import BayesianPotential
from atomml.uncertainty.model_file import load_model
from atomml.uncertainty.posterior import PointEstimate

__all__ = ["TOLERANCE", "export_metatomic"]

TOLERANCE = {"float32": 1e-4, "float64": 1e-10}
"""Largest scaled difference by the precision of the file, see `atomml.simulate.export.verify.measure`. In float32 a
model differs by 1e-5 from itself in float64 for structures at half the density of matter or twice it."""
ARCHITECTURES = {
    "tdn": "Tensor decomposition network, after arXiv:2507.01131",
    "race": "RACE, after arXiv:2510.03046",
}
IMPLEMENTATION = "atomml, https://github.com/atomml/atomml"
MEANINGS = {
    "energy": "total energy, reference energies of the atoms included",
    "energy_uncertainty": "one standard deviation of the energy, calibrated if the model is",
    "energy_ensemble": "energies of the members around that energy, as far as the calibrated deviations say",
}


def export_metatomic(
    model: Potential | BayesianPotential | str | Path,
    path: str | Path,
    *,
    dtype: Literal["float32", "float64"] | None = None,
    structures: Sequence[Atoms] | None = None,
    tolerance: float | None = None,
    authors: Sequence[str] = (),
) -> dict[str, Any]:
    """Write a model for metatomic, compare it with the original, and refuse it if it differs.

    The file has the energy of structures and atoms in eV for lengths in Å; forces and stress are derivatives that the
    simulation engine takes. A model with an uncertainty has ``energy_uncertainty`` too, and ``energy_ensemble`` if it
    has members (of a last-layer Gaussian: 16 draws). Deviations of forces and stress have no place in the format.

    Args:
        model: of kind ``tdn`` or ``race``, or its file; left as it is.
        path: a name ending in ``.pt``; what was there before is replaced once the new file is verified.
        dtype: precision of the file, that of the model by default.
        structures: where it is compared with the original; by default made from the elements: crystals, a slab, a
            cluster, a cell of one atom, dimers and a lone atom.
        tolerance: largest scaled difference; by default `TOLERANCE`.
        authors: kept in the file.

    Returns:
        what is known of the file: ``file``, ``bytes``, ``dtype``, ``outputs``, ``cutoff``, ``interaction_range``,
        ``elements``, ``structures``, ``tolerance``, ``difference``, and ``left_out``: what the format cannot hold.

    Raises:
        UnsupportedError: metatomic is not installed, or a model that cannot be exported.
        ModelFileError: the model cannot be read, or the file cannot be written.
        CheckError: the result differs by more than the tolerance; nothing is written.
    """
    import_metatomic()
    original: Any = load_model(model) if isinstance(model, str | Path) else deepcopy(model)
    original.cpu().eval()
    original.to(original.dtype if dtype is None else getattr(torch, dtype))
    precision = str(original.dtype).removeprefix("torch.")
    chosen = sample_structures(original.elements) if structures is None else list(structures)
    facts: dict[str, Any] = {
        "dtype": precision,
        "outputs": _outputs(original),
        "cutoff": original.cutoff,
        "interaction_range": original.config.layers * original.cutoff,
        "elements": list(original.elements),
        "structures": {
            "number": len(chosen),
            "origin": "made from the elements" if structures is None else "given",
        },
        "tolerance": TOLERANCE[precision] if tolerance is None else tolerance,
        "left_out": _left_out(original),
    }
    module = _module(original)
    with TemporaryDirectory() as folder:
        draft = Path(folder) / "model.pt"
        _save(module, _metadata(original, facts, authors), facts, draft)
        facts["difference"] = measure(draft, original, chosen, facts["outputs"])
        refuse_above(facts["tolerance"], facts["difference"], where=f"{len(chosen)} structures, {precision}")
        _save(
            module, _metadata(original, facts, authors), facts, draft
        )  # the same module, and what was measured
        content = draft.read_bytes()
    write_atomically(Path(path), content, error=ModelFileError)
    return {"file": str(path), "bytes": len(content), **facts}


def _outputs(model: Potential | BayesianPotential) -> list[str]:
    if not isinstance(model, BayesianPotential):
        return ["energy"]
    members = not isinstance(model.posterior, PointEstimate)
    return ["energy", "energy_uncertainty", *(["energy_ensemble"] if members else [])]


def _left_out(model: Potential | BayesianPotential) -> list[str]:
    if isinstance(model, BayesianPotential):
        return ["deviations of forces and stress"]
    known = model.heads > 1 or model.noise is not None
    return ["heads and predicted deviations, which the model file holds without a posterior"] if known else []


def _module(model: Potential | BayesianPotential) -> Any:
    from atomml.simulate.export.module import MetatomicModule

    potential: Potential = model.potential if isinstance(model, BayesianPotential) else model
    network = trace(ExportedNetwork(model), n_species=len(model.elements), dtype=model.dtype)
    spread = deviation_of(model) or EnergyDeviation(1.0, 0.0, 1.0, False)
    return MetatomicModule(
        network,
        potential.species_of_z.clone(),
        float(model.cutoff),
        spread.alpha,
        spread.beta,
        spread.gamma,
        spread.mean_noise,
    ).eval()


def _metadata(
    model: Potential | BayesianPotential, facts: Mapping[str, Any], authors: Sequence[str]
) -> dict[str, Any]:
    header, symbols = model.metadata, "-".join(chemical_symbols[z] for z in model.elements)
    kind = model.config.kind
    extra = {
        "atomml": __version__,
        "licence": header.get("licence", "not stated"),
        "config": model.config.model_dump(mode="json"),
        "weights_sha256": weights_sha256(model),
        "data": header.get("data", {}),
        "metrics": header.get("metrics", {}),
        "calibration": model.calibration_id,
        "export": dict(facts),
    }
    return {
        "name": f"{kind} {symbols}",
        "description": f"Interatomic potential of kind {kind} for {symbols}, exported by atomml {__version__}. "
        f"Licence: {extra['licence']}.",
        "authors": list(authors),
        "references": {
            "implementation": [IMPLEMENTATION],
            "architecture": [ARCHITECTURES[kind]],
            "model": [],
        },
        "extra": {k: v if isinstance(v, str) else json.dumps(v) for k, v in extra.items()},
    }


def _save(module: Any, metadata: Mapping[str, Any], facts: Mapping[str, Any], path: Path) -> None:
    metatomic = import_metatomic()
    capabilities = metatomic.ModelCapabilities(
        outputs={
            name: metatomic.ModelOutput(unit="eV", sample_kind="atom", description=MEANINGS[name])
            for name in facts["outputs"]
        },
        atomic_types=facts["elements"],
        interaction_range=facts["interaction_range"],
        length_unit="angstrom",
        supported_devices=["cpu", "cuda"],
        dtype=facts["dtype"],
    )
    with _no_extensions():
        metatomic.AtomisticModel(module, metatomic.ModelMetadata(**metadata), capabilities).save(path)


@contextmanager
def _no_extensions() -> Iterator[None]:
    """Writing notes every library that torch has loaded as one that the model needs. This model needs none."""
    loaded = torch.ops.loaded_libraries
    torch.ops.loaded_libraries = set()
    try:
        yield
    finally:
        torch.ops.loaded_libraries = loaded
