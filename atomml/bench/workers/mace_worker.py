"""MACE with random weights: energy, forces and stress of a prepared batch, a training step, dynamics through ASE."""

from __future__ import annotations

from typing import Any

import ase_tasks  # type: ignore[import-not-found]
import mace  # type: ignore[import-not-found]
import numpy as np
import torch
from e3nn import o3
from mace import data, modules  # type: ignore[import-not-found]
from mace.calculators import MACECalculator  # type: ignore[import-not-found]
from mace.tools import AtomicNumberTable, torch_geometric  # type: ignore[import-not-found]
from worker_loop import Parts, Run, serve, stopwatch  # type: ignore[import-not-found]

__all__ = ["prepare"]


def prepare(task: dict[str, Any], parts: Parts) -> tuple[Run, dict[str, Any]]:
    """The timed function of a task and facts about the model."""
    torch.set_num_threads(task["threads"])
    torch.set_default_dtype(getattr(torch, task["dtype"]))
    structures = [ase_tasks.atoms_from(s) for s in task["structures"]]
    numbers = AtomicNumberTable(sorted({int(z) for atoms in structures for z in atoms.numbers}))
    cutoff = float(task["model"]["cutoff"])
    batch = _batch(structures, numbers, cutoff)
    neighbors = batch.edge_index.shape[1] / batch.num_nodes
    model = _model(task["model"], numbers, neighbors)
    facts = {
        "atoms": int(batch.num_nodes),
        "neighbors": float(neighbors),
        "parameters": sum(p.numel() for p in model.parameters()),
        "versions": {"mace": mace.__version__, "torch": torch.__version__},
    }
    if task["kind"] == "dynamics":
        calculator = MACECalculator(models=[model], device="cpu", default_dtype=task["dtype"])
        calculator._atoms_to_batch = stopwatch(calculator._atoms_to_batch, "neighbor list and input", parts)
        return ase_tasks.dynamics(structures[0], calculator), facts
    if task["kind"] == "training":
        return _training_step(model, batch), facts
    inputs, stress = batch.to_dict(), bool(task["stress"])
    return lambda: model(dict(inputs), training=False, compute_force=True, compute_stress=stress), facts


def _batch(structures: list[Any], numbers: Any, cutoff: float) -> Any:
    graphs = [
        data.AtomicData.from_config(data.config_from_atoms(atoms), z_table=numbers, cutoff=cutoff)
        for atoms in structures
    ]
    return torch_geometric.Batch.from_data_list(graphs)


def _model(settings: dict[str, Any], numbers: Any, neighbors: float) -> torch.nn.Module:
    """The defaults of MACE's own training program, with the given features."""
    torch.manual_seed(0)
    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    degrees = range(settings["lmax"] + 1)
    model: torch.nn.Module = modules.ScaleShiftMACE(
        r_max=settings["cutoff"],
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=block,
        interaction_cls_first=block,
        num_interactions=settings["layers"],
        num_elements=len(numbers),
        hidden_irreps=o3.Irreps([(settings["channels"], (degree, (-1) ** degree)) for degree in degrees]),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(len(numbers)),
        avg_num_neighbors=neighbors,
        atomic_numbers=numbers.zs,
        correlation=3,
        gate=torch.nn.functional.silu,
        radial_MLP=[64, 64, 64],
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )
    return model


def _training_step(model: torch.nn.Module, batch: Any) -> Run:
    """Loss on energy per atom and forces against zero, gradient, AMSGrad."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, amsgrad=True)
    inputs, sizes = batch.to_dict(), batch.ptr.diff()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        out = model(dict(inputs), training=True, compute_force=True, compute_stress=False)
        loss = ((out["energy"] / sizes) ** 2).mean() + (out["forces"] ** 2).mean()
        loss.backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    serve(prepare)
