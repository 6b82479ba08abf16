"""A whole detector against reference figures: features, outputs, targets, losses, gradients,
detections and a few steps of training."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gfl_jax import config
from gfl_jax.inference.detect import detections_from_outputs
from gfl_jax.interop.torch_names import from_torch, to_torch
from gfl_jax.losses.detection import detection_losses
from gfl_jax.models.detector import DetectorNetwork, build_detector
from gfl_jax.models.preprocess import normalize_images
from gfl_jax.structures import SIZE_DIVISOR, Batch
from gfl_jax.targets.assign import assign_targets
from gfl_jax.targets.locations import grid_sizes_of, make_locations
from gfl_jax.training.optimizer import make_optimizer
from gfl_jax.verification.deterministic import image, projection, weight
from gfl_jax.verification.reference import Reference, Row, relative_deviation

GRADIENT_STRIDE = 97  # large gradients were stored as every 97th value


class Tolerances(NamedTuple):
    """Largest relative deviations allowed."""

    outputs: float
    losses: float
    gradients: float
    projections: float
    training: float
    unmatched: float  # share of detections that have no counterpart within `outputs`


TOLERANCES = {
    "float64": Tolerances(1e-6, 1e-6, 1e-6, 1e-6, 1e-6, 0.0),
    # In float32 a ReLU input within rounding of zero flips and changes single gradients. The
    # projection of an error on unit normals is normal, with its norm as deviation: three of them.
    "float32": Tolerances(1e-5, 1e-5, 2e-2, 6e-2, 1e-3, 0.0),
    # Eight bits of mantissa through fifty layers: a check against blunders, not of exactness.
    "bfloat16": Tolerances(1e-1, 1e-1, 5e-1, 1.5, 1e-2, 0.5),
}


def verify_detector(reference: Reference, experiment: config.Config, precision: str) -> Iterator[Row]:
    """Recomputes every figure of a detector's file.

    Args:
      reference: the file.
      experiment: the config of the same detector.
      precision: "float64" (with jax's x64 mode on), "float32" or "bfloat16".
    """
    tolerances = TOLERANCES[precision]
    model = build_detector(experiment.detector, precision)
    variables = deterministic_variables(model, jnp.promote_types(precision, jnp.float32))
    cases = [str(case) for case in reference["cases"]]
    batches = {case: make_batch(reference, case, precision) for case in cases}
    run = jax.jit(partial(_run, model, experiment))
    for case in cases:
        results = jax.device_get(run(variables, batches[case]))
        for part, value, tolerance in _compare_case(
            reference, case, batches[case], results, tolerances, experiment
        ):
            yield Row(f"{case}: {part}", value, tolerance)
    if "traj/losses" in reference:
        yield from _compare_training(reference, run, experiment, variables, batches[cases[0]], tolerances)


def deterministic_variables(model: DetectorNetwork, dtype: Any) -> dict[str, Any]:
    """The variables of a network with the reference's weights."""
    sample = jnp.zeros((1, SIZE_DIVISOR, SIZE_DIVISOR, 3))
    shapes: Any = jax.eval_shape(model.init, jax.random.key(0), sample)
    names: dict[str, tuple[int, ...]] = {}
    for collection in shapes.values():
        arrays = jax.tree.map(lambda x: np.empty(x.shape, np.int8), collection)
        names |= {name: x.shape for name, x in to_torch(arrays).items()}
    variables = from_torch({name: weight(name, shape) for name, shape in names.items()}, shapes)
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), variables)


def make_batch(reference: Reference, case: str, precision: str) -> Batch:
    """The pictures and boxes of a case, padded as the reference pads them."""
    count = len(reference.keys(f"{case}/gt_bboxes"))
    pictures = [_picture(reference[f"{case}/image{i}_seed_height_width"]) for i in range(count)]
    sizes = np.array([picture.shape[:2] for picture in pictures], np.int32)
    canvas = -(-sizes.max(axis=0) // SIZE_DIVISOR) * SIZE_DIVISOR
    max_boxes = max(len(reference[f"{c}/gt_bboxes{i}"]) for c in reference["cases"] for i in range(count))
    images = np.zeros((count, *canvas, 3), np.uint8)
    boxes = np.zeros((count, max_boxes, 4), np.float64 if precision == "float64" else np.float32)
    labels = np.zeros((count, max_boxes), np.int32)
    box_mask = np.zeros((count, max_boxes), bool)
    for i, picture in enumerate(pictures):
        truth = reference[f"{case}/gt_bboxes{i}"].reshape(-1, 4)
        images[i, : sizes[i, 0], : sizes[i, 1]] = picture
        boxes[i, : len(truth)] = truth
        labels[i, : len(truth)] = reference[f"{case}/gt_labels{i}"]
        box_mask[i, : len(truth)] = True
    scale_factors = np.stack([reference[f"{case}/scale_factor{i}_wh"] for i in range(count)])
    arrays = (images, sizes, scale_factors, np.arange(count, dtype=np.int32), boxes, labels, box_mask)
    return Batch(*map(jnp.asarray, arrays))


def _picture(seed_height_width: np.ndarray) -> np.ndarray:
    seed, height, width = (int(x) for x in seed_height_width)
    return image(seed, height, width)[..., ::-1]  # RGB


class _Results(NamedTuple):
    inputs: Any
    features: Any  # C2 to C5
    levels: Any  # P3 to P7
    outputs: Any
    targets: Any
    losses: Any
    gradients: Any
    detections: Any


def _run(model: DetectorNetwork, experiment: config.Config, variables: Any, batch: Batch) -> _Results:
    """Everything that a case's figures are about, in one compiled function."""
    inputs = normalize_images(batch.images, batch.image_sizes, experiment.normalization, model.dtype)

    def forward(network: DetectorNetwork) -> Any:
        features = network.backbone(inputs)
        levels = network.pyramid(features)
        return features, levels, network.head(levels)

    run_parts: Any = model.apply(variables, method=forward)
    features, levels, outputs = run_parts
    differentiate = jax.value_and_grad(_loss, has_aux=True)
    (_, losses), gradients = differentiate(
        variables["params"], variables["batch_stats"], model, experiment, batch
    )
    locations = make_locations(grid_sizes_of(levels), experiment.detector.strides)
    targets = assign_targets(batch, locations, experiment.detector)
    detections = detections_from_outputs(outputs, batch, experiment.detector, experiment.inference)
    return _Results(inputs, features, levels, outputs, targets, losses, gradients, detections)


def _loss(
    params: Any, batch_stats: Any, model: Any, experiment: config.Config, batch: Batch
) -> tuple[Any, Any]:
    images = normalize_images(batch.images, batch.image_sizes, experiment.normalization, model.dtype)
    variables = {"params": params, "batch_stats": batch_stats}
    outputs, _ = model.apply(variables, images, train=True, mutable=["batch_stats"])
    losses = detection_losses(outputs, batch, experiment.detector)
    return sum(jnp.sum(x) for x in losses.values()), losses


def _nchw(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float64 if x.dtype == np.float64 else np.float32).transpose(0, 3, 1, 2)


def _compare_case(
    reference: Reference,
    case: str,
    batch: Batch,
    ours: _Results,
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
        ("box predictions", "bbox_pred", ours.outputs.box),
    ):
        found = [reference.deviation(f"{case}/eval/{key}{i}", _nchw(x)) for i, x in enumerate(maps)]
        yield name, max(found), outputs
    yield "targets", _compare_targets(reference, case, ours, experiment), 0.0
    for name, values in ours.losses.items():
        found = [
            reference.deviation(f"{case}/loss/{name}_per_level", values),
            reference.deviation(f"{case}/loss/{name}", np.sum(values)),
        ]
        yield name, max(found), tolerances.losses
    yield from _compare_gradients(reference, case, ours.gradients, tolerances)
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


def _compare_targets(reference: Reference, case: str, ours: _Results, experiment: config.Config) -> float:
    """Share of locations whose assignment, class, weight or box is not the reference's."""
    targets, num_classes = ours.targets, experiment.detector.num_classes
    ends = np.cumsum([x.shape[1] * x.shape[2] for x in ours.levels])[:-1]
    wrong: list[float] = [
        np.max(
            np.abs(targets.box_index[i][targets.valid[i]] + 1 - reference[f"{case}/assign/img{i}_gt_inds"])
        )
        for i in range(len(targets.valid))
    ]
    labels = np.where(targets.positive, targets.labels, num_classes)
    for level, (label, valid, box) in enumerate(
        zip(*(np.split(x, ends, axis=1) for x in (labels, targets.valid, targets.boxes)), strict=True)
    ):
        wrong.append(reference.deviation(f"{case}/targets/labels{level}", label))
        wrong.append(reference.deviation(f"{case}/targets/label_weights{level}", valid))
        wrong.append(reference.deviation(f"{case}/targets/bbox_targets{level}", box))
    normalizer = np.sum(np.maximum(np.sum(targets.positive, axis=1), 1))
    wrong.append(relative_deviation(normalizer, reference[f"{case}/targets/avg_factor"]))
    return float(max(wrong))


def _compare_gradients(
    reference: Reference, case: str, gradients: Any, tolerances: Tolerances
) -> Iterator[tuple[str, float, float]]:
    named = to_torch(gradients)
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
        ours = ours.reshape(-1)[::GRADIENT_STRIDE] if ours.ndim == 4 else ours
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
    """Share of the detections of either set without one like it in the other: class, score and box."""
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
    run: Callable[[Any, Batch], _Results],
    experiment: config.Config,
    variables: Any,
    batch: Batch,
    tolerances: Tolerances,
) -> Iterator[Row]:
    """A few steps of the config's optimizer at the reference's learning rates."""
    rates = jnp.asarray(reference["traj/lr"])
    frozen_stages = experiment.detector.backbone.frozen_stages
    optimizer = make_optimizer(experiment.optimizer, lambda step: rates[step], frozen_stages)
    update = jax.jit(optimizer.update)
    params, batch_stats = variables["params"], variables["batch_stats"]
    state, rows = optimizer.init(params), []
    for _ in rates:
        results = run({"params": params, "batch_stats": batch_stats}, batch)
        updates, state = update(results.gradients, state, params)
        params = optax.apply_updates(params, updates)
        losses = {name: float(jnp.sum(x)) for name, x in results.losses.items()}
        losses["total"] = sum(losses.values())
        rows.append([losses[str(name)] for name in reference["traj/loss_names"]])
    yield Row(
        f"training: losses of {len(rows)} steps",
        reference.deviation("traj/losses", np.array(rows)),
        tolerances.training,
    )
    after = to_torch(params) | to_torch(batch_stats)
    found = [
        relative_deviation(
            after[name].reshape(reference[f"traj/after/{name}"].shape), reference[f"traj/after/{name}"]
        )
        for name in reference.keys("traj/after/")
    ]
    yield Row(f"training: {len(found)} parameters afterwards", max(found), tolerances.training)
