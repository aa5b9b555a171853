"""NequIP with random weights, eager or compiled by AOTInductor: energy, forces and stress, dynamics through ASE."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import ase_tasks  # type: ignore[import-not-found]
import torch
from ase import Atoms
from nequip import __version__  # type: ignore[import-not-found]
from nequip.data import AtomicDataDict  # type: ignore[import-not-found]
from nequip.integrations.ase import NequIPCalculator  # type: ignore[import-not-found]
from nequip.integrations.utils import basic_transforms  # type: ignore[import-not-found]
from nequip.model import NequIPGNNModel  # type: ignore[import-not-found]
from nequip.nn.compile import DictInputOutputWrapper  # type: ignore[import-not-found]
from nequip.scripts._compile_utils import ASE_TARGET  # type: ignore[import-not-found]
from nequip.utils.aot import aot_export_model  # type: ignore[import-not-found]
from nequip.utils.global_state import set_global_state  # type: ignore[import-not-found]
from worker_loop import Parts, Run, serve, stopwatch  # type: ignore[import-not-found]

__all__ = ["prepare"]


def prepare(task: dict[str, Any], parts: Parts) -> tuple[Run, dict[str, Any]]:
    """The timed function of a task and facts about the model."""
    torch.set_num_threads(task["threads"])
    set_global_state()
    (atoms,) = (ase_tasks.atoms_from(s) for s in task["structures"])
    symbols = sorted(set(atoms.get_chemical_symbols()))
    settings = task["model"]
    model = _model(settings, symbols, task["dtype"])
    calculator = _calculator(model, settings["cutoff"], symbols)
    data = calculator.atoms_to_data(atoms)
    if settings["compiled"]:
        compiled = _compiled(model, calculator.atoms_to_data(_boxed(atoms)), _package(task, symbols))
        calculator = _calculator(compiled, settings["cutoff"], symbols)
    evaluate = calculator.model
    facts = {
        "atoms": len(atoms),
        "neighbors": data[AtomicDataDict.EDGE_INDEX_KEY].shape[1] / len(atoms),
        "parameters": sum(p.numel() for p in model.parameters()),
        "versions": {"nequip": __version__, "torch": torch.__version__},
    }
    if task["kind"] == "dynamics":
        calculator.atoms_to_data = stopwatch(calculator.atoms_to_data, "neighbor list and input", parts)
        return ase_tasks.dynamics(atoms, calculator), facts
    return lambda: evaluate(data.copy()), facts


def _model(settings: dict[str, Any], symbols: list[str], dtype: str) -> torch.nn.Module:
    model: torch.nn.Module = NequIPGNNModel(
        seed=0,
        model_dtype=dtype,
        r_max=settings["cutoff"],
        type_names=symbols,
        num_layers=settings["layers"],
        l_max=settings["lmax"],
        parity=settings["parity"],
        num_features=settings["channels"],
        avg_num_neighbors=20.0,
    )
    return model.eval()


def _calculator(model: torch.nn.Module, cutoff: float, symbols: list[str]) -> Any:
    transforms = basic_transforms({}, cutoff, symbols, {symbol: symbol for symbol in symbols})
    return NequIPCalculator(model, device="cpu", transforms=transforms)


def _boxed(atoms: Atoms) -> Atoms:
    """The same atoms in a cell: without one there is no stress that compiled and eager model could agree on."""
    boxed = atoms.copy()
    if not boxed.pbc.all():
        boxed.center(vacuum=10.0)
        boxed.pbc = True
    return boxed


def _package(task: dict[str, Any], symbols: list[str]) -> Path:
    """Where the compiled model of these settings is kept: compiling takes a minute or two."""
    key = [task["model"], task["dtype"], symbols, torch.__version__, __version__, task["processor"]]
    digest = sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return Path(task["folder"]) / f"{digest}.nequip.pt2"


def _compiled(model: torch.nn.Module, data: dict[str, Any], path: Path) -> torch.nn.Module:
    """As ``nequip-compile --mode aotinductor --target ase`` does, with its defaults."""
    inputs, outputs = ASE_TARGET["input"], ASE_TARGET["output"]
    if not path.exists():
        _export(model, data, path)
    package = torch._inductor.aoti_load_package(str(path))
    wrapped: torch.nn.Module = DictInputOutputWrapper(package, inputs, outputs)
    return wrapped.eval()


def _export(model: torch.nn.Module, data: dict[str, Any], path: Path) -> None:
    dimension = torch.export.Dim
    sizes = {
        "graph": dimension.STATIC,
        "node": dimension("num_nodes", min=2),
        "edge": dimension("num_edges", min=2),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unchecked = path.with_name("unchecked." + path.name)
    aot_export_model(
        model=model,
        device=torch.device("cpu"),
        input_fields=ASE_TARGET["input"],
        output_fields=ASE_TARGET["output"],
        data=ASE_TARGET["data_settings"](data.copy()),
        batch_map=sizes,
        output_path=str(unchecked),
    )
    unchecked.rename(path)


if __name__ == "__main__":
    serve(prepare)
