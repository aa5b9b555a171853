"""`Run`: an open loop; and the one way in which a step is done, or found done."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atomml.active.config import ActiveConfig
from atomml.active.history import ModelFile, latest_model
from atomml.active.journal import Journal
from atomml.datasets.store import FrameStore
from atomml.files import replace_file
from atomml.potentials.model_file import read_model
from atomml.simulate.sampling.structures import random_stream

__all__ = ["NOW", "Facts", "Run", "facts_of", "fingerprint_of_model", "saved"]

NOW = "now.json"
Facts = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """An open loop.

    Attributes:
        config: its settings; every path in them is absolute.
        folder: the run folder, absolute.
        journal: what is finished.
        say: prints a line.
        progress: show progress bars.
    """

    config: ActiveConfig
    folder: Path
    journal: Journal
    say: Callable[[str], None]
    progress: bool = False

    def step(self, round_: int, name: str, compute: Callable[[], Facts]) -> Facts:
        """The facts of a step: from the journal if it is finished, else computed and written there."""
        record = self.journal.find(round_, name)
        if record is None:
            self.now(round_, name)
            begin = time.perf_counter()
            facts = compute()
            seconds = round(time.perf_counter() - begin, 3)
            record = self.journal.append(round_, name, facts, {"seconds": seconds, "ended": time.time()})
        return dict(record["facts"])

    def now(self, round_: int, step: str, done: int = 0, of: int = 0) -> None:
        """Say in a file what is going on, for `atomml active status`; it decides nothing."""
        content = {
            "round": round_,
            "step": step,
            "done": done,
            "of": of,
            "pid": os.getpid(),
            "at": time.time(),
        }
        with suppress(OSError):
            replace_file(self.folder / NOW, json.dumps(content).encode())

    @property
    def model(self) -> ModelFile | None:
        """The model to explore and predict with."""
        return latest_model(self.journal.records, self.folder, self.config.device)

    def rng(self, *name: object) -> np.random.Generator:
        """The random stream of something named."""
        return random_stream(self.config.seed, *name)

    def round_folder(self, round_: int) -> Path:
        """Where everything of a round is but its labels."""
        return self.folder / "rounds" / f"{round_:02d}"

    def relative(self, path: Path) -> str:
        """A path in the run folder as the journal has it."""
        return path.relative_to(self.folder).as_posix()


def saved(run: Run, store: FrameStore, path: Path) -> dict[str, Any]:
    """Write frames to a folder of the run; what the journal says about them."""
    store.save(path, overwrite=True)
    return facts_of(run, store, path)


def facts_of(run: Run, store: FrameStore, path: Path) -> dict[str, Any]:
    """What the journal says about frames that are on the disk."""
    return {"path": run.relative(path), "frames": len(store), "fingerprint": store.fingerprint()}


def fingerprint_of_model(path: Path) -> str:
    """Hash of the tensors and of the calibration of a model file; dates and times in its header do not count."""
    header, tensors = read_model(path)
    digest = hashlib.sha256(b"atomml-model-1")
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    uncertainty: Mapping[str, Any] = header.get("uncertainty") or {}
    e0 = {name: header[name] for name in ("e0", "scale") if name in header}
    digest.update(json.dumps([uncertainty, e0], sort_keys=True, default=str).encode())
    return digest.hexdigest()[:32]
