"""Names of outputs: unique, folders kept apart, nothing of the user's overwritten."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfl_jax.errors import UserError, one_line
from gfl_jax.evaluation.output_names import output_names, relative_names, require_free


def names(*paths, **options):
    return [str(name) for name in output_names(paths, **options)]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["day1/0001.jpg", "day2/0001.jpg"], ["day1/0001.png", "day2/0001.png"]),
        (["/data/day1/0001.jpg"], ["0001.png"]),
        (["/data/a/1.jpg", "/data/a/b/1.jpg", "/data/a/b/2.jpg"], ["1.png", "b/1.png", "b/2.png"]),
        (["x/a.jpg", "x/a.png", "x/b.bmp"], ["a.jpg.png", "a.png.png", "b.png"]),
        (["a.jpg", "A.JPG"], ["a.jpg.png", "A.JPG_2.png"]),  # letter case does not count everywhere
        (["é.jpg", "e\u0301.jpg"], ["é.jpg.png", "e\u0301.jpg_2.png"]),  # nor do two ways to write é
        (["a.jpg", "a.png", "a.jpg.gif"], ["a.jpg_2.png", "a.png.png", "a.jpg.png"]),
        (["x/a.jpg", "x/a.png/b.jpg"], ["a.jpg.png", "a.png/b.png"]),  # a folder has the name
        (["../a.jpg", "/a.jpg", "b/../../c.jpg"], ["a.jpg.png", "a.jpg_2.png", "c.png"]),
        (["x" * 240 + ".jpg", "x" * 240 + "y.jpg"], ["x" * 200 + ".png", "x" * 200 + "_2.png"]),
        (["é" * 120 + ".jpg"], ["é" * 100 + ".png"]),
        (["", ".", ".jpg"], ["image.png", "image_2.png", ".jpg.png"]),
        (["a b[1].jpg", "a\nb.jpg"], ["a b[1].png", "a\nb.png"]),
    ],
)
def test_names(paths, expected):
    assert names(*paths) == expected


def test_endings_and_prefixes():
    assert names("a.jpg", "a.mp4", endings=[".png", ".mp4"]) == ["a.png", "a.mp4"]
    assert names("d/a.jpg", "e/a.jpg", prefix="step_1_") == ["d/step_1_a.png", "e/step_1_a.png"]
    assert list(map(str, relative_names(["/d/x/a.jpg", "/d/b.jpg"]))) == ["x/a.jpg", "b.jpg"]


PART = st.sampled_from(
    ["a", "A", "a.jpg", "a.png", "b", "..", ".", "x" * 250, "é", "ÿ" * 120, "a.jpg_2", "\udcff"]
)


@given(st.lists(st.lists(PART, min_size=1, max_size=3).map("/".join), max_size=8))
def test_names_are_unique_stay_inside_and_can_be_made(paths):
    found = output_names(paths)
    assert len({str(name).casefold() for name in found}) == len(paths)
    for name in found:
        assert not name.is_absolute()
        assert ".." not in name.parts
        assert len(os.fsencode(name.name)) <= 220
        assert not any(other in name.parents for other in found)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photos" / "1.png"
    path.parent.mkdir()
    path.write_bytes(b"a photo")
    return path


def test_an_input_is_never_overwritten(photo, tmp_path):
    (tmp_path / "link").symlink_to(photo.parent)
    os.link(photo, tmp_path / "hard.png")
    (tmp_path / "soft.png").symlink_to(photo)
    for path in (photo, tmp_path / "link" / "1.png", tmp_path / "hard.png", tmp_path / "soft.png"):
        with pytest.raises(UserError, match=r"1?.png: is an input and would be overwritten; name another"):
            require_free([tmp_path / "free.png", path], [photo], may_replace=True)


def test_a_file_that_is_not_ours_is_never_overwritten(photo, tmp_path):
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere")
    for path in (photo, tmp_path / "broken.png"):
        with pytest.raises(UserError, match=r"png: is there already, and not made by an earlier run"):
            require_free([path], [], may_replace=False)
        require_free([path], [], may_replace=True)
    with pytest.raises(UserError, match="photos: is there already"):
        require_free([photo.parent], [], may_replace=True)
    with pytest.raises(UserError, match=r"1\.png: is a file, so that .*2\.png cannot be made"):
        require_free([photo / "2.png"], [], may_replace=True)
    with pytest.raises(UserError, match=r"results\.json: is a file, so that .*1\.png cannot be made"):
        require_free([tmp_path / "results.json", tmp_path / "results.json" / "1.png"], [], may_replace=True)


def test_odd_names_are_told_on_one_line():
    assert one_line(Path("a\nb\x1b[31m\udcff é [x].jpg")) == r"a\nb\x1b[31m\udcff é [x].jpg"
