import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gfl_jax.config import Config, Crops, Dataset, Detector, Loader, Resize
from gfl_jax.configuration.overrides import override
from gfl_jax.data import loader
from gfl_jax.data.coco_json import coco_json_source
from gfl_jax.data.loader import eval_batches, make_source, train_batches
from gfl_jax.data.plan import steps_per_epoch
from gfl_jax.errors import UserError
from gfl_jax.inference.views import View
from gfl_jax.pixel_blocks import to_pixels

REPOSITORY = Path(__file__).parents[2]
BUCKETS = ((64, 96), (96, 64), (96, 96))


@pytest.fixture(scope="module")
def config(coco_tree):
    return Config(
        name="test",
        resize=Resize(short_side=60, long_side=96, train_short_sides=(40, 60)),
        dataset=Dataset(
            train_json=str(coco_tree / "annotations/instances_train2017.json"),
            train_images=str(coco_tree / "train2017"),
            eval_json=str(coco_tree / "annotations/instances_val2017.json"),
            eval_images=str(coco_tree / "val2017"),
        ),
        loader=Loader(batch_size=4, eval_batch_size=2, buckets=BUCKETS, workers=0),
    )


@pytest.fixture(scope="module")
def source(config):
    return make_source(config, "train")


def first(batches, count):
    with batches:
        return list(itertools.islice(batches, count))


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("crops", [None, Crops(size=48, stripes=0.5)])
def test_batches_do_not_depend_on_workers(source, config, crops):
    config = override(config, {"crops.size": 48}) if crops else config
    without = first(train_batches(source, config), 7)
    with_workers = first(train_batches(source, override(config, {"loader.workers": 2})), 7)
    assert_same(with_workers, without)


@settings(max_examples=15, deadline=None)
@given(start=st.integers(0, 12), hosts=st.sampled_from([1, 2, 4]), crop=st.booleans())
def test_batches_do_not_depend_on_start_or_hosts(source, config, start, hosts, crop):
    if crop:
        config = override(config, {"crops.size": 48, "crops.stripes": 0.5})
    whole = first(train_batches(source, config), start + 3)[start:]
    parts = [first(train_batches(source, config, start, host, hosts), 3) for host in range(hosts)]
    joined = [
        jax.tree.map(lambda *columns: np.concatenate(columns), *batches)
        for batches in zip(*parts, strict=True)
    ]
    assert_same(whole, joined)


def test_an_epoch_has_every_image(source, config):
    steps = steps_per_epoch(source.sizes, config)
    batches = first(train_batches(source, config), 3 * steps)
    for epoch in range(3):
        shown = np.concatenate([b.indices for b in batches[epoch * steps : (epoch + 1) * steps]])
        assert set(shown.tolist()) == set(range(len(source)))


def test_the_fields_of_a_batch_match_the_source(source, config):
    for batch in first(train_batches(source, override(config, {"loader.flip": False})), 5):
        assert batch.images.shape[1:3] in BUCKETS
        assert batch.images.dtype == np.uint8
        assert batch.boxes.shape == (4, 8, 4)
        for i, index in enumerate(batch.indices):
            example = source.example(index)
            height, width = batch.image_sizes[i]
            np.testing.assert_allclose(
                batch.scale_factors[i], [width / example.image.shape[1], height / example.image.shape[0]]
            )
            assert not batch.images[i, height:].any()
            assert not batch.images[i, :, width:].any()
            kept, mask = ~example.is_crowd, batch.box_mask[i]
            assert mask.tolist() == [True] * kept.sum() + [False] * (8 - kept.sum())
            np.testing.assert_array_equal(batch.labels[i][mask], example.labels[kept])
            scaled = example.boxes[kept] * np.tile(batch.scale_factors[i], 2)
            np.testing.assert_allclose(batch.boxes[i][mask], scaled, rtol=1e-5)
            assert not batch.boxes[i][~mask].any()


def test_flipped_images_have_flipped_boxes(source, config):
    plain = first(train_batches(source, override(config, {"loader.flip": False})), 4)
    flipped = first(train_batches(source, config), 4)
    turned = 0
    for one, other in zip(plain, flipped, strict=True):
        np.testing.assert_array_equal(one.indices, other.indices)
        for i in range(4):
            height, width = one.image_sizes[i]
            if (one.images[i] == other.images[i]).all():
                np.testing.assert_array_equal(one.boxes[i], other.boxes[i])
                continue
            turned += 1
            np.testing.assert_array_equal(
                one.images[i, :height, :width], other.images[i, :height, width - 1 :: -1]
            )
            mask = one.box_mask[i]
            np.testing.assert_allclose(other.boxes[i][mask, 0], width - one.boxes[i][mask, 2], rtol=1e-6)
    assert 0 < turned < 16


def test_cached_images_change_nothing(source, config):
    crops = override(config, {"crops.size": 48})
    cached = override(crops, {"loader.cache_images": True})
    assert_same(first(train_batches(source, crops), 8), first(train_batches(source, cached), 8))


def test_batches_in_blocks_hold_the_same_pixels(source, config):
    with_blocks = override(config, {"loader.blocks": True})
    for batches in (lambda c: train_batches(source, c), lambda c: eval_batches(source, c)):
        for pixels, blocks in zip(first(batches(config), 2), first(batches(with_blocks), 2), strict=True):
            assert blocks.images.shape[-1] == 96
            assert_same([pixels], [blocks.replace(images=to_pixels(blocks.images))])


@pytest.mark.parametrize(("workers", "copies"), [(0, 1), (1, 1), (3, 3)])
def test_a_cache_that_exceeds_the_memory_is_refused(source, config, monkeypatch, workers, copies):
    """In time each worker reads every image, and it keeps three bytes for each pixel."""
    needed = copies * sum(3 * height * width for height, width in source.sizes.tolist())
    cached = override(config, {"loader.cache_images": True, "loader.workers": workers})
    monkeypatch.setattr(loader, "_memory", lambda: needed * 4 // 3 + 1)
    train_batches(source, cached).close()
    monkeypatch.setattr(loader, "_memory", lambda: needed * 4 // 3 - 1)
    train_batches(source, config).close()
    with pytest.raises(
        UserError, match=rf"cache_images=True: .*{needed / 1e9:.3g} GB with a copy .*set it to False"
    ):
        train_batches(source, cached)


def test_the_memory_is_at_most_that_of_the_machine():
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    assert 0 < loader._memory() <= int(meminfo["MemTotal"].split()[0]) * 1024


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 1), (4, 3), (17, 16), (224, 16)])
def test_there_is_one_worker_less_than_cores(monkeypatch, cores, workers):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert loader.worker_count(Loader()) == workers
    assert loader.worker_count(Loader(workers=8)) == 8


@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.parametrize("crop", [False, True])
def test_evaluation_has_every_image_exactly_once(config, hosts, crop):
    source = make_source(config, "eval")
    if crop:
        config = override(config, {"crops.size": 48})
    parts = [first(eval_batches(source, config, host, hosts), 100) for host in range(hosts)]
    assert len({len(part) for part in parts}) == 1
    indices = np.concatenate([batch.indices for part in parts for batch in part])
    assert sorted(indices[indices >= 0].tolist()) == list(range(len(source)))
    for batch in itertools.chain(*parts):
        filler = batch.indices < 0
        assert not batch.images[filler].any()
        assert not batch.box_mask[filler].any()
        assert (batch.image_sizes[filler] == 1).all()
        assert (batch.image_sizes[~filler].min(axis=1) <= 60).all()


def test_evaluation_with_workers_is_the_same(config):
    source = make_source(config, "eval")
    assert_same(
        first(eval_batches(source, config), 100),
        first(eval_batches(source, override(config, {"loader.workers": 2})), 100),
    )


def test_evaluation_in_views_has_each_group_of_images_in_all_views(config):
    source = make_source(config, "eval")
    views = (View(1.0), View(1.0, True), View(2.0))
    batches = first(eval_batches(source, config, views=views), 100)
    plain, mirrored, larger = batches[0::3], batches[1::3], batches[2::3]
    assert_same(plain, first(eval_batches(source, config), 100))
    for one, other, twice in zip(plain, mirrored, larger, strict=True):
        np.testing.assert_array_equal(other.indices, one.indices)
        np.testing.assert_array_equal(twice.indices, one.indices)
        for i in np.flatnonzero(one.indices >= 0):
            height, width = one.image_sizes[i]
            np.testing.assert_array_equal(other.images[i, :, :width], one.images[i, :, :width][:, ::-1])
            assert twice.image_sizes[i].tolist() == [2 * height, 2 * width]
            np.testing.assert_allclose(twice.scale_factors[i], 2 * one.scale_factors[i], rtol=1e-6)
        assert twice.images.shape[1:3] == tuple(2 * side for side in one.images.shape[1:3])


def test_the_config_chooses_the_source(config, prepared_coco, coco_tree):
    tfds_config = Config(name="t", dataset=Dataset(tfds_dir=str(prepared_coco)))
    assert str(prepared_coco) in make_source(tfds_config, "train").name
    assert "validation" in make_source(tfds_config, "eval").name
    with pytest.raises(
        UserError, match="names no data for train; set tfds_dir, or train_json and train_images"
    ):
        make_source(Config(name="t"), "train")
    with pytest.raises(UserError, match="names no data for eval"):
        make_source(override(config, {"dataset.eval_images": ""}), "eval")
    with pytest.raises(UserError, match=r"config\.detector\.num_classes=3: .* has 80 categories"):
        make_source(Config(name="t", detector=Detector(num_classes=3), dataset=config.dataset), "train")


def test_the_evaluation_file_gives_the_category_ids(prepared_coco, coco_tree, tmp_path):
    path = tmp_path / "own_ids.json"
    text = (coco_tree / "annotations/instances_val2017.json").read_text()
    path.write_text(text.replace('{"id": 1, "name": "person"}', '{"id": 1001, "name": "person"}'))
    config = Config(name="t", dataset=Dataset(tfds_dir=str(prepared_coco), eval_json=str(path)))
    assert make_source(config, "eval").category_ids[:2] == (1001, 2)
    path.write_text(text.replace('"person"', '"human"'))
    with pytest.raises(UserError, match=r"own_ids\.json: lacks 'person' and has 'human' as well"):
        make_source(config, "eval")


def test_hosts_must_share_batches_evenly(source, config):
    with pytest.raises(
        UserError, match=r"config\.loader\.batch_size=4: must be a positive multiple of the 3"
    ):
        train_batches(source, config, 0, 0, 3)
    with pytest.raises(UserError, match=r"config\.loader\.eval_batch_size=2: .* multiple of the 4"):
        eval_batches(source, config, 0, 4)


def test_images_that_fit_in_no_bucket_are_in_batches_too(source, config):
    with train_batches(source, override(config, {"loader.buckets": ((32, 32),)})) as batches:
        assert {batch.images.shape[1:3] for batch in first(batches, 4)} == {(128, 128)}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named_by_the_main_process(config, coco_tree, tmp_path, workers):
    for path in (coco_tree / "train2017").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    broken = sorted(tmp_path.iterdir())[0]
    source = coco_json_source(config.dataset.train_json, tmp_path)
    broken.write_bytes(b"broken")
    batches = train_batches(source, override(config, {"loader.workers": workers}))
    with pytest.raises(UserError, match=rf"{broken.name}: cannot be decoded"):
        first(batches, 10)
    assert list(batches) == []


def test_a_killed_worker_is_reported(source, config):
    with train_batches(source, override(config, {"loader.workers": 1})) as batches:
        next(batches)
        for worker in multiprocessing.active_children():
            worker.kill()
        with pytest.raises(UserError, match=r"a data worker was killed, .*config\.loader\.workers"):
            first(batches, 100)


SCRIPT = """
    import signal, sys, time
    signal.signal(signal.SIGINT, signal.default_int_handler)  # processes in the background ignore SIGINT
    from gfl_jax.configuration.config_files import load_config
    from gfl_jax.data.loader import make_source, train_batches

    if __name__ == "__main__":
        config = load_config(sys.argv[1])
        with train_batches(make_source(config, "train"), config) as batches:
            next(batches), next(batches)
            print("ready", flush=True)
            time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_its_parent(config, tmp_path, number):
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    (tmp_path / "config.py").write_text(
        "from gfl_jax.config import *\n"
        f"def get_config():\n    return {override(config, {'loader.workers': 2})!r}\n"
    )
    # Killed processes must not write coverage data.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COV")}
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "script.py", tmp_path / "config.py"],
        env={**environment, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    if number == signal.SIGINT:
        os.killpg(parent.pid, number)  # as a terminal does
    else:
        parent.kill()
    _, errors = parent.communicate(timeout=60)
    if number == signal.SIGINT:
        assert errors.count("Traceback") == 1  # from the script; workers are silent
    for _ in range(100):
        if not alive(parent.pid):
            return
        time.sleep(0.1)
    pytest.fail(f"processes still run: {alive(parent.pid)}")


def alive(session):
    """The processes of a session, without zombies."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(stat.parent.name)
    return found


def test_many_evaluations_do_not_delay_the_exit(config, source, monkeypatch):
    """Earlier each evaluation added a second at exit, so 180 evaluations cost three minutes."""
    waits = []
    monkeypatch.setattr(loader.atexit, "register", lambda *given: waits.append(given))
    loader._wait_at_exit.cache_clear()
    for _ in range(2):
        with eval_batches(source, override(config, {"loader.workers": 1})):
            pass
    assert waits == [(time.sleep, 1.0)]
