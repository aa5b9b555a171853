"""The equivariant network: its symmetries, what a displacement is, that padding is nothing, and that it learns."""

import csv
import math

import pytest
import torch
from ase.io import write
from scipy.stats import special_ortho_group

from atomml.crystals.circle import wrap
from atomml.crystals.config import CrystalModelConfig, EquivariantConfig
from atomml.crystals.equivariant import EquivariantNet, all_pairs, pair_harmonics
from atomml.crystals.model import Constraint, CrystalModel
from atomml.crystals.model_file import load_crystal_model, save_crystal_model
from atomml.crystals.network import NetworkInput
from atomml.crystals.train import train_crystals
from tests.crystals.models import ELEMENTS, batch_of, salts
from tests.crystals.test_network import K, beliefs
from tests.crystals.test_train import settings_for

SMALL = {"hidden": 12, "layers": 2, "frequencies": 4, "radial_basis": 3, "time_channels": 8}


@pytest.fixture(
    name="net",
    scope="module",
    params=[(2, "shared"), (2, "per_l2"), (1, "shared")],
    ids=lambda p: f"{p[1]}{p[0]}",
)
def _net(request):
    torch.manual_seed(1)
    lmax, path_weights = request.param
    return EquivariantNet(EquivariantConfig(**SMALL, lmax=lmax, path_weights=path_weights), K).double()


def same(a, b, mask=None, atol=1e-9):
    a, b = (a, b) if mask is None else (a[mask], b[mask])
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def turned(seed, mirror):
    return torch.from_numpy(special_ortho_group.rvs(3, random_state=seed)) * mirror


def test_coordinates_move_with_every_translation(net):
    x = beliefs()
    shift = torch.tensor([[0.3, -2.0, 3.0], [1.0, 2.0, 9.0], [0.0, 0.1, 0.0], [5.0, 0.0, 1.0]]).double()
    out, moved = net(x), net(x._replace(mean=wrap(x.mean + shift[:, None])))
    same(wrap(moved.angles - out.angles - shift[:, None]), 0 * out.angles, x.mask)
    same(moved.lattice, out.lattice)
    same(moved.logits, out.logits)


@pytest.mark.parametrize("mirror", [1.0, -1.0])
def test_the_lattice_turns_with_its_belief_and_nothing_else_does(net, mirror):
    x, rotation = beliefs(), turned(3, mirror)
    out, other = net(x), net(x._replace(lattice=x.lattice @ rotation))
    same(other.lattice, out.lattice @ rotation)
    same(other.angles, out.angles, x.mask)
    same(other.logits, out.logits)


def test_the_order_of_the_atoms_does_not_matter(net):
    x = beliefs(sizes=(5, 5, 5, 5))
    order = torch.tensor([3, 0, 4, 1, 2])
    per_atom = {name: getattr(x, name)[:, order] for name in ("types", "mean", "feature", "mask")}
    out, other = net(x), net(x._replace(**per_atom))
    same(other.angles, out.angles[:, order])
    same(other.logits, out.logits[:, order])
    same(other.lattice, out.lattice)


def test_padding_is_nothing_and_crystals_do_not_see_each_other(net):
    x, noise = beliefs(), beliefs(seed=9)
    mask = x.mask[..., None]
    filled = {n: torch.where(mask, getattr(x, n), getattr(noise, n)) for n in ("types", "mean", "feature")}
    out, noisy = net(x), net(x._replace(**filled))
    same(noisy.angles, out.angles, x.mask, atol=0)
    same(noisy.lattice, out.lattice, atol=0)
    for k, n in enumerate((5, 3, 1, 4)):  # one atom alone, too
        rows = x._asdict() | {name: getattr(x, name)[:, :n] for name in ("types", "mean", "feature", "mask")}
        single = net(NetworkInput(**{name: None if v is None else v[k : k + 1] for name, v in rows.items()}))
        same(single.angles[0], out.angles[k, :n])
        same(single.lattice[0], out.lattice[k])
        same(single.logits[0], out.logits[k, :n])


def test_nothing_happens_where_an_atom_crosses_the_cell(net):
    x = beliefs()
    around, before, after = x.mean.clone(), x.mean.clone(), x.mean.clone()
    around[0, 1, 2] += 2 * math.pi
    out, other = net(x), net(x._replace(mean=around))
    same(other.lattice, out.lattice)
    same(wrap(other.angles - out.angles), 0 * out.angles, x.mask)
    before[0, 1, 2], after[0, 1, 2] = math.pi - 1e-7, -math.pi + 1e-7
    left, right = net(x._replace(mean=before)), net(x._replace(mean=after))
    same(left.lattice, right.lattice, atol=1e-5)
    same(wrap(left.angles - right.angles), 0 * left.angles, x.mask, atol=1e-5)


def test_a_lattice_of_which_nothing_is_known_is_expected_to_be_nothing(net):
    x = beliefs()
    out = net(x._replace(lattice=0 * x.lattice))
    assert torch.isfinite(out.angles).all()
    same(out.lattice, 0 * out.lattice, atol=1e-12)


def test_what_is_expected_depends_on_everything(net):
    x, noise = beliefs(), beliefs(seed=5)
    condition = torch.linspace(-1, 1, SMALL["hidden"], dtype=torch.float64).expand(4, -1)
    changed = [x._replace(**{n: getattr(noise, n)}) for n in ("types", "mean", "feature", "lattice", "time")]
    out = net(x)
    for other in (*changed, x._replace(condition=condition)):
        found = net(other)
        assert (found.lattice - out.lattice)[0].abs().min() > 1e-6
        assert wrap(found.angles - other.mean - out.angles + x.mean)[0].abs().min() > 1e-6


def test_every_weight_has_a_gradient_and_single_precision_is_close(net):
    x = beliefs()
    out = net(x)
    (out.lattice.square().sum() + out.angles[x.mask].sin().sum() + out.logits.square().sum()).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())
    single = EquivariantNet(EquivariantConfig(**SMALL), K).float()
    double = EquivariantNet(EquivariantConfig(**SMALL), K).double()
    double.load_state_dict(single.state_dict())
    rounded = NetworkInput(*(v.float() if v is not None and v.is_floating_point() else v for v in x))
    torch.testing.assert_close(single(rounded).lattice.double(), double(x).lattice, rtol=1e-4, atol=1e-4)


def test_displacements_are_those_of_atoms_nearby():
    """The degrees of a short vector, to the third order of its length, and zero for an atom and itself."""
    lattice = torch.randn((1, 3, 3), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    angle = torch.tensor([[0.02, -0.01, 0.015]], dtype=torch.float64)
    harmonics, r = pair_harmonics(angle, lattice, 2)
    vector = (angle / (2 * math.pi)) @ lattice[0]
    assert r.item() == pytest.approx(math.sqrt(vector.square().sum().item() + 0.01), rel=1e-6)
    same(harmonics[:, 1:4] * r, math.sqrt(3) * vector, atol=1e-6)
    none, r = pair_harmonics(0 * angle, lattice, 2)
    same(none, torch.eye(9, dtype=torch.float64)[:1], atol=0)
    assert r.item() == pytest.approx(0.1)


def test_half_a_cell_away_there_is_no_direction_but_an_axis():
    lattice = torch.eye(3, dtype=torch.float64)[None]
    harmonics, _ = pair_harmonics(torch.tensor([[math.pi, 0.0, 0.0]], dtype=torch.float64), lattice, 2)
    assert harmonics[0, 1:4].abs().max() < 1e-9
    assert harmonics[0, 4:].norm() > 1


def test_all_pairs_are_sorted_by_both_of_their_atoms():
    mask = torch.tensor([[True, True, False], [True, False, False], [True, True, True]])
    index = all_pairs(mask)
    expected = [(i, j) for block in ((0, 1), (2,), (3, 4, 5)) for i in block for j in block]
    assert list(zip(index.center.tolist(), index.neighbor.tolist(), strict=True)) == expected
    assert index.row_ptr.tolist() == index.col_ptr.tolist() == [0, 2, 4, 5, 8, 11, 14]
    leaving = index.neighbor[index.transpose]
    assert leaving.tolist() == sorted(leaving.tolist())
    assert sorted(index.transpose.tolist()) == list(range(14))


def test_a_model_file_gives_the_same_model(tmp_path):
    torch.manual_seed(2)
    config = CrystalModelConfig.model_validate(
        {"network": {"kind": "equivariant", **SMALL}, "given_types": 0.5, "properties": ["density"]}
    )
    facts = {"lattice_scale": 2.0, "atom_counts": {2: 1.0}, "property_scales": {"density": (3.0, 1.0)}}
    model = CrystalModel(config, elements=ELEMENTS, **facts).eval()
    loaded = load_crystal_model(save_crystal_model(model, tmp_path / "m.safetensors"))
    assert loaded.config == config
    batch = batch_of()
    done, known = torch.full((3,), 2), Constraint(torch.zeros_like(batch.mask))
    state = model.after(model.target(batch), done, 5, known, generator=torch.Generator().manual_seed(0))
    found = [m(state, done / 5, batch.mask) for m in (model, loaded)]
    assert torch.equal(found[0].lattice, found[1].lattice)
    assert torch.equal(found[0].angles, found[1].angles)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_lowers_the_loss(tmp_path, dtype):
    path = tmp_path / "crystals.extxyz"
    write(path, salts() * 8)
    config = settings_for(
        path,
        tmp_path / "run",
        model={"network": {"kind": "equivariant", **SMALL}, "flow": {"steps": [4, 9]}, "given_types": 0.5},
        epochs=6,
        optimizer={"lr": 0.01},
        ema=0.5,
        dtype=dtype,
    )
    result = train_crystals(config, quiet=True)
    losses = [float(row["valid_loss"]) for row in csv.DictReader((result.run_dir / "metrics.csv").open())]
    assert losses[-1] < 0.75 * losses[0]
