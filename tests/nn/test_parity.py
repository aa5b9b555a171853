import numpy as np
import pytest
import torch
from e3nn import o3

from atomml.kernels.coupling import wigner_d
from atomml.kernels.sparse_coupling import sparse_coupling
from atomml.nn.parity import ParityConvolution, ParityLinear, odd_coupling
from tests.kernels.test_ops import make_index

C = 3


def orthogonal(determinant):
    matrix, _ = np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))
    return matrix * (determinant / np.linalg.det(matrix))


def transform(x, matrix, parities):
    """The features of a structure turned (and mirrored) by ``matrix``; unnatural ones get its determinant too."""
    lmax = round(x.shape[1] ** 0.5) - 1
    d = torch.from_numpy(wigner_d(lmax, matrix))
    sign = float(np.round(np.linalg.det(matrix)))
    parts = [torch.einsum("ab,nbc->nac", d, part) for part in x.chunk(parities, -1)]
    return torch.cat([part * (1.0, sign)[k] for k, part in enumerate(parts)], -1)


@pytest.mark.parametrize("limits", [(1, 1, 1), (2, 3, 1), (0, 2, 2)])
def test_odd_paths_are_those_of_so3_that_cg_even_lacks(limits):
    lmax, lmax_y, lmax_out = limits
    odd = odd_coupling(lmax, lmax_y=lmax_y, lmax_out=lmax_out)
    even, every = (sparse_coupling(lmax, k, lmax_y=lmax_y, lmax_out=lmax_out) for k in ("cg_even", "so3"))
    assert sorted(odd.paths + even.paths) == sorted(every.paths)
    assert all(sum(path) % 2 for path in odd.paths)

    def rows(table):
        keys = [(a, b, k, *table.paths[p]) for a, b, k, p in table.entries.tolist()]
        return dict(zip(keys, table.values.tolist(), strict=True))

    assert rows(odd) | rows(even) == rows(every)


@pytest.mark.parametrize("determinant", [1, -1])
@pytest.mark.parametrize(("parities_in", "parities_out"), [(1, 1), (1, 2), (2, 1), (2, 2)])
@pytest.mark.parametrize("limits", [(2, 2, 2), (3, 2, 3), (1, 2, 3)])
def test_convolution_and_linear_map_commute_with_rotations_and_mirrors(
    limits, parities_in, parities_out, determinant
):
    generator = torch.Generator().manual_seed(0)
    index = make_index(6, 20, generator)
    conv = ParityConvolution(limits, C, parities_in, parities_out)
    torch.manual_seed(0)
    linear = ParityLinear(limits[2], C, parities_out).double()
    x = torch.randn(6, (limits[0] + 1) ** 2, C * parities_in, generator=generator, dtype=torch.float64)
    vectors = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    w = [torch.randn(20, *shape, generator=generator, dtype=torch.float64) for shape in conv.weights]
    matrix = orthogonal(determinant)

    def out(x, vectors):
        y = o3.spherical_harmonics(list(range(limits[1] + 1)), vectors, True, "component")
        return linear(conv(x, y, w, index))

    before = out(x, vectors)
    after = out(transform(x, matrix, parities_in), vectors @ torch.from_numpy(matrix).T)
    assert before.shape == (6, (limits[2] + 1) ** 2, C * parities_out)
    assert before.chunk(parities_out, -1)[-1].abs().max() > 0.1
    torch.testing.assert_close(after, transform(before, matrix, parities_out))


def test_both_parities_are_the_four_convolutions_of_the_definition():
    generator = torch.Generator().manual_seed(1)
    index = make_index(5, 12, generator)
    both = ParityConvolution((2, 2, 2), C, 2, 2)
    x = torch.randn(5, 9, 2 * C, generator=generator, dtype=torch.float64)
    y = torch.randn(12, 9, generator=generator, dtype=torch.float64)
    w = [torch.randn(12, *shape, generator=generator, dtype=torch.float64) for shape in both.weights]
    even, odd = both.convolutions
    of_natural, of_unnatural = (
        [
            conv(x[..., part].contiguous(), y, weights[..., part].contiguous(), index)
            for conv, weights in zip((even, odd), w, strict=True)
        ]
        for part in (slice(0, C), slice(C, None))
    )
    natural, unnatural = both(x, y, w, index).split(C, -1)
    torch.testing.assert_close(natural, of_natural[0] + of_unnatural[1])
    torch.testing.assert_close(unnatural, of_unnatural[0] + of_natural[1])
    for parities, expected in [((1, 2), of_natural), ((2, 1), None)]:
        conv = ParityConvolution((2, 2, 2), C, *parities)
        some = x if parities[0] == 2 else x[..., :C].contiguous()
        part = slice(C, None) if parities[0] == 2 else slice(0, C)
        out = conv(some, y, [w[0][..., :C].contiguous(), w[1][..., part].contiguous()], index)
        torch.testing.assert_close(out, natural if expected is None else torch.cat(expected, -1))


def test_linear_map_keeps_parities_apart():
    linear = ParityLinear(1, C, 2, n_species=2).double()
    x = torch.randn(4, 4, 2 * C, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    species = torch.tensor([0, 1, 1, 0])
    changed = x.clone()
    changed[..., C:] += 1
    before, after = linear(x, species), linear(changed, species)
    assert torch.equal(before[..., :C], after[..., :C])
    assert not torch.isclose(before[..., C:], after[..., C:]).any()
