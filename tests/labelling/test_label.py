"""Labels: right, once each, kept at once; every kind of failure stays with its structure or stops in time."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.stress import full_3x3_to_voigt_6_stress

from atomml.datasets import pack_frames
from atomml.errors import ConfigError, DataError, SimulationError, UnsupportedError
from atomml.labelling import LabelCache, LabellerConfig, label_structures
from atomml.labelling.outcome import ADVICE, FINAL, RETRIED
from tests.labelling.oracles import HOW

EMT_LABELLER = LabellerConfig(calculator={"kind": "emt"})


def test_labels_are_those_of_the_calculator_and_fit_a_store(executor, copper):
    structures = [*copper(2), molecule("H2O")]
    structures[1].set_constraint(FixAtoms([0]))
    out = label_structures(structures, EMT_LABELLER, executor=executor)
    for atoms, outcome in zip(structures, out, strict=True):
        direct = atoms.copy()
        direct.calc = EMT()
        assert outcome.failure is None
        assert outcome.attempts == 1
        assert not outcome.cached
        frame = outcome.frame
        assert frame.energy == direct.get_potential_energy()
        assert np.array_equal(frame.forces, direct.get_forces(apply_constraint=False))
        assert frame.tags["labeller"].startswith("emt ")
        assert frame.tags["labeller_version"]
        assert 0 < frame.tags["label_seconds"] == outcome.seconds
        assert frame.tags["label_host"]
    assert np.allclose(full_3x3_to_voigt_6_stress(out[0].frame.stress), _stress(structures[0]), atol=1e-15)
    assert out[2].frame.stress is None
    assert out[1].frame.fixed.tolist() == [True, False, False, False]
    store = pack_frames([o.frame for o in out], {}, where="labels")
    assert store.label_counts() == {"energy": 3, "forces": 3, "stress": 2}


def _stress(atoms):
    atoms = atoms.copy()
    atoms.calc = EMT()
    return atoms.get_stress()


def test_each_label_is_on_the_disk_before_it_is_told_and_computed_once(executor, copper, oracle, tmp_path):
    log = tmp_path / "log"
    labeller = oracle("slow", {"seconds": 0.0, "log": str(log)})
    structures = copper(3)
    structures.append(structures[0].copy())
    told = []

    def hear(index, outcome):
        lines = (tmp_path / "cache" / "labels.jsonl").read_text().splitlines()
        assert any(outcome.key in line for line in lines)
        told.append((index, outcome.cached))

    with LabelCache(tmp_path / "cache") as cache:
        first = label_structures(structures, labeller, cache=cache, executor=executor, on_outcome=hear)
        assert sorted(told) == [(0, False), (1, False), (2, False), (3, True)]
        told.clear()
        second = label_structures(structures, labeller, cache=cache, executor=executor, on_outcome=hear)
    assert sorted(told) == [(0, True), (1, True), (2, True), (3, True)]
    assert len(log.read_text().splitlines()) == 3
    for a, b in zip(first, second, strict=True):
        assert a.key == b.key
        assert np.array_equal(a.frame.forces, b.frame.forces)
        assert a.frame.tags == b.frame.tags


def test_local_processes_label_and_are_gone_afterwards(copper, oracle, tmp_path):
    log = tmp_path / "log"
    labeller = oracle("slow", {"seconds": 0.0, "log": str(log)}, workers=2)
    out = label_structures(copper(3), labeller)
    assert [o.failure for o in out] == [None] * 3
    assert [o.frame.id for o in out] == [o.key for o in out]


def test_every_kind_of_failure_stays_with_its_structure(executor, oracle, tmp_path):
    labeller = oracle("bad", timeout=4.0, retries=0, max_failures=1.0)
    elements = ["Ar", *HOW]
    structures = [Atoms(e, positions=[[0, 0, 0]]) for e in elements]
    structures += [Atoms(), Atoms("X"), Atoms("Ar", positions=[[np.nan, 0, 0]])]
    structures += [Atoms("Ar", info={"charge": 0.5})]
    with LabelCache(tmp_path) as cache:
        out = label_structures(structures, labeller, cache=cache, executor=executor)
        kept = [o.key in cache for o in out]
    found = dict(zip(elements, out, strict=False))
    assert found["Ar"].failure is None
    assert found["H"].failure == "error"
    assert found["H"].message == "ValueError: something unforeseen"
    assert found["He"].failure == found["F"].failure == "not_finite"
    assert found["Li"].failure == "error"
    assert found["Li"].message == "the forces have shape (1, 4), not (1, 3)"
    for hanging in (found["Be"], found["B"]):
        assert hanging.failure == "timeout"
        assert 4.0 <= hanging.seconds < 30.0
    assert found["C"].failure == found["Ne"].failure == "died"
    assert "SIGKILL" in found["C"].message
    assert "SIGSEGV" in found["Ne"].message
    assert found["N"].failure == "unsupported"
    assert found["O"].failure == "not_converged"
    assert [o.failure for o in out[-4:]] == ["unsupported"] * 4
    assert [o.attempts for o in out[-4:]] == [0] * 4
    assert "charge" in out[-1].message
    assert kept == [o.failure is None or o.failure in FINAL for o in out]
    assert {o.failure for o in out} - {None} == set(ADVICE)


def test_a_process_that_died_is_tried_again(executor, copper, oracle, tmp_path):
    labeller = oracle("recovering", {"flag": str(tmp_path / "flag")}, retries=1)
    (out,) = label_structures(copper(1), labeller, executor=executor)
    assert out.failure is None
    assert out.attempts == 2
    assert "timeout" not in RETRIED


def test_labelling_stops_at_too_many_failures_and_keeps_what_was_done(executor, oracle, tmp_path):
    labeller = oracle("bad", retries=0)
    good = [Atoms("Ar", positions=[[0, 0, 0.1 * k]]) for k in range(2)]
    bad = [Atoms("O", positions=[[0, 0, 0.1 * k]]) for k in range(40)]
    with LabelCache(tmp_path) as cache:
        with pytest.raises(SimulationError, match=r"'not_converged': RuntimeError: SCF") as error:
            label_structures([*good, *bad], labeller, cache=cache, executor=executor)
        assert 5 <= len(cache) < 30
        assert all(o.failure is None for o in label_structures(good, labeller, cache=cache))
    assert ADVICE["not_converged"] in str(error.value)


@pytest.mark.parametrize(
    ("calculator", "kind", "words"),
    [
        ({"kind": "import", "target": "no_such_module:make"}, ConfigError, "cannot be imported"),
        (
            {"kind": "import", "target": "tests.labelling.oracles:nothing"},
            ConfigError,
            "not an ASE calculator",
        ),
        ({"kind": "atomml", "model": "no_such_model.safetensors"}, ConfigError, "no such model"),
        ({"kind": "gpaw", "command": ["/no/such/python"]}, UnsupportedError, "apt-get install"),
        ({"kind": "process", "command": ["/no/such", "{input}"]}, UnsupportedError, "cannot be started"),
    ],
)
def test_what_cannot_be_set_up_is_an_error_at_once(executor, copper, tmp_path, calculator, kind, words):
    with LabelCache(tmp_path) as cache:
        with pytest.raises(kind, match=words):
            label_structures(copper(1), LabellerConfig(calculator=calculator), cache=cache, executor=executor)
        assert len(cache) == 0


def test_what_the_listener_raises_ends_the_labelling(executor, copper):
    def refuse(index, outcome):
        raise DataError("Enough.")

    with pytest.raises(DataError, match="Enough"):
        label_structures(copper(3), EMT_LABELLER, executor=executor, on_outcome=refuse)


def test_nothing_to_label_starts_nothing():
    assert label_structures([], EMT_LABELLER) == []
