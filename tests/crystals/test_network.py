"""CSPNet: its size, its symmetries, and that padding is nothing."""

import math

import pytest
import torch
from scipy.stats import special_ortho_group

from atomml.crystals.circle import wrap
from atomml.crystals.config import CSPNetConfig
from atomml.crystals.network import CSPNet, NetworkInput, dual_of, fourier_features, shape_of

SMALL = CSPNetConfig(hidden=16, layers=2, frequencies=4, time_channels=8)
K = 3


KINDS = {
    "published": {},
    "distances": {"distances": 5},
    "refined": {"refine": True},
    "both": {"distances": 5, "refine": True},
}


@pytest.fixture(name="net", scope="module", params=KINDS)
def _net(request):
    torch.manual_seed(1)
    net = CSPNet(SMALL.model_copy(update=KINDS[request.param]), K).double()
    for weight in () if net.moves is None else net.moves.parameters():
        torch.nn.init.normal_(weight)
    return net


def beliefs(count=4, width=5, *, sizes=(5, 3, 1, 4), seed=0):
    g = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(shape, generator=g, dtype=torch.float64)

    return NetworkInput(
        2 * torch.softmax(rand(count, width, K), -1) - 1,
        wrap(6 * rand(count, width, 3)),
        rand(count, width, 3),
        torch.randn((count, 3, 3), generator=g, dtype=torch.float64),
        rand(count),
        torch.arange(width) < torch.tensor(sizes)[:, None],
    )


def test_the_published_sizes():
    """1,973,760 parameters in a layer, 12,271,193 in all with 89 elements, 12,237,368 with 56."""
    net = CSPNet(CSPNetConfig(), 89)
    assert sum(p.numel() for p in net.layers[0].parameters()) == 1_973_760
    assert sum(p.numel() for p in net.parameters()) == 12_271_193
    assert sum(p.numel() for p in CSPNet(CSPNetConfig(), 56).parameters()) == 12_237_368


def test_coordinates_move_with_every_translation(net):
    x = beliefs()
    shift = torch.tensor([[0.3, -2.0, 3.0], [1.0, 2.0, 9.0], [0.0, 0.1, 0.0], [5.0, 0.0, 1.0]]).double()
    out, moved = net(x), net(x._replace(mean=wrap(x.mean + shift[:, None])))
    torch.testing.assert_close(
        wrap(moved.angles - out.angles - shift[:, None])[x.mask], 0 * out.angles[x.mask], rtol=0, atol=1e-9
    )
    torch.testing.assert_close(moved.lattice, out.lattice)
    torch.testing.assert_close(moved.logits[x.mask], out.logits[x.mask])


@pytest.mark.parametrize("mirror", [1.0, -1.0])
def test_the_lattice_turns_with_its_belief_and_nothing_else_does(net, mirror):
    x = beliefs()
    rotation = torch.from_numpy(special_ortho_group.rvs(3, random_state=3)) * mirror
    out, turned = net(x), net(x._replace(lattice=x.lattice @ rotation))
    torch.testing.assert_close(turned.lattice, out.lattice @ rotation, rtol=0, atol=1e-9)
    torch.testing.assert_close(turned.angles[x.mask], out.angles[x.mask], rtol=0, atol=1e-9)
    torch.testing.assert_close(turned.logits[x.mask], out.logits[x.mask], rtol=0, atol=1e-9)


def test_the_order_of_the_atoms_does_not_matter(net):
    x = beliefs(sizes=(5, 5, 5, 5))
    order = torch.tensor([3, 0, 4, 1, 2])
    per_atom = {name: getattr(x, name)[:, order] for name in ("types", "mean", "feature", "mask")}
    out, other = net(x), net(x._replace(**per_atom))
    torch.testing.assert_close(other.angles, out.angles[:, order], rtol=0, atol=1e-10)
    torch.testing.assert_close(other.logits, out.logits[:, order], rtol=0, atol=1e-10)
    torch.testing.assert_close(other.lattice, out.lattice, rtol=0, atol=1e-10)


def test_padding_is_nothing(net):
    x = beliefs()
    other = beliefs(seed=9)
    mask = x.mask[..., None]
    filled = {n: torch.where(mask, getattr(x, n), getattr(other, n)) for n in ("types", "mean", "feature")}
    rows = x._asdict() | {n: getattr(x, n)[:, :3] for n in ("types", "mean", "feature", "mask")}
    alone = NetworkInput(**{n: None if v is None else v[1:2] for n, v in rows.items()})
    out, noisy, single = net(x), net(x._replace(**filled)), net(alone)
    torch.testing.assert_close(noisy.angles[x.mask], out.angles[x.mask], rtol=0, atol=1e-12)
    torch.testing.assert_close(noisy.lattice, out.lattice, rtol=0, atol=1e-12)
    torch.testing.assert_close(single.angles[0], out.angles[1, :3], rtol=0, atol=1e-10)
    torch.testing.assert_close(single.lattice[0], out.lattice[1], rtol=0, atol=1e-10)


def test_a_pair_is_what_one_matrix_makes_of_all_its_features(net):
    """The first matrix of a pair is applied in parts: to both atoms, the crystal and the distance."""
    x, layer = beliefs(), net.layers[0]
    h = torch.randn((4, 5, SMALL.hidden), dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    whole = torch.randn((4, layer.sizes[2]), dtype=torch.float64)
    pair = torch.randn((4, 5, 5, layer.sizes[-1]), dtype=torch.float64)
    silu, normed = torch.nn.functional.silu, layer.norm(h)
    expected = h.clone()
    for b, n in enumerate(x.mask.sum(1).tolist()):
        for i in range(n):
            rows = torch.stack(
                [torch.cat([normed[b, i], normed[b, j], whole[b], pair[b, i, j]]) for j in range(n)]
            )
            message = silu(layer.edge_out(silu(layer.edge_in(rows)))).mean(0)
            expected[b, i] += silu(layer.node_out(silu(layer.node_in(torch.cat([normed[b, i], message])))))
    found, _ = layer(h, whole, pair, x.mask)
    torch.testing.assert_close(found[x.mask], expected[x.mask], rtol=0, atol=1e-12)


def test_fourier_features_have_the_period_of_the_cell():
    angle = torch.tensor([[0.4, -1.0, 3.0]], dtype=torch.float64)
    features = fourier_features(angle, 5)
    assert features.shape == (1, 30)
    torch.testing.assert_close(features, fourier_features(angle + 2 * math.pi, 5), rtol=0, atol=1e-12)
    torch.testing.assert_close(features[0, 2], torch.sin(2 * angle[0, 0]))


@pytest.mark.parametrize("name", ["atom", "pair", "image"])
def test_each_part_of_a_move_moves_atoms_and_changes_what_later_layers_see(name):
    torch.manual_seed(2)
    net, x = CSPNet(SMALL.model_copy(update=KINDS["both"]), K).double(), beliefs()
    before = net(x)
    with torch.no_grad():
        getattr(net.moves[0], name).weight.normal_()
    after = net(x)
    assert (after.angles - before.angles)[x.mask].abs().max() > 1e-2
    assert (after.lattice - before.lattice).abs().max() > 1e-5


def test_a_move_is_what_its_formula_says():
    torch.manual_seed(4)
    net, x = CSPNet(SMALL.model_copy(update=KINDS["both"]), K).double(), beliefs()
    geometry, move = net._geometry(x.mean, x), net.moves[0]
    h = torch.randn(4, 5, SMALL.hidden, dtype=torch.float64)
    message = torch.randn(4, 5, 5, SMALL.hidden, dtype=torch.float64)
    found, images = move(h, message, geometry, x.mask), geometry.images
    k = torch.arange(1, 5)
    for b, n in enumerate(x.mask.sum(1).tolist()):
        for i in range(n):
            expected = move.atom.weight @ h[b, i]
            for j in range(n):
                weights = (move.pair.weight @ message[b, i, j]).view(3, 4)
                d = x.mean[b, j] - x.mean[b, i]
                expected = expected + (weights * torch.sin(d[:, None] * k)).sum(1) / n
                mine = images.pair == (b * 5 + i) * 5 + j
                pull = images.radial[mine] @ (move.image.weight @ message[b, i, j])
                expected = expected + (pull[:, None] * images.displacement[mine]).sum(0)
            torch.testing.assert_close(found[b, i], expected, rtol=0, atol=1e-10)


def test_a_condition_changes_what_is_expected(net):
    x = beliefs()
    condition = torch.linspace(-1, 1, SMALL.hidden, dtype=torch.float64).expand(4, -1)
    assert (net(x._replace(condition=condition)).lattice - net(x).lattice).abs().max() > 1e-3


def test_bfloat16_products_keep_the_digits_of_lattices(net):
    single = CSPNet(SMALL, K)
    x = NetworkInput(*(v.float() if v is not None and v.is_floating_point() else v for v in beliefs()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = single(x)
    assert out.lattice.dtype == torch.float32
    torch.testing.assert_close(out.lattice, single(x).lattice, rtol=0.1, atol=0.05)


def test_the_shape_of_a_cell():
    lattice = torch.tensor([[[2.0, 0, 0], [0, 3.0, 0], [0, 2.0, 2.0]], [[0, 0, 0]] * 3], dtype=torch.float64)
    shape = shape_of(lattice, torch.tensor([4, 1]))
    cosine = 1 / math.sqrt(2)
    known = [math.log(12 / 4 + 0.01), math.log(4), 2, 3, math.sqrt(8), 0, cosine, 0]
    torch.testing.assert_close(shape[0], torch.tensor(known, dtype=torch.float64))
    torch.testing.assert_close(shape[1], torch.tensor([math.log(0.01)] + 7 * [0], dtype=torch.float64))


def test_the_dual_of_a_lattice_is_its_reciprocal_and_bounded_where_it_is_flat():
    lattice = 20 * torch.randn((2, 3, 3), dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(
        dual_of(lattice) @ lattice.transpose(1, 2), torch.eye(3).double().expand(2, 3, 3), rtol=0, atol=0.01
    )
    assert dual_of(0 * lattice).abs().max() == 0
    assert torch.linalg.matrix_norm(dual_of(1e-3 * lattice), ord=2).max() <= 0.5 / math.sqrt(0.05) + 1e-9
