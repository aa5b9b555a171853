"""Other programs: the protocol of the script for GPAW and CP2K, and commands of a user.

Neither program is run here: a Python with a fake package of the same name speaks for GPAW, and a fake shell for CP2K.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, molecule

from atomml.errors import UnsupportedError
from atomml.labelling import LabellerConfig
from atomml.labelling.answers import LabelFailureError
from atomml.labelling.programs import external_labels, process_labels

GPAW = '''
"""Speaks like GPAW: its interface, with the numbers of EMT."""
import json, os
from ase.calculators.emt import EMT
__version__ = "26.7.0"
class KohnShamConvergenceError(Exception): pass
class GPAW(EMT):
    def __init__(self, **keywords):
        super().__init__()
        with open(os.environ["KEYWORDS"], "w") as file:
            json.dump(keywords, file)
    def calculate(self, atoms=None, *args, **kwargs):
        if len(atoms) == 3:
            raise KohnShamConvergenceError("Did not converge!")
        super().calculate(atoms, *args, **kwargs)
'''
MPI = "class world: rank = 0"
CP2K = """#!{python}
import sys
n = 0
def say(*words):
    print(*words, flush=True)
say("* CP2K Shell Version: 7.1")
say("* READY")
while True:
    line = sys.stdin.readline().split()
    if not line or line[0] == "EXIT":
        break
    if line[0] == "VERSION":
        say("CP2K Shell Version: 7.1")
    elif line[0] == "WRITE_FILE":
        while sys.stdin.readline().strip() != "*END":
            pass
    elif line[0] == "LOAD":
        open(line[2], "w").write("SCF run NOT converged" if "{scf}" == "bad" else "converged")
        say("1")
    elif line[0] == "SET_POS":
        n = int(sys.stdin.readline())
        while sys.stdin.readline().strip() != "*END":
            pass
        say("0.1")
    elif line[0] == "SET_CELL":
        sys.stdin.readline(); sys.stdin.readline(); sys.stdin.readline()
    elif line[0] == "GET_E":
        say("-12.5")
    elif line[0] == "GET_F":
        say(n)
        for k in range(n // 3):
            say("0.0 0.0", 0.5 * (-1) ** k)
        say("* END")
    elif line[0] == "GET_STRESS":
        say("0.0 " * 9)
    say("* READY")
"""


def settings(**keys):
    return LabellerConfig(calculator=keys).calculator


@pytest.fixture
def gpaw(tmp_path):
    """Settings of a Python that has the fake package."""
    package = tmp_path / "site" / "gpaw"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(GPAW)
    (package / "mpi.py").write_text(MPI)
    environment = {"PYTHONPATH": str(package.parent), "KEYWORDS": str(tmp_path / "keywords.json")}
    return {"kind": "gpaw", "command": [sys.executable], "environment": environment}


def test_gpaw_is_asked_by_its_own_python_and_answers_in_json(gpaw, tmp_path):
    from ase.calculators.emt import EMT

    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=0)
    labels = external_labels(
        atoms, settings(**gpaw, xc="RPBE", options={"convergence": {"energy": 1e-6}}), tmp_path
    )
    atoms.calc = EMT()
    assert labels.energy == atoms.get_potential_energy()
    assert np.allclose(labels.forces, atoms.get_forces(), atol=1e-15)
    assert np.allclose(labels.stress, atoms.get_stress(voigt=False), atol=1e-15)
    assert labels.version == "gpaw 26.7.0"
    keywords = json.loads((tmp_path / "keywords.json").read_text())
    assert keywords["xc"] == "RPBE"
    assert keywords["mode"] == {"name": "pw", "ecut": 400.0}
    assert keywords["convergence"] == {"energy": 1e-6}
    assert "gpaw" not in sys.modules


def test_gpaw_that_does_not_converge_is_that_failure(gpaw, tmp_path):
    with pytest.raises(LabelFailureError, match="Did not converge") as error:
        external_labels(bulk("Cu") * (3, 1, 1), settings(**gpaw), tmp_path)
    assert error.value.kind == "not_converged"


def test_a_python_without_gpaw_says_how_to_get_it(tmp_path):
    with pytest.raises(UnsupportedError, match="pip install gpaw"):
        external_labels(bulk("Cu"), settings(kind="gpaw", command=[sys.executable]), tmp_path)


def test_a_program_that_ends_without_an_answer_is_an_error(tmp_path):
    config = settings(kind="gpaw", command=["sh", "-c", "echo out of luck >&2; exit 5"])
    with pytest.raises(LabelFailureError, match="out of luck") as error:
        external_labels(bulk("Cu"), config, tmp_path)
    assert error.value.kind == "error"


@pytest.fixture
def cp2k(tmp_path):
    """Settings of the fake shell."""

    def make(scf):
        shell = tmp_path / "cp2k_shell"
        shell.write_text(CP2K.format(python=sys.executable, scf=scf))
        shell.chmod(0o755)
        return settings(kind="cp2k", command=[sys.executable], shell=str(shell))

    return make


def test_cp2k_is_asked_through_its_shell(cp2k, tmp_path):
    labels = external_labels(molecule("H2"), cp2k("good"), tmp_path)
    assert labels.energy == -12.5
    assert np.allclose(labels.forces, [[0, 0, 0.5], [0, 0, -0.5]])
    assert labels.stress is None
    assert labels.version == "cp2k shell 7.1"


def test_cp2k_that_goes_on_without_convergence_is_noticed(cp2k, tmp_path):
    with pytest.raises(LabelFailureError, match="NOT converged") as error:
        external_labels(molecule("H2"), cp2k("bad"), tmp_path)
    assert error.value.kind == "not_converged"


def test_a_missing_cp2k_says_how_to_get_it(tmp_path):
    config = settings(kind="cp2k", command=[sys.executable], shell="no_such_cp2k")
    with pytest.raises(UnsupportedError, match="apt-get install -y cp2k"):
        external_labels(molecule("H2"), config, tmp_path)


COMMAND = """
import sys
head, comment, *rows = open(sys.argv[1]).read().splitlines()
energy, force, shift = "-1.5", "0.25", 0.0
{change}
comment = comment.replace("pos:R:3", "pos:R:3:forces:R:3") + f' energy={{energy}} stress="1 0 0 0 2 0 0 0 3"'
words = [row.split() for row in rows]
rows = [" ".join([w[0], w[1], w[2], str(float(w[3]) + shift), "0", "0", force]) for w in words]
open(sys.argv[2], "w").write("\\n".join([head, comment, *rows]) + "\\n")
"""


def run(folder, change=""):
    script = folder / "command.py"
    script.write_text(COMMAND.format(change=change))
    own = folder / "own"
    own.mkdir()
    words = [sys.executable, "-S", str(script), "{input}", "{output}"]
    return process_labels(bulk("Cu", cubic=True), settings(kind="process", command=words), own)


def test_a_command_labels_through_extended_xyz(tmp_path):
    labels = run(tmp_path)
    assert labels.energy == -1.5
    assert labels.forces.tolist() == [[0, 0, 0.25]] * 4
    assert np.array_equal(labels.stress, np.diag([1.0, 2.0, 3.0]))


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ("sys.exit(3)", "not_converged", "exit status 3"),
        ("print('no such element', file=sys.stderr); sys.exit(4)", "unsupported", "no such element"),
        ("raise ValueError('broken')", "error", "ValueError: broken"),
        ("head, rows = '2', rows[:2]", "error", "other atoms"),
        ("shift = 0.1", "error", "other positions"),
        ("open(sys.argv[2], 'w').write('rubbish'); sys.exit(0)", "error", "cannot be read"),
        ("force = 'nan'", "not_finite", "NaN"),
        ("sys.exit(0)", "error", "no output file"),
    ],
)
def test_a_command_that_fails_is_a_failure_of_its_kind(tmp_path, change, kind, words):
    with pytest.raises(LabelFailureError, match=words) as error:
        run(tmp_path, change)
    assert error.value.kind == kind


def test_files_of_a_command_are_found_beside_the_configuration(tmp_path):
    from atomml.labelling.identity import labeller_identity, located_labeller

    (tmp_path / "label.py").touch()
    labeller = LabellerConfig(calculator={"kind": "process", "command": ["python3", "label.py", "{input}"]})
    located = located_labeller(labeller, tmp_path)
    assert located.calculator.command == ["python3", str(Path(tmp_path / "label.py")), "{input}"]
    assert labeller_identity(located.calculator) == labeller_identity(labeller.calculator)
