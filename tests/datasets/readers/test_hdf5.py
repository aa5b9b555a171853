import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator

from atomml.datasets.readers import read_frames
from atomml.datasets.readers.hdf5 import configurations, safe
from atomml.datasets.readers.hdf5 import molecules as spice
from atomml.datasets.readers.hdf5.configurations import MACE_READER, MLIP_READER
from atomml.datasets.readers.hdf5.molecules import SPICE_READER
from atomml.errors import DataError, UnsupportedError
from tests.datasets.readers.halides import KBAR, assert_same, halides

h5py = pytest.importorskip("h5py")
READERS = (SPICE_READER, MACE_READER, MLIP_READER)
FREE_ATOMS = {
    1: -0.49876,
    6: -37.87265,
    8: -75.11318,
    15: -341.30592,
    16: -398.15996,
}  # Hartree, ωB97M-D3(BJ)/def2-TZVPPD, of SPICE


def molecules(n=7):
    """Halides without cell: one composition, as the conformations of one molecule."""
    made = []
    for crystal in halides(n):
        atoms = Atoms(crystal.get_chemical_symbols(), crystal.positions)
        labels = {"energy": crystal.get_potential_energy(), "forces": crystal.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        made.append(atoms)
    return made


def recognised_by(path):
    return [reader.name for reader in READERS if reader.recognises(path)]


# --- SPICE ------------------------------------------------------------------------------------------------


def write_spice(path, groups, *, length=units.Bohr, energy=units.Hartree, stated=True, **more):
    with h5py.File(path, "w") as file:
        for name, frames in groups.items():
            group = file.create_group(name)
            group.create_dataset("subset", data=["Halides"], dtype=h5py.string_dtype())
            group.create_dataset("smiles", data=["[Li]Cl"], dtype=h5py.string_dtype())
            group["atomic_numbers"] = frames[0].numbers.astype(np.int16)
            group["conformations"] = np.stack([a.positions for a in frames]) / length
            group["dft_total_energy"] = np.array([a.get_potential_energy() for a in frames]) / energy
            group["formation_energy"] = group["dft_total_energy"][()] + 1.0
            group["dft_total_gradient"] = -np.stack([a.get_forces() for a in frames]) * (length / energy)
            group["mbis_charges"] = np.zeros((len(frames), len(frames[0]), 1))
            if stated:
                group["conformations"].attrs["units"] = "bohr"
                group["dft_total_energy"].attrs["units"] = "hartree"
                group["dft_total_gradient"].attrs["units"] = "hartree/bohr"
                group["formation_energy"].attrs["units"] = "hartree"
    return path


@pytest.mark.parametrize("stated", [True, False])
def test_spice_in_atomic_units_comes_back_as_ev_and_angstrom(tmp_path, stated):
    path = write_spice(tmp_path / "SPICE.hdf5", {"b": molecules(4), "a": molecules(7)[4:]}, stated=stated)
    assert recognised_by(path) == ["spice"]
    store = read_frames(path, SPICE_READER)
    assert_same(store, molecules(7)[4:] + molecules(4), stress=False)  # by the names of the groups
    assert list(store.ids)[:4] == ["a/0", "a/1", "a/2", "b/0"]
    assert store.tags_of(0) == {"molecule": "a", "subset": "Halides", "smiles": "[Li]Cl"}
    assert store.info["not_read"] == {"formation_energy": 2, "mbis_charges": 2}
    assert store.info["stated"]["length_unit"] == "Bohr"


def test_the_attribute_units_is_obeyed(tmp_path):
    path = write_spice(tmp_path / "s.hdf5", {"a": molecules(2)}, length=1.0, energy=1.0)
    with h5py.File(path, "a") as file:
        for name, unit in (
            ("conformations", "angstrom"),
            ("dft_total_energy", "eV"),
            ("dft_total_gradient", "eV/angstrom"),
        ):
            file["a"][name].attrs["units"] = unit
    assert_same(read_frames(path, SPICE_READER), molecules(2), stress=False)
    for unit in ("furlong", "hartree/bohr"):
        with h5py.File(path, "a") as file:
            file["a/dft_total_gradient"].attrs["units"] = unit
        with pytest.raises(DataError, match="do not go together"):
            read_frames(path, SPICE_READER)


def test_formation_energies_can_be_read_instead(tmp_path):
    path = write_spice(tmp_path / "s.hdf5", {"a": molecules(3)})
    store = read_frames(path, SPICE_READER, energy_key="formation_energy")
    energies = [a.get_potential_energy() + units.Hartree for a in molecules(3)]
    np.testing.assert_allclose(store.energy, energies, rtol=1e-13)


def test_pieces_of_spice_are_whole_molecules(tmp_path, monkeypatch):
    groups = {f"m{k}": molecules(7)[:k] for k in range(1, 7)}
    path = write_spice(tmp_path / "s.hdf5", groups)
    whole = read_frames(path, SPICE_READER)
    monkeypatch.setattr(spice, "PIECE_FRAMES", 5)
    cut = SPICE_READER.pieces([path], SPICE_READER.options())
    assert [(p.start, p.stop, p.first) for p in cut] == [(0, 3, 0), (3, 5, 6), (5, 6, 15)]
    assert read_frames(path, SPICE_READER).fingerprint() == whole.fingerprint()


def test_a_conformation_that_cannot_be_used_is_named_or_skipped(tmp_path):
    path = write_spice(tmp_path / "s.hdf5", {"a": molecules(3)})
    with h5py.File(path, "a") as file:
        file["a/dft_total_energy"][1] = np.nan
    with pytest.raises(DataError, match="group a, conformation 1"):
        read_frames(path, SPICE_READER)
    store = read_frames(path, SPICE_READER, skip_bad=True)
    assert list(store.ids) == ["a/0", "a/2"]


# --- MACE -------------------------------------------------------------------------------------------------


def write_mace(path, frames, *, batch=0, old=False, virial=False, mode="w", **weights):
    """As ``save_configurations_as_HDF5`` of MACE lays it out; what is absent is the text "None"."""
    with h5py.File(path, mode) as file:
        group = file.create_group(f"config_batch_{batch}")
        for j, atoms in enumerate(frames):
            config = group.create_group(f"config_{j}")
            config["atomic_numbers"], config["positions"] = atoms.numbers, atoms.positions
            config["cell"], config["pbc"] = atoms.cell.array, atoms.pbc
            config["weight"], config["config_type"] = 1.0, "md"
            stress = atoms.get_stress(voigt=False) if atoms.pbc.all() else None
            labels = {
                "energy": atoms.get_potential_energy(),
                "forces": atoms.get_forces(),
                "stress": None if virial else stress,
                "virials": -atoms.get_volume() * stress if virial else None,
                "dipole": None,
                "charges": np.zeros(len(atoms)),
                "head": "Default",
            }
            target = config if old else config.create_group("properties")
            for name, value in labels.items():
                target[name] = "None" if value is None else value
            where = config if old else config.create_group("property_weights")
            for name in ("energy", "forces", "stress", "virials"):
                where[f"{name}_weight" if old else name] = weights.get(name, 1.0)
    return path


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("virial", [True, False])
def test_a_shard_of_mace_comes_back(tmp_path, old, virial):
    path = write_mace(tmp_path / "train_0.h5", halides(12), old=old, virial=virial)
    assert recognised_by(path) == ["mace-hdf5"]
    store = read_frames(path, MACE_READER)
    assert_same(store, halides(12))  # config_10 comes after config_9
    assert store.tags_of(0) == {"config_type": "md", "head": "Default", "weight": 1.0}
    assert store.info["labels"]["stress"] == {"key": "stress or virials", "found": 12, "of": 12}
    assert store.info["not_read"] == {"charges": 12}


def test_molecules_and_batches_of_mace(tmp_path, monkeypatch):
    path = write_mace(tmp_path / "t.h5", molecules(2), batch=0)
    for batch in (1, 10, 2):
        write_mace(path, halides(3, start=batch), batch=batch, mode="a")
    frames = [*molecules(2), *halides(3, start=1), *halides(3, start=2), *halides(3, start=10)]
    store = read_frames(path, MACE_READER)
    np.testing.assert_array_equal(store.energy, [a.get_potential_energy() for a in frames])
    assert store.pbc.any(axis=1).tolist() == [False] * 2 + [True] * 9
    monkeypatch.setattr(configurations, "PIECE_FRAMES", 2)
    cut = MACE_READER.pieces([path], MACE_READER.options())
    assert [(p.member, p.start, p.stop, p.first) for p in cut][:3] == [
        ("config_batch_0", 0, 2, 0),
        ("config_batch_1", 0, 2, 2),
        ("config_batch_1", 2, 3, 4),
    ]
    assert read_frames(path, MACE_READER).fingerprint() == store.fingerprint()


def test_labels_of_weight_zero_are_not_read_and_counted(tmp_path):
    path = write_mace(tmp_path / "t.h5", halides(3), stress=0.0)
    store = read_frames(path, MACE_READER)
    assert_same(store, halides(3), stress=False)
    assert store.info["not_read"] == {"stress of weight 0": 3, "charges": 3}


def test_other_units_and_signs_can_be_stated(tmp_path):
    frames = []
    for crystal in halides(3):
        atoms = Atoms(
            crystal.numbers, crystal.positions / units.Bohr, cell=crystal.cell / units.Bohr, pbc=True
        )
        labels = {
            "energy": crystal.get_potential_energy() / units.Hartree,
            "forces": crystal.get_forces() * units.Bohr / units.Hartree,
            "stress": -crystal.get_stress() / KBAR,
        }
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    path = write_mace(tmp_path / "t.h5", frames)
    stated = {
        "energy_unit": "Hartree",
        "length_unit": "Bohr",
        "stress_unit": "kbar",
        "stress_sign": "pressure",
    }
    store = read_frames(path, MACE_READER, **stated)
    assert_same(store, halides(3))
    assert store.info["stated"] == stated


def test_a_missing_structure_is_named(tmp_path):
    path = write_mace(tmp_path / "t.h5", halides(3))
    with h5py.File(path, "a") as file:
        del file["config_batch_0/config_1"]
    with pytest.raises(DataError, match="no group 'config_1'"):
        read_frames(path, MACE_READER)


# --- mlip -------------------------------------------------------------------------------------------------


def test_the_published_groups_are_read_exactly(shared_data):
    path = shared_data / "format_fixtures/spice2-1000_429_md_0-1.hdf5"
    assert recognised_by(path) == ["mlip-hdf5"]
    store = read_frames(path, MLIP_READER)
    with h5py.File(path) as file:
        assert list(store.ids) == list(file) == ["spice2-1000_429_md_0", "spice2-1000_429_md_1"]
        for k, group in enumerate(file.values()):
            part = store.atoms_of(k)
            np.testing.assert_array_equal(store.numbers[part], group["elements"])
            np.testing.assert_array_equal(store.positions[part], group["positions"])
            np.testing.assert_array_equal(store.forces[part], group["forces"])
            assert store.energy[k] == group.attrs["energy"]
    assert store.tags_of(0) == {"charge": -2.0}
    assert store.info["not_read"] == {"atomic_charges": 2, "dipole": 2}


def test_the_published_energies_are_ev_and_the_lengths_angstrom(shared_data):
    store = read_frames(shared_data / "format_fixtures/spice2-1000_429_md_0-1.hdf5", MLIP_READER)
    free = sum(FREE_ATOMS[int(z)] for z in store.numbers[store.atoms_of(0)]) * units.Hartree
    assert -8 < (store.energy[0] - free) / store.n_atoms[0] < -2
    places = store.positions[store.atoms_of(0)]
    distances = np.linalg.norm(places[:, None] - places, axis=-1) + 9 * np.eye(len(places))
    assert 0.9 < distances.min() < 1.15  # a bond to hydrogen


def write_mlip(path, frames):
    with h5py.File(path, "w") as file:
        for k, atoms in enumerate(frames):
            group = file.create_group(f"entry_{k}")
            group.attrs["energy"] = atoms.get_potential_energy()
            group.attrs["source"] = "md"
            group["elements"], group["positions"] = atoms.numbers, atoms.positions
            group["forces"], group["cell"] = atoms.get_forces(), atoms.cell.array
            group["pbc"], group["stress"] = atoms.pbc, atoms.get_stress(voigt=False)
            group.create_group("extras")["x"] = 1
    return path


def test_the_layout_of_mlip_comes_back(tmp_path, monkeypatch):
    path = write_mlip(tmp_path / "m.h5", halides(9))
    store = read_frames(path, MLIP_READER)
    assert_same(store, halides(9))
    assert store.tags_of(3) == {"source": "md"}
    assert store.info["not_read"] == {"extras": 9}
    monkeypatch.setattr(configurations, "PIECE_FRAMES", 4)
    assert [p.first for p in MLIP_READER.pieces([path], MLIP_READER.options())] == [0, 4, 8]
    again = read_frames(path, MLIP_READER)
    assert again.fingerprint() == store.fingerprint()
    assert list(again.ids) == [f"entry_{k}" for k in range(9)]


# --- what is refused --------------------------------------------------------------------------------------


def replaced(group, name, data=None, **options):
    del group[name]
    if data is not None or options:
        group.create_dataset(name, data=data, **options)


def soft(group):
    del group["forces"]
    group["forces"] = h5py.SoftLink("/entry_1/forces")


def external(group):
    del group["forces"]
    group["forces"] = h5py.ExternalLink("other.h5", "/entry_1/forces")


def virtual(group):
    layout = h5py.VirtualLayout((16, 3), dtype="f8")
    layout[:] = h5py.VirtualSource("other.h5", "forces", (16, 3))
    del group["forces"]
    group.create_virtual_dataset("forces", layout)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (soft, "'forces' is a soft link"),
        (external, "'forces' is an external link"),
        (virtual, "'forces' lies in other files"),
        (
            lambda g: replaced(g, "forces", shape=(16, 3), dtype="f8", external=[("raw.bin", 0, 384)]),
            "'forces' lies in other files",
        ),
        (lambda g: replaced(g, "forces", shape=(3,), dtype=h5py.vlen_dtype(np.uint8)), "not one text"),
        (lambda g: replaced(g, "forces", ["a", "b"]), "not one text"),
        (lambda g: replaced(g, "forces", "zeros"), "type object, not numbers"),
        (lambda g: replaced(g, "forces", np.zeros(4, dtype=[("a", "f8")])), "not numbers"),
        (
            lambda g: replaced(g, "forces", shape=(1 << 36, 3), dtype="f8", chunks=(1024, 3)),
            "more than 1 GiB",
        ),
        (lambda g: replaced(g, "forces", h5py.Empty("f8")), "'forces' is empty"),
        (lambda g: (g.__delitem__("forces"), g.create_group("forces")), "'forces' is not a dataset"),
        (lambda g: replaced(g, "forces", np.zeros((15, 3))), "forces have shape"),
        (lambda g: replaced(g, "elements", np.full(16, 0.5)), "not atomic numbers"),
        (lambda g: replaced(g, "elements", np.zeros(16)), "unknown element"),
        (lambda g: g.__delitem__("positions"), "positions are missing"),
        (lambda g: g.attrs.__setitem__("energy", [1.0, 2.0]), "'energy' is not one number"),
        (lambda g: g.attrs.__setitem__("energy", np.nan), "NaN"),
        (lambda g: g.attrs.__setitem__("n_atoms", 3), "n_atoms is 3"),
        (lambda g: g.attrs.__setitem__("note", h5py.Empty("f8")), "not one number or text"),
    ],
)
def test_what_is_not_plain_numbers_of_this_file_is_refused_by_name(tmp_path, spoil, message):
    path = write_mlip(tmp_path / "m.h5", halides(3))
    with h5py.File(path, "a") as file:
        spoil(file["entry_0"])
    with pytest.raises(DataError, match=message) as error:
        read_frames(path, MLIP_READER)
    assert "entry_0" in str(error.value)


def test_filters_that_are_not_of_hdf5_itself_are_refused(tmp_path, monkeypatch):
    path = write_mlip(tmp_path / "m.h5", halides(2))
    with h5py.File(path, "a") as file:
        forces = file["entry_0/forces"][()]
        replaced(file["entry_0"], "forces", forces, compression="gzip", shuffle=True, fletcher32=True)
        replaced(file["entry_1"], "forces", file["entry_1/forces"][()], compression="lzf")
    assert_same(read_frames(path, MLIP_READER), halides(2))
    monkeypatch.setattr(safe, "FILTERS", {1, 2, 3})
    with pytest.raises(DataError, match="filter 32000"):
        read_frames(path, MLIP_READER)


@pytest.mark.parametrize("keep", [0, 8, 100, 2000, -200])
def test_truncated_files_are_refused(tmp_path, keep):
    path = write_mlip(tmp_path / "m.h5", halides(2))
    path.write_bytes(path.read_bytes()[:keep])
    assert recognised_by(path) == []
    with pytest.raises(DataError, match="HDF5 cannot read this file"):
        read_frames(path, MLIP_READER)


def test_a_group_that_is_a_link_elsewhere_is_refused(tmp_path):
    path = write_mlip(tmp_path / "m.h5", halides(1))
    with h5py.File(path, "a") as file:
        file["entry_1"] = h5py.ExternalLink("/etc/passwd", "/")
    with pytest.raises(DataError, match="external link"):
        read_frames(path, MLIP_READER)


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    path = write_mlip(tmp_path / "m.h5", halides(1))
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(UnsupportedError, match=r"atomml\[hdf5\]"):
        read_frames(path, MLIP_READER)
    (tmp_path / "no.h5").write_text("text")
    assert recognised_by(tmp_path / "no.h5") == []
    assert recognised_by(tmp_path) == []
