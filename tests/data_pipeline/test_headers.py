"""Images with every EXIF orientation, and boxes drawn on the displayed image or on the raw pixels."""

import json
import logging
import re

import numpy as np
import pytest
from PIL import Image

from gfl_jax.data.coco_json import coco_json_source
from gfl_jax.data.images import decode_image, image_size
from gfl_jax.errors import UserError

RAW = np.zeros((20, 30, 3), np.uint8)
RAW[:5, :5] = 255  # the upper left corner of the raw pixels is white


def write(folder, orientations, size, ending="png"):
    """Writes images with these orientations, and annotations with their (height, width)."""
    images = []
    for i, orientation in enumerate(orientations):
        image = Image.fromarray(RAW)
        exif = image.getexif()
        exif[0x0112] = orientation
        image.save(folder / f"{i}.{ending}", exif=exif)
        height, width = size if isinstance(size[0], int) else size[i]
        images.append({"id": i, "file_name": f"{i}.{ending}", "height": height, "width": width})
    content = {
        "images": images,
        "annotations": [{"image_id": 0, "category_id": 1, "bbox": [1, 1, 9, 9]}],
        "categories": [{"id": 1, "name": "corner"}],
    }
    (folder / "x.json").write_text(json.dumps(content))
    return folder / "x.json"


def corner(image):
    """Which corner is white: (lower, right)."""
    where = np.argwhere(image[..., 0] > 128).mean(axis=0) / image.shape[:2]
    return tuple((where > 0.5).tolist())


DISPLAYED = {1: (False, False), 3: (True, True), 6: (False, True), 8: (True, False)}


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
@pytest.mark.parametrize("orientation", DISPLAYED)
def test_displayed_and_raw_decoding(tmp_path, ending, orientation):
    write(tmp_path, [orientation], (20, 30), ending)
    encoded = (tmp_path / f"0.{ending}").read_bytes()
    shown = decode_image(encoded, "x")
    assert image_size(encoded, "x") == shown.shape[:2] == ((30, 20) if orientation >= 5 else (20, 30))
    assert corner(shown) == DISPLAYED[orientation]
    assert corner(decode_image(encoded, "x", displayed=False)) == (False, False)


@pytest.mark.parametrize(
    ("orientations", "size", "wanted", "displayed", "line"),
    [
        ((1, 1), (20, 30), "auto", (True, True), ""),
        ((6, 8), (30, 20), "auto", (True, True), ""),
        ((6, 8), (20, 30), "auto", (False, False), ""),
        # The size of an upside-down image (orientation 3) fits both ways; the other images decide.
        (
            (3, 6),
            ((20, 30), (30, 20)),
            "auto",
            (True, True),
            "1 images have an EXIF orientation .* in display",
        ),
        ((3, 6), ((20, 30), (20, 30)), "auto", (False, False), "1 images have an EXIF orientation .* in raw"),
        ((3, 1), (20, 30), "auto", (True, True), r"\(such as 0\.png\).* in display orientation; set config"),
        ((3, 1), (20, 30), "raw", (False, True), ""),
        ((3, 1), (20, 30), "display", (True, True), ""),
        ((3, 6), ((20, 30), (20, 30)), "display", (True, False), "boxes of 1 images are read in raw"),
        ((3, 6), ((20, 30), (30, 20)), "raw", (False, True), "boxes of 1 images are read in display"),
        ((6, 6), ((20, 30), (30, 20)), "auto", (False, True), "boxes of 1 images are read in raw"),
    ],
)
def test_annotated_sizes_give_the_orientation(tmp_path, caplog, orientations, size, wanted, displayed, line):
    path = write(tmp_path, orientations, size)
    with caplog.at_level(logging.INFO):
        source = coco_json_source(path, tmp_path, wanted)
    for i, (orientation, is_displayed) in enumerate(zip(orientations, displayed, strict=True)):
        image = source.read_image(i)
        assert image.shape[:2] == tuple(source.sizes[i])
        assert corner(image) == (DISPLAYED[orientation] if is_displayed else (False, False))
    assert len(caplog.records) == bool(line)
    if line:
        assert re.search(line, caplog.text)


def test_wrong_sizes_are_reported_before_any_image_is_read(tmp_path):
    path = write(tmp_path, (6, 6, 1), ((30, 20), (30, 21), (21, 30)))
    with pytest.raises(UserError, match=r"1\.png is 30 x 20 pixels .* say 30 x 21; .* \(and 1 more images"):
        coco_json_source(path, tmp_path)


def test_files_that_are_not_images_are_reported_before_any_is_read(tmp_path):
    path = write(tmp_path, (1, 1, 1), (20, 30))
    for i in (1, 2):
        (tmp_path / f"{i}.png").write_text("<html>404 Not Found</html>")
    with pytest.raises(UserError, match=r"1\.png: cannot be decoded .* \(and 1 more files cannot be read\)"):
        coco_json_source(path, tmp_path)


def test_backslashes_and_tilde_in_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "day1").mkdir()
    path = write(tmp_path, (1,), (20, 30))
    (tmp_path / "0.png").rename(tmp_path / "day1" / "0.png")
    path.write_text(path.read_text().replace("0.png", r"day1\\0.png"))
    assert coco_json_source("~/x.json", "~").read_image(0).shape == (20, 30, 3)


def test_a_folder_in_place_of_an_image_is_named(tmp_path):
    path = write(tmp_path, (1,), (20, 30))
    (tmp_path / "0.png").unlink()
    (tmp_path / "0.png").mkdir()
    with pytest.raises(UserError, match=r"0\.png: cannot be read \(Is a directory\)"):
        coco_json_source(path, tmp_path)
