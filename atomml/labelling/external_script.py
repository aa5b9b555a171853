"""Run by the Python of another environment: ``python external_script.py request.json answer.json``.

It needs ASE and, for GPAW, GPAW; no atomml. The request is JSON: ``settings`` (kind and its keys) and ``structure``
(numbers, positions, cell, pbc, magmoms, charge). The answer is written whole or not at all: ``energy`` (eV),
``forces`` (eV/Å), ``stress`` (3×3, eV/Å³, ASE's sign, or null) and ``version``; or ``failure`` and ``message``; or
``missing``, when a package or program is not there.
"""

from __future__ import annotations

import importlib
import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

__all__ = ["answer"]


def main() -> None:
    """Read, compute, write; under MPI every process computes and the first writes."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    found = answer(request["settings"], request["structure"])
    if _first_process():
        path = Path(sys.argv[2])
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(json.dumps(found), encoding="utf-8")
        os.replace(temporary, path)


def answer(settings: dict[str, Any], structure: dict[str, Any]) -> dict[str, Any]:
    """See the head of this file."""
    try:
        atoms = importlib.import_module("ase").Atoms(
            structure["numbers"],
            positions=structure["positions"],
            cell=structure["cell"],
            pbc=structure["pbc"],
            magmoms=structure["magmoms"],
        )
        make = {"gpaw": _gpaw, "cp2k": _cp2k}[settings["kind"]]
        atoms.calc, version = make(settings, structure, atoms)
    except (ImportError, FileNotFoundError) as error:
        return {"missing": f"{type(error).__name__}: {error}"}
    try:
        found = {
            "energy": float(atoms.get_potential_energy()),
            "forces": atoms.get_forces(apply_constraint=False).tolist(),
            "stress": atoms.get_stress(voigt=False).tolist() if atoms.pbc.all() else None,
            "version": version,
        }
    except Exception as error:  # whatever a program raises is the answer
        message = " ".join(f"{type(error).__name__}: {error}".split())[:600]
        found = {"failure": _kind_of(error), "message": message}
    output = Path("cp2k.out")  # CP2K before 2024 goes on, later ones end without a word
    if output.is_file() and "SCF run NOT converged" in output.read_text(errors="replace"):
        return {"failure": "not_converged", "message": "SCF run NOT converged"}
    return found


def _gpaw(settings: dict[str, Any], structure: dict[str, Any], atoms: Any) -> tuple[Any, str]:
    gpaw = importlib.import_module("gpaw")
    keywords = {
        "mode": {"name": "pw", "ecut": settings["cutoff"]},
        "xc": settings["xc"],
        "kpts": {"density": settings["kpoint_density"], "gamma": True},
        "occupations": {"name": "fermi-dirac", "width": settings["smearing"]},
        "eigensolver": settings["eigensolver"],
        "txt": "gpaw.txt",
    }
    if structure["charge"] is not None:
        keywords["charge"] = structure["charge"]
    return gpaw.GPAW(**keywords | settings["options"]), f"gpaw {gpaw.__version__}"


def _cp2k(settings: dict[str, Any], structure: dict[str, Any], atoms: Any) -> tuple[Any, str]:
    program = shlex.split(settings["shell"])
    if shutil.which(program[0]) is None:
        raise FileNotFoundError(f"{program[0]}, the shell of CP2K, is not on the path")
    keywords = {
        "command": settings["shell"],
        "xc": settings["xc"],
        "basis_set": settings["basis"],
        "cutoff": settings["cutoff"],
        "max_scf": settings["cycles"],
        "charge": structure["charge"] or 0,
        "uks": any(structure["magmoms"]),
        "stress_tensor": all(structure["pbc"]),
        "inp": settings["input"],
        "label": "cp2k",
    }
    calculator = importlib.import_module("ase.calculators.cp2k").CP2K(**keywords | settings["options"])
    return calculator, f"cp2k shell {calculator._shell.version}"


def _kind_of(error: Exception) -> str:
    text = f"{type(error).__name__} {error}".lower()
    if "converge" in text:
        return "not_converged"
    return "unsupported" if isinstance(error, NotImplementedError) else "error"


def _first_process() -> bool:
    if "gpaw" not in sys.modules:
        return True
    return importlib.import_module("gpaw.mpi").world.rank == 0


if __name__ == "__main__":
    main()
