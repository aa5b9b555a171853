"""The catalogue of public data sets: complete, honest about gaps, and the same in the package and in data/."""

import shlex
from pathlib import Path

import pytest
import yaml

import atomml
from atomml.datasets.catalog import (
    catalog_entry,
    catalog_names,
    commands,
    published_bytes,
    select_sources,
)
from atomml.errors import DataError

ROOT = Path(atomml.__file__).parents[1]
NAMES = ["aqvolt26", "carbon_24", "matpes", "mp_20", "oc20", "oc22", "perov_5", "pubchemqcr"]


def test_all_sets_have_an_entry():
    assert catalog_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_entry_and_its_copy_in_the_repository_are_the_same(name):
    copy = ROOT / "data" / name / "dataset.yaml"
    if not (ROOT / "data").is_dir():
        pytest.skip("not in the repository")
    original = Path(atomml.__file__).parent / "assets" / "datasets" / f"{name}.yaml"
    assert copy.read_bytes() == original.read_bytes(), f"cp {original} {copy}"


@pytest.mark.parametrize("name", NAMES)
def test_every_set_has_a_card_with_all_headings(name):
    card = (ROOT / "data" / name / "card.md").read_text()
    entry = catalog_entry(name)
    for row in (
        "| level of theory |",
        "| units |",
        "| stress sign |",
        "| licence |",
        "| citation |",
        "## Caveats",
    ):
        assert row in card, row
    assert entry.home in card
    assert f"atomml data download {name}" in card
    assert f"({name}/card.md)" in (ROOT / "data" / "README.md").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_entries_are_complete_and_consistent(name):
    entry = catalog_entry(name)
    assert entry.name == name
    parts = [source.part for source in entry.sources]
    assert len(set(parts)) == len(parts)
    assert entry.gated == any(source.how == "gated" for source in entry.sources)
    for source in entry.sources:
        assert source.url is None or source.url.endswith("/" + source.file)
        assert source.convert is None or f"--reader {entry.reader.partition('-')[0]}" in source.convert


@pytest.mark.parametrize("name", NAMES)
def test_commands_are_safe_for_a_shell(name):
    for source in catalog_entry(name).sources:
        for line in commands(source, "a folder; rm -rf x"):
            words = shlex.split(line, comments=True)
            assert words[0] in ("curl", "hf", "echo", "tar", "cd")
            assert any("a folder; rm -rf x" in word for word in words)


def test_the_checksums_of_oc20_are_those_of_the_documentation():
    md5 = {source.part: source.md5 for source in catalog_entry("oc20").sources}
    assert md5["s2ef_200k"] == "f8d0909c2623a393148435dede7d3a46"
    assert md5["is2re"] == "cfc04dd2f87b4102ab2f607240d25fb1"
    assert all(md5.values())
    assert catalog_entry("oc22").sources[1].md5 == "b35dc24e99ef3aeaee6c5c949903de94"


def test_the_number_of_elements_is_that_of_the_sets():
    assert len(catalog_entry("perov_5").elements) == 56
    assert len(catalog_entry("mp_20").elements) == 89
    assert all(
        isinstance(e, str) for e in yaml.safe_load((ROOT / "data/mp_20/dataset.yaml").read_text())["elements"]
    )


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(DataError, match="no data set") as error:
        catalog_entry("MP-20")
    assert "'mp_20'" in error.value.fix
    with pytest.raises(DataError, match="no part") as error:
        select_sources(catalog_entry("oc20"), ["S2EF_200K "])
    assert "'s2ef_200k'" in error.value.fix


def test_published_sizes_are_powers_of_1024():
    assert published_bytes("1.5G") == 3 * 2**29
    assert published_bytes("344M") == 344 * 2**20
    assert published_bytes(None) is None
