"""Output names are unique, keep the input folders, and overwrite no file of the user."""

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
        (["a.jpg", "A.JPG"], ["a.jpg.png", "A.JPG_2.png"]),  # some file systems ignore case
        (["é.jpg", "e\u0301.jpg"], ["é.jpg.png", "e\u0301.jpg_2.png"]),  # and some normalize Unicode
        (["a.jpg", "a.png", "a.jpg.gif"], ["a.jpg_2.png", "a.png.png", "a.jpg.png"]),
        (["x/a.jpg", "x/a.png/b.jpg"], ["a.jpg.png", "a.png/b.png"]),  # a folder has this name
        (["../a.jpg", "/a.jpg", "b/../../c.jpg"], ["a.jpg.png", "a.jpg_2.png", "c.png"]),
        (["x" * 240 + ".jpg", "x" * 240 + "y.jpg"], ["x" * 200 + ".png", "x" * 200 + "_2.png"]),
        (["é" * 120 + ".jpg"], ["é" * 100 + ".png"]),
        (["", ".", ".jpg"], ["image.png", "image_2.png", ".jpg.png"]),
        (["a b[1].jpg", "a\nb.jpg"], ["a b[1].png", "a\nb.png"]),
    ],
)
def test_output_names(paths, expected):
    assert names(*paths) == expected


def test_endings_and_prefixes():
    assert names("a.jpg", "a.mp4", endings=[".png", ".mp4"]) == ["a.png", "a.mp4"]
    assert names("d/a.jpg", "e/a.jpg", prefix="step_1_") == ["d/step_1_a.png", "e/step_1_a.png"]
    assert list(map(str, relative_names(["/d/x/a.jpg", "/d/b.jpg"]))) == ["x/a.jpg", "b.jpg"]


PART = st.sampled_from(
    ["a", "A", "a.jpg", "a.png", "b", "..", ".", "x" * 250, "é", "ÿ" * 120, "a.jpg_2", "\udcff"]
)


@given(st.lists(st.lists(PART, min_size=1, max_size=3).map("/".join), max_size=8))
def test_names_are_unique_valid_and_inside_the_output_folder(paths):
    found = output_names(paths)
    assert len({str(name).casefold() for name in found}) == len(paths)
    for name in found:
        assert not name.is_absolute()
        assert ".." not in name.parts
        assert len(os.fsencode(name.name)) <= 220
        assert not any(other in name.parents for other in found)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "images" / "1.png"
    path.parent.mkdir()
    path.write_bytes(b"an image")
    return path


def test_an_input_is_never_overwritten(image, tmp_path):
    (tmp_path / "link").symlink_to(image.parent)
    os.link(image, tmp_path / "hard.png")
    (tmp_path / "soft.png").symlink_to(image)
    for path in (image, tmp_path / "link" / "1.png", tmp_path / "hard.png", tmp_path / "soft.png"):
        with pytest.raises(UserError, match=r"1?.png: is an input and would be overwritten; name another"):
            require_free([tmp_path / "free.png", path], [image], may_replace=True)


def test_a_file_of_the_user_is_never_overwritten(image, tmp_path):
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere")
    for path in (image, tmp_path / "broken.png"):
        with pytest.raises(UserError, match=r"png: exists already and is not from an earlier run"):
            require_free([path], [], may_replace=False)
        require_free([path], [], may_replace=True)
    with pytest.raises(UserError, match="images: exists already"):
        require_free([image.parent], [], may_replace=True)
    with pytest.raises(UserError, match=r"1\.png: is a file, so .*2\.png cannot be written"):
        require_free([image / "2.png"], [], may_replace=True)
    with pytest.raises(UserError, match=r"results\.json: is a file, so .*1\.png cannot be written"):
        require_free([tmp_path / "results.json", tmp_path / "results.json" / "1.png"], [], may_replace=True)


def test_unprintable_characters_in_names_are_escaped():
    assert one_line(Path("a\nb\x1b[31m\udcff é [x].jpg")) == r"a\nb\x1b[31m\udcff é [x].jpg"
