"""Published weights by name: mmdetection's detectors for COCO, a small detector for trees, and backbones.

The AP on COCO is the one that the authors measured on val2017.
"""

import re
from pathlib import Path
from typing import NamedTuple

from rich.table import Column, Table

from gfl_jax.data.categories import Categories
from gfl_jax.data.coco_categories import COCO_CATEGORY_IDS, COCO_CATEGORY_NAMES
from gfl_jax.errors import UserError
from gfl_jax.pretrained.download import cache_folder, fetch

_MMDETECTION = "https://download.openmmlab.com/mmdetection/v2.0"
_OPENMMLAB = "https://openmmlab.oss-cn-hangzhou.aliyuncs.com/mmdetection/v2.0"
_TORCHVISION = "https://download.pytorch.org/models"
_MMPRETRAIN = "https://download.openmmlab.com/pretrain/third_party"

COCO = Categories(COCO_CATEGORY_NAMES, COCO_CATEGORY_IDS)


class Published(NamedTuple):
    """A published file of weights."""

    url: str  # or the name of a file in this package
    million: float  # number of parameters in millions
    average_precision: float | None = None  # of a detector, on val2017 or its own data; None: a backbone
    licence: str = "Apache-2.0"
    classes: Categories | None = COCO  # classes of a detector

    @property
    def file(self) -> Path:
        """The path of the file, also before it is downloaded."""
        if "/" not in self.url:
            return Path(__file__).with_name(self.url)
        # On the Hugging Face hub all files of weights have the same name. The model is in the address.
        hub = re.fullmatch(r"https://huggingface.co/(.*)/resolve/main/model(\.\w+)", self.url)
        name = hub[1].replace("/", "_") + hub[2] if hub else self.url.rpartition("/")[2]
        return cache_folder() / "weights" / name

    @property
    def sha256(self) -> str:
        """The first digits of the sha256, from the end of the file name; "" if the name has none."""
        found = re.search(r"-([0-9a-f]{8})\.pth$", self.url)
        return found[1] if found else ""


def _gfl(folder: str, file: str) -> str:
    return f"{_MMDETECTION}/gfl/{folder}/{folder}_{file}.pth"


# Each detector has the name of its config in configs/.
DETECTORS = {
    "gfl_trees": Published("gfl_trees.safetensors", 1.3, 14.0, classes=Categories(("Tree",), (1,))),
    "gfl_r50_fpn_1x_coco": Published(_gfl("gfl_r50_fpn_1x_coco", "20200629_121244-25944287"), 32.4, 40.2),
    "gfl_r50_fpn_ms2x_coco": Published(
        _gfl("gfl_r50_fpn_mstrain_2x_coco", "20200629_213802-37bb1edc"), 32.4, 42.9
    ),
    "gfl_r101_fpn_ms2x_coco": Published(
        _gfl("gfl_r101_fpn_mstrain_2x_coco", "20200629_200126-dd12f847"), 51.4, 44.7
    ),
    "gfl_r101_dcn_c3-c5_fpn_ms2x_coco": Published(
        _gfl("gfl_r101_fpn_dconv_c3-c5_mstrain_2x_coco", "20200630_102002-134b07df"), 52.7, 47.1
    ),
    "gfl_x101_32x4d_fpn_ms2x_coco": Published(
        _gfl("gfl_x101_32x4d_fpn_mstrain_2x_coco", "20200630_102002-50c1ffdb"), 51.1, 45.9
    ),
    "gfl_x101_32x4d_dcn_c4-c5_fpn_ms2x_coco": Published(
        _gfl("gfl_x101_32x4d_fpn_dconv_c4-c5_mstrain_2x_coco", "20200630_102002-14a2bf25"), 53.5, 48.1
    ),
    "atss_r50_fpn_1x_coco": Published(
        f"{_MMDETECTION}/atss/atss_r50_fpn_1x_coco/atss_r50_fpn_1x_coco_20200209-985f7bd0.pth", 32.3, 39.4
    ),
    "atss_r101_fpn_1x_coco": Published(
        f"{_MMDETECTION}/atss/atss_r101_fpn_1x_coco/atss_r101_fpn_1x_20200825-dfcadd6f.pth", 51.3, 41.5
    ),
    "fcos_r50_fpn_1x_coco": Published(
        f"{_OPENMMLAB}/fcos/fcos_r50_caffe_fpn_gn-head_1x_coco/"
        "fcos_r50_caffe_fpn_gn-head_1x_coco-821213aa.pth",
        *(32.3, 36.6),
    ),
    "fcos_r50_fpn_tricks_1x_coco": Published(
        f"{_OPENMMLAB}/fcos/fcos_center-normbbox-centeronreg-giou_r50_caffe_fpn_gn-head_1x_coco/"
        "fcos_center-normbbox-centeronreg-giou_r50_caffe_fpn_gn-head_1x_coco-0a0d75a8.pth",
        *(32.3, 38.7),
    ),
}
BACKBONES = {
    "timm/resnet50.tv_in1k": Published(
        "https://huggingface.co/timm/resnet50.tv_in1k/resolve/main/model.safetensors",
        *(25.6, None, "BSD-3-Clause"),
    ),
    "resnet50": Published(f"{_TORCHVISION}/resnet50-0676ba61.pth", 25.6, licence="BSD-3-Clause"),
    "resnet101": Published(f"{_TORCHVISION}/resnet101-63fe2227.pth", 44.5, licence="BSD-3-Clause"),
    "resnext101_32x8d": Published(
        f"{_TORCHVISION}/resnext101_32x8d-8ba56ff5.pth", 88.8, licence="BSD-3-Clause"
    ),
    "resnext101_32x4d": Published(f"{_MMPRETRAIN}/resnext101_32x4d-a5af3160.pth", 44.2),
    "resnet50_caffe": Published(f"{_MMPRETRAIN}/resnet50_caffe-788b5fa3.pth", 25.6),
    "resnet50_msra": Published(f"{_MMPRETRAIN}/resnet50_msra-5891d200.pth", 25.6),
}
PUBLISHED = DETECTORS | BACKBONES


def require_detector(name: str) -> None:
    """Checks a name given with `--model`.

    Raises:
      UserError: there is no published detector with this name.
    """
    if name not in DETECTORS:
        problem = "is only a backbone, for --config.init_from" if name in BACKBONES else "is not a model"
        raise UserError(f"--model={name}: {problem}; `main.py models` lists the detectors")


def models_table() -> Table:
    """A table of all published weights, and whether they are downloaded already."""
    longest = max(map(len, PUBLISHED))
    table = Table(
        Column("name", min_width=longest), "AP", "parameters", "file", "source", "licence", "cached"
    )
    for name, published in PUBLISHED.items():
        average_precision = published.average_precision
        table.add_row(
            name,
            "" if average_precision is None else f"{average_precision:.1f}",
            f"{published.million:.1f} M",
            f"{published.million * 4:.0f} MB",
            published.url.split("/")[2] if "/" in published.url else "part of gfl_jax",
            published.licence,
            "yes" if published.file.is_file() else "no",
        )
    table.caption = (
        "AP: as published, on COCO val2017; of gfl_trees on a held-out image. "
        "Models without AP are backbones, trained on ImageNet"
    )
    return table


def is_published(name: str) -> bool:
    """Whether a name is that of published weights, and no local file or folder has this name."""
    return name in PUBLISHED and not Path(name).exists()


def local_weights(name: str) -> str:
    """The local file of published weights if `is_published(name)`, else `name` itself.

    Raises:
      UserError: the file cannot be downloaded.
    """
    return str(fetch_published(name)) if is_published(name) else name


def published_classes(name: str) -> Categories | None:
    """The classes of a published detector; None if `name` is not a published detector."""
    return DETECTORS[name].classes if name in DETECTORS and is_published(name) else None


def fetch_published(name: str) -> Path:
    """The local file of published weights, downloaded if it is not in the cache folder.

    Raises:
      UserError: there are no weights with this name, or the file cannot be downloaded.
    """
    if name not in PUBLISHED:
        raise UserError(f"{name}: there is no such model; `main.py models` lists the available ones")
    published = PUBLISHED[name]
    if "/" not in published.url:
        return published.file
    return fetch(published.url, published.sha256, published.file)
