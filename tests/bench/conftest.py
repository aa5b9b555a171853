"""Peers without their libraries: a program that speaks the protocol and claims to take a given time."""

import sys
from pathlib import Path

import pytest

from atomml.bench import models
from atomml.bench.process import PeerError

STUB = """
import json, sys

print("a library says hello while it is imported", flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if "prepare" in request:
        task = request["prepare"]
        speed = {"compiled": 1e-3, "plain": 4e-3}["compiled" if task["model"]["compiled"] else "plain"] * SPEED
        speed *= task["model"].get("channels", 64) / 64 / task["threads"]
        atoms = sum(len(s["numbers"]) for s in task["structures"])
        if task["model"].get("lmax") == 2 and SPEED > 1:
            reply = {"error": "ValueError: no such degree"}
        else:
            facts = {"atoms": atoms, "neighbors": 28.0, "parameters": 1, "versions": {"NAME": "1.0"}}
            reply = {"facts": facts | ({"engine": "native"} if SPEED == 1 else {})}
    elif "time" in request:
        n = request["time"]
        reply = {"seconds": n * speed * atoms, "parts": {"neighbor list and input": 0.25 * n * speed * atoms}}
    else:
        reply = {"peak_bytes": 1000000 * atoms}
    print(json.dumps(reply), flush=True)
"""


@pytest.fixture
def stub_peers(tmp_path, monkeypatch):
    """Programs of ours and of two peers: mace takes ten times as long and knows no L = 2, nequip is missing."""
    for name, speed in (("tdn", 1), ("mace", 10)):
        (tmp_path / f"{name}_worker.py").write_text(STUB.replace("SPEED", str(speed)).replace("NAME", name))
    # the settings of the models of mace have no key "compiled"
    program = tmp_path / "mace_worker.py"
    program.write_text(program.read_text().replace('task["model"]["compiled"]', "True"))

    def environment(peer, folder, say=None):
        if peer == "nequip":
            raise PeerError("nequip cannot be installed.", where="no network")
        return Path(sys.executable)

    monkeypatch.setattr(models, "WORKERS", tmp_path)
    monkeypatch.setattr(models, "environment", environment)
    return tmp_path
