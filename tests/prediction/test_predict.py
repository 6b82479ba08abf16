"""`predict` on files, folders and videos: unique names and ids; a bad input does not affect the others."""

import json
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import cv2
import jax
import numpy as np
import pytest

from gfl_jax.command_line.main import main
from gfl_jax.config import Config, Loader, Resize
from gfl_jax.data import video
from gfl_jax.data.categories import Categories
from gfl_jax.drawing import mp4 as video_file
from gfl_jax.errors import UserError
from gfl_jax.prediction import predict as predict_module
from gfl_jax.prediction import predict_files as module
from gfl_jax.prediction.predict import Prediction, make_predict, plan_runs
from gfl_jax.prediction.predict_files import image_ids, predict_inputs
from gfl_jax.training.trained import Trained

CATEGORIES = Categories(("red", "green", "blue"), (10, 20, 30))


def write_image(path, height=60, width=90):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())
    return path


def write_video(path, count, size=(60, 90), rate=10.0):
    """Frame i is gray of brightness 20 * i."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, size[::-1])
    for i in range(count):
        writer.write(np.full((*size, 3), 20 * i, np.uint8))
    writer.release()
    return path


def frames_of(path):
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (found := capture.read())[0]:
        frames.append(found[1])
    return frames, capture.get(cv2.CAP_PROP_FPS)


@pytest.fixture
def predict(monkeypatch, tmp_path, capsys):
    """Runs `predict` in the folder tmp_path, with a detector whose only box is the whole image.

    Returns the exit status, the results and the lines on stderr.
    """

    def fake(detector):
        def predict(source, too_large):
            for i in range(len(source)):
                try:
                    height, width = source.read_image(i).shape[:2]
                except UserError:
                    continue
                yield Prediction(i, np.array([[0, 0, width, height]]), np.array([0.875]), np.array([1]))

        return predict

    def run(*words, output="out", **fields):
        arguments = [str(word) for word in words]
        detector = Trained("test", Config("test", **fields), None, CATEGORIES)
        status = predict_inputs(detector, arguments, Path(output), 0.3)
        file = Path(output) / "results.json"
        results = json.loads(file.read_text()) if file.is_file() else None
        return status, results, capsys.readouterr().err.splitlines()

    monkeypatch.setattr(module, "make_predict", fake)
    monkeypatch.chdir(tmp_path)
    return run


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def test_folders_are_kept_apart(predict):
    for name in ("day1/0001.jpg", "day2/0001.jpg", "day2/0001.png"):
        write_image(Path(name))
    status, results, errors = predict("day1/0001.jpg", "day2")
    assert (status, errors) == (0, [])
    assert results[0] == {
        "image_id": 1,
        "file_name": "day1/0001.jpg",
        "category_id": 20,
        "bbox": [0, 0, 90, 60],
        "score": 0.875,
    }
    assert [(r["image_id"], r["file_name"]) for r in results[1:]] == [
        (2, "day2/0001.jpg"),
        (3, "day2/0001.png"),
    ]
    assert (
        predict("day1/0001.jpg", Path("day2/0001.jpg").absolute(), output="x")[1][1]["file_name"]
        == "day2/0001.jpg"
    )
    drawn = ["day1/0001.png", "day2/0001.jpg.png", "day2/0001.png.png", "results.json"]
    assert files_below("out") == drawn


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["0007.jpg", "12.png"], [7, 12]),
        (["1700000000000000001.jpg", "1700000000000000002.jpg"], [1700000000000000001, 1700000000000000002]),
        (["a/1.jpg", "b/1.jpg"], [1, 2]),
        (["7.jpg", "007.png"], [1, 2]),
        (["4.jpg", "x.jpg", "y.jpg", "z.jpg"], [1, 2, 3, 4]),  # the fourth image must not get a second id 4
        (["²³.jpg"], [1]),
        (["٣.jpg", "5.jpg"], [1, 2]),
        (["-1.jpg"], [1]),
        (["1" * 200 + ".jpg"], [1]),
        ([], []),
    ],
)
def test_image_ids(names, ids):
    assert image_ids([Path(name) for name in names], [1] * len(names)) == ids


def test_frames_have_ids_of_their_own():
    assert image_ids([Path(n) for n in ("7.jpg", "8.mp4", "9.jpg", "a.mp4")], [1, 30, 1, 5]) == [1, 2, 32, 33]


def test_a_bad_input_is_named_at_the_end_and_all_others_are_processed(predict):
    for name in ("in/1.png", "in/4.png", "in/sub/5.jpg"):
        write_image(Path(name))
    Path("in/2.png").write_bytes(b"")
    Path("in/3.jpg").write_bytes(write_image(Path("other/3.jpg")).read_bytes()[:-100])
    os.mkfifo("in/pipe.png")
    status, results, errors = predict("in", "nowhere.jpg", "no/*.jpg")
    assert status == 1
    assert [r["file_name"] for r in results] == ["1.png", "4.png", "sub/5.jpg"]
    assert files_below("out") == ["1.png", "4.png", "results.json", "sub/5.png"]
    assert errors == [
        "error: nowhere.jpg: cannot be read (No such file or directory); check the path",
        "error: no/*.jpg: the pattern matches no image and no video; check the path",
        "error: in/2.png: cannot be decoded as an image; replace the file, or remove it from the data set",
        "error: in/pipe.png: cannot be read (Not a regular file); name a file",
        "error: in/3.jpg: is cut off; replace the file, or remove it from the data set",
        "5 of the inputs could not be used; all others were processed",
    ]


def test_nothing_is_written_if_no_input_can_be_used(predict):
    Path("bad.png").write_text("no image")
    Path("cut.jpg").write_bytes(write_image(Path("whole.jpg")).read_bytes()[:-9])
    status, results, errors = predict("bad.png", "cut.jpg")
    assert (status, results) == (2, None)
    assert errors[-1] == "2 of the inputs could not be used; there are no others"
    assert not Path("out").exists()
    assert predict("whole.jpg")[0] == 0
    before = Path("out/results.json").read_bytes()
    status, _, errors = predict("cut.jpg")
    assert status == 2
    assert errors == ["error: cut.jpg: is cut off; replace the file, or remove it from the data set"]
    assert Path("out/results.json").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "output", "message"),
    [
        (
            ["photos/1.png"],
            "photos",
            "photos/1.png: is an input and would be overwritten; name another",
        ),
        (["other/1.jpg"], "photos", "photos/1.png: exists already and is not from an earlier run"),
        (["photos"], "photos", "photos/1.png: is an input"),
        (["other/1.jpg"], "notes", "notes/results.json: exists already and is not from an earlier run"),
        (["other/1.jpg"], "link", "link/1.png: exists already"),
    ],
)
def test_files_of_the_user_are_not_overwritten(predict, words, output, message):
    write_image(Path("photos/1.png"))
    write_image(Path("other/1.jpg"))
    Path("notes").mkdir()
    Path("notes/results.json").write_text('{"mine": 1}')
    Path("link").symlink_to("photos")
    before = {name: Path(name).read_bytes() for name in files_below(".")}
    with pytest.raises(UserError, match=f"^{message}"):
        predict(*words, output=output)
    assert {name: Path(name).read_bytes() for name in files_below(".")} == before


def test_an_earlier_run_is_replaced_and_its_drawn_images_are_not_used_as_inputs(predict):
    write_image(Path("in/a.jpg"))
    for _ in range(2):
        status, results, _ = predict("in", output="in/out")
        assert status == 0
        assert [r["file_name"] for r in results] == ["a.jpg"]
    assert files_below("in") == ["a.jpg", "out/a.png", "out/results.json"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError, RuntimeError])
def test_detections_are_written_after_an_error_too(predict, monkeypatch, error):
    for name in "abc":
        write_image(Path(f"in/{name}.jpg"))
    assert predict("in/c.jpg")[0] == 0
    save = module.save_png

    def fail_at_b(path, image):
        results = json.loads(Path("out/results.json").read_text())
        assert [r["file_name"] for r in results] == ["a.jpg"]  # not those of the earlier run
        if path.stem == "b":
            raise error("at b")
        save(path, image)

    monkeypatch.setattr(module, "save_png", fail_at_b)
    with pytest.raises(error, match="at b"):
        predict("in")
    assert [r["file_name"] for r in json.loads(Path("out/results.json").read_text())] == ["a.jpg", "b.jpg"]
    assert files_below("out") == ["a.png", "c.png", "results.json"]


def test_an_image_that_cannot_be_written_does_not_affect_others(predict, monkeypatch):
    for name in "abc":
        write_image(Path(f"in/{name}.jpg"))
    write_video(Path("in/d.mp4"), 2)
    save = module.save_png

    def refuse_b(path, image):
        if path.stem == "b":
            raise PermissionError(13, "Permission denied")
        save(path, image)

    def refuse(file):
        raise OSError(36, "File name too long")

    monkeypatch.setattr(module, "save_png", refuse_b)
    monkeypatch.setattr(module.VideoFile, "_open", refuse)
    status, results, errors = predict("in")
    assert status == 1
    assert errors == [
        "error: out/b.png: cannot be written (Permission denied); name another --output",
        "error: out/d.mp4: cannot be written (File name too long); name another --output",
        "2 of the inputs could not be used; all others were processed",
    ]
    assert [r["file_name"] for r in results] == ["a.jpg", "b.jpg", "c.jpg", "d.mp4"]
    assert files_below("out") == ["a.png", "c.png", "results.json"]


def test_images_that_appear_or_disappear_are_reported(predict, monkeypatch):
    """One image is deleted before it is drawn; the other can be read only at the second attempt."""
    gone, late = write_image(Path("in/gone.jpg")), write_image(Path("in/late.jpg"))

    def fake(detector):
        def predict(source, too_large):
            gone.unlink()
            yield Prediction(0, np.zeros((1, 4)), np.ones(1), np.zeros(1, int))

        return predict

    monkeypatch.setattr(module, "make_predict", fake)
    status, results, errors = predict("in")
    assert (status, [r["file_name"] for r in results]) == (1, ["gone.jpg"])
    assert errors[:2] == [
        f"error: {gone}: cannot be read (No such file or directory); check the file",
        f"error: {late}: could be read only at the second attempt; run the command again",
    ]


def test_detections_are_written_from_time_to_time(predict, monkeypatch):
    """A run that is killed loses one minute of detections at most."""
    written = []
    monkeypatch.setattr(module, "write_results", lambda path, results: written.append(len(results)))
    for name in "abcd":
        write_image(Path(f"in/{name}.jpg"))
    predict("in")
    assert written == [1, 4]
    monkeypatch.setattr(module, "SAVE_EVERY", 0.0)
    predict("in", output="other")
    assert written == [1, 4, 1, 2, 3, 4, 4]


def test_odd_names_and_sizes(predict):
    names = [
        "a b.jpg",
        "[1].jpg",
        "new\nline.png",
        "é.png",
        os.fsdecode(b"\xff\xfe.png"),
        "x" * 250 + ".png",
        "-o.png",
    ]
    for name in names:
        write_image(Path("in", name))
    for size in ((1, 1), (1, 3000), (3000, 1), (2, 40000)):
        write_image(Path(f"in/{size[0]} {size[1]}.png"), *size)
    status, results, errors = predict("in")
    assert (status, errors) == (0, [])
    assert {r["file_name"] for r in results} >= set(names)
    assert len({r["image_id"] for r in results}) == len(results) == len(names) + 4
    assert len(files_below("out")) == len(results) + 1


def test_a_video_is_drawn_and_its_frames_are_in_the_results(predict):
    write_image(Path("in/7.jpg"))
    write_video(Path("in/clip.mp4"), 12, (61, 90), rate=12.5)
    write_image(Path("in/z.jpg"))
    status, results, errors = predict("in")
    assert (status, errors) == (0, [])
    assert [r["image_id"] for r in results] == list(range(1, 15))
    assert [(r["file_name"], r["frame"]) for r in results[1:-1]] == [("clip.mp4", i) for i in range(12)]
    assert "frame" not in results[0]
    assert files_below("out") == ["7.png", "clip.mp4", "results.json", "z.png"]
    frames, rate = frames_of("out/clip.mp4")
    assert rate == 12.5
    assert len(frames) == 12
    inner = [frame[frame.shape[0] // 2 :, 30:-30].mean() for frame in frames]
    assert np.rint(np.array(inner) / 20).tolist() == list(range(12))  # each frame once, in order


def test_a_video_file_takes_frames_of_odd_and_changing_sizes(tmp_path):
    with module.VideoFile(tmp_path / "a" / "odd.mp4", 10.0) as file:
        for size in ((641, 99), (641, 99), (640, 98), (300, 500), (1, 1)):
            file.write(np.full((*size, 3), (250, 0, 0), np.uint8))
        assert not (tmp_path / "a" / "odd.mp4").exists()
    frames, _ = frames_of(tmp_path / "a" / "odd.mp4")
    assert [frame.shape for frame in frames] == [(642, 100, 3)] * 5
    assert all(frame[-1, -1, 2] > 230 > 20 > frame[-1, -1, 0] for frame in frames)  # red up to the edge
    assert files_below(tmp_path) == ["a/odd.mp4"]


def test_frames_can_be_read_in_any_order_and_by_a_copy(tmp_path, monkeypatch):
    path = write_video(tmp_path / "clip.mp4", 12)
    opened = []
    really_open = video.open_video
    monkeypatch.setattr(video, "open_video", lambda path: opened.append(path) or really_open(path))
    brightness = lambda frames, i: round(float(frames(i).mean()) / 20)  # noqa: E731
    frames = video.Frames(path, kept=4)
    shown = [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7]  # two batches, each in two views
    assert [brightness(frames, i) for i in shown] == shown
    assert len(opened) == 1
    copy = pickle.loads(pickle.dumps(frames))
    assert [brightness(copy, i) for i in (9, 3, 5, 11)] == [9, 3, 5, 11]
    assert len(opened) == 3
    with pytest.raises(UserError, match=r"clip\.mp4: frame 12 cannot be decoded"):
        frames(12)
    assert brightness(frames, 11) == 11


def test_frames_are_counted(tmp_path, caplog):
    """The number in the header is an estimate: here the end of the file is missing."""
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 12, (96, 64))
    for _ in range(20):
        writer.write(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
    writer.release()
    assert video.probe_video(tmp_path / "clip.avi") == (20, (64, 96), 12.0)
    content = (tmp_path / "clip.avi").read_bytes()
    (tmp_path / "clip.avi").write_bytes(content[: len(content) // 2])
    assert 0 < video.probe_video(tmp_path / "clip.avi").frames <= 10
    assert "frames, but the file states 20; it may be cut off" in caplog.text


@pytest.mark.parametrize("rate", [0.0, float("nan"), float("inf"), -5.0, 1e6])
def test_an_impossible_frame_rate_becomes_25(tmp_path, monkeypatch, rate):
    path = write_video(tmp_path / "clip.mp4", 2)

    class Odd:
        def __init__(self, *arguments):
            self.capture = cv2.VideoCapture(*arguments)

        def __getattr__(self, name):
            return getattr(self.capture, name)

        def get(self, field):
            return rate

    monkeypatch.setattr(video, "open_video", Odd)
    assert video.probe_video(str(path)).frame_rate == 25.0


def test_bad_videos(predict, monkeypatch):
    write_video(Path("good.mp4"), 3)
    whole = Path("good.mp4").read_bytes()
    Path("cut.mp4").write_bytes(whole[: len(whole) // 2])
    Path("text.avi").write_text("no video")
    Path("empty.mkv").write_bytes(b"")
    Path("folder.mov").mkdir()
    os.mkfifo("pipe.mp4")
    status, results, errors = predict(
        "good.mp4", "cut.mp4", "text.avi", "empty.mkv", "folder.mov", "pipe.mp4"
    )
    assert status == 1
    assert [r["frame"] for r in results] == [0, 1, 2]
    assert errors[0] == "error: folder.mov: the folder holds no image and no video; check the path"
    assert [line.split(": ")[1:] for line in errors[1:-1]] == [
        ["cut.mp4", "cannot be decoded as a video; convert it, or leave it out"],
        ["text.avi", "cannot be decoded as a video; convert it, or leave it out"],
        ["empty.mkv", "cannot be decoded as a video; convert it, or leave it out"],
        ["pipe.mp4", "cannot be read (Not a regular file); name a file"],
    ]
    monkeypatch.setattr(video_file.VideoFile, "write", lambda self, image: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        predict("good.mp4")
    assert files_below("out") == ["good.mp4", "results.json"]  # the complete file of the earlier run
    assert Path("out/good.mp4").stat().st_size > 0


def test_large_images_get_larger_canvases_and_smaller_batches():
    """No batch has more pixels than the config's largest: 8 of 64 x 96."""
    both = ((64, 96), (96, 64))
    config = Config("test", resize=Resize(None), loader=Loader(eval_batch_size=8, buckets=both))

    def runs(sizes, devices=1):
        found = plan_runs(np.array(sizes).reshape(-1, 2), config, devices)
        assert sorted(np.concatenate([run.positions for run in found])) == list(range(len(sizes)))
        return [(len(run.positions), run.buckets, run.batch, run.devices) for run in found]

    assert runs([(64, 90), (90, 64)] * 4) == [(8, both, 8, 1)]
    assert runs([(64, 90)] * 7) == [(7, both, 1, 1)]
    assert runs([(64, 90)] * 9, devices=8) == [(9, both, 8, 8)]
    assert runs([(64, 90)] * 9, devices=3) == [(9, both, 6, 3)]
    assert runs([(100, 90)] * 9) == [(9, ((128, 128),), 3, 1)]
    assert runs([(100, 90)] * 9, devices=2) == [(9, ((128, 128),), 2, 2)]
    assert runs([(100, 90)] * 9, devices=4) == [(9, ((128, 128),), 3, 1)]
    mixed = [*[(1, 1)] * 8, *[(4000, 3000)] * 3, (129, 1)]
    assert runs(mixed) == [(8, both, 8, 1), (1, ((256, 128),), 1, 1), (3, ((4096, 3072),), 1, 1)]


def test_if_memory_is_short_images_go_one_by_one_and_too_large_ones_are_reported(predict, monkeypatch):
    """The device refuses batches, and each image of more than 64 x 96 pixels."""
    monkeypatch.setattr(module, "make_predict", make_predict)
    monkeypatch.setattr(Trained, "on", lambda *arguments: (None, None))
    shapes = []

    def each_group(detect, variables, source, config, *others):
        shapes.append((len(source), config.loader.buckets[0], config.loader.eval_batch_size))
        for i in range(len(source)):
            if config.loader.eval_batch_size > 1 and i == 1:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
            if config.loader.buckets[0][0] > 64:
                raise MemoryError
            batch = SimpleNamespace(indices=np.array([i]))
            zeros = np.zeros((1, 1))
            yield (
                [batch],
                SimpleNamespace(
                    boxes=np.zeros((1, 1, 4)), scores=zeros, labels=zeros.astype(int), mask=zeros == 0
                ),
            )

    monkeypatch.setattr(predict_module, "each_group", each_group)
    for i in range(9):
        write_image(Path(f"in/{i}.png"))
    write_image(Path("in/large.png"), 200, 100)
    write_video(Path("in/large.mp4"), 2, (100, 200))
    inference = {"resize": Resize(None), "loader": Loader(eval_batch_size=8, buckets=((64, 96),))}
    status, results, errors = predict("in", **inference)
    assert status == 1
    assert [r["file_name"] for r in results] == [f"{i}.png" for i in range(9)]
    needs = "need more memory than is available; make it smaller, or cut it into parts"
    assert errors[:2] == [
        f"error: in/large.png: its 200 x 100 pixels {needs}",
        f"error: in/large.mp4: frame 0: its 100 x 200 pixels {needs}",
    ]
    assert shapes == [
        *((9, (64, 96), 8), (8, (64, 96), 1)),
        *((1, (256, 128), 1), (2, (128, 256), 1)),
    ]


def test_the_command_with_batches_over_all_devices(trained, tmp_path, capsys):
    """Eleven inputs, two of them bad, in batches of eight; the video needs no further compilation."""
    for i in range(7):
        write_image(tmp_path / f"in/day{i % 2}/{i}.png", 50 + i, 90 - i)
    write_image(tmp_path / "in/day1/x.png", 1, 90)
    (tmp_path / "in/day0/empty.jpg").write_bytes(b"")
    (tmp_path / "in/day0/cut.jpg").write_bytes(write_image(tmp_path / "x.jpg").read_bytes()[:-50])
    write_video(tmp_path / "in/clip.mp4", 10)
    output = tmp_path / "out"
    options = [f"--workdir={trained}", f"--output={output}", "--config.inference.max_detections=5"]
    assert main(["predict", f"{tmp_path}/in", *options, "--min-score=0"]) == 1
    printed = capsys.readouterr()
    assert "error: " + str(tmp_path / "in/day0/cut.jpg") + ": is cut off" in printed.err
    assert "2 of the inputs could not be used" in printed.err
    counts = "5 detections, 5 drawn (score at least 0)"
    assert f"{tmp_path}/in/day0/0.png: {counts}: {output}/day0/0.png" in printed.out
    results = json.loads((output / "results.json").read_text())
    assert len(results) == 5 * (8 + 10)
    frames = [r for r in results if r["file_name"] == "clip.mp4"]
    assert sorted({r["frame"] for r in frames}) == list(range(10))
    for i in range(7):
        name = f"day{i % 2}/{i}.png"
        assert (output / name).is_file()
        for x, y, width, height in (r["bbox"] for r in results if r["file_name"] == name):
            assert min(x, y) >= 0
            assert x + width <= 90 - i + 1e-3
            assert y + height <= 50 + i + 1e-3
    assert len(frames_of(output / "clip.mp4")[0]) == 10
