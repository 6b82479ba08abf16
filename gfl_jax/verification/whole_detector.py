"""Compares a whole detector with reference values.

These are features, outputs, targets, losses, gradients, detections and a few steps of training.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gfl_jax import config
from gfl_jax.axes.assigner import assigner_locations
from gfl_jax.axes.box_representation import decode_distances, unit
from gfl_jax.boxes import boxes_to_distances
from gfl_jax.configuration.config_files import load_config
from gfl_jax.interop.torch_names import to_torch
from gfl_jax.models.network import build_detector
from gfl_jax.parallel.compiler_options import quick_options
from gfl_jax.structures import Batch
from gfl_jax.targets.locations import grid_sizes_of
from gfl_jax.training.optimizer import make_optimizer
from gfl_jax.training.teacher import make_teacher
from gfl_jax.verification.deterministic import projection
from gfl_jax.verification.recompute import (
    Results,
    case_targets,
    deterministic_variables,
    make_batch,
    recompute,
)
from gfl_jax.verification.reference import Reference, Row, relative_deviation

GRADIENT_STRIDE = 97  # only every 97th value of a large gradient is stored


class Tolerances(NamedTuple):
    """The largest allowed relative deviations."""

    outputs: float
    targets: float
    losses: float
    gradients: float
    projections: float
    training: float
    unmatched: float  # share of detections without a counterpart within `outputs`


TOLERANCES = {
    "float64": Tolerances(1e-6, 1e-12, 1e-6, 1e-6, 1e-6, 1e-6, 0.0),
    # In float32, rounding can change the sign of a ReLU input near zero, and so single gradients. The
    # projection of an error on unit normals is normal; its standard deviation is the norm of the error. The
    # tolerance for projections is three standard deviations.
    "float32": Tolerances(1e-5, 1e-6, 1e-5, 2e-2, 6e-2, 1e-3, 0.0),
    # Eight bits of mantissa through fifty layers: this finds gross errors only.
    "bfloat16": Tolerances(1e-1, 1e-6, 1e-1, 5e-1, 1.5, 1e-2, 0.5),
}


def verify_detector(reference: Reference, experiment: config.Config, precision: str) -> Iterator[Row]:
    """Recomputes every reference value of a detector.

    Args:
      reference: the file of reference values.
      experiment: the config of the same detector.
      precision: "float64" (with jax's x64 mode on), "float32" or "bfloat16".
    """
    tolerances = TOLERANCES[precision]
    model = build_detector(experiment.detector, precision)
    variables = deterministic_variables(model, jnp.promote_types(precision, jnp.float32))
    cases = [str(case) for case in reference["cases"]]
    batches = {case: make_batch(reference, case, precision) for case in cases}
    teacher, teacher_variables = None, None
    if experiment.distillation.teacher:
        teacher = make_teacher(load_config(experiment.distillation.teacher), experiment)
        wide = jnp.promote_types(precision, jnp.float32)
        teacher_variables = deterministic_variables(teacher.model, wide, prefix="teacher.")
    run = jax.jit(partial(recompute, model, experiment, teacher))
    targets = {case: case_targets(reference, case, batches[case], experiment.detector) for case in cases}
    for case in cases:
        given, ties = targets[case]
        results = jax.device_get(run(variables, teacher_variables, batches[case], given))
        for part, value, tolerance in _compare_case(
            reference, case, batches[case], results, tolerances, experiment
        ):
            note = f" ({ties} locations differ by ties in ATSS)" if ties and part == "targets" else ""
            yield Row(f"{case}: {part}{note}", value, tolerance)
    if "traj/losses" in reference:
        first = cases[0]  # positional arguments as above, to avoid another compilation
        run_first = lambda variables: run(variables, teacher_variables, batches[first], targets[first][0])  # noqa: E731
        yield from _compare_training(reference, run_first, experiment, variables, tolerances)


def _nchw(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float64 if x.dtype == np.float64 else np.float32).transpose(0, 3, 1, 2)


def _compare_case(
    reference: Reference,
    case: str,
    batch: Batch,
    ours: Results,
    tolerances: Tolerances,
    experiment: config.Config,
) -> Iterator[tuple[str, float, float]]:
    outputs = tolerances.outputs
    inputs = _nchw(ours.inputs)[:, :, ::7, ::7]
    yield "network inputs", reference.deviation(f"{case}/batch_inputs_sub", inputs), outputs
    for name, maps, first, step in (("C", ours.features, 2, 32), ("P", ours.levels, 3, 16)):
        found = [
            reference.deviation(f"{case}/{name}{first + i}_sub", _nchw(x)[:, ::step])
            for i, x in enumerate(maps)
        ]
        yield f"features {name}{first} to {name}{first + len(maps) - 1}", max(found), outputs
    for name, key, maps in (
        ("class scores", "cls_score", ours.outputs.class_logits),
        ("box predictions", "bbox_pred", _box_predictions(ours.outputs.box, experiment.detector)),
        ("quality predictions", "centerness", ours.outputs.quality),
    ):
        if not maps:
            continue
        found = [reference.deviation(f"{case}/eval/{key}{i}", _nchw(x)) for i, x in enumerate(maps)]
        yield name, max(found), outputs
    yield "targets", _compare_targets(reference, case, ours, experiment), tolerances.targets
    for name, values in ours.losses.items():
        per_level = f"{case}/loss/{name}_per_level"
        found = [reference.deviation(f"{case}/loss/{name}", np.sum(values))]
        if len(reference[per_level]) > 1:  # the reference's FCOS has only the sum
            found.append(reference.deviation(per_level, values))
        yield name, max(found), tolerances.losses
    named = to_torch(ours.gradients, experiment.detector)
    yield from _compare_gradients(reference, case, named, tolerances)
    for rescale, name in ((0, "detections"), (1, "detections in original pixels")):
        shares = [
            _unmatched(
                reference,
                f"{case}/pred_rescale{rescale}/img{i}_",
                batch,
                ours.detections,
                i,
                rescale,
                outputs,
            )
            for i in range(len(batch.images))
        ]
        yield f"{name}, share without a counterpart", max(shares), tolerances.unmatched


def _box_predictions(maps: Any, detector: config.Detector) -> list[np.ndarray]:
    """The box maps as the reference stores them: distances in pixels for FCOS, raw outputs for others."""
    if detector.box.kind != "dirac" or detector.box.coding != "distances":
        return list(maps)
    found = []
    for x, stride in zip(maps, detector.strides, strict=True):
        distances = decode_distances(x[..., None], detector.box)
        found.append(np.asarray(distances * unit(jnp.array([float(stride)]), detector.box)))
    return found


def _compare_targets(reference: Reference, case: str, ours: Results, experiment: config.Config) -> float:
    """The largest deviation of assignments, classes, weights, boxes and their number; all should be 0."""
    targets, detector = ours.targets, experiment.detector
    locations = assigner_locations(grid_sizes_of(ours.levels), detector.strides, detector.assigner)
    wrong: list[float] = [relative_deviation(np.sum(targets.positive), reference[f"{case}/targets/num_pos"])]
    for i, key in enumerate(f"{case}/assign/img{i}_gt_inds" for i in range(len(targets.valid))):
        if key in reference:
            wrong.append(relative_deviation(targets.box_index[i][targets.valid[i]] + 1, reference[key]))
    if f"{case}/targets/avg_factor" in reference:
        normalizer = np.sum(np.maximum(np.sum(targets.positive, axis=1), 1))
        wrong.append(relative_deviation(normalizer, reference[f"{case}/targets/avg_factor"]))

    labels = np.where(targets.positive, targets.labels, detector.num_classes)
    boxes = targets.boxes
    if detector.assigner.kind == "fcos":  # it stores distances, and arbitrary ones at the background
        distances = boxes_to_distances(jnp.asarray(locations.points), boxes)
        distances /= unit(jnp.asarray(locations.strides)[:, None], detector.box)
        boxes = np.where(targets.positive[..., None], distances, 0)
    for level in range(len(detector.strides)):
        here = locations.levels == level
        wrong.append(reference.deviation(f"{case}/targets/labels{level}", labels[:, here]))
        if f"{case}/targets/label_weights{level}" in reference:
            weights = targets.valid[:, here]
            wrong.append(reference.deviation(f"{case}/targets/label_weights{level}", weights))
        mask = targets.positive[:, here, None] if detector.assigner.kind == "fcos" else None
        wrong.append(reference.deviation(f"{case}/targets/bbox_targets{level}", boxes[:, here], mask))
    return float(max(wrong))


def _compare_gradients(
    reference: Reference, case: str, named: dict[str, np.ndarray], tolerances: Tolerances
) -> Iterator[tuple[str, float, float]]:
    norms, projections, samples = [], [], []
    trained = reference.keys(f"{case}/gradnorm/")
    frozen = {str(name) for name in reference[f"{case}/grad_none_names"]}
    for name in trained:
        theirs = float(reference[f"{case}/gradnorm/{name}"])
        norms.append(relative_deviation(np.linalg.norm(named[name]), theirs))
        projected = np.sum(named[name] * projection(name, named[name].shape))
        projections.append(relative_deviation(projected, reference[f"{case}/gradproj/{name}"], scale=theirs))
    for name in reference.keys(f"{case}/grad/"):
        key, ours = f"{case}/grad/{name}", named[name]
        if reference.size(key) != ours.size:
            ours = ours.reshape(-1)[::GRADIENT_STRIDE]
        samples.append(reference.deviation(key, ours))
    largest_frozen = max((float(np.max(np.abs(named[name]))) for name in frozen), default=0.0)
    complete = set(trained) | frozen == set(named)
    yield "parameters with a gradient", largest_frozen if complete else np.inf, 0.0
    yield f"gradient norms of {len(norms)} parameters", max(norms), tolerances.gradients
    yield f"gradient projections of {len(norms)} parameters", max(projections), tolerances.projections
    yield f"gradients of {len(samples)} parameters, elementwise", max(samples), tolerances.gradients


def _unmatched(
    reference: Reference, prefix: str, batch: Batch, detections: Any, i: int, rescale: int, tolerance: float
) -> float:
    """The share of detections in either set without a counterpart (class, score, box) in the other."""
    found = detections.mask[i]
    boxes = detections.boxes[i][found] / (np.tile(batch.scale_factors[i], 2) if rescale else 1)
    scores, labels = detections.scores[i][found], detections.labels[i][found]
    their_boxes, their_scores = reference[prefix + "bboxes"], reference[prefix + "scores"]
    if not len(boxes) or not len(their_boxes):
        return float(len(boxes) != len(their_boxes))
    distance = np.max(np.abs(boxes[:, None] - their_boxes[None]), axis=-1) / np.max(np.abs(their_boxes))
    distance = np.maximum(distance, np.abs(scores[:, None] - their_scores[None]))
    alike = (distance <= tolerance) & (labels[:, None] == reference[prefix + "labels"][None])
    lonely = max(np.sum(~alike.any(axis=0)), np.sum(~alike.any(axis=1)), abs(len(boxes) - len(their_boxes)))
    return float(lonely / len(their_boxes))


def _compare_training(
    reference: Reference,
    run: Callable[[Any], Results],
    experiment: config.Config,
    variables: Any,
    tolerances: Tolerances,
) -> Iterator[Row]:
    """Compares a few steps of the config's optimizer, with the reference's learning rates."""
    rates = jnp.asarray(reference["traj/lr"])
    optimizer = make_optimizer(experiment.optimizer, lambda step: rates[step], experiment.detector.backbone)
    params, batch_stats = variables["params"], variables["batch_stats"]

    @partial(jax.jit, compiler_options=quick_options(jax.default_backend()))  # it runs only a few times
    def update(gradients: Any, state: Any, params: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    state, rows = jax.jit(optimizer.init, compiler_options=quick_options(jax.default_backend()))(params), []
    for _ in rates:
        results = run({"params": params, "batch_stats": batch_stats})
        params, state = update(results.gradients, state, params)
        losses = {name: float(np.sum(x)) for name, x in results.losses.items()}
        losses["total"] = sum(losses.values())
        rows.append([losses[str(name)] for name in reference["traj/loss_names"]])
    yield Row(
        f"training: losses of {len(rows)} steps",
        reference.deviation("traj/losses", np.array(rows)),
        tolerances.training,
    )
    after = to_torch(params, experiment.detector) | to_torch(batch_stats, experiment.detector)
    found = [
        relative_deviation(
            after[name].reshape(reference[f"traj/after/{name}"].shape), reference[f"traj/after/{name}"]
        )
        for name in reference.keys("traj/after/")
    ]
    yield Row(f"training: {len(found)} parameters afterwards", max(found), tolerances.training)
