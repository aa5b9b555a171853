"""Drawing crystals in batches, each from its own random numbers, and what becomes of every one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import numpy as np
from ase import Atoms

from atomml.crystals.batch import CrystalBatch
from atomml.crystals.formulas import symbols_of
from atomml.crystals.outputs.describe import crystal_of, description_of, flaw_of
from atomml.crystals.outputs.folder import Row
from atomml.crystals.requests import Generator, Request, RequestPlan
from atomml.crystals.sampler import Sampled, Strategy
from atomml.errors import ConfigError

__all__ = ["Block", "Sampler", "SamplingSettings", "blocks"]


KEPT = 1e-4
"""How far single precision may move what is known, relative to the cell."""
Sampler = Callable[..., Sampled]
"""A function with the arguments of `atomml.crystals.sampler.sample`."""


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How crystals are drawn.

    Attributes:
        n: number of crystals; None: one for each composition of a list, otherwise 16.
        steps: calls of the network for each.
        seed: batch k is drawn from (seed, k), whatever was drawn before.
        batch: number of crystals that are drawn together; part of what decides the result.
        strategy: how beliefs are updated: ``end_back``, ``vanilla`` or ``mix``.
        guidance: strength of the guidance towards ``properties``; 0 for none.

    Raises:
        ConfigError: a number that is not positive, or an unknown strategy.
    """

    n: int | None = None
    steps: int = 100
    seed: int = 0
    batch: int = 100
    strategy: str = "end_back"
    guidance: float = 0.0

    def __post_init__(self) -> None:
        for name in ("n", "steps", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be 1 or more, not {value}.")
        if self.strategy not in get_args(Strategy):
            raise ConfigError(
                f"There is no strategy {self.strategy!r}.", fix=f"use one of {', '.join(get_args(Strategy))}"
            )
        if self.seed < 0:
            raise ConfigError(f"A seed must be 0 or more, not {self.seed}.")

    @property
    def count(self) -> int:
        """Number of crystals."""
        return 16 if self.n is None else self.n


class Block(NamedTuple):
    """One batch: a row for each crystal, and the valid ones."""

    rows: list[Row]
    frames: list[Atoms]


def blocks(
    model: Generator, plan: RequestPlan, how: SamplingSettings, sampler: Sampler, *, first: int = 0
) -> Iterator[Block]:
    """The batches from number ``first`` on."""
    for k in range(first, -(-how.count // how.batch)):
        start = k * how.batch
        # a third number, so that sizes and noise do not come from one stream
        requests = plan.draw(
            min(how.batch, how.count - start), np.random.default_rng((how.seed, k, 1)), start
        )
        sampled = sampler(
            model,
            requests,
            steps=how.steps,
            seed=(how.seed, k),
            strategy=how.strategy,
            guidance=how.guidance,
        )
        yield _block(sampled, requests, plan, start)


def _block(sampled: Sampled, requests: Sequence[Request], plan: RequestPlan, start: int) -> Block:
    block, logs = Block([], []), sampled.log_probabilities
    for k, request in enumerate(requests):
        numbers, fractional, lattice = _arrays(sampled.crystals, k)
        row: Row = {"index": start + k, "n_atoms": len(numbers)}
        row |= {} if request.reference is None else {"reference": request.reference}
        row |= {} if logs is None else {"log_probability": _finite(float(logs[k]))}
        reason = (
            flaw_of(fractional, lattice)
            or _moved(fractional, lattice, request)
            or _missed(numbers.tolist(), request, plan.required)
        )
        if reason is None:
            atoms = _crystal(numbers, fractional, lattice, request)
            row |= description_of(atoms, unit=plan.unit)
            atoms.info = {key: value for key, value in row.items() if value is not None}
            block.frames.append(atoms)
        else:
            kept = {"numbers": numbers, "fractional": fractional, "lattice": lattice}
            row |= {key: _nested(array) for key, array in kept.items()}
        block.rows.append(row | {"valid": reason is None, "reason": reason})
    return block


def _arrays(crystals: CrystalBatch, k: int) -> tuple[Any, Any, Any]:
    """Numbers, fractional positions and lattice of one crystal."""
    n = int(crystals.n_atoms[k])
    numbers, places, lattice = crystals.numbers[k, :n], crystals.fractional[k, :n], crystals.lattice[k]
    return numbers.cpu().numpy(), places.double().cpu().numpy(), lattice.double().cpu().numpy()


def _crystal(numbers: Any, fractional: Any, lattice: Any, request: Request) -> Atoms:
    """With what is known to the last digit: networks hold it in single precision."""
    places = fractional.copy()
    for k, site in enumerate(request.sites or ()):
        places[k] = site.fractional
    known = request.lattice is not None
    return crystal_of(numbers, places, np.array(request.lattice) if known else lattice, keep_lattice=known)


def _moved(fractional: Any, lattice: Any, request: Request) -> str | None:
    """What should have been kept and was not, or None."""
    known = np.array([site.fractional for site in request.sites or ()]).reshape(-1, 3)
    shift = fractional[: len(known)] - known
    if len(shift) < len(known) or (np.abs(shift - np.round(shift)) > KEPT).any():
        return "known atoms were moved"
    if request.lattice is not None and not np.allclose(lattice, request.lattice, rtol=KEPT, atol=KEPT):
        return "the known cell was changed"
    return None


def _missed(numbers: Sequence[int], request: Request, required: frozenset[int]) -> str | None:
    """What of the request was not fulfilled, or None."""
    if len(numbers) != request.n_atoms or (request.numbers and tuple(numbers) != request.numbers):
        return "not the composition asked for"
    if request.allowed is not None and not request.allowed.issuperset(numbers):
        return "elements that were not allowed"
    missing = required.difference(numbers)
    return f"without {symbols_of(missing)}" if missing else None


def _nested(array: Any) -> Any:
    """An array as lists, NaN and infinities as None."""
    return [_nested(x) for x in array] if np.ndim(array) else _finite(array.item())


def _finite(value: Any) -> Any:
    return value if value is not None and np.isfinite(value) else None
