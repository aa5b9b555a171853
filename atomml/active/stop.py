"""When the loop ends: pure functions of the journal and of the limits."""

from __future__ import annotations

from collections.abc import Sequence

from atomml.active.config import StopConfig
from atomml.active.history import rounds_of, total
from atomml.active.journal import Record

__all__ = ["stop_at_gate", "stop_before_round"]


def stop_before_round(records: Sequence[Record], stop: StopConfig, round_: int) -> str | None:
    """Why round ``round_`` must not begin; None if it may."""
    rounds = rounds_of(records)
    if round_ > stop.max_rounds:
        return f"stop.max_rounds: {stop.max_rounds} rounds are done"
    asked = total(records, "asked")
    if stop.max_labels is not None and asked >= stop.max_labels:
        return f"stop.max_labels: {asked} structures were given to the labeller"
    empty = 0
    for number in sorted(rounds, reverse=True):
        select = rounds[number].get("select")
        if number == 0 or select is None or select["facts"]["rows"]:
            break
        empty += 1
    if empty >= stop.empty_rounds:
        why = rounds[max(rounds)]["gate"]["facts"]["notes"]
        return f"stop.empty_rounds: nothing was left to label in {empty} rounds. {' '.join(why)}".strip()
    last = rounds.get(round_ - 1, {}).get("store")
    fresh = None if last is None else last["facts"]["fresh"]
    if stop.force_rmse is not None and fresh is not None and fresh["forces_rmse"] < stop.force_rmse:
        return (
            f"stop.force_rmse: the error on fresh labels, before they were trained on, is "
            f"{fresh['forces_rmse']:.4g} eV/Å, below {stop.force_rmse:g}"
        )
    return None


def stop_at_gate(records: Sequence[Record], stop: StopConfig, round_: int) -> str | None:
    """Why nothing of round ``round_``, whose gate is finished, is to be labelled; None if it is."""
    if stop.confident_share is None:
        return None
    rounds = rounds_of(records)
    shares: list[float] = []
    for number in range(round_, 0, -1):
        gate = rounds.get(number, {}).get("gate")
        share = None if gate is None else gate["facts"]["confident_share"]
        if share is None or share < stop.confident_share:
            break
        shares.append(share)
    if len(shares) < stop.confident_rounds:
        return None
    said = ", ".join(f"{share:.1%}" for share in reversed(shares))
    every = "every frame is confident" if min(shares) == 1.0 else "the model is confident"
    return f"stop.confident_share: {every}: {said} of the candidates in {len(shares)} rounds in a row"
