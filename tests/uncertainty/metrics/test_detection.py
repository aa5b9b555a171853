import numpy as np
import pytest

from atomml.errors import DataError
from atomml.uncertainty.metrics import (
    auroc,
    average_precision,
    false_positive_rate,
    risk_coverage,
    risk_coverage_area,
    sparsification,
    sparsification_error,
)
from tests.uncertainty.metrics.samples import scalars


def some_scores(rng, decimals):
    return np.round(rng.normal(size=300), decimals), np.round(rng.normal(1.0, 1.5, size=120), decimals)


@pytest.mark.parametrize("decimals", [8, 0])  # without and with ties
def test_detection_is_that_of_scikit_learn(rng, decimals):
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    known, unusual = some_scores(rng, decimals)
    label, score = np.repeat([0, 1], [300, 120]), np.concatenate([known, unusual])
    assert np.isclose(auroc(known, unusual), metrics.roc_auc_score(label, score))
    assert np.isclose(average_precision(known, unusual), metrics.average_precision_score(label, score))
    false, true, _ = metrics.roc_curve(label, score, drop_intermediate=False)
    assert np.isclose(false_positive_rate(known, unusual), false[np.argmax(true >= 0.95)])


def test_perfect_reversed_and_empty_scores():
    low, high = np.array([1.0, 2.0]), np.array([3.0, 4.0, 5.0])
    assert (auroc(low, high), false_positive_rate(low, high), average_precision(low, high)) == (1.0, 0.0, 1.0)
    assert (auroc(high, low), false_positive_rate(high, low)) == (0.0, 1.0)
    same = np.ones(3)
    assert (auroc(same, same), false_positive_rate(same, same), average_precision(same, same)) == (
        0.5,
        1.0,
        0.5,
    )


def test_false_positives_by_hand():
    known = np.array([0.0, 1.0, 2.0, 3.0])
    unusual = np.array([1.5, 2.5, 2.6, 2.7])
    assert false_positive_rate(known, unusual, 0.75) == 0.25  # threshold 2.5
    assert false_positive_rate(known, unusual, 1.0) == 0.5


def test_risk_of_four_values_by_hand():
    coverage, risk = risk_coverage(np.array([4.0, 1.0, 3.0, 2.0]), np.array([0.4, 0.1, 0.2, 0.3]))
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert np.allclose(risk, [1, 2, 2, 2.5])
    assert np.isclose(
        risk_coverage_area(np.array([4.0, 1.0, 3.0, 2.0]), np.array([0.4, 0.1, 0.2, 0.3])), 1.875
    )


def test_order_does_not_matter_and_equal_scores_say_nothing(rng):
    loss, score = rng.exponential(size=200), rng.integers(0, 4, size=200).astype(float)
    order = rng.permutation(200)
    assert np.allclose(risk_coverage(loss, score)[1], risk_coverage(loss[order], score[order])[1])
    assert np.allclose(risk_coverage(loss, np.ones(200))[1], loss.mean())


def test_sparsification_starts_at_one_and_the_oracle_is_never_beaten(rng):
    error, std = scalars(rng, 500)
    removed, rest = sparsification(error, std)
    assert (removed[0], rest[0]) == (0.0, 1.0)
    assert np.all(np.diff(removed) > 0)
    assert (rest >= sparsification(error, np.abs(error))[1] - 1e-12).all()
    removed_by_hand = np.sqrt(np.mean(np.sort(error[np.argsort(std)][:400]) ** 2) / np.mean(error**2))
    assert np.isclose(rest[100], removed_by_hand)


def test_sparsification_error_is_zero_for_the_oracle_and_grows_without_information(rng):
    error, std = scalars(rng, 2000)
    assert sparsification_error(error, 0.1 + np.abs(error)) == 0.0
    assert 0 < sparsification_error(error, std) < sparsification_error(error, rng.permutation(std))


def test_vanishing_errors_leave_sparsification_undefined():
    assert np.isnan(sparsification_error(np.zeros(5), np.ones(5)))


@pytest.mark.parametrize("measure", [auroc, false_positive_rate, average_precision])
@pytest.mark.parametrize("bad", [np.array([]), np.array([1.0, np.nan])])
def test_unusable_scores_are_refused(measure, bad):
    with pytest.raises(DataError, match="scores of unusual"):
        measure(np.ones(2), bad)
    with pytest.raises(DataError, match="scores of known"):
        measure(bad, np.ones(2))


@pytest.mark.parametrize("rate", [0.0, 1.1])
def test_impossible_rates_are_refused(rate):
    with pytest.raises(DataError, match="rate of true positives"):
        false_positive_rate(np.ones(2), np.ones(2), rate)
