"""Simulations with a potential: ASE calculator, molecular dynamics, relaxation and checks."""

from __future__ import annotations

from atomml.simulate.calculator import Calculator
from atomml.simulate.check_report import CheckReport, CheckRow
from atomml.simulate.checks import run_checks
from atomml.simulate.interface import PotentialLike
from atomml.simulate.md import MDResult, run_md
from atomml.simulate.md_config import Limits, MDConfig
from atomml.simulate.md_files import frame_of
from atomml.simulate.md_guard import UncertaintyWarning
from atomml.simulate.relax import RelaxResult, relax
from atomml.simulate.relax_files import write_relaxed

__all__ = [
    "Calculator",
    "CheckReport",
    "CheckRow",
    "Limits",
    "MDConfig",
    "MDResult",
    "PotentialLike",
    "RelaxResult",
    "UncertaintyWarning",
    "frame_of",
    "relax",
    "run_checks",
    "run_md",
    "write_relaxed",
]
