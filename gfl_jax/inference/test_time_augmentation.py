"""Multi-scale and mirrored testing: one suppression of the candidates of all views of an image.

As in the reference (mmdetection 2), the decoded candidates of each view are mirrored back and divided by its
scale factors, which maps them to the original image. Then they are concatenated, and go through suppression
and voting like the candidates of a single view.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from gfl_jax import config
from gfl_jax.inference.decode import Candidates, decode
from gfl_jax.inference.detect import check_voting, head_outputs, make_detect, select
from gfl_jax.inference.views import PLAIN, views_of
from gfl_jax.models.network import DetectorNetwork
from gfl_jax.parallel.compiler_options import compiler_options
from gfl_jax.parallel.mesh import on_own_rows, platform_of
from gfl_jax.structures import Detections, Images

# (variables, the views of a batch) -> detections in pixels of the original images.
DetectInViews = Callable[[Any, Sequence[Images]], Detections]


def make_detect_in_views(
    model: DetectorNetwork,
    normalization: config.Normalization,
    inference: config.Inference,
    mesh: Mesh | None = None,
    compiler: config.Compiler = config.Compiler(),
) -> DetectInViews:
    """Makes a function (variables, batches) -> Detections in pixels of the original images.

    The batches show the same images, one batch for each view of `views_of(inference)`, in that order. The
    network is compiled once for each batch shape; a mirrored view has the shape of the plain one. With a
    `mesh`, every device holds all variables, batches are split over the devices, and the programs are
    compiled with the options of `compiler`.

    Raises:
      UserError: there are no scales, or variance voting is requested, but the boxes have no variances.
    """
    views = views_of(inference)
    if views == (PLAIN,):
        detect = make_detect(model, normalization, inference, mesh, compiler)
        return lambda variables, batches: detect(variables, batches[0])
    check_voting(model.detector, inference)
    platform = None if mesh is None else platform_of(mesh)

    def detect_candidates(whole: tuple[Any, Bool[Array, ""]], batch: Images) -> Candidates:
        variables, flip = whole
        outputs = head_outputs(model, variables, batch, normalization, platform)
        found = decode(outputs, batch.image_sizes, model.detector, inference)
        return to_original(found, batch.image_sizes, batch.scale_factors, flip)

    def merge(_: None, candidates: Sequence[Candidates]) -> Detections:
        return merge_candidates(candidates, inference)

    def jit(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        if mesh is None:
            return jax.jit(function)
        return jax.jit(on_own_rows(function, mesh), compiler_options=compiler_options(mesh, compiler))

    candidates_of, merged = jit(detect_candidates), jit(merge)

    def detect_in_views(variables: Any, batches: Sequence[Images]) -> Detections:
        pairs = zip(views, batches, strict=True)
        return merged(None, [candidates_of((variables, view.flip), batch) for view, batch in pairs])

    return detect_in_views


def to_original(
    candidates: Candidates,
    image_sizes: Int[Array, "batch 2"],
    scale_factors: Float[Array, "batch 2"],
    flip: Bool[Array, ""] | bool,
) -> Candidates:
    """Maps candidates from pixels of a view to pixels of the original images.

    Args:
      candidates: of the view.
      image_sizes: (height, width) of the images in the view.
      scale_factors: (x, y), view over original.
      flip: whether the view is mirrored; then left and right are exchanged, also in the variances.
    """
    boxes, variances = candidates.boxes, candidates.variances
    x1, y1, x2, y2 = jnp.moveaxis(boxes, -1, 0)
    width = image_sizes[:, 1:].astype(boxes.dtype)
    boxes = jnp.where(flip, jnp.stack([width - x2, y1, width - x1, y2], axis=-1), boxes)
    variances = jnp.where(flip, variances[..., jnp.array([2, 1, 0, 3])], variances)
    scale = jnp.tile(scale_factors, 2)[:, None]
    return candidates._replace(boxes=boxes / scale, variances=variances / jnp.square(scale))


def merge_candidates(views: Sequence[Candidates], inference: config.Inference) -> Detections:
    """Suppresses the candidates of all views together, with voting if requested.

    Args:
      views: the candidates of each view, in pixels of the original images.
      inference: the settings.
    """
    together = Candidates(*(jnp.concatenate(parts, axis=1) for parts in zip(*views, strict=True)))
    detections, _ = jax.vmap(lambda of_image: select(of_image, inference))(together)
    return detections
