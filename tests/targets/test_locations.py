import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gfl_jax.targets.locations import (
    flatten_levels,
    grid_sizes_of,
    make_locations,
    sum_per_level,
    valid_grid_sizes,
    valid_locations,
)

STRIDES = (8, 16, 32)
GRIDS = ((8, 12), (4, 6), (2, 3))  # of a canvas of 64 x 96


def test_locations_go_level_by_level_and_row_by_row():
    locations = make_locations(((2, 3), (1, 2)), (8, 16))
    expected = [[0, 0], [8, 0], [16, 0], [0, 8], [8, 8], [16, 8], [0, 0], [16, 0]]
    np.testing.assert_array_equal(locations.points, expected)
    np.testing.assert_array_equal(locations.strides, [8] * 6 + [16] * 2)
    np.testing.assert_array_equal(locations.levels, [0] * 6 + [1] * 2)
    assert locations.grid_sizes == ((2, 3), (1, 2))


def test_an_offset_is_in_strides():
    without, with_half = (make_locations(GRIDS, STRIDES, offset) for offset in (0.0, 0.5))
    shift = np.repeat([4, 8, 16], [96, 24, 6])
    np.testing.assert_array_equal(with_half.points - without.points, np.stack([shift, shift], axis=1))


@settings(max_examples=50)
@given(st.integers(1, 64), st.integers(1, 96))
def test_valid_locations_lie_on_the_image_padded_to_32(height, width):
    padded = [-(-height // 32) * 32, -(-width // 32) * 32]
    sizes = valid_grid_sizes(np.array([[height, width]]), GRIDS, STRIDES)
    np.testing.assert_array_equal(sizes[0], [[padded[0] // s, padded[1] // s] for s in STRIDES])
    locations = make_locations(GRIDS, STRIDES)
    expected = (locations.points[:, 0] < padded[1]) & (locations.points[:, 1] < padded[0])
    np.testing.assert_array_equal(valid_locations(sizes, GRIDS)[0], expected)


def test_grids_of_higher_levels_round_up_and_stay_on_the_canvas():
    grids = ((100, 168), (50, 84), (25, 42), (13, 21), (7, 11))
    sizes = valid_grid_sizes(np.array([[800, 1333], [480, 1]]), grids, (8, 16, 32, 64, 128))
    np.testing.assert_array_equal(sizes[0], grids)
    np.testing.assert_array_equal(sizes[1], [[60, 4], [30, 2], [15, 1], [8, 1], [4, 1]])


def test_flattened_maps_are_in_the_order_of_the_locations():
    """The channels of the maps are the coordinates of their locations."""
    maps = []
    for (rows, columns), stride in zip(GRIDS, STRIDES, strict=True):
        y, x = np.mgrid[:rows, :columns] * stride
        maps.append(jnp.asarray(np.stack([x, y], axis=-1)[None]))
    assert grid_sizes_of(maps) == GRIDS
    np.testing.assert_array_equal(flatten_levels(maps, 2)[0], make_locations(GRIDS, STRIDES).points)


def test_sums_per_level():
    x = np.random.default_rng(0).integers(0, 9, (2, 96 + 24 + 6))
    found = sum_per_level(jnp.asarray(x), make_locations(GRIDS, STRIDES))
    np.testing.assert_array_equal(found, [x[:, :96].sum(), x[:, 96:120].sum(), x[:, 120:].sum()])
