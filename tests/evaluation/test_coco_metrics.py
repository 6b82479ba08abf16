import contextlib
import copy
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console

import gfl_jax
from gfl_jax.errors import UserError
from gfl_jax.evaluation.coco_metrics import Backend, class_table, evaluate_coco, metrics_table
from gfl_jax.evaluation.results import to_coco_results

CATEGORY_IDS = (3, 7, 90)
TREES = Path(__file__).parents[1] / "data" / "trees"


def scene(seed: int, num_images: int = 6) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Random boxes of all sizes, some of them crowds, and detections that are jittered, missing or wrong."""
    rng = np.random.default_rng(seed)
    annotations, results = [], []
    image_ids = rng.permutation(1000)[:num_images].tolist()
    for image_id in image_ids:
        for _ in range(rng.integers(0, 16)):
            side = np.exp(rng.uniform(np.log(8), np.log(200), 2))
            bbox = np.concatenate([rng.uniform(0, 400, 2), side])
            category_id = int(rng.choice(CATEGORY_IDS))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": bbox.tolist(),
                    "area": float(side.prod() * rng.uniform(0.5, 1)),
                    "iscrowd": int(rng.random() < 0.1),
                }
            )
            for _ in range(rng.integers(0, 3)):
                jittered = bbox + rng.normal(0, 0.08, 4) * np.tile(side, 2)
                results.append(
                    {
                        "image_id": image_id,
                        "category_id": category_id if rng.random() < 0.9 else 90,
                        "bbox": np.maximum(jittered, 0.5).tolist(),
                        "score": float(np.round(rng.random(), 1)),  # with many ties
                    }
                )
    categories = [{"id": i, "name": f"class {i}"} for i in CATEGORY_IDS]
    images = [{"id": i, "height": 600, "width": 600} for i in image_ids]
    return {"images": images, "categories": categories, "annotations": annotations}, results


def pycocotools_stats(truth: dict[str, Any], results: list[dict[str, Any]]) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist()


def truth_of(boxes_per_image: list[list[tuple[float, ...]]]) -> dict[str, Any]:
    """A ground truth of these boxes with one class and no crowds."""
    return {
        "images": [{"id": i} for i in range(len(boxes_per_image))],
        "categories": [{"id": 1, "name": "tree"}],
        "annotations": [
            {"image_id": i, "category_id": 1, "bbox": list(box)}
            for i, boxes in enumerate(boxes_per_image)
            for box in boxes
        ],
    }


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_twelve_metrics_equal_pycocotools(seed: int) -> None:
    truth, results = scene(seed)
    if results:
        ours = list(evaluate_coco(truth, results).scalars().values())
        assert ours[:12] == pycocotools_stats(truth, results)


def awkward_scene(rng: np.random.Generator) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Many equal overlaps, areas and scores, sides of zero, many crowds, and classes without boxes.

    Images may have no boxes, no detections, or more detections of a class than count.
    """
    classes, side = rng.choice([1, 3, 80]), rng.choice([3, 40, 120])
    truth = truth_of([[] for _ in range(rng.integers(1, 5))])
    truth["categories"] = [{"id": int(i), "name": f"class {i}"} for i in rng.permutation(classes)]

    def entry(image: int, least: int) -> dict[str, Any]:
        box = [*rng.integers(-2, 10, 2), *rng.integers(least, side + 1, 2)]
        category = rng.integers(min(classes, 5))
        return {"image_id": image, "category_id": int(category), "bbox": [float(x) for x in box]}

    results = []
    for image in range(len(truth["images"])):
        for _ in range(rng.choice([0, 3, 30])):
            crowd, area = int(rng.random() < 0.3), float(rng.choice([0, 32**2, 32**2 + 1, 96**2, 96**2 + 1]))
            truth["annotations"].append(entry(image, 0) | {"iscrowd": crowd, "area": area})
        for _ in range(rng.choice([0, 5, 150])):
            results.append(entry(image, -1) | {"score": float(rng.choice([-1, 0, 0.5, 0.5, 1]))})
    return truth, results


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([1, 5, 10, 100, 300]))
def test_backends_are_bit_identical(seed: int, awkward: bool, max_detections: int) -> None:
    truth, results = awkward_scene(np.random.default_rng(seed)) if awkward else scene(seed)
    reference = evaluate_coco(truth, results, max_detections, "pycocotools")
    assert evaluate_coco(truth, results, max_detections, "hotcoco") == reference


def test_backends_are_bit_identical_for_a_real_detector() -> None:
    detector = gfl_jax.load("gfl_trees")
    truth = json.loads((TREES / "trees.json").read_text())
    found = detector(TREES / "trees.png")
    image, category = truth["images"][0]["id"], truth["categories"][0]["id"]
    results = to_coco_results(found.boxes, found.scores, found.labels, image, [category])
    for max_detections in (10, 100, 300):
        reference = evaluate_coco(truth, results, max_detections, "pycocotools")
        assert reference.AP50 > 0.2
        assert evaluate_coco(truth, results, max_detections, "hotcoco") == reference


@pytest.mark.parametrize("backend", ["pycocotools", "hotcoco"])
def test_ground_truth_as_detections_is_perfect(backend: Backend) -> None:
    truth, _ = scene(1)
    results = [
        {key: x[key] for key in ("image_id", "category_id", "bbox")} | {"score": 1.0}
        for x in truth["annotations"]
        if not x["iscrowd"]
    ]
    metrics = evaluate_coco(truth, results, backend=backend)
    assert metrics.AP == metrics.AP50 == metrics.AP75 == pytest.approx(1, abs=1e-12)
    assert metrics.APs == metrics.APm == metrics.APl == pytest.approx(1, abs=1e-12)
    assert metrics.ARmax == metrics.ARs == metrics.ARm == metrics.ARl == 1
    assert [c.AP for c in metrics.classes] == pytest.approx([1, 1, 1], abs=1e-12)


@pytest.mark.parametrize("backend", ["pycocotools", "hotcoco"])
def test_no_detections_give_zeros(backend: Backend) -> None:
    truth, _ = scene(1)
    assert set(evaluate_coco(truth, [], backend=backend).scalars().values()) == {0.0}


def test_sizes_without_boxes_give_minus_one() -> None:
    metrics = evaluate_coco(truth_of([[(0, 0, 10, 10)]]), [])
    assert (metrics.AP, metrics.APs, metrics.APm, metrics.APl) == (0, 0, -1, -1)


def test_no_boxes_at_all_give_minus_one() -> None:
    assert set(evaluate_coco(truth_of([[]]), []).scalars().values()) == {-1.0}


def test_an_annotation_numbered_0_counts() -> None:
    truth = truth_of([[(0, 0, 10, 10)]])
    truth["annotations"][0]["id"] = 0
    result = {"image_id": 0, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 0.5}
    assert evaluate_coco(truth, [result]).scalars()["AP"] == pytest.approx(1, abs=1e-12)


def test_max_detections_limits_the_detections() -> None:
    boxes = [(20.0 * i, 0.0, 10.0, 10.0) for i in range(150)]
    results = [
        {"image_id": 0, "category_id": 1, "bbox": list(box), "score": 1 - i / 1000}
        for i, box in enumerate(boxes)
    ]
    recalls = {limit: evaluate_coco(truth_of([boxes]), results, limit).ARmax for limit in (1, 100, 150)}
    assert recalls == pytest.approx({1: 1 / 150, 100: 100 / 150, 150: 1})


def test_classes_have_their_own_ap() -> None:
    truth = truth_of([[(0, 0, 10, 10), (50, 50, 100, 100)]])
    truth["categories"] = [{"id": 9, "name": "bush"}, {"id": 1, "name": "tree"}, {"id": 5, "name": "car"}]
    truth["annotations"][1]["category_id"] = 9
    results = [{"image_id": 0, "category_id": 9, "bbox": [50, 50, 100, 90], "score": 0.5}]
    rows = {c.name: c for c in evaluate_coco(truth, results).classes}
    # An IoU of 0.9 passes all thresholds except 0.95.
    assert rows["bush"][1:] == pytest.approx((1, 0.9, 1, 1))
    assert (rows["tree"].AP, rows["tree"].num_boxes) == (0, 1)
    assert (rows["car"].AP, rows["car"].num_boxes) == (-1, 0)


@pytest.mark.parametrize(("width", "ap90"), [(91, 1.0), (89, 0.0)])
def test_ap90_requires_an_iou_of_0_9(width: int, ap90: float) -> None:
    result = {"image_id": 0, "category_id": 1, "bbox": [0, 0, width, 10], "score": 0.5}
    metrics = evaluate_coco(truth_of([[(0, 0, 100, 10)]]), [result])
    assert metrics.scalars()["AP90"] == pytest.approx(ap90, abs=1e-12)


def brute_force_ap50(truth: list[list[tuple]], found: list[list[tuple]]) -> float:
    """AP of one class at IoU 0.5, computed from its definition."""
    hits = []
    for boxes, detections in zip(truth, found, strict=True):
        free = list(range(len(boxes)))
        for *box, score in sorted(detections, key=lambda d: -d[4]):
            # As in COCO, the last of equal overlaps counts.
            best = max(free, key=lambda i: (overlap(box, boxes[i]), i), default=None)
            is_hit = best is not None and overlap(box, boxes[best]) >= 0.5
            if is_hit:
                free.remove(best)
            hits.append((score, is_hit))
    hits.sort(key=lambda hit: -hit[0])
    points, right = [], 0
    for n, (_, is_hit) in enumerate(hits, start=1):
        right += is_hit
        points.append((right / sum(map(len, truth)), right / n))
    levels = np.linspace(0, 1, 101)
    return float(np.mean([max((p for r, p in points if r >= level), default=0) for level in levels]))


def overlap(a: tuple, b: tuple) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return both / (a[2] * a[3] + b[2] * b[3] - both)


SMALL = st.integers(0, 6)
SIDE = st.integers(1, 6)
BOXES = st.lists(st.tuples(SMALL, SMALL, SIDE, SIDE), min_size=1, max_size=5)
SCORES = st.sampled_from([0.1, 0.3, 0.5, 0.9])
FOUND = st.lists(st.tuples(SMALL, SMALL, SIDE, SIDE, SCORES), max_size=6)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(BOXES, FOUND), min_size=1, max_size=3))
@example([([(0, 0, 4, 4)], [(0, 0, 4, 2, 0.5)])])  # exactly 0.5
def test_ap50_equals_its_definition(images: list[tuple[list[tuple], list[tuple]]]) -> None:
    truth, found = [boxes for boxes, _ in images], [detections for _, detections in images]
    results = [
        {"image_id": i, "category_id": 1, "bbox": list(box), "score": score}
        for i, detections in enumerate(found)
        for *box, score in detections
    ]
    ap50 = evaluate_coco(truth_of(truth), results).AP50
    assert ap50 == pytest.approx(brute_force_ap50(truth, found), abs=1e-12)


@pytest.mark.parametrize("backend", ["pycocotools", "hotcoco"])
def test_evaluation_prints_nothing_and_changes_nothing(
    backend: Backend, capfd: pytest.CaptureFixture[str]
) -> None:
    truth, results = scene(2)
    before = copy.deepcopy((truth, results))
    evaluate_coco(truth, results, backend=backend)
    assert (truth, results) == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 5000}, r"results\[0\].image_id=5000: is not in the ground truth"),
        ({"category_id": 4}, r"results\[0\].category_id=4: is not in the ground truth"),
        ({"score": float("nan")}, r"results\[0\].score=nan: must be a number"),
    ],
)
def test_wrong_results_are_named(change: dict[str, Any], message: str) -> None:
    truth, results = scene(1)
    with pytest.raises(UserError, match=message):
        evaluate_coco(truth, [results[0] | change])


def test_unknown_backend_and_limit_are_named() -> None:
    with pytest.raises(UserError, match="backend='slow': must be 'hotcoco' or 'pycocotools'"):
        evaluate_coco(truth_of([[]]), [], backend="slow")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="max_detections=0: must be at least 1"):
        evaluate_coco(truth_of([[]]), [], max_detections=0)


def test_tables_show_percent() -> None:
    truth = truth_of([[(0, 0, 10, 10), (50, 50, 40, 40)]])
    results = [{"image_id": 0, "category_id": 1, "bbox": [50, 50, 40, 40], "score": 0.5}]
    metrics = evaluate_coco(truth, results, max_detections=300)
    text = io.StringIO()
    Console(width=100, file=text).print(metrics_table(metrics), class_table(metrics))
    rows = [line.replace("│", " ").split() for line in text.getvalue().splitlines()]
    assert ["AP", "50.5", "50.5", "50.5", "0.0", "100.0", "-"] in rows
    assert ["AR", "50.0", "0.0", "100.0", "-"] in rows
    assert ["tree", "2", "50.5", "50.5", "50.5"] in rows
    assert "up to 300 detections" in text.getvalue()
