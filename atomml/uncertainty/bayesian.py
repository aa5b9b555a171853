"""`BayesianPotential`: a potential that says how uncertain it is."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch_geometric.data import Data

from atomml.errors import UnsupportedError
from atomml.graph import atoms_per_graph
from atomml.potentials.predictor import Predictor
from atomml.shapes import Tensor
from atomml.uncertainty.calibration import Calibration, Quantity
from atomml.uncertainty.likelihood import voigt_var
from atomml.uncertainty.posterior import MEANS, PointEstimate, Posterior

__all__ = ["BayesianPotential"]

VOIGT = [[0, 5, 4], [5, 1, 3], [4, 3, 2]]
DEVIATIONS = (
    "energy_std",
    "energy_std_epistemic",
    "energy_std_aleatoric",
    "energies_std",
    "forces_std",
    "forces_cov",
    "stress_std",
)


class BayesianPotential(Predictor):
    """Energy, forces and stress with standard deviations.

        σ² = α² (γ² σ²_epistemic + σ²_aleatoric) + β²,      Σ_i = α_z² (γ² Σ_i,epistemic + Σ_i,aleatoric) + β_z² 1

    The epistemic part is the spread over what is known about the weights (a posterior: members of an ensemble,
    a Gaussian over the last layer, …), the aleatoric part what the network predicts about its labels
    (``model.noise``), if it does; α, β and γ are those of the calibration, if there is one. It is called like a
    `Potential`; nothing is cut off or hidden where deviations are large.

    Args:
        posterior: mean and spread.
        calibration: scales of the deviations, fitted on held-out frames.

    Raises:
        UnsupportedError: neither members nor predicted deviations: there is nothing to say.
    """

    def __init__(self, posterior: Posterior, calibration: Calibration | None = None) -> None:
        super().__init__()
        self.posterior: Any = posterior  # a module, which a protocol cannot say
        self.calibration = calibration
        self.metadata: dict[str, Any] = {}
        if isinstance(posterior, PointEstimate) and posterior.potential.noise is None:
            raise UnsupportedError(
                "This model has no uncertainty: one set of weights, one head, no predicted deviations.",
                fix="train with model.noise, model.heads or an uncertainty method; see the guide on uncertainty",
            )

    @property
    def potential(self) -> Any:
        """The potential with the mean weights, or the first member."""
        return self.posterior.potential

    @property
    def method(self) -> str:
        """Name of the method that made the posterior."""
        return self.posterior.method

    @property
    def parts(self) -> tuple[str, ...]:
        """What its deviations are made of: ``epistemic`` (members disagree), ``aleatoric`` (predicted noise)."""
        epistemic = () if isinstance(self.posterior, PointEstimate) else ("epistemic",)
        return (*epistemic, *(() if self.potential.noise is None else ("aleatoric",)))

    @property
    def calibration_id(self) -> str | None:  # type: ignore[override]
        """Id of the calibration, None without one."""
        return None if self.calibration is None else self.calibration.id

    @property
    def deviations(self) -> tuple[str, ...]:
        """Names of the deviations that a calculator can give."""
        return DEVIATIONS if self.conservative else DEVIATIONS[:-1]

    @property
    def cutoff(self) -> float:
        """Radius of the neighbour graph in Å."""
        return self.potential.cutoff

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that it knows."""
        return self.potential.elements

    @property
    def conservative(self) -> bool:
        """Whether forces are the derivative of the energy."""
        return self.potential.conservative

    @property
    def config(self) -> Any:
        """Configuration of the network."""
        return self.potential.config

    @property
    def e0(self) -> dict[int, float]:
        """Reference energies in eV by atomic number."""
        return self.potential.e0

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return self.potential.dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.potential.device

    def forward(
        self,
        graph: Data,
        *,
        forces: bool = True,
        stress: bool = False,
        create_graph: bool = False,
        exact: bool | None = None,
        members: bool = False,
    ) -> dict[str, Tensor]:
        """Means and deviations of a batch of B graphs with N atoms.

        Args:
            graph: structures with their neighbours.
            forces: compute them.
            stress: compute it.
            create_graph: must be False; deviations cannot be trained through.
            exact: derive the spread of forces and stress of a last-layer posterior instead of estimating it; by
                default as when the calibration was fitted, or not without one.
            members: also return the predictions of the members, ``energy_members`` [B, M], ``forces_members``
                [M, N, 3] and ``stress_members`` [M, B, 3, 3], where there are any.

        Returns:
            As `Potential.forward`, and ``energy_std`` [B], ``energies_std`` [N], ``forces_cov`` [N, 3, 3],
            ``forces_std`` [N, 3], ``stress_std`` [B, 3, 3] by component; all but ``forces_std`` also as
            ``*_epistemic`` and ``*_aleatoric``, whose squares (covariances themselves) add up before β² is added.

        Raises:
            UnsupportedError: ``create_graph``; an element the model does not know.
            DataError: a member returns a NaN; names it.
        """
        if create_graph:
            raise UnsupportedError("Deviations cannot be differentiated.", fix="train the potential itself")
        if exact is None:
            exact = self.calibration is not None and bool(self.calibration.data.get("exact", False))
        with torch.no_grad():
            raw = self.posterior(graph, forces=forces, stress=stress, exact=exact, members=members)
            # a potential leaves its graph of derivatives to a caller who has gradients enabled
            raw = {name: value.detach() for name, value in raw.items()}
            means = {name: raw[name] for name in MEANS if name in raw}
            return means | self._deviations(raw, graph) | (self._members(raw, graph) if members else {})

    def _members(self, raw: dict[str, Tensor], graph: Data) -> dict[str, Tensor]:
        """Predictions of the members, as far from their mean as the calibrated epistemic deviations say."""
        out = {}
        for name in MEANS:
            if f"{name}_members" not in raw:
                continue
            alpha = self._factors(name, graph)[0] * self._epistemic_factor(name)
            mean = raw[name][:, None] if name == "energy" else raw[name]
            scale = alpha[:, None] if alpha.ndim else alpha
            out[f"{name}_members"] = mean + scale * (raw[f"{name}_members"] - mean)
        return out

    def _deviations(self, raw: dict[str, Tensor], graph: Data) -> dict[str, Tensor]:
        alpha, beta = self._factors("energy", graph)
        epistemic, aleatoric = self._both("energy", raw, "energy_var_epistemic", raw.get("energy_var"))
        out = {
            "energy_std": (alpha**2 * (epistemic + aleatoric) + beta**2 * atoms_per_graph(graph)).sqrt(),
            "energy_std_epistemic": alpha * epistemic.sqrt(),
            "energy_std_aleatoric": alpha * aleatoric.sqrt(),
        }
        epistemic, aleatoric = self._both("energy", raw, "energies_var_epistemic", raw.get("energies_var"))
        out |= {
            "energies_std": (alpha**2 * (epistemic + aleatoric) + beta**2).sqrt(),
            "energies_std_epistemic": alpha * epistemic.sqrt(),
            "energies_std_aleatoric": alpha * aleatoric.sqrt(),
        }
        if "forces" in raw:
            alpha, beta = (x[..., None, None] for x in self._factors("forces", graph))
            epistemic, aleatoric = self._both("forces", raw, "forces_cov_epistemic", raw.get("forces_cov"))
            one = torch.eye(3).to(epistemic)
            out["forces_cov"] = alpha**2 * (epistemic + aleatoric) + beta**2 * one
            out["forces_cov_epistemic"], out["forces_cov_aleatoric"] = (
                alpha**2 * epistemic,
                alpha**2 * aleatoric,
            )
            out["forces_std"] = out["forces_cov"].diagonal(dim1=1, dim2=2).sqrt()
        if "stress" in raw:
            alpha, beta = self._factors("stress", graph)
            noise = raw.get("stress_var")
            by_component = None if noise is None else voigt_var(noise)[:, VOIGT]
            epistemic, aleatoric = self._both("stress", raw, "stress_var_epistemic", by_component)
            floor = beta**2 * (1 + torch.eye(3).to(epistemic)) / 2  # β² of each Mandel component
            defined = raw["stress"].isfinite()
            std = (alpha**2 * (epistemic + aleatoric) + floor).sqrt()
            out["stress_std"] = torch.where(defined, std, torch.nan)
            out["stress_std_epistemic"] = torch.where(defined, alpha * epistemic.sqrt(), torch.nan)
            out["stress_std_aleatoric"] = torch.where(defined, alpha * aleatoric.sqrt(), torch.nan)
        return out

    def _both(
        self, quantity: str, raw: dict[str, Tensor], name: str, aleatoric: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """γ² times the epistemic, and the aleatoric variances; zeros for the one that a method does not have."""
        epistemic = raw.get(name)
        if epistemic is None:
            return torch.zeros_like(cast(Tensor, aleatoric)), cast(Tensor, aleatoric)
        gamma = self._epistemic_factor(quantity)
        return gamma**2 * epistemic, torch.zeros_like(epistemic) if aleatoric is None else aleatoric

    def _epistemic_factor(self, quantity: str) -> float:
        return (
            1.0 if self.calibration is None else self.calibration.epistemic_factor(cast(Quantity, quantity))
        )

    def _factors(self, quantity: str, graph: Data) -> tuple[Tensor, Tensor]:
        """α and β: numbers, or one for each atom for forces."""
        if self.calibration is None:
            pair: tuple[Any, Any] = (1.0, 0.0)
        elif quantity == "forces":
            pair = self.calibration.force_factors(graph.z.cpu().numpy())
        elif quantity == "energy":
            pair = self.calibration.energy_factors()
        else:
            pair = self.calibration.stress_factors()
        alpha, beta = (torch.as_tensor(x, dtype=torch.float64, device=graph.z.device) for x in pair)
        return alpha, beta
