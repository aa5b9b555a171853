"""When a loop ends, from the journal alone."""

import pytest

from atomml.active.config import StopConfig
from atomml.active.history import latest_model, next_step, stores, table, total
from atomml.active.stop import stop_at_gate, stop_before_round


def record(round_, step, **facts):
    return {"round": round_, "step": step, "facts": facts, "timing": {"seconds": 1.0}}


def a_round(number, *, share=0.5, rows=(1, 2), rmse=0.1):
    entry = {"path": f"rounds/{number}/model", "fingerprint": str(number)}
    found = [
        record(number, "explore", candidates=10, notes=[]),
        record(number, "gate", confident_share=share, dropped={"known": 1}, passed=9, notes=["why"]),
        record(number, "select", rows=list(rows), notes=[]),
    ]
    if rows:
        found += [
            record(number, "label", asked=len(rows), labelled=len(rows), failed={}),
            record(number, "store", fresh={"forces_rmse": rmse}, stores={"train": {"path": f"l{number}"}}),
            record(number, "train", frames=5, model=entry),
            record(number, "calibrate", model=entry | {"path": f"c{number}"}, errors={}, notes=[]),
        ]
    return [*found, record(number, "report")]


START = [record(0, "start", stores={"train": {"path": "l0"}}, model=None, notes=[])]


@pytest.mark.parametrize(
    ("limits", "records", "said"),
    [
        ({"max_rounds": 1}, a_round(1), "max_rounds"),
        ({"max_rounds": 2}, a_round(1), None),
        ({"max_labels": 2}, a_round(1), "max_labels"),
        ({"max_labels": 3}, a_round(1), None),
        ({"empty_rounds": 1}, a_round(1, rows=()), "nothing was left to label in 1 rounds. why"),
        ({"empty_rounds": 2}, a_round(1, rows=()), None),
        ({"force_rmse": 0.2}, a_round(1), "0.1 eV/Å, below 0.2"),
        ({"force_rmse": 0.05}, a_round(1), None),
    ],
)
def test_limits_before_a_round(limits, records, said):
    reason = stop_before_round([*START, *records], StopConfig(**limits), 2)
    assert reason is None if said is None else said in reason


def test_empty_rounds_count_only_in_a_row():
    records = [*a_round(1, rows=()), *a_round(2), *a_round(3, rows=())]
    assert stop_before_round(records, StopConfig(empty_rounds=2), 4) is None
    assert stop_before_round([*records, *a_round(4, rows=())], StopConfig(empty_rounds=2), 5)


@pytest.mark.parametrize(
    ("shares", "stops"),
    [
        ((0.99, 0.99), True),
        ((0.5, 0.99), False),
        ((0.99, 0.5), False),
        ((0.99, None), False),
        ((1.0, 1.0), True),
    ],
)
def test_confident_rounds_in_a_row(shares, stops):
    records = [r for k, share in enumerate(shares, 1) for r in a_round(k, share=share)]
    reason = stop_at_gate(records, StopConfig(confident_share=0.98), 2)
    assert (reason is not None) == stops
    if stops:
        assert ("every frame is confident" in reason) == (min(shares) == 1.0)
    assert stop_at_gate(records, StopConfig(confident_share=None), 2) is None


def test_the_history_is_read_from_the_records(tmp_path):
    records = [*START, *a_round(1), *a_round(2)]
    assert stores(records, "train") == ["l0", "l1", "l2"]
    assert latest_model(records, tmp_path).path == tmp_path / "c2"
    assert total(records, "asked") == 4
    rows = table(records)
    assert [row["round"] for row in rows] == [0, 1, 2]
    assert rows[1]["fresh_forces_rmse"] == 0.1
    assert rows[1]["selected"] == 2
    assert rows[0]["candidates"] is None


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([], (0, "start")),
        (START, (0, "train")),
        ([record(0, "start", stores={}, model=None, notes=[])], (0, "explore")),
        ([record(0, "start", stores={}, model={"path": "m"}, notes=[])], (0, "report")),
        ([*START, *a_round(1)[:4]], (1, "store")),
        ([*START, *a_round(1, rows=())[:3]], (1, "report")),
        ([*START, *a_round(1), record(1, "stop", reason="x")], (2, "explore")),
    ],
)
def test_what_comes_next(records, expected):
    assert next_step(records) == expected
