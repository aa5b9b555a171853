"""Downloads from a server on this machine: resumed, verified, refused."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from atomml.datasets import download
from atomml.datasets.download import download_file
from atomml.errors import DataError

DATA = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
MD5, SHA256 = hashlib.md5(DATA).hexdigest(), hashlib.sha256(DATA).hexdigest()
ETAG = '"version-1"'


class Handler(BaseHTTPRequestHandler):
    """Paths: /file, /plain (no ranges), /cut (every answer stops early), /web, /gone, /gated, /busy, /to/..."""

    protocol_version = "HTTP/1.0"

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Range")))
        name = self.path.strip("/")
        codes = {"gone": 404, "gated": 403, "busy": 503}
        if name in codes:
            return self.send_error(codes[name])
        if name.startswith("to/"):
            self.send_response(302)
            self.send_header("Location", self.server.target)
            return self.end_headers()
        self._send(name)
        return None

    def _send(self, name):
        start = 0
        wanted = self.headers.get("Range")
        same = self.headers.get("If-Range") == self.server.etag
        if wanted and same and name in ("file", "cut"):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        body = self.server.data[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header(
                "Content-Range", f"bytes {start}-{len(self.server.data) - 1}/{len(self.server.data)}"
            )
        self.send_header("Content-Type", "text/html" if name == "web" else "application/octet-stream")
        self.send_header("ETag", self.server.etag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        limit = 100_000 if name == "cut" or (name == "stuck" and not start) else len(body)
        self.wfile.write(body[:limit])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.asked, made.data, made.etag, made.target = [], DATA, ETAG, "http://example.invalid/file"
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    made.url = f"http://127.0.0.1:{made.server_port}"
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def fetch(url, path, **options):
    return download_file(url, path, **{"attempts": 2, "pause": 0.0, "timeout": 5.0} | options)


def leftovers(folder):
    return sorted(p.name for p in folder.iterdir())


def begin(path, url, n, etag=ETAG):
    path.with_name(path.name + ".part").write_bytes(DATA[:n])
    notes = {"url": url, "validator": etag, "total": len(DATA)}
    path.with_name(path.name + ".part.json").write_text(json.dumps(notes))


@pytest.mark.parametrize(
    "digests", [{}, {"md5": MD5}, {"sha256": SHA256.upper()}, {"md5": MD5, "sha256": SHA256}]
)
def test_a_file_is_fetched_and_verified(server, tmp_path, digests):
    seen = []
    path = fetch(f"{server.url}/file", tmp_path / "new" / "x", progress=lambda *n: seen.append(n), **digests)
    assert path.read_bytes() == DATA
    assert seen[-1] == (len(DATA), len(DATA))
    assert leftovers(path.parent) == ["x"]


def test_a_file_that_is_there_is_verified_and_not_fetched_again(server, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(DATA)
    fetch(f"{server.url}/file", path, md5=MD5)
    assert server.asked == []
    path.write_bytes(DATA[1:])
    with pytest.raises(DataError, match="not the published bytes"):
        fetch(f"{server.url}/file", path, md5=MD5)
    assert path.exists()


def test_an_interrupted_download_goes_on(server, tmp_path):
    path, url = tmp_path / "x", f"{server.url}/file"
    begin(path, url, 120_000)
    fetch(url, path, md5=MD5)
    assert path.read_bytes() == DATA
    assert server.asked == [("/file", "bytes=120000-")]


def test_a_connection_that_breaks_is_taken_up_again(server, tmp_path):
    path = fetch(f"{server.url}/cut", tmp_path / "x", md5=MD5)
    assert path.read_bytes() == DATA
    assert [r for _, r in server.asked] == [None, "bytes=100000-", "bytes=200000-"]


def test_a_complete_part_is_not_fetched_again(server, tmp_path):
    path, url = tmp_path / "x", f"{server.url}/file"
    begin(path, url, len(DATA))
    assert fetch(url, path, md5=MD5).read_bytes() == DATA
    assert server.asked == []


@pytest.mark.parametrize(
    "case", ["another version", "another address", "no validator", "no ranges", "no notes"]
)
def test_a_part_that_may_not_fit_is_begun_again(server, tmp_path, case):
    name = "plain" if case == "no ranges" else "file"
    path, url = tmp_path / "x", f"{server.url}/{name}"
    begin(path, url, 1000, etag=None if case == "no validator" else ETAG)
    if case == "another version":
        server.etag = '"version-2"'
    if case == "another address":
        begin(path, f"{server.url}/else", 1000)
    if case == "no notes":
        (tmp_path / "x.part.json").write_text("[")
    assert fetch(url, path).read_bytes() == DATA
    assert leftovers(tmp_path) == ["x"]


@pytest.mark.parametrize("digests", [{"md5": "0" * 32}, {"sha256": "0" * 64}])
def test_wrong_bytes_are_refused_and_removed(server, tmp_path, digests):
    with pytest.raises(DataError, match="not the published bytes"):
        fetch(f"{server.url}/file", tmp_path / "x", **digests)
    assert leftovers(tmp_path) == []


def test_a_server_that_always_stops_early_is_given_up_and_the_bytes_are_kept(server, tmp_path):
    server.etag = 'W/"weak"'
    with pytest.raises(DataError, match="closed too early") as error:
        fetch(f"{server.url}/cut", tmp_path / "x")
    assert "100,000 bytes" in error.value.fix
    assert leftovers(tmp_path) == ["x.part", "x.part.json"]


@pytest.mark.parametrize(
    ("name", "match", "requests"),
    [("gone", "404", 1), ("gated", "403", 1), ("busy", "503", 2), ("web", "a web page", 1)],
)
def test_refusals_are_explained(server, tmp_path, name, match, requests):
    with pytest.raises(DataError, match=match) as error:
        fetch(f"{server.url}/{name}", tmp_path / "x")
    assert len(server.asked) == requests
    assert error.value.fix
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("target", ["http://example.invalid/file", "ftp://127.0.0.1/x", "file:///etc/passwd"])
def test_redirects_to_unsafe_addresses_are_refused(server, tmp_path, target):
    server.target = target
    with pytest.raises(DataError, match=r"Only https|not allowed"):
        fetch(f"{server.url}/to/file", tmp_path / "x")


@pytest.mark.parametrize(
    "url", ["http://example.invalid/x", "file:///etc/passwd", "ftp://example.invalid/x", "x"]
)
def test_unsafe_addresses_are_refused(tmp_path, url):
    with pytest.raises(DataError, match="Only https"):
        fetch(url, tmp_path / "x")


def test_redirects_on_this_machine_are_followed(server, tmp_path):
    server.target = f"{server.url}/file"
    assert fetch(f"{server.url}/to/file", tmp_path / "x", md5=MD5).read_bytes() == DATA


def test_a_closed_port_is_an_error_that_says_how_to_go_on(server, tmp_path):
    url = server.url
    server.shutdown()
    server.server_close()
    with pytest.raises(DataError, match="The download stopped") as error:
        fetch(f"{url}/file", tmp_path / "x")
    assert "run again" in error.value.fix


def test_a_name_that_does_not_resolve_is_not_tried_again(tmp_path, monkeypatch):
    slept = []
    monkeypatch.setattr(download.time, "sleep", slept.append)
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(DataError, match="The download stopped"):
        download_file("https://does-not-exist.invalid/x", tmp_path / "x", attempts=3, pause=1.0)
    assert slept == []


def test_a_full_disk_is_noticed_before_the_download(server, tmp_path, monkeypatch):
    monkeypatch.setattr(
        download.shutil, "disk_usage", lambda _: download.shutil._ntuple_diskusage(1, 1, 1000)
    )
    with pytest.raises(DataError, match="GiB left"):
        fetch(f"{server.url}/file", tmp_path / "x")


def test_two_downloads_of_one_file_at_once_are_refused(server, tmp_path):
    with (tmp_path / "x.part").open("ab") as file:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="Another process"):
            fetch(f"{server.url}/file", tmp_path / "x")
