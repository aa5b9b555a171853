import pytest
from hypothesis import given
from hypothesis import strategies as st

from atomml.kernels.triton.tiles import (
    LONG_QUEUE,
    Device,
    cg_edge_tiles,
    cg_node_tiles,
    cp_edge_tiles,
    cp_node_tiles,
)

H100 = Device(132)
SIZES = st.integers(0, 3_000_000)
COUNTS = st.integers(1, 700)
ITEMSIZES = st.sampled_from([2, 4, 8])
DEVICES = st.builds(Device, st.integers(1, 200), st.sampled_from([32, 48, 64]))


def is_power_of_two(n):
    return n >= 1 and n & (n - 1) == 0


def check(tiles, device):
    assert all(is_power_of_two(n) for n in (*tiles[:3], tiles.warps))
    assert tiles.warps <= 8
    assert tiles.edges * tiles.ranks * tiles.channels >= tiles.warps  # no warp without work
    assert tiles.programs <= tiles.items
    if tiles.programs < tiles.items:
        assert tiles.items > LONG_QUEUE * tiles.programs


@given(n_nodes=SIZES, n_edges=SIZES, rank=COUNTS, channels=COUNTS, itemsize=ITEMSIZES, device=DEVICES)
def test_node_tiles_of_the_factorised_kernels_cover_every_shape(
    n_nodes, n_edges, rank, channels, itemsize, device
):
    tiles = cp_node_tiles(n_nodes, n_edges, rank, channels, itemsize, device)
    check(tiles, device)
    assert tiles.ranks * tiles.channels <= 4096
    covered = tiles.items * tiles.ranks * tiles.channels
    assert covered >= n_nodes * rank * channels
    assert tiles.items == n_nodes * -(-rank // tiles.ranks) * -(-channels // tiles.channels)


@given(n_edges=SIZES, channels=COUNTS, components=COUNTS, itemsize=ITEMSIZES, device=DEVICES)
def test_edge_tiles_cover_every_shape(n_edges, channels, components, itemsize, device):
    cp_tiles = cp_edge_tiles(n_edges, channels, itemsize, device)
    assert cp_tiles.channels >= channels  # a sum over channels is taken in one tile
    for tiles in (cp_tiles, cg_edge_tiles(n_edges, components, channels, itemsize, device)):
        check(tiles, device)
        assert tiles.items * tiles.edges >= n_edges


@given(n_nodes=SIZES, n_edges=SIZES, components=COUNTS, channels=COUNTS, itemsize=ITEMSIZES, device=DEVICES)
def test_node_tiles_of_the_sparse_kernels_cover_every_shape(
    n_nodes, n_edges, components, channels, itemsize, device
):
    tiles = cg_node_tiles(n_nodes, n_edges, components, channels, itemsize, device)
    check(tiles, device)
    assert tiles.items * tiles.channels >= n_nodes * channels
    assert tiles.edges * tiles.channels == tiles.warps * (64 if components <= 16 and itemsize < 8 else 32)


def test_large_graphs_run_persistent_programs_and_small_ones_spread_over_the_device():
    large = cp_node_tiles(35_700, 1_000_000, 18, 64, 4, H100)
    small = cp_node_tiles(357, 9_996, 18, 64, 4, H100)
    assert large.programs < large.items
    assert small.programs == small.items
    assert small.channels < large.channels
    assert small.edges > large.edges


@pytest.mark.parametrize("degree", [1, 3, 28])
def test_no_more_edges_are_taken_side_by_side_than_a_node_has(degree):
    assert cp_node_tiles(100, 100 * degree, 6, 64, 4, H100).edges <= degree
    assert cg_node_tiles(100, 100 * degree, 4, 64, 4, H100).edges <= degree


def test_double_precision_takes_half_the_products_per_thread():
    single = cp_node_tiles(35_700, 1_000_000, 52, 64, 4, H100)
    double = cp_node_tiles(35_700, 1_000_000, 52, 64, 8, H100)
    products = [t.edges * t.ranks * t.channels / t.warps for t in (single, double)]
    assert products[1] <= products[0]
