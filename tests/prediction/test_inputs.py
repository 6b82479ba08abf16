"""The files that words of the command line name."""

import os

import pytest

from gfl_jax.prediction.inputs import find_inputs


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A current folder with names of images, videos and other files; all files are empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in (
        "photos/b.JPG",
        "photos/a.png",
        "photos/.DS_Store",
        "photos/._a.jpg",
        "photos/.thumbs/a.jpg",
        "photos/notes.txt",
        "photos/clip.mp4",
        "photos/day 10/1.tif",
        "photos/day 2/1.webp",
        "day1/1.jpg",
        "day2/1.jpg",
        "day2/2.jpeg",
        "img[1].jpg",
        "img1.jpg",
        "home/h.jpg",
        "texts/a.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["photos"], ["a.png", "b.JPG", "clip.mp4", "day 10/1.tif", "day 2/1.webp"]),
        (["day?/*.jpg"], ["day1/1.jpg", "day2/1.jpg"]),
        (["day2", "day1"], ["day2/1.jpg", "day2/2.jpeg", "day1/1.jpg"]),
        (["**/*.tif"], ["photos/day 10/1.tif"]),
        (["day[12]"], ["day1/1.jpg", "day2/1.jpg", "day2/2.jpeg"]),  # a pattern that matches folders
        (["img[1].jpg"], ["img[1].jpg"]),  # a file name that looks like a pattern
        (["img[1-2].jpg"], ["img1.jpg"]),
        (["~/h.jpg"], ["home/h.jpg"]),
        (["texts/a.txt"], ["texts/a.txt"]),  # a named file is used whatever its extension
        (["day1/1.jpg", "./day1/../day1/1.jpg", "day1"], ["day1/1.jpg"]),
    ],
)
def test_words_name_files(photos, words, expected):
    files, problems = find_inputs(words)
    assert problems == []
    prefix = "photos/" if words == ["photos"] else ""
    assert [os.path.relpath(file, photos) for file in files] == [prefix + name for name in expected]


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("nowhere.jpg", "nowhere.jpg: cannot be read (No such file or directory)"),
        ("nowhere/*.jpg", "nowhere/*.jpg: the pattern matches no image"),
        ("texts", "texts: the folder holds no image and no video"),
        ("", "'': cannot be read (No such file or directory)"),
        ("x" * 5000, "x: cannot be read"),
    ],
)
def test_a_word_without_files_is_a_problem_and_others_are_used(photos, word, problem):
    files, problems = find_inputs([word, "day1"])
    assert [str(file) for file in files] == ["day1/1.jpg"]
    assert len(problems) == 1
    assert problem.removeprefix("x") in problems[0]


def test_links_to_folders_are_followed_once_and_the_output_is_left_out(photos):
    (photos / "day1" / "loop").symlink_to(photos / "day1")
    (photos / "day1" / "other").symlink_to(photos / "day2")
    (photos / "day1" / "same.jpg").symlink_to(photos / "day1" / "1.jpg")
    (photos / "day1" / "x.jpg").symlink_to("x.jpg")  # a link to itself
    files, problems = find_inputs(["day1", "day1/loop/1.jpg"])
    assert [str(file) for file in files] == [
        *("day1/1.jpg", "day1/same.jpg", "day1/x.jpg"),
        *("day1/other/1.jpg", "day1/other/2.jpeg"),
    ]
    assert problems == []
    files, _ = find_inputs(["day1"], leave_out=photos / "day2")
    assert [str(file) for file in files] == ["day1/1.jpg", "day1/same.jpg", "day1/x.jpg"]
