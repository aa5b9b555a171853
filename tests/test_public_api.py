import subprocess
import sys

import pytest
import torch

import atomml


def test_importing_atomml_is_light_and_changes_nothing():
    script = (
        "import sys, os; before = dict(os.environ); import atomml;"
        "heavy = [m for m in ('torch', 'ase', 'torch_geometric', 'matplotlib') if m in sys.modules];"
        "assert not heavy, heavy; assert dict(os.environ) == before"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_loading_everything_leaves_global_state_alone():
    script = (
        "import torch; before = (torch.get_default_dtype(), torch.get_num_threads(), torch.get_rng_state());"
        "import atomml; [getattr(atomml, name) for name in atomml.__all__];"
        "assert torch.get_default_dtype() == before[0]; assert torch.get_num_threads() == before[1];"
        "assert torch.equal(torch.get_rng_state(), before[2])"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("name", atomml.__all__)
def test_every_public_name_exists(name):
    assert getattr(atomml, name) is not None


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'unknown_name'"):
        atomml.unknown_name  # noqa: B018


def test_the_bundled_model_predicts_lithium_chloride():
    from ase.build import bulk

    potential = atomml.load("demo", dtype="float64")
    assert potential.dtype == torch.float64
    compressed, relaxed, expanded = (
        potential.predict(bulk("LiCl", "rocksalt", a))[0] for a in (4.9, 5.09, 5.3)
    )
    assert relaxed.energy < min(compressed.energy, expanded.energy)
    assert compressed.stress[0] < 0 < expanded.stress[0]
