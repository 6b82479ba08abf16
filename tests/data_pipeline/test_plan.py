import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfl_jax.config import Config, Crops, Dataset, Loader, Resize
from gfl_jax.configuration.config_files import config_differences
from gfl_jax.configuration.overrides import override
from gfl_jax.data.buckets import choose_buckets, fits, group_by_bucket, outermost, padded_share
from gfl_jax.data.plan import (
    FILLER,
    describe_shapes,
    evaluation_buckets,
    evaluation_plan,
    in_view,
    named_buckets,
    steps_per_epoch,
    train_plan,
    training_buckets,
)
from gfl_jax.data.transforms import resized_sizes
from gfl_jax.errors import UserError
from gfl_jax.inference.views import PLAIN, View

BUCKETS = ((80, 112), (112, 80), (80, 144), (144, 80))
SIZES = st.lists(st.tuples(st.integers(20, 60), st.integers(20, 60)), min_size=1, max_size=40)


def make_config(batch=4, short_sides=(40, 80), **changes):
    return Config(
        name="test",
        resize=Resize(short_side=80, long_side=144, train_short_sides=short_sides),
        loader=Loader(batch_size=batch, eval_batch_size=batch, buckets=BUCKETS),
        **changes,
    )


@given(SIZES, st.integers(1, 7))
def test_each_image_is_in_one_group_that_it_fits_in(sizes, group_size):
    sizes = np.array(sizes)
    groups = group_by_bucket(sizes, BUCKETS, group_size)
    assert sorted(np.concatenate([g.members for g in groups]).tolist()) == list(range(len(sizes)))
    for bucket, members in groups:
        assert 0 < len(members) <= group_size
        assert (sizes[members] <= bucket).all()
    incomplete = [g.bucket for g in groups if len(g.members) < group_size]
    assert len(set(incomplete)) == len(incomplete)
    assert set(incomplete) <= set(outermost(BUCKETS))


def test_an_image_goes_to_the_smallest_bucket():
    sizes = np.array([[80, 112], [80, 113], [112, 80], [10, 10]])
    groups = group_by_bucket(sizes, BUCKETS, 1)
    found = {int(g.members[0]): g.bucket for g in groups}
    assert found == {0: (80, 112), 1: (80, 144), 2: (112, 80), 3: (80, 112)}


ANY_SIZES = st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 3000)), min_size=1, max_size=60)


@given(ANY_SIZES, st.integers(1, 8), st.sampled_from([32, 128]))
def test_chosen_buckets_hold_all_images_with_little_padding(sizes, most, step):
    sizes = np.array(sizes)
    buckets = choose_buckets(sizes, most, step)
    assert 1 <= len(buckets) <= most
    assert fits(sizes, buckets).any(axis=1).all()
    assert all(side % step == 0 for bucket in buckets for side in bucket)
    assert buckets == choose_buckets(sizes[::-1], most, step)  # in any order
    single = tuple((-(-sizes.max(axis=0) // step) * step).tolist())
    assert padded_share(sizes, buckets) <= padded_share(sizes, [single]) + 1e-12


def test_images_of_one_size_have_one_bucket():
    assert choose_buckets(np.array([[128, 128]] * 5), 6) == ((128, 128),)
    assert choose_buckets(np.array([[127, 100]] * 5 + [[128, 97]]), 6) == ((128, 128),)


def coco_like_sizes(count=120_000):
    """Sizes with aspect ratios about as frequent as in COCO."""
    rng = np.random.default_rng(0)
    shapes = np.array([[480, 640], [640, 480], [427, 640], [640, 427], [500, 375], [375, 500], [640, 640]])
    chosen = shapes[rng.choice(len(shapes), count, p=[0.37, 0.13, 0.23, 0.09, 0.04, 0.08, 0.06])]
    odd = rng.random(count) < 0.3
    chosen[odd, rng.integers(0, 2, odd.sum())] -= rng.integers(1, 160, odd.sum())
    return chosen


def test_training_follows_the_short_side_unless_it_has_a_range():
    config = Config(name="t")
    assert override(config, {"resize.short_side": 640}).resize.short_sides_in_training == (640, 640)
    assert override(config, {"resize.short_side": None}).resize.short_sides_in_training == (None, None)
    ranged = override(config, {"resize.train_short_sides": (480, 800), "resize.short_side": 640})
    assert ranged.resize.short_sides_in_training == (480, 800)
    written_out = override(config, {"resize.train_short_sides": (800, 800)})  # as runs of version 0.1 have it
    assert config_differences(config, written_out) == []
    assert config_differences(config, ranged) == [
        "config.resize.short_side",
        "config.resize.train_short_sides",
    ]


def test_six_chosen_buckets_waste_little_of_a_large_data_set():
    config = Config(name="t", loader=Loader(buckets=None))
    buckets = evaluation_buckets(coco_like_sizes(), config)
    shown = resized_sizes(coco_like_sizes(), 800, 1333)
    assert len(buckets) <= 6
    assert padded_share(shown, buckets) < 0.06
    several = override(config, {"resize.train_short_sides": (480, 800)})
    assert len(training_buckets(coco_like_sizes(), several)) <= 10


@given(SIZES, st.booleans())
def test_images_that_fit_in_no_bucket_get_canvases_of_their_own(sizes, multi_scale):
    """These canvases are the same in every epoch, so no epoch compiles a new shape."""
    sizes = np.array([*sizes, (400, 30), (300, 300)])
    config = override(make_config(2, (40, 80) if multi_scale else (80, 80)), {"resize.long_side": 900})
    shapes = training_buckets(sizes, config)
    own = [bucket for bucket in shapes if bucket not in BUCKETS]
    assert 1 <= len(own) <= 2
    assert all(side % 128 == 0 for bucket in own for side in bucket)
    for epoch in range(3):
        for planned in train_plan(sizes, config, epoch):
            assert planned.canvas in shapes
            assert (planned.sizes <= planned.canvas).all()
    positions = np.concatenate([b.positions for b in evaluation_plan(sizes, config)])
    assert sorted(positions[positions != FILLER].tolist()) == list(range(len(sizes)))


def test_shapes_that_the_config_does_not_set_are_described():
    sizes = np.array([[480, 640]] * 9 + [[600, 1200]])
    config = Config(name="t", resize=Resize(short_side=None), loader=Loader(buckets=None))
    words = describe_shapes(sizes, config, training=False)
    assert words == "batches of 480x640, 608x1216 (height x width) with 0.6% padding"
    given = override(config, {"loader.buckets": ((480, 640),)})
    expected = "1 images fit in none of config.loader.buckets; they get 640x1280"
    assert describe_shapes(sizes, given, training=True) == expected
    assert describe_shapes(sizes[:9], given, training=True) == ""
    assert describe_shapes(sizes, override(given, {"crops.size": 64}), training=True) == ""


@pytest.mark.parametrize(
    ("changes", "buckets"),
    [
        ({"loader.buckets": ((32, 64),)}, ((32, 64),)),
        ({}, ((800, 1344),)),
        ({"resize.short_side": 500, "resize.long_side": 400}, ((512, 512),)),
    ],
)
def test_shapes_that_follow_from_the_config_alone(changes, buckets):
    assert named_buckets(override(Config(name="t"), changes), "--size") == buckets


def test_a_config_without_a_shape_is_an_error():
    with pytest.raises(UserError, match=r"config\.resize keeps the sizes of the images; give --size"):
        named_buckets(Config(name="t", resize=Resize(short_side=None)), "--size")


@given(SIZES, st.integers(1, 6), st.integers(1, 2), st.integers(0, 3), st.booleans())
def test_an_epoch_has_every_image_in_a_fixed_number_of_steps(sizes, batch, repeats, epoch, multi_scale):
    sizes = np.array(sizes)
    config = make_config(batch, (40, 80) if multi_scale else (80, 80), dataset=Dataset(repeats=repeats))
    plan = train_plan(sizes, config, epoch)
    assert len(plan) == steps_per_epoch(sizes, config)
    shown = np.bincount(np.concatenate([b.positions for b in plan]), minlength=len(sizes))
    assert (shown >= repeats).all()
    assert shown.sum() < repeats * len(sizes) + batch * len(outermost(BUCKETS))
    for planned in plan:
        assert len(planned.positions) == len(planned.sizes) == len(planned.flips) == batch
        assert (planned.sizes <= planned.canvas).all()


def test_images_that_fill_their_batches_occur_exactly_once():
    sizes = np.array([[40, 56]] * 8 + [[56, 40]] * 4)
    plan = train_plan(sizes, make_config(4, (80, 80)), epoch=0)
    assert sorted(np.concatenate([b.positions for b in plan]).tolist()) == list(range(12))
    assert {b.canvas for b in plan} == {(80, 112), (112, 80)}


def test_epochs_and_seeds_differ_and_are_reproducible():
    sizes = np.array([[40, 56], [56, 40], [40, 60]] * 8)

    def shown(seed, epoch):
        plan = train_plan(sizes, make_config(seed=seed), epoch)
        return [(b.canvas, b.positions.tolist(), b.sizes.tolist(), b.flips.tolist()) for b in plan]

    assert shown(0, 0) == shown(0, 0)
    assert shown(0, 0) != shown(0, 1)
    assert shown(0, 0) != shown(1, 0)


def test_short_sides_are_drawn_from_the_whole_range():
    sizes = np.array([[40, 56]] * 400)
    plan = train_plan(sizes, make_config(4, (40, 44)), epoch=0)
    drawn = np.concatenate([b.sizes[:, 0] for b in plan])
    assert set(drawn.tolist()) == {40, 41, 42, 43, 44}


def test_half_of_the_images_are_flipped_or_none():
    sizes = np.array([[40, 56]] * 400)
    config = make_config(4)
    share = np.mean([b.flips for b in train_plan(sizes, config, 0)])
    assert 0.4 < share < 0.6
    unflipped = Config(
        name="t", loader=Loader(batch_size=4, flip=False, buckets=BUCKETS), resize=config.resize
    )
    assert not any(b.flips.any() for b in train_plan(sizes, unflipped, 0))


def test_crops_have_one_bucket_for_images_of_any_size():
    config = make_config(4, crops=Crops(size=64), dataset=Dataset(repeats=5))
    plan = train_plan(np.array([[5000, 7000], [10, 10]]), config, 0)
    assert [b.canvas for b in plan] == [(64, 64)] * 3
    assert np.bincount(np.concatenate([b.positions for b in plan])).min() >= 5


def test_images_may_keep_their_size():
    sizes = np.array([[30, 100], [90, 20], [64, 64]])
    config = override(make_config(1), {"resize.short_side": None})
    for plan in (train_plan(sizes, config, 0), evaluation_plan(sizes, config)):
        for planned in plan:
            np.testing.assert_array_equal(planned.sizes, sizes[planned.positions])


@given(SIZES, st.integers(1, 6))
def test_evaluation_has_every_image_exactly_once(sizes, batch):
    sizes = np.array(sizes)
    plan = evaluation_plan(sizes, make_config(batch))
    positions = np.concatenate([b.positions for b in plan])
    assert sorted(positions[positions != FILLER].tolist()) == list(range(len(sizes)))
    for planned in plan:
        assert (planned.sizes <= planned.canvas).all()
        assert not planned.flips.any()
        assert len(planned.positions) == batch


@given(SIZES, st.floats(0.1, 3.0), st.booleans())
def test_a_view_has_the_same_images_scaled_or_mirrored(sizes, scale, flip):
    sizes = np.array(sizes)
    for planned in evaluation_plan(sizes, make_config()):
        view = in_view(planned, View(scale, flip))
        np.testing.assert_array_equal(view.positions, planned.positions)
        assert np.abs(view.sizes - np.maximum(planned.sizes * scale, 1)).max() <= 0.5 + 1e-6
        assert (view.sizes <= view.canvas).all()
        assert (view.flips == flip).all()
        same = in_view(planned, PLAIN)
        assert same.canvas == planned.canvas
        np.testing.assert_array_equal(same.sizes, planned.sizes)


def test_an_epoch_that_is_too_long_is_an_error():
    config = override(make_config(), {"dataset.repeats": 10**5})
    words = r"config\.dataset\.repeats=100000: .* 100100000 images; set at most 9990, and increase"
    with pytest.raises(UserError, match=words):
        steps_per_epoch(np.full((1001, 2), 30), config)
