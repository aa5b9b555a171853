"""Generation in batches: the same numbers however often it is interrupted, and every finished batch on the disk."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Unpack

from ase import Atoms

from atomml._version import __version__
from atomml.crystals.drawing import Sampler, SamplingSettings, blocks
from atomml.crystals.outputs.cif import remove_cifs, write_cifs
from atomml.crystals.outputs.describe import SYMPREC
from atomml.crystals.outputs.folder import GENERATED, RELAXED, iterate_generated, iterate_records
from atomml.crystals.outputs.journal import Journal, discard
from atomml.crystals.outputs.sheet import write_sheet
from atomml.crystals.requests import Generator, RequestPlan, Wishes, plan_requests
from atomml.crystals.sampler import sample
from atomml.errors import ConfigError
from atomml.files import write_atomically
from atomml.simulate.progress import progress_bar

__all__ = ["fingerprint_of", "generate", "generate_folder"]


def generate(
    model: Generator | str | Path,
    *,
    n: int | None = None,
    steps: int = 100,
    seed: int = 0,
    batch: int = 100,
    strategy: str = "end_back",
    guidance: float = 0.0,
    device: str = "cpu",
    sampler: Sampler | None = None,
    **wishes: Unpack[Wishes],
) -> list[Atoms]:
    """Crystals in memory: ``generate("crysbfn.safetensors", formula="LiCl", n=16)``.

    Args:
        model: a crystal model, or its file.
        n: number of crystals; 16 by default.
        steps: calls of the network for each.
        seed: of the random numbers.
        batch: number of crystals that are drawn together.
        strategy: how beliefs are updated: ``end_back``, ``vanilla`` or ``mix``.
        guidance: strength of the guidance towards ``properties``.
        device: where a file is loaded to.
        sampler: draws a batch; `sample` by default.
        **wishes: formula, chemical_system, n_atoms, z, …: see `plan_requests`.

    Returns:
        The structures, less those that are no crystals (a network can return NaN); ``atoms.info`` has index, formula,
        Z, space group and log-probability.

    Raises:
        ConfigError: settings or wishes that cannot be fulfilled.
        UnsupportedError: elements that the model does not know.
        ModelFileError: the model cannot be read.
    """
    how = SamplingSettings(n=n, steps=steps, seed=seed, batch=batch, strategy=strategy, guidance=guidance)
    generator = _resolve(model, device)
    plan, how = _plan(generator, how, wishes)
    found, reasons = [], Counter[str]()
    for block in blocks(generator, plan, how, sampler or sample):
        found += block.frames
        reasons.update(row["reason"] for row in block.rows if not row["valid"])
    if reasons:
        why = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        warnings.warn(f"{reasons.total()} of {how.count} crystals were left out: {why}.", stacklevel=2)
    return found


def generate_folder(
    model: Generator | str | Path,
    out: str | Path,
    settings: SamplingSettings | None = None,
    *,
    device: str = "cpu",
    symmetrize: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    sampler: Sampler | None = None,
    **wishes: Unpack[Wishes],
) -> dict[str, Any]:
    """Crystals in a folder: structures.extxyz, structures.jsonl, cif/, settings.json, summary.json and sheet.png.

    Every batch is on the disk before the next begins, and no more than one is in memory. A run that was interrupted
    goes on with ``resume`` and ends with the same files.

    Args:
        model: a crystal model, or its file.
        out: the folder.
        settings: how many, and how.
        device: where a file is loaded to.
        symmetrize: CIFs have the symmetry that is found within 0.1 Å, instead of P1.
        resume: go on with what is there.
        overwrite: discard what is there.
        progress: show a bar.
        sampler: draws a batch; `sample` by default.
        **wishes: formula, chemical_system, n_atoms, z, …: see `plan_requests`.

    Returns:
        What summary.json has: how many were asked for, are valid, were left out and why.

    Raises:
        ConfigError: settings or wishes that cannot be fulfilled, or a folder with other results.
        UnsupportedError: elements that the model does not know.
        ModelFileError: the model cannot be read.
        DataError: a file cannot be written.
    """
    folder, generator = Path(out), _resolve(model, device)
    plan, how = _plan(generator, settings or SamplingSettings(), wishes)
    decisive = {
        "model": fingerprint_of(generator),
        "device": str(getattr(generator, "device", device)),
        "sampling": asdict(how),
        "wishes": {key: str(v) if isinstance(v, Path) else v for key, v in wishes.items() if v},
        "requests": plan.fingerprint(),
    }
    journal = Journal(folder, GENERATED, decisive, resume=resume, overwrite=overwrite)
    if journal.done == 0:
        discard(folder, RELAXED)  # of other structures
        remove_cifs(folder / "relaxed_cif")
    facts = {
        "version": __version__,
        "model_file": str(model) if isinstance(model, str | Path) else type(model).__name__,
        **decisive,
        "symmetrize": symmetrize,
        "symprec": SYMPREC,
    }
    _write_json(folder / "settings.json", facts)
    first = -(-journal.done // how.batch)
    drawn = blocks(generator, plan, how, sampler or sample, first=first)
    with progress_bar(how.count, "generation", show=progress) as advance:
        advance(journal.done)
        for block in drawn:
            journal.append(block.rows, block.frames)
            advance(len(block.rows))
    return _finish(folder, symmetrize)


def fingerprint_of(model: Any) -> str:
    """A hash of the weights of a model; the name of its class where there are none."""
    if not hasattr(model, "state_dict"):
        return type(model).__name__
    digest = hashlib.blake2b(digest_size=16)
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype} ".encode())
        digest.update(weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _resolve(model: Generator | str | Path, device: str) -> Generator:
    if not isinstance(model, str | Path):
        return model
    from atomml.crystals.model_file import load_crystal_model

    loaded: Generator = load_crystal_model(model, device=device)
    return loaded


def _plan(model: Generator, how: SamplingSettings, wishes: Wishes) -> tuple[RequestPlan, SamplingSettings]:
    """The requests, and the settings with the number of crystals that follows from them."""
    if how.guidance and not wishes.get("properties"):
        raise ConfigError(
            "Guidance needs properties to be guided by.", fix="add them: --property density=4.2"
        )
    plan = plan_requests(model, **wishes)
    return plan, replace(how, n=how.n or plan.natural_size)


def _finish(folder: Path, symmetrize: bool) -> dict[str, Any]:
    """Everything that is made from the finished rows and structures."""
    symprec = SYMPREC if symmetrize else None
    unsymmetric = write_cifs(iterate_generated(folder), folder / "cif", symprec=symprec)
    write_sheet((atoms for atoms, _ in iterate_generated(folder)), folder / "sheet.png")
    reasons = Counter(row["reason"] for row in iterate_records(folder))
    groups = Counter(row["spacegroup"] for row in iterate_records(folder) if row["valid"])
    summary: dict[str, Any] = {
        "n": reasons.total(),
        "valid": reasons.pop(None, 0),
        "left_out": dict(reasons.most_common()),
        "spacegroups": dict(groups.most_common()),
    }
    if symmetrize:
        summary["without_symmetry"] = unsymmetric
    _write_json(folder / "summary.json", summary)
    return summary


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(data, indent=1, ensure_ascii=False).encode())
