"""The output of `main.py inspect` for data sets with known boxes."""

import numpy as np
from PIL import Image
from small_coco import write_coco

from gfl_jax.analysis.data_set import (
    UNASSIGNED_COLOR,
    TrainingImage,
    class_table,
    data_table,
    describe_unassigned,
    draw_samples,
    level_table,
    training_images,
)
from gfl_jax.command_line.main import main
from gfl_jax.config import Config, Loader, Resize
from gfl_jax.data.annotations import build_annotations
from gfl_jax.data.source import Source

BOXES = np.array([[10, 10, 64, 64], [50, 80, 128, 128], [200, 40, 1, 1]], float)  # x, y, width, height
STRIDES = (8, 16, 32, 64, 128)


def source_of(boxes, labels, size=(256, 256), images=2):
    annotations = build_annotations(
        name="test",
        sizes=np.array([size] * images),
        image_ids=range(images),
        file_names=[f"{i}.png" for i in range(images)],
        image_index=np.zeros(len(boxes), int),
        boxes_xywh=boxes,
        labels=np.array(labels),
        is_crowd=np.zeros(len(boxes), bool),
        area=np.full(len(boxes), np.nan),
    )
    read = lambda i: np.full((*size, 3), 90, np.uint8)  # noqa: E731
    return Source("test", ("cat", "dog", "cow"), (1, 2, 3), annotations, read)


def test_levels_learn_from_boxes_of_the_size_of_their_anchors():
    source = source_of(BOXES, [0, 1, 1])
    config = Config("test", resize=Resize(short_side=None), loader=Loader(batch_size=2, workers=0))
    shown = list(training_images(source, config, 2))
    assert sorted(one.position for one in shown) == [0, 1]
    (one,) = [one for one in shown if one.position == 0]
    order = np.argsort(one.boxes[:, 2] - one.boxes[:, 0])
    assert one.levels[order].tolist() == [
        -1,
        0,
        1,
    ]  # the anchors of the first two levels have 64 and 128 pixels
    table = level_table(shown, STRIDES)
    assert [(row[0], row[1]) for row in table.rows] == [
        *(("8", 1), ("16", 1), ("32", 0), ("64", 0), ("128", 0), ("none", 1))
    ]
    (line,) = describe_unassigned(shown, source)
    sides = "1 / 1 / 1 pixels (smallest / median / largest)"
    assert line == f"0.png: in this sample no location learns from 1 of 3 boxes; their sides: {sides}"


def test_only_the_first_samples_with_unassigned_boxes_are_listed():
    image, boxes = np.zeros((60, 80, 3), np.uint8), np.array([[10.0, 10, 50, 40]])
    sample = TrainingImage(image, 0, boxes, np.array([[0, 0]]))
    lines = describe_unassigned([sample] * 7, source_of(BOXES[:1], [0], images=1))
    assert len(lines) == 6
    assert lines[-1] == "and 2 more samples with such boxes"


def test_tables_of_counts_and_sizes():
    sources = {"training": source_of(BOXES, [0, 1, 1]), "evaluation": source_of(BOXES[:1], [2], images=1)}
    rows = {row[0]: row[1:] for row in data_table(sources).rows}
    assert rows["images"] == (2, 1)
    assert rows["images without boxes"] == (1, 0)
    assert rows["boxes"] == (3, 1)
    assert rows["side of the boxes (square root of the area), pixels"] == ("1 / 64 / 128", "64 / 64 / 64")
    assert class_table(sources).rows == [("dog", 2, 0), ("cat", 1, 0), ("cow", 0, 1)]
    assert class_table(sources, most=1).caption == "and 2 more classes"


def test_the_sheet_shows_unassigned_boxes_in_red():
    image, boxes = np.full((60, 80, 3), 200, np.uint8), np.array([[10.0, 10, 50, 40]])
    assigned, unassigned = (
        TrainingImage(image, 0, boxes, np.array([[2, 1]])),
        TrainingImage(image, 0, boxes, np.array([[0, 0]])),
    )
    sheets = [draw_samples([one] * 5, (8, 16)) for one in (assigned, unassigned)]
    reds = [(sheet == UNASSIGNED_COLOR).all(axis=2).sum() for sheet in sheets]
    assert reds[1] > reds[0] + 100


def test_the_command(tmp_path, capsys):
    write_coco(tmp_path / "result.json", tmp_path, [f"{i}.png" for i in range(3)], categories=("bush",))
    arguments = ["inspect", f"--config=finetune:data={tmp_path},model=gfl_trees", "--images=4"]
    assert main([*arguments, f"--output={tmp_path / 'out'}"]) == 0
    printed = capsys.readouterr().out
    assert "boxes that each level learns from, in the first 4 samples of training" in " ".join(
        printed.split()
    )
    with Image.open(tmp_path / "out" / "samples.png") as sheet:
        assert sheet.size[0] > 256
    other = tmp_path.parent / "other"
    write_coco(other / "result.json", other, ["0.png"], categories=("tree",))
    evaluation = [f"--config.dataset.eval_json={other}/result.json", f"--config.dataset.eval_images={other}"]
    assert main([*arguments, "--config.dataset.holdout=0", *evaluation]) == 2  # as `train` would
    assert "none of its classes ('tree') is one of the classes of" in capsys.readouterr().err
    assert main([*arguments, "--config.dataset.train_json=nowhere.json"]) == 2
    assert "nowhere.json: cannot be read" in capsys.readouterr().err
