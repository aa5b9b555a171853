"""Environments of the peers: found when complete, made when not, reported when that fails."""

import sys

import pytest

from atomml.bench.environments import PEERS, default_folder, environment
from atomml.bench.process import PeerError


def fake_python(folder, text):
    path = folder / "mace" / "bin" / "python"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!{sys.executable}\nimport sys\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_complete_environment_is_used_as_it_is(tmp_path):
    python = fake_python(tmp_path, 'print(\'["2.13.0+cpu", "0.3.16"]\')')
    said = []
    assert environment("mace", tmp_path, said.append) == python
    assert not said


@pytest.mark.parametrize("versions", ['["2.13.0", "0.3.15"]', '["2.14.0", "0.3.16"]'])
def test_other_versions_are_not_accepted(tmp_path, versions):
    fake_python(tmp_path, f"print({versions!r})")
    said = []
    with pytest.raises(PeerError, match="not in the versions"):
        environment("mace", tmp_path, said.append)
    assert "mace-torch==0.3.16" in said[0]


def test_what_pip_says_is_the_reason(tmp_path):
    fake_python(tmp_path, "sys.exit('ERROR: no matching distribution, no network')")
    with pytest.raises(PeerError, match="no network"):
        environment("mace", tmp_path)


def test_a_peer_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(PeerError, match="mace, nequip"):
        environment("schnet", tmp_path)


def test_versions_are_pinned():
    assert all("==" in requirement for requirements in PEERS.values() for requirement in requirements)
    assert default_folder().parts[-2:] == ("atomml", "peers")
