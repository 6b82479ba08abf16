"""FCOS with centerness, ResNet-50 (caffe) FPN, 12 epochs on COCO: 36.6 AP (mmdetection, val2017).

python main.py train --config=configs/fcos_r50_fpn_1x_coco.py --workdir=runs/fcos_r50
"""

from gfl_jax.config import Config
from gfl_jax.configs import gfl_r50_fpn_1x_coco as base
from gfl_jax.configuration.overrides import override


def get_config() -> Config:
    return override(
        base.get_config(),
        {
            "name": "fcos_r50_fpn_1x_coco",
            "init_from": "resnet50_caffe",
            "detector.assigner.kind": "fcos",
            "detector.quality": "centerness",
            "detector.classification.kind": "focal",
            "detector.box.kind": "dirac",
            "detector.box.activation": "exp",
            "detector.box.unit": "pixel",
            "detector.box.loss": "iou",
            "detector.box.loss_weight": 1.0,
            "detector.box.weighting": "centerness",
            "detector.box.min_normalizer": 1e-6,
            "detector.backbone.style": "caffe",
            "detector.backbone.train_norm": False,
            "detector.pyramid.relu_on_top": True,
            "detector.head.quality_tower": "class",
            "normalization.mean": (102.9801, 115.9465, 122.7717),
            "normalization.std": (1.0, 1.0, 1.0),
            "normalization.channel_order": "bgr",
            "optimizer.bias_rate": 2.0,
            "optimizer.decay_biases": False,
            "optimizer.clip_norm": 35.0,
            "inference.iou_threshold": 0.5,
        },
    )
