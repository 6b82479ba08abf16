"""Compares single functions with reference values: losses and gradients, coders, ATSS, NMS, warm-up."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.typing import ArrayLike

from gfl_jax import boxes as geometry
from gfl_jax import config
from gfl_jax.axes.box_representation import integral
from gfl_jax.inference.nms import nms
from gfl_jax.losses.distribution import distribution_focal_loss
from gfl_jax.losses.focal import binary_cross_entropy, focal_loss, quality_focal_loss
from gfl_jax.losses.overlap import giou_loss, iou_loss
from gfl_jax.targets.atss import assign_atss
from gfl_jax.targets.locations import valid_grid_sizes
from gfl_jax.training.optimizer import make_schedule
from gfl_jax.verification.reference import Reference, Row, relative_deviation

TOLERANCE = 1e-5  # the reference values are float32
STRIDES = (8, 16, 32, 64, 128)


def verify_units(reference: Reference) -> Iterator[Row]:
    """Recomputes every value in a file of single functions."""
    yield from _losses(reference)
    yield from _geometry(reference)
    for scene in sorted(
        {key.split("/")[0] for key in reference.keys("atss") if "_" not in key.split("/")[0]}
    ):
        yield Row(f"atss scene {scene}", _atss(reference, f"atss{scene}"), 0.0)
    yield from _nms(reference)
    rates = reference["lr/warmup600"]
    schedule = make_schedule(config.Schedule(milestones=()), 0.01, len(rates))
    ours = jax.vmap(schedule)(jnp.arange(len(rates)))
    yield Row("learning rates of the warm-up", reference.deviation("lr/warmup600", ours), TOLERANCE)


def _losses(reference: Reference) -> Iterator[Row]:
    num_classes = reference["qfl/pred"].shape[1]
    # Background has the label num_classes, which gives zeros.
    one_hot = jax.nn.one_hot(reference["qfl/label"], num_classes)
    qualities = one_hot * reference["qfl/score"][:, None]
    yield from _loss(
        reference,
        "qfl",
        lambda pred: jnp.sum(quality_focal_loss(pred, qualities), axis=-1),
        reference["qfl/pred"],
        reference["qfl/weight"],
        ("qfl/module_avg7", 1 / 7),
    )
    yield from _loss(
        reference,
        "focal",
        lambda pred: focal_loss(pred, one_hot),
        reference["qfl/pred"],
        reference["qfl/weight"][:, None],
        ("focal/module_avg7", 1 / 7),
    )
    yield from _loss(
        reference,
        "dfl",
        lambda pred: distribution_focal_loss(pred, jnp.asarray(reference["dfl/target"])),
        reference["dfl/pred"],
        reference["dfl/weight"],
        ("dfl/module_avg4_w0.25", 0.25 / 4),
    )
    a, b, weight = jnp.asarray(reference["boxes/a"]), jnp.asarray(reference["boxes/b"]), reference["boxes/w"]
    yield from _loss(
        reference, "giou", lambda pred: giou_loss(pred, b), a, weight, ("giou/module_w2_avg1", 2.0)
    )
    yield from _loss(reference, "iou", lambda pred: iou_loss(pred, b), a, weight, ("iou/module_avg3", 1 / 3))
    pred, target = jnp.asarray(reference["bce/pred"]), jnp.asarray(reference["bce/target"])
    ours = jnp.sum(binary_cross_entropy(pred, target)) / 9
    yield Row("bce loss", reference.deviation("bce/module_avg9", ours), TOLERANCE)


def _loss(
    reference: Reference,
    name: str,
    loss: Callable[[Any], Any],
    pred: ArrayLike,
    weight: np.ndarray,
    module: tuple[str, float],
) -> Iterator[Row]:
    """Compares the values of a loss, its gradient, and its weighted sum times a factor."""

    @jax.jit  # one program takes a fraction of the time of single operations
    def differentiate(x: Array) -> tuple[Array, Array, Array]:
        total, gradient = jax.value_and_grad(lambda x: jnp.sum(loss(x) * weight))(x)
        return loss(x), total, gradient

    values, total, gradient = differentiate(jnp.asarray(pred))
    key, factor = module
    deviations = [
        reference.deviation(f"{name}/loss_none", values),
        reference.deviation(f"{name}/grad_weighted_sum", gradient),
        reference.deviation(key, total * factor),
    ]
    yield Row(f"{name} loss and gradient", max(deviations), TOLERANCE)


def _geometry(reference: Reference) -> Iterator[Row]:
    names = ["boxes/a", "boxes/b", "dist/points", "dist/boxes", "dist/dist", "integral/x"]
    names += ["delta/anchors", "delta/deltas", "delta/enc"]
    ours = jax.jit(_compute_geometry)({name: jnp.asarray(reference[name]) for name in names})
    for key, value in ours.items():
        yield Row(key, reference.deviation(key, value), TOLERANCE)


def _compute_geometry(x: dict[str, Array]) -> dict[str, Array]:
    """Computes values from the inputs in the file. Inputs and results have their names in the file."""
    a, b = x["boxes/a"], x["boxes/b"]
    distances = geometry.boxes_to_distances(x["dist/points"], x["dist/boxes"])
    from_distances = geometry.distances_to_boxes(x["dist/points"], x["dist/dist"])
    from_deltas = geometry.deltas_to_boxes(x["delta/anchors"], x["delta/deltas"])
    overlap = geometry.intersection(a[:, None], b[None]) / jnp.maximum(
        geometry.area(a)[:, None], geometry.EPSILON
    )
    # The boxes of these deltas are not in the file, so the deltas are decoded and encoded again.
    boxes = geometry.deltas_to_boxes(x["delta/anchors"], x["delta/enc"])
    return {
        "boxes/iou_matrix": geometry.iou(a[:, None], b[None]),
        "boxes/iou_aligned": geometry.iou(a, b),
        "boxes/giou_aligned": geometry.giou(a, b),
        "boxes/iof_matrix": overlap,
        "dist/enc_none": distances,
        "dist/enc16": jnp.clip(distances, 0, 16 - 0.1),
        "dist/dec": from_distances,
        "dist/dec_clip_hw_30_25": geometry.clip_boxes(from_distances, jnp.array([30, 25])),
        "delta/enc": geometry.boxes_to_deltas(x["delta/anchors"], boxes),
        "delta/dec": from_deltas,
        "delta/dec_clip_hw_200_300": geometry.clip_boxes(from_deltas, jnp.array([200, 300])),
        "integral/y": integral(x["integral/x"].reshape(-1, 4, 17), jnp.arange(17.0)),
    }


def _atss(reference: Reference, scene: str) -> float:
    """The largest difference between the assigned boxes."""
    height, width = (int(x) for x in reference[f"{scene}/hw"])
    grid_sizes = tuple((math.ceil(height / s), math.ceil(width / s)) for s in STRIDES)
    truth = jnp.asarray(reference[f"{scene}/gt"])
    valid = valid_grid_sizes(jnp.array([[height, width]]), grid_sizes, STRIDES)[0]
    assign = jax.jit(lambda boxes: assign_atss(boxes, jnp.ones(len(boxes), bool), valid, grid_sizes, STRIDES))
    assigned = assign(truth)
    return relative_deviation(assigned + 1, reference[f"{scene}/gt_inds"])


def _nms(reference: Reference) -> Iterator[Row]:
    boxes, scores = jnp.asarray(reference["nms/boxes"]), jnp.asarray(reference["nms/scores"])
    for key, labels in (
        ("nms/keep0.6", jnp.zeros(len(boxes), int)),
        ("nms/batched_keep0.6", jnp.asarray(reference["nms/ids"])),
    ):
        kept, found = nms(boxes, scores, labels, jnp.ones(len(boxes), bool), 0.6, len(boxes))
        yield Row(key, reference.deviation(key, np.asarray(kept)[np.asarray(found)]), 0.0)
