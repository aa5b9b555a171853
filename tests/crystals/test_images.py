"""Images of atoms: found like ASE finds neighbours, smooth and periodic, for every lattice."""

import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.neighborlist import neighbor_list

from atomml.crystals.images import REACH, images_within

K = 6


def dense(angle):
    """Pairs as the two atoms of as many crystals: from the second to the first, the first with itself, …"""
    first = torch.zeros(len(angle), 2, 2, 3, dtype=angle.dtype)
    first[:, 0, 1] = angle
    first[:, 1, 0] = -angle
    return first


def within(angle, lattice):
    """Images of the second atom of every crystal of two, seen from the first."""
    found = images_within(dense(angle), lattice, torch.ones(len(angle), 2, dtype=torch.bool), K)
    chosen = found.pair % 4 == 1
    return found.pair[chosen] // 4, found.displacement[chosen], found.radial[chosen]


def pairs(count, *, scale=1.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    angle = 2 * math.pi * torch.rand(count, 3, generator=g, dtype=torch.float64) - math.pi
    return angle, scale * torch.randn(count, 3, 3, generator=g, dtype=torch.float64)


def summed(angle, lattice):
    """What a network sees: functions of the distances, and vectors, summed over the images of every pair."""
    images = images_within(dense(angle), lattice, torch.ones(len(angle), 2, dtype=torch.bool), K)
    vectors = (images.radial[..., None] * images.displacement[:, None]).flatten(1)
    return images.sum(torch.cat([images.radial, vectors], 1)).flatten(1)


def test_images_are_the_neighbours_that_ase_finds():
    cell = np.array([[1.3, 0.1, 0.0], [0.2, 1.4, -0.1], [0.0, 0.2, 1.3]])
    angle = torch.tensor([[2.0, -1.0, 0.5]], dtype=torch.float64)
    _, displacement, _ = within(angle, torch.from_numpy(cell)[None])
    found = torch.linalg.vector_norm(displacement @ torch.from_numpy(cell), dim=1).sort().values
    two = Atoms("H2", cell=cell, pbc=True, scaled_positions=[[0, 0, 0], (angle[0] / (2 * math.pi)).tolist()])
    i, j, d = neighbor_list("ijd", two, REACH)
    np.testing.assert_allclose(found, np.sort(d[(i == 0) & (j == 1)]), atol=1e-12)
    assert len(found) > 2


def test_functions_of_one_image_near_the_atom_are_gaussians_under_a_cosine():
    r = 0.5
    angle = torch.tensor([[2 * math.pi * r / 10, 0, 0]], dtype=torch.float64)
    _, displacement, radial = within(angle, 10 * torch.eye(3, dtype=torch.float64)[None])
    centres = np.linspace(0, REACH, K)
    expected = np.cos(math.pi * r / (2 * REACH)) ** 2 * np.exp(-(((r - centres) * K / REACH) ** 2))
    np.testing.assert_allclose(radial, expected[None], rtol=1e-12)
    np.testing.assert_allclose(displacement, [[r / 10, 0, 0]], rtol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 0.3, 1e-3])
@pytest.mark.parametrize("step", [-1.0, 1.0])
def test_sums_have_the_period_of_the_cell_and_no_jump_at_its_border(scale, step):
    angle, lattice = pairs(40, scale=scale)
    torch.testing.assert_close(
        summed(angle + 2 * math.pi * step, lattice), summed(angle, lattice), rtol=0, atol=1e-10
    )
    border = angle.clone()
    border[:, 0] = math.pi
    before, after = summed(border - 1e-7, lattice), summed(border + 1e-7, lattice)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4)


def test_sums_turn_with_nothing_and_do_not_jump_at_the_cutoff():
    angle, lattice = pairs(200)
    turn = torch.linalg.qr(
        torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    )[0]
    torch.testing.assert_close(summed(angle, lattice @ turn), summed(angle, lattice), rtol=0, atol=1e-10)
    near = torch.tensor([[2 * math.pi * 0.1, 0, 0]], dtype=torch.float64)
    at = torch.eye(3, dtype=torch.float64)[None] * REACH / 0.1
    assert len(within(near, at * (1 + 1e-9))[0]) == 0
    itself = summed(0 * near, at)
    torch.testing.assert_close(
        summed(near, at * (1 - 1e-6)).view(4, -1)[1], 0 * itself.view(4, -1)[1], rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("count", [0, 3])
def test_a_lattice_of_zero_gives_finite_sums(count):
    angle, _ = pairs(count)
    out = summed(angle, torch.zeros(count, 3, 3, dtype=torch.float64))
    assert out.shape == (count, 16 * K)
    assert out.isfinite().all()


def test_padding_has_no_images():
    angle, lattice = pairs(3)
    mask = torch.tensor([[True, True], [True, False], [False, False]])
    assert set((images_within(dense(angle), 0.3 * lattice, mask, K).pair // 4).tolist()) == {0, 1}
    only = images_within(dense(angle), 0.3 * lattice, mask, K).pair
    assert set(only[only >= 4].tolist()) == {4}
