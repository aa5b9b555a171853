"""Making data: substitution, strain, dynamics up to high temperature, decorrelated selection, labels."""

from __future__ import annotations

from atomml.simulate.sampling.config import SampleConfig
from atomml.simulate.sampling.run import SampleResult, load_sample_config, run_sampling

__all__ = ["SampleConfig", "SampleResult", "load_sample_config", "run_sampling"]
