"""Properties of materials from any potential: equation of state, elastic constants, phonons, diffusion, structure."""

from __future__ import annotations

from atomml.simulate.properties.arrhenius import Arrhenius, Measured, arrhenius
from atomml.simulate.properties.diffusion import Diffusion, diffusion, mean_square_displacement
from atomml.simulate.properties.elastic import ElasticConstants, elastic_constants, moduli
from atomml.simulate.properties.eos import EquationOfState, equation_of_state
from atomml.simulate.properties.model import Model, model_of
from atomml.simulate.properties.phonons import Phonons, phonons
from atomml.simulate.properties.rdf import RadialDistribution, radial_distribution
from atomml.simulate.properties.report import write_property
from atomml.simulate.properties.trajectory import Trajectory, read_trajectory, trajectory_of

__all__ = [
    "Arrhenius",
    "Diffusion",
    "ElasticConstants",
    "EquationOfState",
    "Measured",
    "Model",
    "Phonons",
    "RadialDistribution",
    "Trajectory",
    "arrhenius",
    "diffusion",
    "elastic_constants",
    "equation_of_state",
    "mean_square_displacement",
    "model_of",
    "moduli",
    "phonons",
    "radial_distribution",
    "read_trajectory",
    "trajectory_of",
    "write_property",
]
