"""`atomml data download` on the command line."""

import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import typer
from typer.testing import CliRunner

from atomml.cli import download
from atomml.datasets import catalog
from atomml.datasets.catalog import CatalogEntry, Source, catalog_entry
from atomml.errors import DataError

CONTENT = b"cif\n" * 1000


@pytest.fixture
def run():
    data = typer.Typer()
    data.command("other")(lambda: None)
    download.register(data)

    def invoke(*arguments):
        result = CliRunner().invoke(data, ["download", *map(str, arguments)])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.output

    return invoke


@pytest.fixture
def served(tmp_path, monkeypatch):
    """The catalogue with one more entry, whose files are on this machine."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "a.csv").write_bytes(CONTENT)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def with_sources(**facts):
        source = {"part": "a", "file": "a.csv", "url": "https://example.org/a.csv", "how": "open", **facts}
        entry = catalog_entry("mp_20").model_dump() | {"sources": [source]}
        made = CatalogEntry.model_validate(entry)
        here = Source.model_construct(
            **made.sources[0].model_dump() | {"url": f"http://127.0.0.1:{server.server_port}/a.csv"}
        )
        made = made.model_copy(update={"sources": (here,)})
        monkeypatch.setattr(catalog, "catalog_entry", lambda name: made)

    yield with_sources
    server.shutdown()
    server.server_close()


def test_without_a_name_the_sets_are_listed(run):
    output = run()
    assert "mp_20" in output
    assert "Open Catalyst 2020" in output


def test_commands_licence_and_size_are_printed_and_nothing_is_fetched(run, tmp_path):
    output = run("oc20", "--part", "s2ef_200k", "--out", tmp_path / "x")
    assert "https://dl.fbaipublicfiles.com/opencatalystproject/data/s2ef_train_200K.tar" in output
    assert "CC-BY-4.0" in output
    assert "344M" in output
    assert "f8d0909c2623a393148435dede7d3a46" in output
    assert "atomml data convert s2ef_train_200K" in output
    assert not (tmp_path / "x").exists()


def test_gated_and_non_commercial_sets_are_marked_and_not_fetched(run):
    output = run("aqvolt26")
    assert "Conditions have to be accepted" in output
    assert "Commercial use" in output
    assert "hf download SandboxAQ/aqvolt26-dataset-subset test.parquet" in output
    with pytest.raises(DataError, match="cannot be fetched without you"):
        run("aqvolt26", "--run")


def test_of_many_files_one_has_to_be_chosen(run):
    with pytest.raises(DataError, match="has 18 files") as error:
        run("oc20", "--run")
    assert "--part" in error.value.fix


@pytest.mark.parametrize("known", [True, False])
def test_a_file_is_fetched_and_the_next_command_printed(run, served, tmp_path, known):
    digest = hashlib.sha256(CONTENT).hexdigest()
    served(
        convert="atomml data convert a.csv a --reader crystals-csv", **({"sha256": digest} if known else {})
    )
    output = run("mp_20", "--run", "--out", tmp_path / "x")
    assert (tmp_path / "x" / "a.csv").read_bytes() == CONTENT
    assert ("checksum verified" if known else f"not verified; sha256 {digest}") in output
    assert output.rstrip().endswith("atomml data convert a.csv a --reader crystals-csv")
    assert "curl" not in output


def test_a_wrong_checksum_leaves_nothing(run, served, tmp_path):
    served(md5="0" * 32)
    with pytest.raises(DataError, match="not the published bytes"):
        run("mp_20", "--run", "--out", tmp_path / "x")
    assert list((tmp_path / "x").iterdir()) == []
