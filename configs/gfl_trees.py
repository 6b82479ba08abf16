"""A small GFL on the aerial trees, from scratch on a CPU: what `make demo` trains."""

from gfl_jax.config import (
    Assigner,
    Backbone,
    BoxRepresentation,
    Config,
    Crops,
    Dataset,
    Detector,
    Head,
    Inference,
    Loader,
    Optimizer,
    Pyramid,
    Resize,
    Run,
    Schedule,
)


def get_config() -> Config:
    return Config(
        name="gfl_trees",
        detector=Detector(
            num_classes=1,
            strides=(8, 16, 32),
            assigner=Assigner(anchor_scale=5.0),  # 40 pixels on the finest level, as the median tree
            box=BoxRepresentation(reg_max=8),
            backbone=Backbone(
                block="basic",
                stage_sizes=(1, 2, 2, 1),
                widths=(32, 64, 128, 128),
                stem="patch4",
                norm="batch",
                frozen_stages=0,
            ),
            pyramid=Pyramid(channels=64, num_laterals=3, num_levels=3),
            head=Head(channels=64, num_convs=2, num_groups=16),
        ),
        resize=Resize(short_side=None),
        crops=Crops(scale=(0.65, 1.5), stripes=0.6),
        dataset=Dataset(tfds_dir="data/aerial_trees/1.0.0", repeats=800),
        loader=Loader(
            batch_size=8,
            eval_batch_size=1,
            # of the splits far, validation, tune_validation, train; training sees crops alone
            buckets=((416, 416), (1056, 1280), (2496, 608), (2496, 2304)),
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
        schedule=Schedule(steps=1200, warmup_steps=60, decay="cosine"),
        inference=Inference(iou_threshold=0.5, max_detections=300),
        # Evaluated once, at the end: nothing is chosen on the held-out photograph.
        run=Run(log_every=20, checkpoint_every=300, evaluate_every=1200),
    )
