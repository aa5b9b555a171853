"""Fetching a file: resumed where it stopped, verified, and in its place only when complete."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from atomml._version import __version__
from atomml.errors import DataError
from atomml.files import replace_file

__all__ = ["check_digest", "download_file"]

CHUNK = 1 << 20
MARGIN = 64 << 20  # bytes that stay free on the disk
LOCAL = ("127.0.0.1", "localhost", "::1")
Progress = Callable[[int, int | None], None]


def download_file(
    url: str,
    path: Path,
    *,
    md5: str | None = None,
    sha256: str | None = None,
    size: int | None = None,
    attempts: int = 5,
    pause: float = 2.0,
    timeout: float = 60.0,
    progress: Progress | None = None,
) -> Path:
    """Fetch ``url`` into ``path``, which appears only when it is complete and its checksums are right.

    Until then the bytes are in ``PATH.part``, with what the server said of the file in ``PATH.part.json``. A
    later call goes on from there if the server still has the same file and can send a range; otherwise it begins
    again. A file that is there already is verified and kept.

    Args:
        url: https, or http of this machine; redirects likewise.
        path: the file to write.
        md5: hexadecimal.
        sha256: hexadecimal.
        size: about how many bytes, for the check of free space before the server has said it.
        attempts: connections in a row that brought no byte, before giving up.
        pause: seconds before the second attempt; doubled every time.
        timeout: seconds without an answer.
        progress: called with (bytes so far, bytes in all if known).

    Raises:
        DataError: no network, refused by the server, not enough space, a wrong checksum (the bytes are removed),
            another process downloads the same file.
    """
    digests = {"md5": md5, "sha256": sha256}
    if path.exists():
        check_digest(path, digests)
        return path
    part = _Part(path.with_name(path.name + ".part"), path.with_name(path.name + ".part.json"), url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(part.path) as file:
            _fetch(url, file, part, size, attempts, pause, timeout, progress)
            os.fsync(file.fileno())
        try:
            check_digest(part.path, digests)
        except DataError:
            part.remove()
            raise
        os.replace(part.path, path)
        part.notes.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"Cannot write the download ({error.strerror or error}).",
            where=str(path),
            fix="free some space or choose another folder; the next run goes on from here",
        ) from error
    return path


def check_digest(path: Path, digests: Mapping[str, str | None]) -> None:
    """Compare a file with {"md5": hex, "sha256": hex}; None is not checked.

    Raises:
        DataError: they differ.
    """
    for kind, expected in digests.items():
        if expected is None:
            continue
        with path.open("rb") as file:
            found = hashlib.file_digest(file, partial(hashlib.new, kind, usedforsecurity=False)).hexdigest()
        if found != expected.lower():
            raise DataError(
                f"The {kind} checksum is {found}, not {expected}: these are not the published bytes.",
                where=str(path),
                fix="remove the file if it is still there and download it again",
            )


@dataclass(frozen=True)
class _Part:
    """An unfinished download and what the server said of the file."""

    path: Path
    notes: Path
    url: str

    def known(self) -> dict[str, Any]:
        try:
            notes = json.loads(self.notes.read_bytes())
        except (OSError, ValueError):
            return {}
        return notes if isinstance(notes, dict) and notes.get("url") == self.url else {}

    def note(self, validator: str | None, total: int | None) -> None:
        notes = {"url": self.url, "validator": validator, "total": total}
        replace_file(self.notes, json.dumps(notes).encode())

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    with path.open("ab") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # not on Windows
            pass
        except BlockingIOError:
            raise DataError(
                "Another process downloads this file.", where=str(path), fix="wait for it, or stop it"
            ) from None
        yield file


def _fetch(
    url: str,
    file: BinaryIO,
    part: _Part,
    size: int | None,
    attempts: int,
    pause: float,
    timeout: float,
    progress: Progress | None,
) -> None:
    failures = 0
    while True:
        before = file.tell()
        try:
            if _receive(url, file, part, size, timeout, progress):
                return
            reason = "the connection was closed too early"
        except urllib.error.HTTPError as error:
            if error.code == 416 and before:  # what is here is not the beginning of what is there
                _restart(file)
            elif error.code < 500 and error.code not in (408, 429):
                raise _refused(url, error) from error
            reason = f"{error.code} {error.reason}"
        except urllib.error.URLError as error:
            reason = str(error.reason)
            if isinstance(error.reason, socket.gaierror):  # no network: waiting does not help
                attempts = 1
        except (http.client.HTTPException, ssl.SSLError, ConnectionError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
        failures = 0 if file.tell() > before else failures + 1
        if failures >= attempts:
            raise DataError(
                f"The download stopped: {reason}.",
                where=url,
                fix=f"check the network and run again: it goes on after {file.tell():,} bytes",
            )
        if failures:
            time.sleep(pause * 2 ** (failures - 1))


def _receive(
    url: str, file: BinaryIO, part: _Part, size: int | None, timeout: float, progress: Progress | None
) -> bool:
    """One connection; whether the file is complete now."""
    have, known = file.tell(), part.known()
    validator = known.get("validator")
    if have and not validator:
        have = _restart(file)
    if have and have == known.get("total"):
        return True
    headers = {"Range": f"bytes={have}-", "If-Range": str(validator)} if have else {}
    with _open(url, headers, timeout) as answer:
        resumed = answer.status == 206 and have > 0
        if resumed and _range_start(answer.headers) != have:
            raise http.client.HTTPException("the server sends another range than it was asked for")
        if not resumed:
            have = _restart(file)
        total = _total(answer, have)
        if answer.headers.get_content_type() == "text/html":
            raise DataError(
                "The server sends a web page instead of the file.",
                where=url,
                fix="open the address in a browser: conditions may have to be accepted, or the file has moved",
            )
        part.note(_validator(answer.headers), total)
        _check_space(part.path, (size or 0) if total is None else total - have)
        while chunk := answer.read(CHUNK):
            file.write(chunk)
            have += len(chunk)
            if progress is not None:
                progress(have, total)
        file.flush()
    if total is not None and have > total:
        raise DataError(f"The server sent {have:,} bytes of {total:,}.", where=url, fix="run again")
    return total is None or have == total


def _restart(file: BinaryIO) -> int:
    file.seek(0)
    file.truncate()
    return 0


def _validator(headers: Any) -> str | None:
    """What names this version of the file: a strong ETag, else the date."""
    etag = headers.get("ETag")
    if etag and not etag.startswith("W/"):
        return str(etag)
    date = headers.get("Last-Modified")
    return None if date is None else str(date)


def _range_start(headers: Any) -> int | None:
    unit, _, rest = (headers.get("Content-Range") or "").partition(" ")
    start = rest.partition("-")[0]
    return int(start) if unit == "bytes" and start.isdigit() else None


def _total(answer: Any, have: int) -> int | None:
    length = answer.headers.get("Content-Length")
    return None if length is None or not length.isdigit() else have + int(length)


def _check_space(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if needed + MARGIN > free:
        raise DataError(
            f"The disk has {free / 2**30:.1f} GiB left, and {needed / 2**30:.1f} GiB are to come.",
            where=str(path.parent),
            fix="free some space or choose another folder with --out",
        )


def _refused(url: str, error: urllib.error.HTTPError) -> DataError:
    gated = error.code in (401, 403)
    return DataError(
        f"The server refuses: {error.code} {error.reason}.",
        where=url,
        fix="accept the conditions on the page of the data set and log in there"
        if gated
        else "look at the page of the data set: the file may have moved",
    )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirects to other places than `_check_address` allows are errors."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """As urllib, after checking the new address."""
        _check_address(newurl, here=urlsplit(req.full_url).hostname in LOCAL)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_address(url: str, *, here: bool) -> None:
    address = urlsplit(url)
    if address.scheme == "https" or (here and address.scheme == "http" and address.hostname in LOCAL):
        return
    raise DataError("Only https addresses are fetched.", where=url, fix="use the official https address")


def _open(url: str, headers: Mapping[str, str], timeout: float) -> Any:
    _check_address(url, here=urlsplit(url).hostname in LOCAL)
    request = urllib.request.Request(  # noqa: S310  # the address was checked
        url, headers={"User-Agent": f"atomml/{__version__}", "Accept-Encoding": "identity", **headers}
    )
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        _Redirects,
    ):
        opener.add_handler(handler())  # without the handlers of file: and ftp:
    answer = opener.open(request, timeout=timeout)
    if answer is None:
        raise DataError("This address cannot be opened.", where=url)
    return answer
