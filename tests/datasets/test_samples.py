"""The bundled samples are what their cards and dataset.yaml say."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from ase.data import chemical_symbols

from atomml.datasets import load_frames, rows_where
from atomml.datasets.statistics import stress_sign_test

DATA = Path(__file__).parents[2] / "data"
NAMES = ("li_halide", "qcr_like", "perovskite_like")


@pytest.fixture(scope="module", params=NAMES)
def sample(request):
    folder = DATA / request.param
    card = yaml.safe_load((folder / "dataset.yaml").read_text())
    return card, load_frames(folder / card["sample"], require_energy=False)


def test_sample_agrees_with_its_description(sample):
    card, store = sample
    assert len(store) == card["frames"]
    assert store.label_counts() == card["labels"]
    assert [chemical_symbols[z] for z in store.elements()] == card["elements"]
    assert list(store.tags) == card["tags"]
    assert store.fingerprint() == card["fingerprint"]
    assert store.info["not_read"] == {}
    assert stress_sign_test(store)["verdict"] == (
        card["stress_sign"] if card["labels"]["stress"] else "no stress"
    )


def test_held_out_part_shares_no_group_and_no_new_element(sample):
    card, store = sample
    test = np.zeros(len(store), dtype=bool)
    test[rows_where(store, card["held_out"])] = True
    groups = store.tags[card["group"]]
    assert not set(groups[test]) & set(groups[~test])
    _, counts = store.element_counts()
    assert (counts[~test].sum(axis=0) > 0).all()


def test_hot_frames_are_held_out_of_the_halides():
    store = load_frames(DATA / "li_halide/sample/li_halide.extxyz.gz")
    part, temperature = store.tags["part"], store.tags["T"]
    assert set(temperature[part == "train"]) == {300, 600, 1000}
    assert set(temperature[part == "test"]) == {1000, 1500}
    assert len(np.unique(store.tags["system"])) == 9


def test_samples_are_small():
    assert sum(p.stat().st_size for p in DATA.rglob("sample/*")) < 3e6


@pytest.mark.parametrize("name", NAMES)
def test_card_states_what_a_user_must_know(name):
    text = (DATA / name / "card.md").read_text().lower()
    for word in ("licence", "units", "sign", "level of theory", "citation", "caveats"):
        assert word in text
