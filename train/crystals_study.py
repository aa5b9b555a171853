"""A recipe, its model, and crystals drawn with it and judged; each is kept and not made again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import write

from atomml.config import load_config
from atomml.crystals.config import CrystalTrainConfig
from atomml.crystals.drawing import SamplingSettings
from atomml.crystals.evaluate.command import evaluate_crystals
from atomml.crystals.generate import fingerprint_of, generate_folder
from atomml.crystals.model import CrystalModel
from atomml.crystals.model_file import load_crystal_model
from atomml.crystals.train import train_crystals
from atomml.errors import ConfigError
from atomml.training.sources import Source, load_source

HERE = Path(__file__).parent
KEPT = (
    "n",
    "prediction",
    "validity",
    "uniqueness",
    "novelty",
    "symmetry",
    "coverage",
    "distributions",
    "not_done",
)
"""Parts of an evaluation that results have."""
Record = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """A recipe, its model, and crystals drawn with it.

    Attributes:
        recipe: of the files ``crystals_NAME.yaml``.
        runs: folder of all results.
        model_file: a model to measure; None: the recipe is trained.
        samples: number of crystals; None: all of the test, 1,000 to generate.
        changes: values by dotted key that replace those of the recipe.
        work: ``workers`` and ``timeout`` of the judgement.
        name: of the folder; the recipe's by default.
    """

    recipe: str
    runs: Path
    model_file: Path | None = None
    samples: int | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    work: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None

    @property
    def folder(self) -> Path:
        """Where everything is kept."""
        return self.runs / (self.name or self.recipe)

    @property
    def count(self) -> int:
        """Number of crystals to generate."""
        return self.samples or 1000

    @cached_property
    def settings(self) -> CrystalTrainConfig:
        """The recipe with the changes."""
        changes = {**self.changes, "run_dir": str(self.folder / "model")}
        return load_config(CrystalTrainConfig, HERE / f"crystals_{self.recipe}.yaml", changes)

    @cached_property
    def source(self) -> Source:
        """Its crystals, divided as in the training."""
        return load_source(self.settings.data, HERE, require_energy=False)

    @cached_property
    def model_path(self) -> Path:
        """The file of the model, trained unless it is there."""
        if self.model_file is not None:
            return self.model_file
        path = Path(self.settings.run_dir) / "model.safetensors"
        if not path.exists():
            changes = {**self.changes, "run_dir": self.settings.run_dir}
            train_crystals(HERE / f"crystals_{self.recipe}.yaml", changes, resume=True, quiet=True)
        return path

    @cached_property
    def model(self) -> CrystalModel:
        """The model.

        Raises:
            ConfigError: it was trained on other crystals, or divided otherwise, so that it may know the test.
        """
        model = load_crystal_model(self.model_path)
        known = model.metadata["data"]
        if known and known != self.source.fingerprint:
            raise ConfigError(
                "The model was trained on other crystals, or on another division of them.",
                where=str(self.model_path),
                fix="leave out --model to train the recipe, or give the --set it was trained with",
            )
        return model

    @cached_property
    def model_key(self) -> str:
        """What names the folders of its crystals."""
        return fingerprint_of(self.model)[:12]

    @cached_property
    def sets(self) -> Path:
        """Folder of the crystals of the parts, named by the division."""
        text = json.dumps(self.source.fingerprint, sort_keys=True).encode()
        folder = self.folder / "sets" / hashlib.blake2b(text, digest_size=6).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def crystals(self, part: str) -> list[Atoms]:
        """Crystals of a part; of the test ``samples`` at random."""
        found = self.source.parts[part]
        rows = found.rows
        if part == "test" and self.samples is not None:
            rows = np.sort(np.random.default_rng(0).permutation(rows)[: self.samples])
        return [_plain(found.store[int(row)]) for row in rows]

    def file(self, part: str) -> Path:
        """`crystals` as a file."""
        limit = self.samples if part == "test" else None
        path = self.sets / f"{part}{limit or ''}.extxyz"
        if not path.exists():
            write(path, self.crystals(part))
        return path

    def generated(self, kind: str, how: SamplingSettings, **wishes: Any) -> Path:
        """A folder of crystals of the model."""
        title = f"{kind}_{how.strategy}_{how.steps}_{how.n}"
        folder = self.folder / "crystals" / self.model_key / self.sets.name / title
        if not (folder / "summary.json").exists():
            generate_folder(self.model, folder, how, resume=True, **wishes)
        return folder

    def drawn(self, kind: str, task: Mapping[str, Any], how: SamplingSettings, **wishes: Any) -> Record:
        """Metrics of crystals of the model."""
        folder = self.generated(kind, how, **wishes)
        return self.judged(folder, folder / "evaluation", task)

    def judged(self, crystals: Path, out: Path, task: Mapping[str, Any]) -> Record:
        """Metrics of a folder or file, kept in ``out``."""
        kept = out / "metrics.json"
        if not kept.exists():
            cache = self.folder / "fingerprints.npz"
            evaluate_crystals(crystals, out=out, fingerprint_cache=cache, **task, **self.work)
        found = json.loads(kept.read_text(encoding="utf-8"))
        return {key: found[key] for key in KEPT if key in found}


def _plain(atoms: Atoms) -> Atoms:
    """Without labels and tags, which an extxyz would show to whoever reads it."""
    return Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
