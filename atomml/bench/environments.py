"""Other libraries, each in a virtual environment of its own with pinned versions, made when first needed."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from atomml.bench.process import PeerError

__all__ = ["PEERS", "default_folder", "environment"]

PEERS: dict[str, tuple[str, ...]] = {
    "mace": ("torch==2.13.0", "mace-torch==0.3.16"),
    "nequip": ("torch==2.13.0", "nequip==0.19.1"),
    "cuequivariance": (
        "torch==2.13.0",
        "cuequivariance==0.13.0",
        "cuequivariance-torch==0.13.0",
        "opt-einsum-fx==0.1.4",
    ),
}
"""What pip installs for each peer."""

_VERSIONS = """
import json, sys
from importlib.metadata import version
print(json.dumps([version(name) for name in sys.argv[1:]]))
"""
_TAIL = 600


def default_folder() -> Path:
    """``~/.cache/atomml/peers``."""
    return Path.home() / ".cache" / "atomml" / "peers"


def environment(peer: str, folder: Path, say: Callable[[str], object] = lambda _: None) -> Path:
    """The Python of a peer's environment ``folder/peer``, which is made first if it is not there or not complete.

    Raises:
        PeerError: no such peer; it cannot be installed (no network, no build for this system), with pip's reason.
    """
    if peer not in PEERS:
        raise PeerError(f"There is no peer {peer!r}.", fix=f"choose among {', '.join(PEERS)}")
    home = folder / peer
    scripts = "Scripts" if platform.system() == "Windows" else "bin"
    python = home / scripts / "python"
    if _complete(python, PEERS[peer]):
        return python
    say(f"installing {', '.join(PEERS[peer])} into {home}")
    if not python.exists():
        shutil.rmtree(home, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(home)], peer)
    _run([str(python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet", *PEERS[peer]], peer)
    if not _complete(python, PEERS[peer]):
        raise PeerError(f"{peer} was installed, but not in the versions asked for.", where=str(home))
    return python


def _complete(python: Path, requirements: tuple[str, ...]) -> bool:
    """Whether everything is installed in the version asked for (a local part such as +cpu is ignored)."""
    names, wanted = zip(*(r.split("==") for r in requirements), strict=True)
    try:
        done = subprocess.run(  # noqa: S603 (the environment's own Python)
            [str(python), "-c", _VERSIONS, *names], capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return [version.partition("+")[0] for version in json.loads(done.stdout)] == list(wanted)


def _run(command: list[str], peer: str) -> None:
    try:
        subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 (built from PEERS)
    except subprocess.CalledProcessError as error:
        reason = (error.stderr or error.stdout or "").strip()[-_TAIL:]
        raise PeerError(f"{peer} cannot be installed.", where=reason, fix="is there a network?") from error
    except OSError as error:
        raise PeerError(f"{peer} cannot be installed ({error}).") from error
