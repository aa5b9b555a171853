"""What labels structures: the reference calculator, how long it may take, how often it is tried, what it needs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from atomml.calculators import AnyCalculator
from atomml.config import Config

__all__ = [
    "AnyLabelCalculator",
    "Cp2kCalculator",
    "ExternalCalculator",
    "GpawCalculator",
    "LabelCalculatorConfig",
    "LabellerConfig",
    "ProcessCalculator",
    "PyscfCalculator",
]


class PyscfCalculator(Config):
    """Density functional theory of molecules with PySCF: energy and forces, no stress."""

    kind: Literal["pyscf"] = "pyscf"
    """PySCF; needs ``pip install pyscf``. Periodic structures are refused."""
    functional: str = "r2scan"
    """Name of the exchange-correlation functional as PySCF (libxc) knows it; hf for Hartree-Fock."""
    basis: str = "def2-svp"
    """Name of the basis set as PySCF knows it."""
    density_fitting: bool = True
    """Resolution of the identity for the Coulomb terms: faster, errors of about 1e-5 eV per atom."""
    charge: int = 0
    """Total charge; ``charge`` in the info of a structure goes before it."""
    multiplicity: int | None = Field(default=None, ge=1)
    """2S + 1, unrestricted if not 1; ``spin`` or ``multiplicity`` in the info of a structure goes before it. By
    default the smallest possible one: 1 or 2."""
    grid: int = Field(default=3, ge=0, le=9)
    """Level of the integration grid, PySCF's 0 to 9."""
    tolerance: float = Field(default=1e-9, gt=0)
    """Change of the energy at which the self-consistent field counts as converged, Hartree."""
    cycles: int = Field(default=100, ge=1)
    """Most cycles of the self-consistent field."""


class ExternalCalculator(Config):
    """What programs that run in an environment of their own have in common."""

    command: list[str] = Field(default=["python3"], min_length=1)
    """How to start the Python that has the program and ASE (it needs no atomml), with everything before it:
    [mpirun, -np, "4", /opt/gpaw/bin/python]."""
    environment: dict[str, str] = {}
    """Environment variables for it."""
    options: dict[str, Any] = {}
    """Further keyword arguments of ASE's calculator class; they go before the keys of this group."""
    version: str = ""
    """What to write down as the version of the program. Labels in a cache are reused only for the same settings
    and version; the program reports its own version into the tags of a frame."""


class GpawCalculator(ExternalCalculator):
    """Density functional theory with GPAW in plane waves, as a process of its own."""

    kind: Literal["gpaw"] = "gpaw"
    """GPAW (GPL: run as another program, never imported)."""
    xc: str = "PBE"
    """Functional; r²SCAN is MGGA_X_R2SCAN+MGGA_C_R2SCAN."""
    cutoff: float = Field(default=400.0, gt=0)
    """Plane-wave cutoff in eV."""
    kpoint_density: float = Field(default=3.5, gt=0)
    """k-points per Å⁻¹ along each periodic direction, on a mesh with Γ."""
    smearing: float = Field(default=0.05, ge=0)
    """Width of the Fermi-Dirac occupations in eV."""
    eigensolver: str = "rmm-diis"
    """GPAW's eigensolver."""


class Cp2kCalculator(ExternalCalculator):
    """Density functional theory with CP2K (Quickstep, Γ point only), as a process of its own."""

    kind: Literal["cp2k"] = "cp2k"
    """CP2K (GPL: run as another program) through its shell."""
    shell: str = "cp2k_shell"
    """The program, for example ``cp2k_shell.psmp`` or ``mpirun -np 4 cp2k_shell.psmp``."""
    xc: str = "PBE"
    """Functional."""
    basis: str = "DZVP-MOLOPT-SR-GTH"
    """Basis set of every element."""
    cutoff: float = Field(default=5442.0, gt=0)
    """Cutoff of the finest grid in eV; 5442 eV are 400 Ry."""
    cycles: int = Field(default=50, ge=1)
    """Most cycles of the self-consistent field."""
    input: str = ""
    """Further text of the input file, see ``inp`` of ASE's CP2K calculator."""


class ProcessCalculator(Config):
    """Any command that reads a structure as extended XYZ and writes it with labels. Naming it here runs it."""

    kind: Literal["process"] = "process"
    """A command of yours."""
    command: list[str] = Field(min_length=2, examples=[["python3", "label.py", "{input}", "{output}"]])
    """Words of the command; {input} and {output} become the paths of two extended XYZ files in an empty folder,
    where it runs. A word that names a file beside the configuration becomes its full path. Exit status 0: the
    output has energy (eV), forces (eV/Å) and, if periodic, stress (eV/Å³, ASE's sign); 3: it did not converge;
    4: this structure cannot be done; any other: an error."""
    environment: dict[str, str] = {}
    """Environment variables for it."""
    name: str = "process"
    """What to call it in tags and reports."""
    version: str = ""
    """What to write down as the version. Change it when the command changes: labels in a cache are reused only
    for the same command and version, and the program cannot see into it."""


AnyLabelCalculator = AnyCalculator | PyscfCalculator | GpawCalculator | Cp2kCalculator | ProcessCalculator
LabelCalculatorConfig = Annotated[AnyLabelCalculator, Field(discriminator="kind")]


class LabellerConfig(Config):
    """A labeller: energies, forces and stresses of structures by a reference calculator."""

    calculator: LabelCalculatorConfig
    """The reference."""
    timeout: float | None = Field(default=3600.0, gt=0)
    """Longest time for one structure and attempt, s; then its process is killed, also inside compiled code."""
    retries: int = Field(default=1, ge=0)
    """Further attempts after a failure that another attempt can cure: the process died, an unforeseen error."""
    workers: int = Field(default=1, ge=1)
    """Local processes; with an executor, labels that are handed to it at a time (256 or more)."""
    threads: int = Field(default=1, ge=1)
    """Threads of each process (OMP_NUM_THREADS)."""
    max_failures: float = Field(default=0.5, gt=0, le=1)
    """Share of failures among the labels computed so far, five at least, at which labelling stops with an error."""
    memory_gb: float | None = Field(default=None, gt=0)
    """Memory of one label in GB: a hint for executors that ask a queue for it."""
    gpus: int = Field(default=0, ge=0)
    """GPUs of one label: a hint likewise."""
    resources: dict[str, float] = {}
    """Abstract resources of one label for Dask, which the workers must offer (``dask worker --resources DFT=1``):
    {DFT: 1}."""
