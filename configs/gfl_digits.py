"""A small GFL on composed scenes of handwritten digits, from scratch on a CPU.

    python scripts/prepare_dataset.py digits
    python main.py train --config=configs/gfl_digits.py --workdir=runs/gfl_digits

Cost: 85 to 95 s of CPU time with compilation and evaluation; 0.05 to 0.1 s a step on 2 busy cores.
Result on the validation scenes (400, of other digits over another photograph; one seed): AP 35.7,
AP50 57.6, AP75 39.4. The scenes are composed: this compares detectors, it is not COCO.

How it was chosen: on `tune_train` and `tune_validation`, one seed each. With 500 steps of 16 scenes
AP was 21.3, with 1200 steps of 8 it is 35.4, and 31.2 at half the learning rate. The validation
scenes were evaluated once, at the end.
"""

from gfl_jax.config import (
    Assigner,
    Backbone,
    BoxRepresentation,
    Config,
    Dataset,
    Detector,
    Head,
    Loader,
    Optimizer,
    Pyramid,
    Resize,
    Run,
    Schedule,
)


def get_config() -> Config:
    return Config(
        name="gfl_digits",
        detector=Detector(
            num_classes=10,
            strides=(8, 16, 32),
            assigner=Assigner(anchor_scale=3.0),  # 24 pixels on the finest level; digits have 14 to 56
            box=BoxRepresentation(reg_max=8),
            backbone=Backbone(
                block="basic",
                stage_sizes=(1, 2, 2, 1),
                widths=(24, 48, 96, 96),
                stem="patch4",
                norm="batch",
                frozen_stages=0,
            ),
            pyramid=Pyramid(channels=48, num_laterals=3, num_levels=3),
            head=Head(channels=48, num_convs=2, num_groups=12),
        ),
        resize=Resize(short_side=None),
        dataset=Dataset(tfds_dir="data/composed_digits/1.0.0"),
        loader=Loader(
            batch_size=8,
            eval_batch_size=16,
            buckets=((128, 128),),
            flip=False,  # a mirrored digit is none
            workers=0,
            cache_images=True,
        ),
        optimizer=Optimizer(
            kind="adamw",
            learning_rate=4e-3,
            reference_batch_size=None,
            weight_decay=0.05,
            clip_norm=10.0,
        ),
        schedule=Schedule(steps=1200, warmup_steps=50, decay="cosine"),
        run=Run(log_every=50, checkpoint_every=600, evaluate_every=1200),
    )
