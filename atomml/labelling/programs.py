"""Labels by other programs: GPAW and CP2K through a small script in their own environment, and any command."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms

from atomml.datasets.ase_files import read_ase
from atomml.errors import DataError, UnsupportedError
from atomml.labelling.answers import LabelFailureError, Labels
from atomml.labelling.config import Cp2kCalculator, GpawCalculator, ProcessCalculator
from atomml.labelling.outcome import Failure

__all__ = ["INSTALL", "external_labels", "process_labels"]

SCRIPT = Path(__file__).with_name("external_script.py")
INSTALL: Mapping[str, str] = {
    "gpaw": "apt-get install -y --no-install-recommends libxc-dev libopenblas-dev libfftw3-dev gpaw-data; "
    "python3 -m venv /opt/gpaw; /opt/gpaw/bin/pip install gpaw; then  command: [/opt/gpaw/bin/python]  and  "
    "environment: {GPAW_SETUP_PATH: /usr/share/gpaw-setups}",
    "cp2k": "apt-get install -y cp2k cp2k-data; the Python of `command` needs ASE (pip install ase); "
    "`shell` is the name of the program",
}
"""How to get the programs."""
STATUS: Mapping[int, Failure] = {3: "not_converged", 4: "unsupported"}
"""Kinds of failure by the exit status of a command."""
SAME = 1e-4  # Å by which positions in an output may differ: text files


def external_labels(atoms: Atoms, config: GpawCalculator | Cp2kCalculator, folder: Path) -> Labels:
    """Labels by ``COMMAND external_script.py request.json answer.json``.

    Raises:
        UnsupportedError: the command, the program or ASE is not installed there.
        LabelFailureError: as the script says, or it ended without an answer.
    """
    request, answer = folder / "request.json", folder / "answer.json"
    settings = config.model_dump(mode="json", exclude={"command", "environment", "version"})
    structure = {
        "numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        "cell": atoms.cell.array.tolist(),
        "pbc": atoms.pbc.tolist(),
        "magmoms": atoms.get_initial_magnetic_moments().tolist(),
        "charge": atoms.info.get("charge"),
    }
    request.write_text(json.dumps({"settings": settings, "structure": structure}), encoding="utf-8")
    words = [*config.command, str(SCRIPT), str(request), str(answer)]
    done = _run(words, config.environment, folder, INSTALL[config.kind])
    if not answer.is_file():
        raise LabelFailureError("error", f"{config.kind} ended without an answer: {_end_of(done)}")
    found = json.loads(answer.read_text(encoding="utf-8"))
    if "missing" in found:
        raise UnsupportedError(
            f"{config.kind} cannot be used in that environment ({found['missing']}).",
            where=" ".join(config.command),
            fix=INSTALL[config.kind],
        )
    if "failure" in found:
        raise LabelFailureError(found["failure"], found["message"])
    return Labels(**found)


def process_labels(atoms: Atoms, config: ProcessCalculator, folder: Path) -> Labels:
    """Labels that a command wrote into an extended XYZ file.

    Raises:
        UnsupportedError: there is no such command.
        LabelFailureError: the command failed, or its output is another structure, or lacks energy or forces.
    """
    paths = {"{input}": folder / "input.extxyz", "{output}": folder / "output.extxyz"}
    ase.io.write(paths["{input}"], atoms, format="extxyz")
    words = list(config.command)
    for mark, path in paths.items():
        words = [word.replace(mark, str(path)) for word in words]
    done = _run(
        words, config.environment, folder, "correct the command of the labeller, or install the program"
    )
    if done.returncode:
        message = f"exit status {done.returncode}: {_end_of(done)}"
        raise LabelFailureError(STATUS.get(done.returncode, "error"), message)
    return _read(paths["{output}"], atoms)


def _run(
    words: Sequence[str], environment: Mapping[str, str], folder: Path, install: str
) -> subprocess.CompletedProcess[str]:
    """Without a time limit: this runs in a child process that is killed with all it started."""
    try:
        return subprocess.run(  # noqa: S603
            words,
            cwd=folder,
            env={**_clean(os.environ), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise UnsupportedError(
            f"The program cannot be started ({error.strerror}).", where=" ".join(words), fix=install
        ) from error


def _clean(environment: Mapping[str, str]) -> dict[str, str]:
    """Without the modules of this environment, which another Python must not find."""
    return {name: value for name, value in environment.items() if name != "PYTHONPATH"}


def _read(path: Path, atoms: Atoms) -> Labels:
    if not path.is_file():
        raise LabelFailureError("error", "the command wrote no output file")
    try:
        store = read_ase(path)
    except DataError as error:
        kind: Failure = "not_finite" if "NaN" in error.what else "error"
        raise LabelFailureError(kind, f"the output cannot be read: {error.what}") from error
    if len(store) != 1 or not np.array_equal(store.numbers, atoms.numbers):
        raise LabelFailureError("error", "the output has other atoms, or another order of them")
    if np.abs(store.positions - atoms.positions).max() > SAME:
        raise LabelFailureError("error", "the output has other positions")
    frame = store.frame(0)
    if frame.forces is None or not np.isfinite(frame.forces).all():
        raise LabelFailureError("error", "the output has no forces")
    stress = None if frame.stress is None or np.isnan(frame.stress).all() else frame.stress
    return Labels(frame.energy, frame.forces, stress)


def _end_of(done: subprocess.CompletedProcess[str]) -> str:
    """The last words of a program."""
    words = " ".join((done.stderr.strip() or done.stdout.strip()).split())
    return words[-400:] or "no message"
