r"""Finetunes a trained detector on your own images. Classes, schedule and sizes come from the data.

    python main.py train --config=configs/finetune.py:data=DIR,model=gfl_r50_fpn_1x_coco --workdir=runs/mine

DIR is a COCO export of a labelling tool: Roboflow (train/_annotations.coco.json, valid/...), CVAT, Label
Studio, FiftyOne, or folders train and val. If there are no images for evaluation, a tenth of the images is
held out. The model is a name of `main.py models`, or a work directory of `train`.

The choices are printed. Training lasts 12 epochs, or longer if these have fewer than 8000 images. The
learning rate is half of the model's. The limit of detections is at least the largest number of boxes in an
image. Cost: for GFL-R50, at least 1000 steps of 8 images at 800x1333. The arguments `steps` and `batch`
(finetune:data=DIR,steps=300,batch=4) change the warm-up and the evaluations too. Any field can be changed, as
in --config.optimizer.learning_rate=0.002.
"""

import logging
import math

import numpy as np

from gfl_jax.config import BatchSize, Config, Dataset
from gfl_jax.configuration.fields import Count
from gfl_jax.configuration.overrides import override
from gfl_jax.console.plain import counted
from gfl_jax.data.categories import listed
from gfl_jax.data.coco_file import CocoFile
from gfl_jax.data.layouts import find_layout
from gfl_jax.training.trained import trained_config

EPOCHS = 12
LEAST_SHOWN = 8000  # images
BATCH = 8
HELD_OUT = 0.1
LOGGER = logging.getLogger("gfl_jax.finetune")


def get_config(
    data: str,
    model: str = "gfl_r50_fpn_1x_coco",
    steps: Count | None = None,
    batch: BatchSize | None = None,
) -> Config:
    base, (train, evaluation) = trained_config(model), find_layout(data)
    truths = [train.content] + ([evaluation.content] if evaluation else [])
    count, batch = len(train.content.image_ids), batch or min(base.loader.batch_size, BATCH)
    steps = steps or math.ceil(max(EPOCHS * count, LEAST_SHOWN) / batch)
    most_boxes = max(int(np.bincount(truth.image_index, minlength=1).max()) for truth in truths)
    resize = small_enough(base, train.content)
    config = override(
        base,
        {
            "name": f"finetune_{base.name}",
            "init_from": model,
            "detector.num_classes": len(train.content.categories.names),
            "dataset": Dataset(
                train_json=str(train.json),
                train_images=str(train.images),
                eval_json=str(evaluation.json) if evaluation else "",
                eval_images=str(evaluation.images) if evaluation else "",
                holdout=0.0 if evaluation else HELD_OUT,
                repeats=math.ceil(min(steps, 100) * batch / count),  # so that an epoch has at least 100 steps
            ),
            "loader.batch_size": batch,
            "loader.buckets": None,
            "optimizer.learning_rate": base.optimizer.learning_rate / 2,
            "schedule.steps": steps,
            "schedule.warmup_steps": min(base.schedule.warmup_steps, steps // 10),
            "inference.max_detections": max(base.inference.max_detections, math.ceil(most_boxes / 100) * 100),
            "inference.test_scales": (1.0,),
            "inference.test_flip": False,
            "run.log_every": min(max(steps // 100, 10), 50),
            "run.checkpoint_every": math.ceil(steps / 5),
            "run.evaluate_every": math.ceil(steps / 5),
            **resize,
        },
    )
    LOGGER.info(
        "%s: %s with %s; classes: %s",
        *(train.json, counted(count, "image"), counted(len(train.content.labels), "box")),
        listed(train.content.categories.names),
    )
    if evaluation:
        images = counted(len(evaluation.content.image_ids), "image")
        LOGGER.info("%s: %s for evaluation", evaluation.json, images)
    else:
        LOGGER.info("found no images for evaluation; a tenth of these is held out (config.dataset.holdout)")
    shown = "crops" if config.crops else "images"
    LOGGER.info(
        "chosen for %s: %d steps of %d %s, learning rate %g, at most %d detections per image",
        *(model, steps, batch, shown, config.optimizer.learning_rate, config.inference.max_detections),
    )
    return config


def small_enough(base: Config, truth: CocoFile) -> dict[str, object]:
    """The sizes of the network's inputs: those of the model, but small images are at most doubled."""
    side = base.resize.short_side
    doubled = 2 * int(np.median(truth.sizes.min(axis=1)))
    if base.crops or side is None or doubled >= side:
        return {}
    share = max(doubled // 32 * 32, 32) / side
    sides = [round(x * share) for x in (side, base.resize.long_side, *(base.resize.train_short_sides or ()))]
    return {
        "resize.short_side": sides[0],
        "resize.long_side": sides[1],
        "resize.train_short_sides": tuple(sides[2:]) or None,
    }
