"""One reader for every kind of COCO annotation file."""

import copy
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gfl_jax.data.coco_file import parse_coco, read_coco
from gfl_jax.errors import UserError
from gfl_jax.evaluation.coco_metrics import evaluate_coco
from gfl_jax.evaluation.coco_truth import load_ground_truth, restricted

WHOLE = {
    "images": [
        {"id": 7, "file_name": "a.png", "height": 20, "width": 30},
        {"id": 8, "file_name": "b.png", "height": 30, "width": 20},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], "area": 9, "iscrowd": 1},
        {"id": 2, "image_id": 8, "category_id": 9, "bbox": [1, 2, 3, 4], "ignore": 1},
    ],
    "categories": [{"id": 9, "name": "cat"}, {"id": 3, "name": "dog"}],
}


def changed(*path_and_value):
    """The content of the file with one value replaced."""
    *path, last, value = path_and_value
    content = copy.deepcopy(WHOLE)
    place = content
    for key in path:
        place = place[key]
    place[last] = value
    return content


def test_all_fields_are_read():
    file = parse_coco(WHOLE, "x.json")
    assert file.image_ids == (7, 8)
    assert file.file_names == ("a.png", "b.png")
    assert file.sizes.tolist() == [[20, 30], [30, 20]]
    assert file.categories == (("cat", "dog"), (9, 3))
    assert file.image_index.tolist() == [0, 1]
    assert file.labels.tolist() == [1, 0]
    assert file.is_crowd.tolist() == [True, False]
    assert file.ignored.tolist() == [False, True]
    assert file.area[0] == 9
    assert math.isnan(file.area[1])
    assert file.annotated


def test_ids_stay_exact():
    """Ids may be time stamps in nanoseconds, which exceed 2^53, or strings with leading zeros."""
    stamps = [1_700_000_000_000_000_000 + i for i in range(8)]
    for ids in (stamps, [f"{i:04d}" for i in range(8)], [2**80 + i for i in range(8)], [1.0, 2, "2", -3]):
        content = copy.deepcopy(WHOLE)
        content["images"] = [
            {"id": id, "file_name": f"{i}.png", "height": 9, "width": 9} for i, id in enumerate(ids)
        ]
        content["annotations"] = [{"image_id": id, "category_id": 3, "bbox": [1, 1, 5, 5]} for id in ids]
        file = parse_coco(json.loads(json.dumps(content)), "x.json")
        assert list(file.image_ids) == ids
        assert file.image_index.tolist() == list(range(len(ids)))
        results = [
            {"image_id": id, "category_id": 3, "bbox": [1, 1, 5, 5], "score": 0.5} for id in file.image_ids
        ]
        assert evaluate_coco(file, results).AP == 1.0
        assert [image["id"] for image in load_ground_truth(file)["images"]] == ids


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_unicode_encodings_are_read(tmp_path, encoding):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(changed("categories", 0, "name", "Käse"), ensure_ascii=False), encoding)
    assert read_coco(path).categories.names == ("Käse", "dog")


def test_a_file_may_lack_the_list_of_annotations(tmp_path):
    path = tmp_path / "image_info.json"
    path.write_text(json.dumps({key: WHOLE[key] for key in ("images", "categories")}))
    file = read_coco(path)
    assert not file.annotated
    assert len(file.labels) == 0


@pytest.mark.parametrize("value", [None, 0, False, 0.0])
def test_null_means_no_crowd_and_unknown_area(value):
    file = parse_coco(changed("annotations", 0, "iscrowd", value), "x.json")
    assert not file.is_crowd.any()
    assert math.isnan(parse_coco(changed("annotations", 0, "area", None), "x.json").area[0])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (changed("images", 0, "id", 1.5), "images[0].id=1.5: must be a whole number or a string"),
        (changed("images", 0, "id", 2.0**60), "images[0].id=1.152921504606847e+18: must be a whole number"),
        (changed("images", 0, "id", True), "images[0].id=True: must be a whole number or a string"),
        (changed("images", 0, "id", None), "images[0].id=None: must be a whole number or a string"),
        (changed("images", 0, "id", [7]), "images[0].id=[7]: must be a whole number or a string"),
        (changed("images", 0, "id", "7"), "annotations[0].image_id=7: is not among the images"),
        (changed("images", 1, "id", 7.0), "images[1].id=7: occurs twice"),
        (changed("images", 0, "height", None), "images[0].height=None: must be a whole number of pixels"),
        (changed("images", 0, "height", 0), "images[0].height=0: must be a whole number of pixels"),
        (changed("images", 0, "width", 2.5), "images[0].width=2.5: must be a whole number of pixels"),
        (changed("images", 0, "width", 10**400), "must be a whole number of pixels, from 1 to 1000000"),
        (changed("images", 0, "width", math.nan), "images[0].width=nan: must be a whole number of pixels"),
        (changed("images", 0, "file_name", None), "images[0].file_name=None: must be a string"),
        (changed("images", 0, "file_name", 5), "images[0].file_name=5: must be a string"),
        (changed("images", 0, "file_name", "a\0b"), "images[0].file_name='a\\x00b': must be a string"),
        (changed("images", 0, "file_name", "\ud800"), "images[0].file_name='\\ud800': must be a string"),
        (changed("annotations", 0, "area", "big"), "annotations[0].area='big': must be a number of pixels"),
        (changed("annotations", 0, "area", math.inf), "annotations[0].area=inf: must be a number of pixels"),
        (changed("annotations", 0, "bbox", ["1", "2", "3", "4"]), "annotations[0].bbox=['1', '2', '3', '4']"),
        (changed("annotations", 0, "bbox", None), "annotations[0].bbox=None: must be a list of four numbers"),
        (changed("annotations", 0, "bbox", [1, 2, 3, True]), "must be a list of four numbers"),
        (changed("annotations", 0, "bbox", {"x": 1}), "annotations[0].bbox={'x': 1}: must be a list"),
        (changed("annotations", 0, "iscrowd", "0"), "annotations[0].iscrowd='0': must be 0 or 1"),
        (changed("annotations", 0, "iscrowd", 2), "annotations[0].iscrowd=2: must be 0 or 1"),
        (changed("annotations", 0, "ignore", "no"), "annotations[0].ignore='no': must be 0 or 1"),
        (changed("annotations", 0, "category_id", "3"), "category_id='3': is not among the categories"),
        (changed("annotations", 0, None), "annotations[0]: must be an object, not None"),
        (changed("categories", 0, "name", None), "categories[0].name=None: must be a string"),
        (changed("categories", 0, "name", "dog"), "categories[1].name='dog': occurs twice"),
        (changed("categories", []), "the list 'categories' is empty"),
        ([WHOLE], "has no list 'images'"),
        ({**WHOLE, "annotations": None}, "has no list 'annotations'"),
    ],
)
def test_wrong_values_are_named_in_one_line(content, words):
    with pytest.raises(UserError) as caught:
        parse_coco(content, "x.json")
    assert str(caught.value).startswith("x.json: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"images": ' + "9" * 5000 + "}", "\ud83d", "{", "", "\x00"])
def test_invalid_json_is_named(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(UserError, match=r"x\.json"):
        read_coco(path)


def test_restriction_to_images_and_classes():
    part = restricted(parse_coco(WHOLE, "x.json"), {8}, {"cat"})
    assert part.image_ids == (8,)
    assert part.categories == (("cat",), (9,))
    assert (part.labels.tolist(), part.image_index.tolist()) == ([0], [0])
    none = restricted(parse_coco(WHOLE, "x.json"), {7}, {"cat"})
    assert len(none.boxes_xywh) == 0


SOMETHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from([2**63, -(2**63) - 1, 10**400, 1e308, -1e308, 2.0**53, "0001", "", "\ud800", "NaN"]),
    st.lists(st.one_of(st.integers(), st.floats(), st.none(), st.text(max_size=2)), max_size=5),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)
PLACES = st.sampled_from(
    [
        *[(table,) for table in WHOLE],
        *[(table, i) for table in WHOLE for i in range(2)],
        *[(table, i, key) for table in WHOLE for i in range(2) for key in WHOLE[table][i]],
        ("annotations", 1, "area"),
        ("annotations", 1, "iscrowd"),
        *[("annotations", 0, "bbox", i) for i in range(4)],
    ]
)


@given(st.lists(st.tuples(PLACES, st.sampled_from(["replace", "remove"]), SOMETHING), min_size=1, max_size=3))
@settings(max_examples=1000)
def test_a_changed_file_is_either_refused_in_one_line_or_can_be_evaluated(changes):
    content = copy.deepcopy(WHOLE)
    for path, action, value in changes:
        *parents, last = path
        try:
            place = content
            for key in parents:
                place = place[key]
            if action == "replace":
                place[last] = value
            else:
                del place[last]
        except (KeyError, TypeError, IndexError):  # an earlier change has removed this key
            continue
    refused = None
    try:
        truth = load_ground_truth(parse_coco(content, "x.json"))
    except UserError as error:
        refused = str(error)
    if refused is not None:
        assert refused.startswith("x.json: ")
        assert len(refused.splitlines()) == 1
        return
    results = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.5}
        for a in truth["annotations"]
    ]
    metrics = evaluate_coco(truth, results)
    assert -1 <= metrics.AP <= 1
    assert np.isfinite(metrics.AP)
