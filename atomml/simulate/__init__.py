"""Simulations with a potential: ASE calculator, molecular dynamics, relaxation and checks."""

from __future__ import annotations

from atomml.simulate.calculator import Calculator
from atomml.simulate.interface import PotentialLike
from atomml.simulate.md import MDResult, run_md
from atomml.simulate.md_config import Limits, MDConfig

__all__ = ["Calculator", "Limits", "MDConfig", "MDResult", "PotentialLike", "run_md"]
