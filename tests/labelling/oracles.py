"""Reference calculators that behave badly on purpose; the element of the first atom says how."""

import ctypes
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT

from atomml.errors import UnsupportedError

HOW = {
    "H": "raise",
    "He": "nan",
    "Li": "shape",
    "Be": "sleep",
    "B": "compiled",
    "C": "die",
    "N": "unsupported",
    "O": "converge",
    "F": "infinite energy",
    "Ne": "segfault",
}


class Oracle(Calculator):
    """A constant energy, or what the first atom asks for."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        n = len(atoms)
        self.results = {"energy": 1.0 * n, "forces": np.zeros((n, 3))}
        match HOW.get(atoms.get_chemical_symbols()[0]):
            case "raise":
                raise ValueError("something\nunforeseen")
            case "nan":
                self.results["forces"][0, 0] = np.nan
            case "shape":
                self.results["forces"] = np.zeros((n, 4))
            case "sleep":
                subprocess.run(["sleep", "60"])
            case "compiled":
                ctypes.PyDLL(None).sleep(60)  # holds Python's lock
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "unsupported":
                raise UnsupportedError("No such element.")
            case "converge":
                raise RuntimeError("SCF not converged in 250 cycles")
            case "infinite energy":
                self.results["energy"] = np.inf
            case "segfault":
                ctypes.string_at(0)


class Slow(EMT):
    """EMT that takes a while and writes down that it was asked."""

    def __init__(self, seconds, log):
        super().__init__()
        self.seconds, self.log = seconds, Path(log)

    def calculate(self, *args, **kwargs):
        with self.log.open("a") as file:
            file.write(f"{os.getppid()}\n")
        time.sleep(self.seconds)
        super().calculate(*args, **kwargs)


class Recovering(EMT):
    """Dies at the first attempt."""

    def __init__(self, flag):
        super().__init__()
        self.flag = Path(flag)

    def calculate(self, *args, **kwargs):
        if not self.flag.exists():
            self.flag.touch()
            os._exit(7)
        super().calculate(*args, **kwargs)


def bad():
    return Oracle()


def slow(seconds, log):
    return Slow(seconds, log)


def recovering(flag):
    return Recovering(flag)


def nothing():
    return None
