"""The potentials that `atomml bench potential` compares, with matched cutoff."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ase import Atoms

from atomml.bench.environments import environment
from atomml.bench.process import WORKERS, PeerError, Worker
from atomml.bench.structures import as_json

__all__ = ["CUTOFF", "KINDS", "Model", "Started", "models", "start", "tdn"]

CUTOFF = 5.0
KINDS = ("evaluate", "training", "dynamics")
"""``evaluate``: energy, forces and, in a cell, stress, neighbours given; ``training``: one optimiser step on a batch;
``dynamics``: one step of velocity Verlet through ASE, neighbour list included."""


@dataclass(frozen=True)
class Model:
    """A potential in the comparison.

    Attributes:
        name: in the tables.
        peer: whose program and environment run it: ``tdn`` (ours) or a key of `environments.PEERS`.
        settings: for the program.
        kinds: what it can be timed at.
    """

    name: str
    peer: str
    settings: dict[str, Any] = field(default_factory=dict)
    kinds: tuple[str, ...] = ("evaluate",)


@dataclass(frozen=True)
class Started:
    """A process with a prepared task, and what it said about it."""

    worker: Worker
    facts: dict[str, Any]


def tdn(
    name: str,
    *,
    compiled: bool,
    kinds: tuple[str, ...] = ("evaluate",),
    settings: Mapping[str, Any] | None = None,
) -> Model:
    """Our conservative network: 3 layers, 64 channels and the defaults of its configuration, or as given."""
    defaults = {"cutoff": CUTOFF, "lmax": 1, "channels": 64, "layers": 3}
    return Model(name, "tdn", {**defaults, **(settings or {}), "compiled": compiled}, kinds)


def models(peers: Sequence[str], file: Path | None = None) -> list[Model]:
    """Ours, one from a file, and those of the peers asked for.

    MACE: ScaleShiftMACE, 2 layers, 128 channels of degrees 0..L, other settings the defaults of its training
    program. NequIP: L = 2, 3 layers, 32 features per degree, without parity-odd ones, other settings its defaults.
    """
    found = [
        tdn("TDN L=1 compiled", compiled=True, kinds=("evaluate", "dynamics")),
        tdn("TDN L=2 compiled", compiled=True, kinds=("evaluate", "dynamics"), settings={"lmax": 2}),
        tdn("TDN L=1", compiled=False, kinds=("evaluate", "training")),
        tdn("TDN L=2", compiled=False, kinds=("evaluate", "training"), settings={"lmax": 2}),
    ]
    if file is not None:
        given = {"file": str(file.resolve())}
        found.append(
            tdn(f"{file.stem} compiled", compiled=True, kinds=("evaluate", "dynamics"), settings=given)
        )
    mace = {"cutoff": CUTOFF, "channels": 128, "layers": 2}
    nequip = {"cutoff": CUTOFF, "lmax": 2, "channels": 32, "layers": 3, "parity": False}
    others = [
        Model("MACE L=1", "mace", {**mace, "lmax": 1}, KINDS),
        Model("MACE L=2", "mace", {**mace, "lmax": 2}),
        Model("NequIP L=2", "nequip", {**nequip, "compiled": False}),
        Model("NequIP L=2 AOTInductor", "nequip", {**nequip, "compiled": True}, ("evaluate", "dynamics")),
    ]
    return found + [model for model in others if model.peer in peers]


def start(
    chosen: Sequence[Model],
    kind: str,
    structures: Sequence[Atoms],
    *,
    threads: int,
    folder: Path,
    stack: ExitStack,
    missing: list[dict[str, str]],
    what: str,
    processor: str,
    say: Callable[[str], object] = lambda _: None,
) -> list[Started]:
    """Start one process per model and prepare the task in it; what fails goes to ``missing`` with the reason."""
    task = {
        "kind": kind,
        "structures": [as_json(atoms) for atoms in structures],
        "stress": all(bool(atoms.pbc.all()) for atoms in structures),
        "threads": threads,
        "dtype": "float32",
        "folder": str(folder / "compiled"),
        "processor": processor,
    }
    started = []
    for model in chosen:
        say(f"{what}: preparing {model.name}")
        try:
            python = Path(sys.executable) if model.peer == "tdn" else environment(model.peer, folder, say)
            program = WORKERS / f"{model.peer}_worker.py"
            worker = stack.enter_context(Worker(model.name, python, program, threads=threads))
            started.append(Started(worker, worker.prepare({**task, "model": model.settings})))
        except PeerError as error:
            missing.append({"name": model.name, "what": what, "reason": str(error)})
    return started
