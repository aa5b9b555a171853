"""Relaxation and molecular dynamics of many structures in one graph."""

from __future__ import annotations

from atomml.simulate.batched.md import BatchedMDResult, run_md_batched
from atomml.simulate.batched.relax import relax_batched

__all__ = ["BatchedMDResult", "relax_batched", "run_md_batched"]
