import gzip
import json

import numpy as np
import pytest

from atomml.datasets.readers import read_frames
from atomml.datasets.readers.documents import files as json_files
from atomml.datasets.readers.documents import matpes
from atomml.datasets.readers.documents.mptrj import READER
from atomml.errors import ConfigError, DataError
from tests.datasets.readers.halides import KBAR, assert_same, halides, pymatgen_dict


def document(atoms):
    """A document of MPtrj_2022.9_full.json: kbar 3×3 in the sign that VASP prints."""
    energy = atoms.get_potential_energy()
    return {
        "structure": pymatgen_dict(atoms, pbc=None),
        "uncorrected_total_energy": energy,
        "corrected_total_energy": energy - 1.25,
        "energy_per_atom": energy / len(atoms),
        "ef_per_atom": -0.5,
        "force": atoms.get_forces().tolist(),
        "stress": (-atoms.get_stress(voigt=False) / KBAR).tolist(),
        "magmom": [0.0] * len(atoms),
        "bandgap": None,
    }


def grouped(frames):
    """Trajectories of three frames, two to a material."""
    groups = {}
    for k, atoms in enumerate(frames):
        material = f"mp-{k // 6 + 1}"
        groups.setdefault(material, {})[f"{material}-{k // 3 % 2}-{k % 3}"] = document(atoms)
    return groups


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("mptrj") / "MPtrj_2022.9_full.json"
    path.write_text(json.dumps(grouped(halides(20))))
    return path


def test_geometry_and_labels_come_back_in_the_units_and_sign_of_atomml(file):
    store = read_frames(file, READER)
    assert_same(store, halides(20))
    assert [store.ids[k] for k in (0, 4, 19)] == ["mp-1-0-0", "mp-1-1-1", "mp-4-0-1"]
    first = halides(1)[0].get_potential_energy()
    assert store.tags_of(4) == {
        "corrected_total_energy": pytest.approx(halides(20)[4].get_potential_energy() - 1.25),
        "energy_per_atom": pytest.approx(first / 16, abs=0.2),
        "ef_per_atom": -0.5,
        "mp_id": "mp-1",
        "traj": "mp-1-1",
        "step": 1,
    }
    assert store.info["not_read"] == {"magmom": 20}
    assert store.info["labels"]["energy"] == {"key": "uncorrected_total_energy", "found": 20, "of": 20}


def test_the_energy_that_is_learned_can_be_another(file):
    energies = np.array([a.get_potential_energy() for a in halides(20)])
    corrected = read_frames(file, READER, energy_key="corrected_total_energy")
    np.testing.assert_allclose(corrected.energy, energies - 1.25, rtol=1e-14)
    assert "corrected_total_energy" not in corrected.tags
    np.testing.assert_allclose(corrected.tags["uncorrected_total_energy"], energies)
    total = read_frames(file, READER, energy_key="energy_per_atom")
    np.testing.assert_allclose(total.energy, energies, rtol=1e-14)
    with pytest.raises(ConfigError, match="energy_key"):
        read_frames(file, READER, energy_key="energy")


def test_pieces_are_whole_materials_and_a_compressed_file_is_the_same(file, tmp_path, monkeypatch):
    whole = read_frames(file, READER)
    packed = tmp_path / "m.json.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    monkeypatch.setattr(json_files, "PIECE_FRAMES", 5)
    cut = READER.pieces([file], READER.options())
    stores = [READER.read(piece, READER.options()) for piece in cut]
    assert [sorted(set(s.tags["mp_id"])) for s in stores] == [["mp-1"], ["mp-2"], ["mp-3"], ["mp-4"]]
    assert read_frames(file, READER).fingerprint() == whole.fingerprint()
    assert read_frames(packed, READER).fingerprint() == whole.fingerprint()
    assert READER.recognises(file)
    assert READER.recognises(packed)
    assert not matpes.READER.recognises(file)


def test_a_bad_document_is_named_by_its_material_and_frame(tmp_path):
    groups = grouped(halides(4))
    groups["mp-1"]["mp-1-0-2"]["force"][3] = [1.0, 2.0]
    path = tmp_path / "m.json"
    path.write_text(json.dumps(groups))
    with pytest.raises(DataError, match=r"document 2 \(mp-1 mp-1-0-2\) at byte"):
        read_frames(path, READER)
    store = read_frames(path, READER, skip_bad=True)
    assert_same(store, [a for k, a in enumerate(halides(4)) if k != 2])


def test_a_frame_id_without_numbers_is_a_trajectory_of_its_own(tmp_path):
    path = tmp_path / "m.json"
    path.write_text(json.dumps({"mp-9": {"relaxed": document(halides(1)[0])}, "mp-10": {}}))
    store = read_frames(path, READER)
    assert store.ids[0] == store.tags["traj"][0] == "relaxed"
    assert store.tags["mp_id"][0] == "mp-9"
