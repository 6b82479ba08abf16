"""FCOS with its later tricks, ResNet-50 (caffe) FPN, 12 epochs on COCO: 38.7 AP (mmdetection, val2017).

The tricks are center sampling, distances in strides, centerness on the box tower, and GIoU loss.

    python main.py train --config=configs/fcos_r50_fpn_tricks_1x_coco.py --workdir=runs/fcos_r50_tricks
"""

from gfl_jax.config import Config
from gfl_jax.configs import fcos_r50_fpn_1x_coco as base
from gfl_jax.configuration.overrides import override


def get_config() -> Config:
    return override(
        base.get_config(),
        {
            "name": "fcos_r50_fpn_tricks_1x_coco",
            "init_from": "resnet50_msra",
            "detector.assigner.center_radius": 1.5,
            "detector.box.activation": "relu",
            "detector.box.unit": "stride",
            "detector.box.loss": "giou",
            "detector.head.tower_bias": True,
            "detector.head.quality_tower": "box",
            "normalization.mean": (103.53, 116.28, 123.675),
            "inference.iou_threshold": 0.6,
        },
    )
