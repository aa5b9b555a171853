"""The networks of atomml with random weights or from a file, timed like the others: by themselves in a process."""

from __future__ import annotations

from typing import Any

import ase_tasks  # type: ignore[import-not-found]
import torch
from ase import Atoms
from worker_loop import Parts, Run, serve, stopwatch  # type: ignore[import-not-found]

from atomml import Calculator, __version__
from atomml.graph import collate, graph_from_ase
from atomml.graph.neighbors import SkinnedNeighbors
from atomml.potentials import Potential, TDNConfig, build_potential
from atomml.uncertainty.model_file import load_model

__all__ = ["prepare"]

CHECKED_ATOMS = 200


def prepare(task: dict[str, Any], parts: Parts) -> tuple[Run, dict[str, Any]]:
    """The timed function of a task and facts about the model."""
    torch.set_num_threads(task["threads"])
    structures = [ase_tasks.atoms_from(s) for s in task["structures"]]
    settings = task["model"]
    cutoff = settings["cutoff"] if settings.get("file") is None else load_model(settings["file"]).cutoff
    graph = collate([graph_from_ase(atoms, cutoff) for atoms in structures])
    neighbors = graph.edge_index.shape[1] / graph.pos.shape[0]
    source = _model(settings, structures, neighbors, task["dtype"])
    potential = _compiled(source, structures, task["dtype"]) if settings["compiled"] else source
    facts = {
        "atoms": int(graph.pos.shape[0]),
        "neighbors": float(neighbors),
        "parameters": sum(p.numel() for p in source.parameters()),
        "engine": getattr(potential, "engine", "eager"),
        "versions": {"atomml": __version__, "torch": torch.__version__},
    }
    if task["kind"] == "dynamics":
        calculator = Calculator(potential)
        calculator._neighbors = _TimedNeighbors(calculator._neighbors, parts)
        return ase_tasks.dynamics(structures[0], calculator), facts
    if task["kind"] == "training":
        return _training_step(potential, graph), facts
    if not settings["compiled"]:
        potential.requires_grad_(False)
    stress = bool(task["stress"])

    def evaluate() -> object:
        with torch.no_grad():
            return potential(graph, forces=True, stress=stress)

    return evaluate, facts


def _model(settings: dict[str, Any], structures: list[Atoms], neighbors: float, dtype: str) -> Potential:
    if settings.get("file") is not None:
        return load_model(settings["file"]).to(getattr(torch, dtype))
    names = ("cutoff", "lmax", "channels", "layers", "coupling", "path_weights")
    config = TDNConfig(**{name: settings[name] for name in names if name in settings})
    elements = sorted({int(z) for atoms in structures for z in atoms.numbers})
    e0 = dict.fromkeys(elements, 0.0)
    potential = build_potential(
        config, elements=elements, e0=e0, average_neighbors=neighbors, scale=1.0, seed=0
    )
    return potential.to(getattr(torch, dtype))


def _compiled(source: Potential, structures: list[Atoms], dtype: Any) -> Potential:
    from atomml.potentials.compile import compile_potential
    from atomml.potentials.compiled import CompiledPotential

    if isinstance(source, CompiledPotential):
        return source
    # the check of accuracy must not decide the peak memory
    small = [atoms for atoms in structures if len(atoms) <= CHECKED_ATOMS]
    return compile_potential(source, structures=small or None, dtype=dtype)


class _TimedNeighbors(SkinnedNeighbors):
    """A Verlet list that reports the time spent in it."""

    def __init__(self, wrapped: SkinnedNeighbors, parts: Parts) -> None:
        super().__init__(wrapped.cutoff, wrapped.skin)
        self._call = stopwatch(super().__call__, "neighbor list and input", parts)
        self._timed_pairs = stopwatch(super().pairs, "neighbor list and input", parts)

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def pairs(self, *args: Any) -> Any:
        return self._timed_pairs(*args)


def _training_step(potential: Potential, graph: Any) -> Run:
    """Loss on energy per atom and forces against zero, gradient, AMSGrad."""
    optimizer = torch.optim.Adam(potential.parameters(), lr=1e-4, amsgrad=True)
    sizes = graph.ptr.diff()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        out = potential(graph, forces=True, create_graph=True)
        loss = ((out["energy"] / sizes) ** 2).mean() + (out["forces"] ** 2).mean()
        loss.backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    serve(prepare)
