import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator

from atomml.datasets.readers import n2p2, read_frames
from atomml.datasets.readers.n2p2 import READER
from atomml.errors import ConfigError, DataError
from tests.datasets.readers.halides import assert_same, halides

ATOMIC = {"energy_unit": "Hartree", "length_unit": "Bohr"}


def block(atoms, *, energy=units.Hartree, length=units.Bohr, tab=" ", charge=0.0, comment="a frame"):
    """A structure of RuNNer in atomic units, to the last digit."""

    def line(*words):
        return tab.join(w if isinstance(w, str) else repr(float(w)) for w in words)

    lines = ["begin", f"comment {comment}"]
    lines += [line("lattice", *row) for row in atoms.cell.array / length] if atoms.pbc.any() else []
    forces = atoms.get_forces() * (length / energy)
    for place, symbol, force in zip(
        atoms.positions / length, atoms.get_chemical_symbols(), forces, strict=True
    ):
        lines.append(line("atom", *place, symbol, charge, 0.0, *force))
    lines += [line("energy", atoms.get_potential_energy() / energy), line("charge", 0.0), "end"]
    return "\n".join(lines) + "\n"


def write(path, *blocks):
    path.write_text("".join(blocks))
    return path


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "input.data", *(block(a, comment=f"frame {k}") for k, a in enumerate(halides(9))))


def test_atomic_units_come_back_as_ev_and_angstrom(file):
    store = read_frames(file, READER, **ATOMIC)
    assert_same(store, halides(9), stress=False)
    assert store.tags["comment"][3] == "frame 3"
    assert store.info["stated"] == ATOMIC
    assert store.info["not_read"] == {}
    assert store.info["labels"]["stress"]["key"] is None
    assert READER.recognises(file)


def test_units_have_to_be_stated(file):
    for options in ({}, {"energy_unit": "eV"}, {"length_unit": "Ang"}):
        with pytest.raises(DataError, match="does not say its units"):
            read_frames(file, READER, **options)
    with pytest.raises(ConfigError, match="energy_unit"):
        read_frames(file, READER, energy_unit="ev", length_unit="Ang")


@pytest.mark.parametrize("tab", ["\t", "   "])
def test_other_units_tabs_and_line_ends(tmp_path, tab):
    text = "".join(block(a, energy=1.0, length=10.0, tab=tab) for a in halides(3))
    path = tmp_path / "input.data"
    path.write_bytes(("\n" + text).replace("\n", "\r\n").encode())
    assert_same(read_frames(path, READER, energy_unit="eV", length_unit="nm"), halides(3), stress=False)


def test_pieces_begin_at_structures_wherever_the_bytes_are_cut(file, monkeypatch):
    whole = read_frames(file, READER, **ATOMIC)
    monkeypatch.setattr(n2p2, "PIECE_FRAMES", 4)
    for size in (7, 100, 1 << 20):
        monkeypatch.setattr(n2p2, "CHUNK", size)
        cut = READER.pieces([file, file], READER.options())
        assert [p.first for p in cut] == [0, 4, 8] * 2
        stores = [READER.read(p, READER.options(**ATOMIC)) for p in cut]
        assert [len(s) for s in stores] == [4, 4, 1] * 2
    assert read_frames(file, READER, **ATOMIC).fingerprint() == whole.fingerprint()


def test_molecules_and_charges(tmp_path):
    (crystal,) = halides(1)
    atoms = Atoms(crystal.get_chemical_symbols(), crystal.positions)
    labels = {"energy": crystal.get_potential_energy(), "forces": crystal.get_forces()}
    atoms.calc = SinglePointCalculator(atoms, **labels)
    path = write(tmp_path / "input.data", block(atoms, charge=0.5))
    store = read_frames(path, READER, **ATOMIC)
    assert not store.pbc.any()
    assert not store.cell.any()
    assert store.info["not_read"] == {"atom charges": 1}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("energy", "enthalpy", "'enthalpy' is not known"),
        ("\nend\n", "\n", "no `end`"),
        ("begin\n", "begin\nbegin\n", "not blocks"),
        ("\nend\n", "\nend\nend\n", "not blocks"),
        ("lattice", "comment lattice", "DID NOT"),
        ("atom ", "atom 1 ", "has 10 columns"),
        (" Li ", " Lx ", "'Lx' is not an element"),
        ("energy -", "energy --", "number cannot be read"),
        ("energy -", "energy 1 -", "energy is not one number"),
        ("energy -", "energy nan\ncomment ", "NaN"),
        ("lattice ", "lattice 1 ", "not three vectors"),
    ],
)
def test_damage_is_refused_with_the_number_of_the_structure(tmp_path, old, new, message):
    first, second = halides(2)
    spoiled = block(second).replace(old, new)
    path = write(tmp_path / "input.data", block(first), spoiled)
    if message == "DID NOT":  # a structure without a lattice is a molecule
        assert read_frames(path, READER, **ATOMIC).pbc.tolist() == [[True] * 3, [False] * 3]
        return
    with pytest.raises(DataError, match=message) as error:
        read_frames(path, READER, **ATOMIC)
    assert "structure " in str(error.value)


def test_structures_that_cannot_be_used_are_skipped_when_that_is_asked_for(tmp_path):
    first, second, third = halides(3)
    path = write(tmp_path / "input.data", block(first), block(second).replace("Li", "Lx"), block(third))
    store = read_frames(path, READER, skip_bad=True, **ATOMIC)
    assert_same(store, [first, third], stress=False)
    assert store.info["skipped"] == {
        "'Lx' is not an element.": {"frames": 1, "examples": [f"{path}, structure 1 (counting from 0)"]}
    }


def test_files_of_other_kinds_are_not_recognised(tmp_path):
    for name, text in (
        ("a.data", "LAMMPS data file\n\n2 atoms\n"),
        ("b.data", "begin\n"),
        ("c.txt", "begin atom"),
    ):
        assert not READER.recognises(write(tmp_path / name, text))
    with pytest.raises(DataError, match="no structure"):
        read_frames(write(tmp_path / "d.data", "\n\n"), READER, **ATOMIC)


def test_a_structure_without_an_energy_has_none(tmp_path):
    text = block(halides(1)[0]).replace("energy", "comment")
    store = read_frames(write(tmp_path / "input.data", text), READER, **ATOMIC)
    assert np.isnan(store.energy).all()
    assert store.label_counts() == {"energy": 0, "forces": 1, "stress": 0}
