"""What is known about the weights after a training: the posterior that a configuration asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch_geometric.data import Data

from atomml.errors import TrainingError
from atomml.graph import atoms_per_graph
from atomml.potentials import Potential
from atomml.training.batches import greedy_batches, join
from atomml.training.config import LikelihoodConfig, RunConfig
from atomml.training.llpr import estimated_scales, fit_llpr
from atomml.training.noise_fit import refit_noise
from atomml.training.parts import Part, TrainingData
from atomml.training.state import Job
from atomml.training.swag import fit_swag, with_weights
from atomml.uncertainty.bayesian import BayesianPotential
from atomml.uncertainty.config import (
    DiagonalLaplaceConfig,
    HeadsOnlyConfig,
    IVONConfig,
    LLPRConfig,
    SWAGConfig,
)
from atomml.uncertainty.diagonal import fit_evidence, laplace_std, sample_diagonal, squared_gradients
from atomml.uncertainty.ivon import IVON
from atomml.uncertainty.model_file import head_posterior
from atomml.uncertainty.posterior import LastLayer, Members, Posterior

__all__ = ["reference_part", "refit_deviations", "with_uncertainty"]

Say = Callable[[object], None]
FRAMES_FOR_SCALES = 30
MOST_FRAMES_TO_REFIT, ATOMS_TO_REFIT = 5000, 256
LINEAR = 1e-3
"""Change of the weights, relative to their size, within which a network is linear and float32 still resolves it."""


def with_uncertainty(
    job: Job[RunConfig], potential: Potential, data: TrainingData, say: Say
) -> Potential | BayesianPotential:
    """The trained potential with the posterior that the configuration asks for, not yet calibrated.

    Raises:
        TrainingError: a method that cannot work with this training; says why.
    """
    wanted = job.config.uncertainty
    match wanted:
        case None if potential.noise is None and potential.heads == 1:
            return potential
        case None | HeadsOnlyConfig():
            posterior = _heads(job, potential, data)
        case LLPRConfig():
            forces = _frames(job, data, wanted.force_frames)
            posterior = fit_llpr(potential, lambda: _frames(job, data, None), forces, say)
        case SWAGConfig():
            posterior = fit_swag(job, potential, data, wanted, say)
        case IVONConfig():
            posterior = _ivon(job, potential, wanted)
        case DiagonalLaplaceConfig():
            posterior = _laplace(job, potential, data, wanted, say)
        case _:
            raise TrainingError(f"{wanted.kind} is no method for one training.", where="uncertainty.kind")
    return BayesianPotential(posterior)


def refit_deviations(job: Job[RunConfig], potential: Potential, data: TrainingData, say: Say) -> None:
    """Fit predicted deviations to the errors of the final weights, where the loss was their likelihood.

    Those with a frozen parameter stay as they are.
    """
    loss, noise = job.config.loss, potential.noise
    if noise is None or not isinstance(loss, LikelihoodConfig) or not loss.refit:
        return
    if not all(p.requires_grad for p in noise.parameters()):
        return
    valid = None if data.valid is None else data.valid.sets().get(job.config.data.reference_set or "")
    if valid is None and data.valid is not None:
        valid = next(iter(data.valid.sets().values()))
    refit_noise(
        potential,
        _batches(
            job, reference_part(data, job.config.data.reference_set), MOST_FRAMES_TO_REFIT, ATOMS_TO_REFIT
        ),
        () if valid is None else _batches(job, valid, MOST_FRAMES_TO_REFIT, ATOMS_TO_REFIT),
        stress=loss.stress > 0,
        seed=job.config.seed,
        say=say,
    )


def _heads(job: Job[RunConfig], potential: Potential, data: TrainingData) -> Posterior:
    posterior = head_posterior(potential)
    if not isinstance(posterior, LastLayer):
        return posterior
    return estimated_scales(posterior, _frames(job, data, FRAMES_FOR_SCALES))


def _ivon(job: Job[RunConfig], potential: Potential, wanted: IVONConfig) -> Members:
    """Samples of the variational posterior of the last step, of the body; the predicted deviations stay."""
    optimizer = job.optimizer
    if not isinstance(optimizer, IVON):
        raise TrainingError("The training was not done with IVON.", where="uncertainty.kind")
    each = ((job.names[p], value) for p, value in optimizer.posterior_std().items())  # type: ignore[index]
    std = {name: value for name, value in each if name.startswith("body.")}
    return _samples(potential, std, wanted.samples, "ivon", job.config.seed)


def _laplace(
    job: Job[RunConfig], potential: Potential, data: TrainingData, wanted: DiagonalLaplaceConfig, say: Say
) -> Members:
    """Samples of the diagonal Laplace approximation of the body from the energies per atom."""
    weights = {
        name: p for name, p in potential.named_parameters() if name.startswith("body.") and p.requires_grad
    }
    residuals: list[torch.Tensor] = []

    def outputs() -> Iterator[torch.Tensor]:
        for graph in _frames(job, data, None):
            n_atoms = atoms_per_graph(graph)
            with torch.enable_grad():
                energy = potential(graph, forces=False)["energy"] / n_atoms
            known = torch.isfinite(graph.energy)
            residuals.append((energy.detach() - graph.energy / n_atoms)[known])
            yield energy[known]

    squares = squared_gradients(outputs(), weights)
    evidence = fit_evidence(squares, weights, torch.cat(residuals))
    say(
        f"Laplace: prior precision {evidence.prior_precision:.3g}, noise "
        f"{1e3 * evidence.noise_std:.3g} meV/atom, log evidence {evidence.log_evidence:.4g}"
    )
    std = laplace_std(squares, evidence.prior_precision, evidence.noise_std)
    size, spread = (
        torch.cat([x.detach().double().flatten() for x in group.values()]).norm().item()
        for group in (weights, std)
    )
    stretch = max(spread / (LINEAR * size), 1.0)
    return _samples(potential, std, wanted.samples, wanted.kind, job.config.seed, stretch=stretch)


def _samples(
    potential: Potential,
    std: dict[str, torch.Tensor],
    count: int,
    method: str,
    seed: int,
    *,
    stretch: float = 1.0,
) -> Members:
    mean = {name: p.detach() for name, p in potential.named_parameters() if name in std}
    nearer = {name: value / stretch for name, value in std.items()}
    generator = torch.Generator(potential.device).manual_seed(seed)
    draws = [sample_diagonal(mean, nearer, generator) for _ in range(count)]
    return Members([with_weights(potential, draw) for draw in draws], method, stretch=stretch)


def _frames(job: Job[RunConfig], data: TrainingData, most: int | None) -> Iterator[Data]:
    """Batches of the training frames, or of at most ``most`` of them, evenly chosen from the reference set."""
    yield from _batches(job, reference_part(data, job.config.data.reference_set), most)


def _batches(
    job: Job[RunConfig], part: Part, most: int | None, max_atoms: int | None = None
) -> Iterator[Data]:
    """Batches of some frames, of ``max_atoms``, or by default of the size of the training's."""
    chosen = np.arange(len(part))
    if most is not None:
        chosen = np.unique(np.linspace(0, len(part) - 1, most).astype(int)) if most else chosen[:0]
    graphs = part.graphs(job.module.cutoff, job.config.data.cache)  # type: ignore[arg-type]
    limit = job.config.batch
    for group in greedy_batches(
        (graphs.shared(int(i)) for i in chosen),
        batch_size=limit.batch_size if max_atoms is None else None,
        max_atoms=max_atoms or limit.max_atoms,
        max_edges=limit.max_edges,
    ):
        yield join(group).to(job.ranks.device)


def reference_part(data: TrainingData, reference_set: str | None) -> Part:
    """The training frames; of several sets those of the one whose level of theory the model has."""
    sets = data.train.sets()
    return sets[reference_set] if reference_set is not None else next(iter(sets.values()))
