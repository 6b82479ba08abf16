"""Runs `predict` on images, folders and videos: drawn images, drawn videos, and COCO results.

Inputs that cannot be used are left out and named at the end. Detections are written from time to time, and
when the work ends, also after an error or Ctrl-C.
"""

import itertools
import os
import re
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from etils.epath import Path

from gfl_jax.config import Config
from gfl_jax.console.plain import counted
from gfl_jax.data.categories import Categories
from gfl_jax.data.headers import try_headers
from gfl_jax.data.image_files import image_files_source
from gfl_jax.data.source import Source
from gfl_jax.data.video import Frames, Video, probe_video, video_source
from gfl_jax.drawing import draw_boxes, save_png
from gfl_jax.drawing.canvas import Image
from gfl_jax.drawing.mp4 import VideoFile
from gfl_jax.errors import UserError, one_line
from gfl_jax.evaluation.output_names import output_names, relative_names, require_free
from gfl_jax.evaluation.results import Result, looks_like_results, to_coco_results, write_results
from gfl_jax.inference.views import views_of
from gfl_jax.paths import require_local
from gfl_jax.prediction.inputs import find_inputs, is_video
from gfl_jax.prediction.predict import Predict, Prediction, make_predict
from gfl_jax.training.trained import Trained

SAVE_EVERY = 60.0  # seconds


def predict_inputs(
    detector: Trained,
    words: Sequence[str],
    output: Path,
    min_score: float = 0.3,
) -> int:
    """Detects objects in the inputs that words name, draws the boxes, and writes `results.json`.

    Args:
      detector: its classes must have names.
      words: files, folders and patterns (see `find_inputs`).
      output: the folder to write to.
      min_score: boxes with a lower score are not drawn.

    Returns:
      The exit status: 0, 1 if some inputs could not be used, 2 if none could.

    Raises:
      UserError: an output would overwrite an input or a file that `predict` did not write, or cannot be
        written.
    """
    config, categories = detector.config, detector.named_classes()
    predict = make_predict(detector)
    result_file = output / "results.json"
    ours = looks_like_results(result_file, named=True)
    files, problems = find_inputs(words, output if ours else None)
    if any(map(is_video, files)):
        require_local(output, "drawn videos")
    paths = [os.path.abspath(file) for file in files]
    targets = [output / n for n in output_names(paths, [".mp4" if is_video(f) else ".png" for f in files])]
    require_free([result_file, *targets], files, may_replace=ours)
    jobs, unusable = _open_inputs(files, targets, categories, config)
    problems += unusable
    try:
        with _Results(result_file) as results:
            for job in jobs:
                process = _predict_images if job.video is None else _predict_video
                problems += process(job, predict, results, min_score)
    finally:
        for problem in problems:
            print(f"error: {one_line(problem)}", file=sys.stderr)
    others = "all others were processed" if results.entries else "there are no others"
    if len(problems) > 1 or (problems and results.entries):
        print(f"{len(problems)} of the inputs could not be used; {others}", file=sys.stderr)
    if not results.entries:
        return 2
    print(f"all detections: {one_line(result_file)}")
    return 1 if problems else 0


def image_ids(paths: Sequence[Path], counts: Sequence[int]) -> list[int]:
    """Chooses the image id of each file. For a video it is the id of the first frame; the others follow.

    The ids are the whole numbers in the file names if every file is an image that is named by a number of its
    own. Otherwise all images and frames are numbered from 1.

    Args:
      paths: the files.
      counts: the number of images or frames in each file.
    """
    if all(re.fullmatch("[0-9]+", path.stem) and not is_video(path) for path in paths):
        ids = [int(path.stem) for path in paths]
        if len(set(ids)) == len(ids) and max(ids, default=0) < 2**63:
            return ids
    return [1 + before for before in itertools.accumulate(counts[:-1], initial=0)]


class _Job(NamedTuple):
    """The inputs that are processed together: all images, or one video."""

    source: Source
    video: Video | None  # None: images
    names: list[str]  # of the files, relative to the common folder of all inputs
    targets: list[Path]  # the output file of each


class _Results:
    """Collects detections; writes them with the first image, every minute and at the end of the block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._due = 0.0
        self.entries: dict[int, list[Result]] = {}  # by image id

    def __enter__(self) -> "_Results":
        return self

    def __exit__(self, *_: object) -> None:
        if self.entries:
            self._write()

    def add(self, source: Source, found: Prediction, **fields: str | int) -> None:
        """Adds the detections of an image, each with these additional fields."""
        image_id = int(source.image_ids[found.position])
        entries = to_coco_results(found.boxes, found.scores, found.labels, image_id, source.category_ids)
        self.entries[image_id] = [{"image_id": image_id, **fields, **entry} for entry in entries]
        # Written at once for the first image: nobody should take an older file for the new results.
        if time.monotonic() >= self._due:
            self._write()

    def _write(self) -> None:
        write_results(self.path, [entry for _, entries in sorted(self.entries.items()) for entry in entries])
        self._due = time.monotonic() + SAVE_EVERY


def _open_inputs(
    files: Sequence[Path], targets: Sequence[Path], categories: Categories, config: Config
) -> tuple[list[_Job], list[str]]:
    """Returns the jobs, and one line for each file that cannot be used."""
    images = [i for i, file in enumerate(files) if not is_video(file)]
    sizes: dict[int, tuple[int, int]] = {}
    videos: dict[int, Video] = {}
    problems: dict[int, str] = {}
    for i, header in zip(images, try_headers([files[i] for i in images]), strict=True):
        if isinstance(header, UserError):
            problems[i] = str(header)
        else:
            sizes[i] = header.displayed
    for i in sorted(set(range(len(files))) - set(images)):
        try:
            videos[i] = probe_video(files[i])
        except UserError as error:
            problems[i] = str(error)
    ids = image_ids(files, [videos[i].frames if i in videos else 1 for i in range(len(files))])
    names = list(map(str, relative_names([os.path.abspath(file) for file in files])))
    jobs = []
    if sizes:
        chosen = list(sizes)
        paths, numbers = [files[i] for i in chosen], [ids[i] for i in chosen]
        source = image_files_source(paths, list(sizes.values()), numbers, categories)
        jobs.append(_Job(source, None, [names[i] for i in chosen], [targets[i] for i in chosen]))
    kept = config.loader.eval_batch_size if len(views_of(config.inference)) > 1 else 0
    for i, video in videos.items():
        source = video_source(files[i], video, ids[i], categories, kept)
        jobs.append(_Job(source, video, [names[i]], [targets[i]]))
    return jobs, [problems[i] for i in sorted(problems)]


def _predict_images(job: _Job, predict: Predict, results: _Results, min_score: float) -> list[str]:
    """Detects in images and draws them. Returns one line for each image that cannot be used."""
    source = job.source
    problems: dict[int, str] = {}
    missing = set(range(len(source)))
    for found in predict(source, problems):
        i = found.position
        missing.discard(i)
        results.add(source, found, file_name=job.names[i])
        try:
            image = source.read_image(i)
        except UserError as error:  # the file has been deleted since
            problems[i] = str(error)
            continue
        try:
            save_png(job.targets[i], _draw_detections(image, found, source, min_score))
        except OSError as error:  # such as a name that the file system does not accept
            problems[i] = f"{job.targets[i]}: cannot be written ({error.strerror}); name another --output"
            continue
        drawn = int((found.scores >= min_score).sum())
        counts = f"{counted(len(found.boxes), 'detection')}, {drawn} drawn (score at least {min_score:g})"
        print(one_line(f"{source.file_names[i]}: {counts}: {job.targets[i]}"))
    for i in missing - set(problems):
        try:
            source.read_image(i)
            problems[i] = (
                f"{source.file_names[i]}: could be read only at the second attempt; run the command again"
            )
        except UserError as error:
            problems[i] = str(error)
    return [problems[i] for i in sorted(problems)]


def _predict_video(job: _Job, predict: Predict, results: _Results, min_score: float) -> list[str]:
    """Detects in the frames of a video and draws them. Returns a line if the video cannot be used."""
    assert job.video is not None
    source, target, frames = job.source, job.targets[0], Frames(Path(job.source.name))
    done = detections = drawn = 0
    problems: dict[int, str] = {}
    try:
        with VideoFile(target, job.video.frame_rate) as file:
            for found in predict(source, problems):
                results.add(source, found, file_name=job.names[0], frame=found.position)
                file.write(_draw_detections(frames(found.position), found, source, min_score))
                done, detections = done + 1, detections + len(found.boxes)
                drawn += int((found.scores >= min_score).sum())
    except OSError as error:
        return [f"{target}: cannot be written ({error.strerror}); name another --output"]
    except UserError as error:
        return [str(error)]
    if done:
        counts = f"{counted(done, 'frame')}, {counted(detections, 'detection')}, {drawn} drawn"
        print(one_line(f"{source.name}: {counts}: {target}"))
    if problems:
        return [problems[min(problems)]]
    if done < len(source):
        missing = len(source) - done
        return [f"{source.name}: {missing} of {len(source)} frames cannot be decoded; convert the video"]
    return []


def _draw_detections(image: Image, found: Prediction, source: Source, min_score: float) -> Image:
    names = source.categories
    return draw_boxes(image, found.boxes, found.labels, found.scores, names, min_score)
