"""From requests to crystals: the flow run with the network's expectations in the place of the true crystal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from numpy.random import SeedSequence

from atomml.crystals.batch import CrystalBatch
from atomml.crystals.circle import wrap
from atomml.crystals.flow_coordinates import Belief
from atomml.crystals.model import Constraint, CrystalModel, State, Target
from atomml.crystals.network import NetworkOutput
from atomml.crystals.requests import Request
from atomml.errors import ConfigError, UnsupportedError
from atomml.shapes import Bool, Float, Float64, Tensor

__all__ = ["Sampled", "Strategy", "sample"]

Strategy = Literal["end_back", "vanilla", "mix"]


@dataclass(frozen=True)
class Sampled:
    """Crystals, and log p of the elements that were drawn given everything else; None where none were."""

    crystals: CrystalBatch
    log_probabilities: Float64[Tensor, " crystals"] | None


@torch.no_grad()
def sample(
    model: CrystalModel,
    requests: Sequence[Request],
    *,
    steps: int,
    seed: Sequence[int] = (0,),
    strategy: str = "end_back",
    guidance: float = 0.0,
) -> Sampled:
    """Run the flow for ``steps`` steps; the last expectation of the network is the crystal.

    After step i < n the belief is renewed by ``strategy``:

    - ``end_back``: forget it, and draw what i samples of the expected crystal would tell;
    - ``vanilla``: add one more sample of the expected crystal to it, the recursion of a Bayesian flow;
    - ``mix``: the first for two thirds of the steps, then the second.

    With properties asked for, expectations are moved by ``guidance`` g beyond those with the properties, away from
    those without: x + g (x − x₀), along the circle for coordinates. Sites and lattice that are given take part as
    what i samples of *them* tell, and are kept exactly at the end.

    Args:
        model: see `CrystalModel`.
        requests: what each crystal shall be.
        steps: n, calls of the network; any number, best one of those trained for.
        seed: the same seed and requests give the same crystals on the same machine.
        strategy: see above.
        guidance: 0: only the condition itself.

    Raises:
        ConfigError: no steps, an unknown strategy, guidance without properties.
        UnsupportedError: elements or properties the model does not know; elements to be chosen by a model of
            structures only.
    """
    if steps < 1:
        raise ConfigError(f"A flow of {steps} steps.", where="steps", fix="ask for at least one step")
    if strategy not in get_args(Strategy):
        raise ConfigError(f"There is no strategy {strategy!r}.", fix="end_back, vanilla or mix")
    if guidance and not any(request.properties for request in requests):
        raise ConfigError(
            "Guidance without a property to be guided by.", fix="give properties, or guidance 0"
        )
    generator = torch.Generator().manual_seed(
        int(SeedSequence(list(seed)).generate_state(1, "uint64")[0] >> 1)
    )
    asked = _Asked(model, requests)
    state = asked.keep(_prior(model, asked, generator), 0, steps, generator)
    for i in range(1, steps):
        expected = asked.expected(asked.expectation(state, (i - 1) / steps, guidance))
        if strategy == "end_back" or (strategy == "mix" and 3 * i < 2 * steps):
            done = torch.full_like(asked.mask.sum(1), i)
            state = model.after(expected, done, steps, asked.known, generator=generator)
        else:
            state = model.add(state, expected, i, steps, asked.known, generator=generator)
        state = asked.keep(state, i, steps, generator)
    last = asked.expected(asked.expectation(state, (steps - 1) / steps, guidance))
    return _drawn(model, asked, last, generator)


class _Asked:
    """Requests as tensors.

    Attributes:
        mask: where there is an atom.
        known: elements that are given, and those that are allowed.
        truth: given elements, sites and lattices; anything elsewhere.
    """

    def __init__(self, model: CrystalModel, requests: Sequence[Request]) -> None:
        self.model = model
        count, width = len(requests), max((r.n_atoms for r in requests), default=0)
        dtype, device = model.dtype, model.device
        sizes = torch.tensor([r.n_atoms for r in requests])
        self.mask: Bool[Tensor, "crystals atoms"] = (torch.arange(width) < sizes[:, None]).to(device)
        numbers = torch.zeros(count, width, dtype=torch.int64)
        allowed = torch.ones(count, width, len(model.elements), dtype=torch.bool)
        fractional, self.site = torch.zeros(count, width, 3), torch.zeros(count, width, dtype=torch.bool)
        lattice, self.cell = torch.zeros(count, 3, 3), torch.zeros(count, dtype=torch.bool)
        for k, request in enumerate(requests):
            if request.numbers is not None:
                numbers[k, : request.n_atoms] = torch.tensor(request.numbers)
            if request.allowed is not None:
                allowed[k] = torch.tensor([z in request.allowed for z in model.elements])
            for atom, site in enumerate(request.sites or ()):
                numbers[k, atom], self.site[k, atom] = site.number, True
                fractional[k, atom] = torch.tensor(site.fractional)
            if request.lattice is not None:
                lattice[k], self.cell[k] = torch.tensor(request.lattice), True
        given = (numbers > 0).to(device)
        if model.predicts == "structure" and not bool((given | ~self.mask).all()):
            raise UnsupportedError(
                "This model predicts structures of given elements, and cannot choose them.",
                fix="give the composition, or use a model trained with model.given_types below 1",
            )
        self.site, self.cell = self.site.to(device), self.cell.to(device)
        crystals = CrystalBatch(
            torch.where(numbers > 0, numbers, model.elements[0]), fractional, lattice, sizes
        ).to(device, dtype)
        self.truth = model.target(crystals)
        self.known = Constraint(given, allowed.to(device))
        self.properties = _properties_of(model, [r.properties for r in requests])

    def expectation(self, state: State, time: float, guidance: float) -> NetworkOutput:
        """The network's, moved by ``guidance``."""
        t = torch.full((len(self.mask),), time).to(state.lattice)
        out: NetworkOutput = self.model(state, t, self.mask, self.properties)
        if not guidance:
            return out
        free: NetworkOutput = self.model(state, t, self.mask, None)
        return NetworkOutput(
            wrap(out.angles + guidance * wrap(out.angles - free.angles)),
            out.lattice + guidance * (out.lattice - free.lattice),
            out.logits + guidance * (out.logits - free.logits),
        )

    def expected(self, out: NetworkOutput) -> Target:
        """The expected crystal; elements that are given or forbidden are certain."""
        allowed = self.known.allowed
        logits = out.logits if allowed is None else out.logits.masked_fill(~allowed, -torch.inf)
        types = torch.where(self.known.given[..., None], self.truth.types, logits.softmax(-1))
        angles = torch.where(self.site[..., None], self.truth.angles, out.angles)
        lattice = torch.where(self.cell[:, None, None], self.truth.lattice, out.lattice)
        return Target(angles, lattice, types)

    def keep(self, state: State, done: int, steps: int, generator: torch.Generator) -> State:
        """Given sites and lattices are believed as ``done`` samples of them tell, whatever was added."""
        if not (bool(self.site.any()) or bool(self.cell.any())):
            return state
        count = torch.full_like(self.mask.sum(1), done)
        own = self.model.after(self.truth, count, steps, self.known, generator=generator)
        site, cell = self.site[..., None], self.cell[:, None, None]
        belief = Belief(
            *(torch.where(site, a, b) for a, b in zip(own.coordinates, state.coordinates, strict=True))
        )
        return State(belief, torch.where(cell, own.lattice, state.lattice), state.types)


def _prior(model: CrystalModel, asked: _Asked, generator: torch.Generator) -> State:
    """Nothing known but what is given: no samples of anything."""
    none = torch.zeros_like(asked.mask.sum(1))
    return model.after(asked.truth, none, 1, asked.known, generator=generator)


def _drawn(model: CrystalModel, asked: _Asked, out: Target, generator: torch.Generator) -> Sampled:
    """Elements drawn from their last probabilities; of a crystal that is not finite, any, and log p is NaN."""
    p = out.types.double().cpu()
    finite = p.isfinite().all(-1, keepdim=True)
    index = torch.multinomial(torch.where(finite, p, 1.0).flatten(0, 1), 1, generator=generator)
    index = index.view(p.shape[:2])
    log_p = p.gather(2, index[..., None])[..., 0].log()
    free = (asked.mask & ~asked.known.given).cpu()
    numbers = model.z_of_index[index.to(model.device)]
    crystals = model.crystals(out, numbers, asked.mask).to("cpu")
    return Sampled(crystals, (log_p * free).sum(1) if bool(free.any()) else None)


def _properties_of(
    model: CrystalModel, targets: Sequence[Mapping[str, float]]
) -> Float[Tensor, "crystals properties"] | None:
    names = tuple(model.property_scales)
    unknown = sorted({name for target in targets for name in target if name not in names})
    if unknown:
        raise UnsupportedError(
            f"This model cannot be guided by {', '.join(unknown)}.",
            fix=f"it was trained with {', '.join(names) or 'no properties'}",
        )
    if not names:
        return None
    rows = [[target.get(name, torch.nan) for name in names] for target in targets]
    return torch.tensor(rows, dtype=torch.float32, device=model.device)
