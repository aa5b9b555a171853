"""Labels of molecules by PySCF: Kohn-Sham or Hartree-Fock energies and analytic forces."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from ase import Atoms
from ase.units import Bohr, Hartree

from atomml._optional import require
from atomml.labelling.answers import LabelFailureError, Labels
from atomml.labelling.config import PyscfCalculator

__all__ = ["pyscf_labels", "pyscf_module"]


def pyscf_module() -> ModuleType:
    """The package.

    Raises:
        UnsupportedError: it is not installed.
    """
    return require("pyscf", extra="label")


def pyscf_labels(atoms: Atoms, config: PyscfCalculator) -> Labels:
    """Energy in eV and forces -dE/dR in eV/Å; Hartree and Bohr are those of ASE.

    The charge and the multiplicity are those of the structure's info, else of the settings.

    Raises:
        LabelFailureError: a periodic structure, electrons that do not fit the multiplicity, an unknown element of the
            basis, or no convergence.
    """
    if atoms.pbc.any():
        raise LabelFailureError("unsupported", "this calculator is for molecules; the structure is periodic")
    field = _mean_field(_molecule(atoms, config), config)
    energy = field.kernel()
    if not field.converged:
        raise LabelFailureError(
            "not_converged", f"the self-consistent field has not converged in {config.cycles} cycles"
        )
    gradient = field.nuc_grad_method().kernel()
    return Labels(float(energy) * Hartree, -gradient * (Hartree / Bohr))


def _molecule(atoms: Atoms, config: PyscfCalculator) -> Any:
    from pyscf import gto
    from pyscf.lib.exceptions import BasisNotFoundError

    charge = atoms.info.get("charge", config.charge)
    electrons = int(atoms.numbers.sum()) - charge
    multiplicity = atoms.info.get("spin") or atoms.info.get("multiplicity") or config.multiplicity
    unpaired = electrons % 2 if multiplicity is None else multiplicity - 1
    if electrons < 1 or (electrons - unpaired) % 2 or unpaired > electrons:
        raise LabelFailureError("unsupported", f"{electrons} electrons cannot have {unpaired} unpaired ones")
    pairs = zip(atoms.get_chemical_symbols(), atoms.positions.tolist(), strict=True)
    try:
        return gto.M(
            atom=list(pairs), unit="Angstrom", basis=config.basis, charge=charge, spin=unpaired, verbose=0
        )
    except BasisNotFoundError as error:
        raise LabelFailureError("unsupported", f"the basis has not all elements: {error}") from error


def _mean_field(molecule: Any, config: PyscfCalculator) -> Any:
    from pyscf import dft, scf

    if config.functional.lower() == "hf":
        field = scf.UHF(molecule) if molecule.spin else scf.RHF(molecule)
    else:
        field = dft.UKS(molecule) if molecule.spin else dft.RKS(molecule)
        field.xc = config.functional
        field.grids.level = config.grid
    if config.density_fitting:
        field = field.density_fit()
    field.conv_tol, field.max_cycle = config.tolerance, config.cycles
    return field
