"""Detection as one compiled function, from uint8 images to detections."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Int

from gfl_jax import config
from gfl_jax.errors import UserError
from gfl_jax.inference.decode import Candidates, decode
from gfl_jax.inference.nms import nms
from gfl_jax.inference.voting import variance_vote
from gfl_jax.models.network import DetectorNetwork, apply_network
from gfl_jax.models.preprocess import normalize_images
from gfl_jax.parallel.compiler_options import compiler_options
from gfl_jax.parallel.mesh import on_own_rows, platform_of
from gfl_jax.structures import Detections, HeadOutputs, Images


def make_detect(
    model: DetectorNetwork,
    normalization: config.Normalization,
    inference: config.Inference,
    mesh: Mesh | None = None,
    compiler: config.Compiler = config.Compiler(),
) -> Callable[[Any, Images], Detections]:
    """Makes a jitted function (variables, images) -> Detections in pixels of the original images.

    It is compiled once for each batch shape. `variables` are {"params": ..., "batch_stats": ...}. With a
    `mesh`, every device holds all variables, the batch is split over the devices, and the program is compiled
    with the options of `compiler`.

    Raises:
      UserError: variance voting is requested, but the boxes have no variances.
    """
    check_voting(model.detector, inference)

    platform = None if mesh is None else platform_of(mesh)

    def detect(variables: Any, batch: Images) -> Detections:
        outputs = head_outputs(model, variables, batch, normalization, platform)
        detections, _ = detections_from_outputs(outputs, batch, model.detector, inference)
        scale = jnp.tile(batch.scale_factors, 2)[:, None]
        return dataclasses.replace(detections, boxes=detections.boxes / scale)

    if mesh is None:
        return jax.jit(detect)
    return jax.jit(on_own_rows(detect, mesh), compiler_options=compiler_options(mesh, compiler))


def head_outputs(
    model: DetectorNetwork,
    variables: Any,
    batch: Images,
    normalization: config.Normalization,
    platform: str | None = None,
) -> HeadOutputs:
    """The head outputs of the network for uint8 images, as in testing.

    Args:
      model: the network.
      variables: its parameters and running statistics.
      batch: the images of one device.
      normalization: how pixels become network inputs.
      platform: of the device; on a TPU, maps may be in strips; None: they stay whole.
    """
    images = normalize_images(batch.images, batch.image_sizes, normalization, model.dtype)
    outputs: Any = apply_network(model, variables, images, 1 if platform == "tpu" else None)
    return outputs


def check_voting(detector: config.Detector, inference: config.Inference) -> None:
    """Raises a UserError if variance voting is requested, but the boxes have no variances."""
    if inference.voting_sigma_t is not None and detector.box.kind == "dirac":
        raise UserError(
            "config.inference.voting_sigma_t: variance voting needs the variances of box sides, which "
            "config.detector.box.kind='dirac' does not have; set it to None, or use 'general' or 'gaussian'"
        )


def detections_from_outputs(
    outputs: HeadOutputs, batch: Images, detector: config.Detector, inference: config.Inference
) -> tuple[Detections, Int[Array, "batch detections"]]:
    """Decodes head outputs and suppresses overlapping boxes.

    Returns:
      Detections in pixels of the network's input, and for each its location, as an index into all locations
      of the canvas.
    """
    with jax.named_scope("decoding"):
        candidates = decode(outputs, batch.image_sizes, detector, inference)
    return jax.vmap(lambda c: select(c, inference))(candidates)


def select(
    candidates: Candidates, inference: config.Inference
) -> tuple[Detections, Int[Array, "detections"]]:
    """Applies non-maximum suppression, and variance voting if requested, to the candidates of one image."""
    c = candidates
    kept, found = nms(c.boxes, c.scores, c.labels, c.mask, inference.iou_threshold, inference.max_detections)
    boxes = c.boxes[kept]
    if inference.voting_sigma_t is not None:
        voters = (c.labels[kept][:, None] == c.labels) & c.mask
        boxes = variance_vote(boxes, c.boxes, c.variances, voters, inference.voting_sigma_t)
    detections = Detections(
        boxes=jnp.where(found[:, None], boxes, 0),
        scores=jnp.where(found, c.scores[kept], 0),
        labels=c.labels[kept],
        mask=found,
    )
    return detections, c.positions[kept]
