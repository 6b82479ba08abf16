"""Another choice among equally near candidates is accepted; any other difference is an error."""

from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gfl_jax import config
from gfl_jax.axes.assigner import assigner_locations
from gfl_jax.boxes import iou
from gfl_jax.interop.torch_names import to_torch
from gfl_jax.models.network import build_detector
from gfl_jax.targets.locations import make_locations
from gfl_jax.verification import recompute as recomputed
from gfl_jax.verification.deterministic import projection
from gfl_jax.verification.recompute import case_targets, deterministic_variables, make_batch, recompute
from gfl_jax.verification.reference import Reference
from gfl_jax.verification.ties import is_explained_by_ties
from gfl_jax.verification.whole_detector import verify_detector

pytestmark = pytest.mark.usefixtures("compilation_cache")

STRIDES = (8, 16, 32, 64, 128)


def grid_of(height, width, strides=STRIDES):
    return make_locations(tuple((-(-height // s), -(-width // s)) for s in strides), strides)


def atss(boxes, locations, topk, priority):
    """Algorithm 1; of equally near locations, those with the smallest priority come first."""
    boxes = np.asarray(boxes, np.float64)
    points, best = locations.points.astype(np.float64), np.full(len(locations.points), -1.0)
    assigned = np.full(len(points), -1)
    with jax.enable_x64(True):
        overlaps = np.asarray(iou(boxes[:, None], locations.anchors.astype(np.float64)))
    for b, box in enumerate(boxes):
        distances = np.linalg.norm(points - (box[:2] + box[2:]) / 2, axis=1)
        taken = []
        for level in range(locations.levels.max() + 1):
            here = np.flatnonzero(locations.levels == level)
            taken.extend(here[np.lexsort((priority[here], distances[here]))[:topk]])
        taken = np.sort(np.array(taken))
        values = overlaps[b, taken]
        inside = np.all((points[taken] - box[:2] > 0.01) & (box[2:] - points[taken] > 0.01), axis=1)
        positive = taken[(values >= values.mean() + values.std(ddof=1)) & inside]
        wins = positive[overlaps[b, positive] > best[positive]]
        best[wins], assigned[wins] = overlaps[b, wins], b
    return assigned


def possible(assigned, boxes, locations, topk=9):
    valid = np.ones(len(locations.points), bool)
    return is_explained_by_ties(np.asarray(assigned), np.asarray(boxes, np.float64), valid, locations, topk)


def test_pytorchs_order_on_the_cpu_is_explained_by_ties(reference_dir):
    reference_arrays = np.load(reference_dir / "units.npz")
    boxes, theirs = reference_arrays["atss_tie/gt"], reference_arrays["atss_tie/gt_inds"] - 1
    locations = grid_of(64, 64)
    assert np.sum(atss(boxes, locations, 9, np.arange(len(theirs))) != theirs) == 3
    assert possible(theirs, boxes, locations)
    for wrong in (np.where(np.arange(len(theirs)) == 0, 0, theirs), np.full_like(theirs, -1), 1 - theirs):
        assert not possible(np.clip(wrong, -1, 1), boxes, locations)
    for index in (-2, len(boxes)):
        assert not possible(np.where(np.arange(len(theirs)) == 0, index, theirs), boxes, locations)


def test_a_whole_image_at_stride_64():
    boxes, locations = [[0, 0, 672, 480]], grid_of(480, 672)
    rng = np.random.default_rng(0)
    found = {tuple(atss(boxes, locations, 9, rng.permutation(len(locations.points)))) for _ in range(40)}
    assert len(found) > 1
    for assigned in found:
        assert possible(assigned, boxes, locations)
        far = np.array(assigned)
        far[0] = 0  # the upper left corner is not a candidate on the finest level
        assert not possible(far, boxes, locations)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(0, 8)] * 2, *[st.integers(1, 12)] * 2), min_size=1, max_size=4),
    st.integers(0, 2**32 - 1),
)
def test_any_choice_is_possible_but_no_change_outside_the_candidates(cells, seed):
    boxes = np.array([[x, y, x + w, y + h] for x, y, w, h in cells]) * 8
    locations, rng = grid_of(160, 160, (8, 16, 32)), np.random.default_rng(seed)
    assigned = atss(boxes, locations, 4, rng.permutation(len(locations.points)))
    assert possible(assigned, boxes, locations, 4)
    inside_none = np.all(
        (locations.points[:, None] <= boxes[None, :, :2])
        | (locations.points[:, None] >= boxes[None, :, 2:]), axis=(1, 2)
    )  # fmt: skip
    for place in np.flatnonzero(inside_none)[:3]:
        wrong = assigned.copy()
        wrong[place] = 0
        assert not possible(wrong, boxes, locations, 4)


def test_without_ties_every_change_is_an_error():
    boxes, locations = [[20.3, 30.7, 90.1, 110.9], [60.2, 50.4, 140.6, 150.3]], grid_of(160, 160)
    assigned = atss(boxes, locations, 9, np.arange(len(locations.points)))
    assert possible(assigned, boxes, locations)
    for place in np.flatnonzero(assigned >= 0):
        wrong = assigned.copy()
        wrong[place] = -1
        assert not possible(wrong, boxes, locations)


def test_too_many_choices_are_not_explained_by_ties(monkeypatch):
    boxes, locations = [[0, 0, 672, 480]], grid_of(480, 672)
    assigned = atss(boxes, locations, 9, np.arange(len(locations.points)))
    monkeypatch.setattr("gfl_jax.verification.ties.MOST_CHOICES", 1)
    assert not possible(assigned, boxes, locations)


BOX = np.array([[4.0, 12.0, 28.0, 28.0]])  # its center lies on a location of the second level


@pytest.fixture(scope="module")
def experiment(small_detector):
    return config.Config("small", detector=small_detector)


@pytest.fixture(scope="module")
def reference_arrays(experiment):
    """Reference values of the small detector in float64, with a different choice among ties than ours."""
    detector = experiment.detector
    arrays = {
        "cases": np.array(["a"]),
        "a/image0_seed_height_width": np.array([11, 64, 64]),
        "a/gt_bboxes0": BOX,
        "a/gt_labels0": np.array([1]),
        "a/scale_factor0_wh": np.ones(2),
    }
    reference = as_reference(arrays)
    grids = tuple((64 // stride, 64 // stride) for stride in detector.strides)
    locations = assigner_locations(grids, detector.strides, detector.assigner)
    last_first = -np.arange(len(locations.points))
    arrays["a/assign/img0_gt_inds"] = atss(BOX, locations, detector.assigner.topk, last_first) + 1
    with jax.enable_x64(True):
        model, batch = build_detector(detector, "float64"), make_batch(reference, "a", "float64")
        targets, ties = case_targets(reference, "a", batch, detector)
        assert ties == 4
        variables = deterministic_variables(model, "float64")
        compute = jax.jit(partial(recompute, model, experiment, None))
        found = jax.device_get(compute(variables, None, batch, targets))
    turned = [0, 3, 1, 2]
    arrays["a/batch_inputs_sub"] = found.inputs.transpose(turned)[:, :, ::7, ::7]
    for name, maps, first, step in (("C", found.features, 2, 32), ("P", found.levels, 3, 16)):
        arrays |= {f"a/{name}{first + i}_sub": x.transpose(turned)[:, ::step] for i, x in enumerate(maps)}
    for name, maps in (("cls_score", found.outputs.class_logits), ("bbox_pred", found.outputs.box)):
        arrays |= {f"a/eval/{name}{i}": x.transpose(turned) for i, x in enumerate(maps)}
    labels = np.where(found.targets.positive, found.targets.labels, detector.num_classes)
    arrays["a/targets/num_pos"] = np.sum(found.targets.positive)
    for level in range(len(detector.strides)):
        here = locations.levels == level
        arrays[f"a/targets/labels{level}"] = labels[:, here]
        arrays[f"a/targets/bbox_targets{level}"] = found.targets.boxes[:, here]
    for name, values in found.losses.items():
        arrays[f"a/loss/{name}"], arrays[f"a/loss/{name}_per_level"] = np.sum(values), values
    for name, gradient in to_torch(found.gradients, detector).items():
        arrays[f"a/gradnorm/{name}"] = np.linalg.norm(gradient)
        arrays[f"a/gradproj/{name}"] = np.sum(gradient * projection(name, gradient.shape))
        arrays[f"a/grad/{name}"] = gradient
    arrays["a/grad_none_names"] = np.array([], str)
    for rescale in (0, 1):
        mask = found.detections.mask[0]
        for name in ("boxes", "scores", "labels"):
            key = f"a/pred_rescale{rescale}/img0_{'bboxes' if name == 'boxes' else name}"
            arrays[key] = getattr(found.detections, name)[0][mask]
    return arrays


def as_reference(arrays):
    reference = Reference.__new__(Reference)
    reference.arrays, reference.path = arrays, None
    return reference


def test_a_file_with_another_choice_passes_and_its_losses_are_compared(reference_arrays, experiment):
    wrong = {key.replace("a/", "b/", 1): x for key, x in reference_arrays.items() if key.startswith("a/")}
    wrong["b/assign/img0_gt_inds"] = wrong["b/assign/img0_gt_inds"].copy()
    wrong["b/assign/img0_gt_inds"][0] = 1  # outside the box
    both = as_reference(reference_arrays | wrong | {"cases": np.array(["a", "b"])})
    with jax.enable_x64(True):
        rows = list(verify_detector(both, experiment, "float64"))
    failed = {row.part for row in rows if not row.passed}
    assert {"b: targets", "b: loss_bbox"} <= failed
    assert not any(part.startswith("a: ") for part in failed)
    (named,) = [row.part for row in rows if "ties" in row.part]
    assert named == "a: targets (4 locations differ by ties in ATSS)"


def test_an_error_of_ours_is_not_explained_by_ties(reference_arrays, experiment, monkeypatch):
    """The reference's assignment is a valid choice; ours has an error."""
    assign = recomputed._assign

    def assign_wrongly(batch, *rest):
        targets = assign(batch, *rest)
        return targets._replace(box_index=targets.box_index.at[0, 0].set(0))

    reference, detector = as_reference(reference_arrays), experiment.detector
    with jax.enable_x64(True):
        batch = make_batch(reference, "a", "float64")
        assert case_targets(reference, "a", batch, detector)[1] == 4
        monkeypatch.setattr(recomputed, "_assign", assign_wrongly)
        targets, ties = case_targets(reference, "a", batch, detector)
    assert ties == 0
    assert targets.positive[0, 0]
