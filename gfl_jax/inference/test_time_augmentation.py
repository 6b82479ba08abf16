"""Multi-scale and mirrored testing: the candidates of all views of a picture in one suppression.

As in the reference (mmdetection 2): the decoded candidates of each view are mirrored back and
divided by its scale factors, so that they lie in the original picture; then they are put
together, and suppressed and voted as those of a single view are.
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

# Of variables and the views of a batch: the detections in pixels of the original images.
DetectInViews = Callable[[Any, Sequence[Images]], Detections]


def make_detect_in_views(
    model: DetectorNetwork,
    normalization: config.Normalization,
    inference: config.Inference,
    mesh: Mesh | None = None,
    compiler: config.Compiler = config.Compiler(),
) -> DetectInViews:
    """A function (variables, batches) -> Detections in pixels of the original pictures.

    The batches show the same pictures, in the views of `views_of(inference)` and in their order.
    The network is compiled once for each shape of a batch; a mirrored view shares its shape. With a
    `mesh` the variables are whole on each of its devices, over which batches are split, and the programs are
    compiled as `compiler` asks.

    Raises:
      UserError: the views are impossible, or variance voting is asked of boxes without variances.
    """
    views = views_of(inference)
    if views == (PLAIN,):
        detect = make_detect(model, normalization, inference, mesh, compiler)
        return lambda variables, batches: detect(variables, batches[0])
    check_voting(model.detector, inference)
    platform = None if mesh is None else platform_of(mesh)

    def find_candidates(whole: tuple[Any, Bool[Array, ""]], batch: Images) -> Candidates:
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

    candidates_of, merged = jit(find_candidates), jit(merge)

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
    """Candidates in pixels of a view, in those of the original pictures.

    Args:
      candidates: of the view.
      image_sizes: (height, width) of the pictures in the view.
      scale_factors: (x, y), view over original.
      flip: whether the view is mirrored; then left and right change places, variances too.
    """
    boxes, variances = candidates.boxes, candidates.variances
    x1, y1, x2, y2 = jnp.moveaxis(boxes, -1, 0)
    width = image_sizes[:, 1:].astype(boxes.dtype)
    boxes = jnp.where(flip, jnp.stack([width - x2, y1, width - x1, y2], axis=-1), boxes)
    variances = jnp.where(flip, variances[..., jnp.array([2, 1, 0, 3])], variances)
    scale = jnp.tile(scale_factors, 2)[:, None]
    return candidates._replace(boxes=boxes / scale, variances=variances / jnp.square(scale))


def merge_candidates(views: Sequence[Candidates], inference: config.Inference) -> Detections:
    """One suppression, with voting if asked for, of the candidates of all views, in pixels of one picture."""
    together = Candidates(*(jnp.concatenate(parts, axis=1) for parts in zip(*views, strict=True)))
    detections, _ = jax.vmap(lambda picture: select(picture, inference))(together)
    return detections
