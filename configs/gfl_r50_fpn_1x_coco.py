r"""GFL, ResNet-50 FPN, 12 epochs on COCO: the paper's 40.2 AP (val2017).

    python main.py train --config=configs/gfl_r50_fpn_1x_coco.py --workdir=runs/gfl_r50 \
        --config.dataset.tfds_dir=data/coco/2017/1.1.0

Cost: 12 epochs of 118k images at 800x1333, with a global batch of 16.
"""

from gfl_jax.config import Config, Dataset, Loader


def get_config() -> Config:
    return Config(
        name="gfl_r50_fpn_1x_coco",
        init_from="resnet50",
        dataset=Dataset(tfds_dir="data/coco/2017/1.1.0", filter_empty=True, min_size=32),
        # With these buckets, 3% of the pixels are padding. buckets=None would choose them from the data set.
        loader=Loader(buckets=((800, 1088), (800, 1216), (800, 1344), (1088, 800), (1216, 800), (1344, 800))),
    )
