"""The Python API, as a program that uses nothing else of this package sees it."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import gfl_jax

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def detector(trained):
    return gfl_jax.load(trained)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Arrays of three sizes, and files of the same images."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("images")
    arrays = [rng.integers(0, 256, (*size, 3), np.uint8) for size in ((60, 90), (64, 96), (50, 50))]
    files = [folder / f"{i}.png" for i in range(3)]
    for array, file in zip(arrays, files, strict=True):
        Image.fromarray(array).save(file)
    return arrays, files


def same(found, other):
    for a, b in zip(found, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_paths_arrays_and_lists_of_both_give_the_same_detections(detector, images):
    arrays, files = images
    one = detector(arrays[0])
    assert one.boxes.shape == (len(one.scores), 4)
    assert len(one.scores) > 0
    assert (np.diff(one.scores) <= 0).all()
    assert one.names == tuple(detector.classes[label] for label in one.labels)
    same(one[:3], detector(files[0])[:3])
    same(one[:3], detector(str(files[0]))[:3])
    same(one[:3], detector(Image.fromarray(arrays[0]))[:3])
    found = detector([arrays[0], files[1], arrays[2]])
    assert [len(x.scores) > 0 for x in found] == [True] * 3
    for a, b in zip(found, [detector(x) for x in arrays], strict=True):
        np.testing.assert_allclose(a.scores, b.scores, rtol=1e-4)
    assert detector([]) == []


def test_above_keeps_the_detections_above_a_score(detector, images):
    found = detector(images[0][0])
    score = float(np.median(found.scores))
    above = found.above(score)
    assert len(above.boxes) == len(above.labels) == len(above.names) == np.sum(found.scores > score)
    assert (above.scores > score).all()
    assert len(found.above(1.0).scores) == 0


def test_draw_draws_boxes_above_the_minimum_score(detector, images):
    arrays, files = images
    found = detector(files[1])
    drawn = detector.draw(files[1], found, min_score=0.0)
    assert isinstance(drawn, Image.Image)
    nothing = detector.draw(arrays[1], found, min_score=1.1)
    assert drawn.size == nothing.size
    assert drawn.tobytes() != nothing.tobytes()


def test_several_threads_may_call_a_detector(detector, images):
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(detector, images[0] * 2))
    for a, b in zip(found[:3], found[3:], strict=True):
        same(a[:3], b[:3])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((5, 5), np.uint8), r"image 0: is an array \(5, 5\) of uint8; pass uint8 RGB"),
        (np.zeros((5, 5, 3)), r"image 0: is an array \(5, 5, 3\) of float64; pass uint8 RGB"),
        (np.zeros((0, 5, 3), np.uint8), "image 0: is an array"),
        ("missing.jpg", "missing.jpg: cannot be read"),
    ],
)
def test_inputs_that_are_not_images_are_errors(detector, image, message):
    with pytest.raises(gfl_jax.UserError, match=message):
        detector(image)


def test_a_truncated_image_is_an_error_that_names_it(detector, images, tmp_path):
    content = images[1][0].read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(gfl_jax.UserError, match=r"cut\.png: is cut off"):
        detector([images[1][0], tmp_path / "cut.png"])


def test_an_exported_file_gives_the_same_detections(detector, images, tmp_path):
    """The canvas must be the same, because group norms depend on the padding."""
    file = tmp_path / "small.jaxexport"
    detector.export(file, canvas=(64, 96))
    loaded = gfl_jax.load(file)
    assert loaded.classes == detector.classes
    for image in [images[0][1], images[1][0]]:
        alone, found = loaded(image), detector(image)
        np.testing.assert_allclose(alone.scores, found.scores, rtol=1e-4)
        np.testing.assert_allclose(alone.boxes, found.boxes, atol=1e-2)
        assert alone.names == found.names
    with pytest.raises(gfl_jax.UserError, match="is larger than the canvas 64x96"):
        loaded(np.zeros((60, 600, 3), np.uint8))
    with pytest.raises(gfl_jax.UserError, match="is an exported file already"):
        loaded.export(tmp_path / "again")
    file.write_bytes(b"something else")
    with pytest.raises(gfl_jax.UserError, match="is not a file that `main"):
        gfl_jax.load(file)
    file.with_name("small.jaxexport.json").unlink()
    with pytest.raises(gfl_jax.UserError, match=r"small.jaxexport.json: there is no such file"):
        gfl_jax.load(file)


def test_names_that_are_not_detectors_are_errors(tmp_path):
    with pytest.raises(gfl_jax.UserError, match="is neither a work directory of `train` nor a published"):
        gfl_jax.load(tmp_path)
    with pytest.raises(gfl_jax.UserError, match="is neither"):
        gfl_jax.load("yolo")


NAMES = [
    *("Config", "Detector", "Found", "UserError", "assign_atss", "assign_fcos", "boxes_to_distances"),
    *("build_detector", "centerness", "detection_losses", "distances_to_boxes"),
    *("distribution_focal_loss", "focal_loss", "giou", "giou_loss", "iou", "iou_loss", "load", "load_config"),
    *("nms", "override", "quality_focal_loss", "train", "variance_vote"),
]


def test_public_names_stay():
    """Removing or moving a public name breaks other people's programs."""
    assert dir(gfl_jax) == NAMES
    for name in NAMES:
        assert getattr(gfl_jax, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'Trainer'"):
        gfl_jax.Trainer  # noqa: B018


def test_importing_gfl_jax_does_not_import_jax():
    code = "import gfl_jax, sys; gfl_jax.UserError; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
