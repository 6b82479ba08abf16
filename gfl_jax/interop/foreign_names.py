"""Converts names of entries in other state dicts to mmdetection's names.

This covers mmdetection 1.x to 3.x and the official GFL repository (which is mmdetection 1.x), and backbones
of torchvision, mmpretrain and detectron2, including its caffe models.
"""

import re

# Applied in this order. None of them changes names of mmdetection 3.x.
RULES = (
    (r"^module\.", ""),  # saved from a parallel wrapper
    # torchvision, and files that contain only a backbone
    (r"^(conv1|bn1|layer\d+)\.", r"backbone.\1."),
    # detectron2: stem, res2 to res5, shortcut, norms inside of convolutions
    (r"^backbone\.bottom_up\.", "backbone."),
    (r"^(stem|res[2-5])\.", r"backbone.\1."),
    (r"^backbone\.stem\.", "backbone."),
    (r"^backbone\.res2\.", "backbone.layer1."),
    (r"^backbone\.res3\.", "backbone.layer2."),
    (r"^backbone\.res4\.", "backbone.layer3."),
    (r"^backbone\.res5\.", "backbone.layer4."),
    (r"^(backbone\..*)shortcut\.norm\.", r"\1downsample.1."),
    (r"^(backbone\..*)shortcut\.", r"\1downsample.0."),
    (r"^(backbone\..*)conv(\d)\.norm\.", r"\1bn\2."),
    # deformable convolutions of detectron2 and of early mmdetection
    (r"^(backbone\..*\.conv2)_offset\.", r"\1.conv_offset."),
    # heads of mmdetection 1.x
    (r"^bbox_head\.fcos_(cls|reg|centerness)\.", r"bbox_head.conv_\1."),
    (r"^bbox_head\.distribution_project\.", "bbox_head.integral."),
)


def mmdetection_name(name: str) -> str:
    """The name of an entry in a state dict of mmdetection 3.x. Unknown names are not changed."""
    for pattern, replacement in RULES:
        name = re.sub(pattern, replacement, name)
    return name
