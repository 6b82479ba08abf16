"""Drawings of an evaluation: one file for each image, all in the output folder."""

import cv2
import numpy as np

from gfl_jax.data.annotations import no_annotations
from gfl_jax.data.source import Source
from gfl_jax.evaluation.snapshots import save_snapshots


def test_each_image_has_a_file_of_its_own(tmp_path):
    names = ("day1/1.jpg", "day2/1.jpg", "../1.png", "/day1/1.png", "day2/2.jpg")
    table = no_annotations(np.full((5, 2), 640), np.arange(5), names)
    image = lambda i: np.full((640, 640, 3), 50 * i, np.uint8)  # noqa: E731
    source = Source("test", ("red",), (1,), table, image)
    paths = save_snapshots(tmp_path / "drawn", "step_1_", source, [], count=5)
    assert [str(path.relative_to(tmp_path / "drawn")) for path in paths] == [
        "day1/step_1_1.jpg.png",
        "day2/step_1_1.png",
        "step_1_1.png",
        "day1/step_1_1.png.png",
        "day2/step_1_2.png",
    ]
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(paths)
    for i, path in enumerate(paths):
        assert (cv2.imread(str(path)) == 50 * i).any()
