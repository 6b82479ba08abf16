"""The whole network: backbone, feature pyramid, dense head."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from gfl_jax import config
from gfl_jax.configuration.detector_check import check_detector
from gfl_jax.models.fpn import FeaturePyramid
from gfl_jax.models.head import DenseHead
from gfl_jax.models.resnet import ResNet
from gfl_jax.pixel_blocks import in_blocks
from gfl_jax.strips import WholeMaps
from gfl_jax.structures import HeadOutputs


class DetectorNetwork(nn.Module):
    """Computes head outputs from normalized images. Parameters are under backbone, pyramid and head."""

    detector: config.Detector
    dtype: Any = jnp.float32
    images: int | None = None  # number of images in the batch, if maps may be in strips; None: whole maps
    chips: int = 1  # number of chips that the images are on

    def setup(self) -> None:
        """Creates the three parts."""
        self.backbone = ResNet(self.detector.backbone, self.dtype, self.images, self.chips)
        self.pyramid = FeaturePyramid(self.detector.pyramid, self.dtype, self.images)
        self.head = DenseHead(self.detector, self.dtype, self.images)

    def __call__(self, images: WholeMaps, train: bool = False) -> HeadOutputs:
        """Runs the network.

        Args:
          images: normalized, in pixels or in blocks of pixels. Height and width are multiples of
            SIZE_DIVISOR.
          train: whether batch norms use the statistics of the batch and update the running ones, if the
            backbone's norm is "batch".
        """
        return self.head(self.pyramid(self.backbone(images, train)))


def apply_network(
    model: DetectorNetwork,
    variables: Any,
    images: Float[Array, "batch height width c"],
    tpu_chips: int | None,
    **options: Any,
) -> Any:
    """Runs `model.apply` on normalized images. On a TPU, maps of images in blocks may be in strips.

    Args:
      model: the network.
      variables: its parameters and running statistics.
      images: normalized.
      tpu_chips: number of TPU chips that the images are on; None: they are not on TPUs.
      **options: further arguments of `model.apply`.
    """
    if tpu_chips is not None and in_blocks(images):
        model = model.clone(images=len(images), chips=tpu_chips)
    return model.apply(variables, images, **options)


def build_detector(detector: config.Detector, precision: str = "float32") -> DetectorNetwork:
    """Builds the network of a detector config; `precision` is the dtype of its arithmetic.

    Raises:
      UserError: the parts of the detector do not fit together.
    """
    check_detector(detector)
    return DetectorNetwork(detector, jnp.dtype(precision))
