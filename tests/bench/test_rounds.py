"""Interleaved timing: one order, slots that are filled, ratios within a round."""

import numpy as np
import pytest

from atomml.bench.rounds import interleave, ratio


class Fake:
    def __init__(self, name, seconds, log, fails=False):
        self.name, self.step, self.log, self.fails = name, seconds, log, fails

    def seconds(self, count):
        if self.fails:
            raise ValueError("broken")
        self.log.append((self.name, count))
        return count * self.step


def test_every_round_has_every_case_once_in_the_same_order():
    log, rounds = [], []
    cases = [Fake("a", 0.1, log), Fake("b", 0.3, log)]
    found = interleave(cases, rounds=3, slot=0.25, progress=rounds.append)
    assert [name for name, _ in log[4:]] == ["a", "b"] * 3
    assert {count for name, count in log[4:] if name == "a"} == {3}  # 3 × 0.1 s fill the slot
    assert {count for name, count in log[4:] if name == "b"} == {1}
    assert rounds == [1, 2, 3]
    np.testing.assert_allclose(found["b"], 0.3)


def test_a_case_that_fails_is_left_out_when_someone_listens():
    failed = {}
    cases = [Fake("a", 0.1, []), Fake("b", 0.1, [], fails=True)]
    found = interleave(
        cases, rounds=2, slot=0.0, failed=lambda name, error: failed.update({name: str(error)})
    )
    assert list(found) == ["a"]
    assert failed == {"b": "broken"}
    with pytest.raises(ValueError, match="broken"):
        interleave(cases, rounds=2, slot=0.0)


def test_ratios_are_formed_within_rounds():
    # the machine is slow in the second round: both are, their quotient is not
    seconds = {"slow": np.array([2.0, 40.0, 2.0]), "fast": np.array([1.0, 20.0, 1.0])}
    found = ratio(seconds, "slow", "fast")
    assert (found.low, found.median, found.high) == (2.0, 2.0, 2.0)
    quotients = {"slow": np.array([1.0, 2.0, 3.0, 4.0, 50.0]), "fast": np.ones(5)}
    found = ratio(quotients, "slow", "fast")
    assert (found.low, found.median, found.high) == (2.0, 3.0, 4.0)
