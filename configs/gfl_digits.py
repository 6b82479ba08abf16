"""A small GFL on composed scenes of handwritten digits, trained from scratch on a CPU.

    python scripts/prepare_dataset.py digits
    python main.py train --config=configs/gfl_digits.py --workdir=runs/gfl_digits

Cost: 85 to 95 s of CPU time with compilation and evaluation; 0.05 to 0.1 s per step on 2 busy cores.
Result on the 400 validation scenes (other digits over another photograph; one seed): AP 35.7, AP50 57.6,
AP75 39.4. The scenes are composed, so these numbers compare detectors and say nothing about COCO.

The recipe was chosen on `tune_train` and `tune_validation`, with one seed each. AP was 21.3 with 500 steps of
16 scenes, 35.4 with 1200 steps of 8, and 31.2 at half the learning rate. The validation scenes were evaluated
once, at the end.
"""

from gfl_jax.config import Config, Inference
from gfl_jax.configs import gfl_trees
from gfl_jax.configuration.overrides import override


def get_config() -> Config:
    return override(
        gfl_trees.get_config(),
        {
            "name": "gfl_digits",
            "detector.num_classes": 10,
            "detector.assigner.anchor_scale": 3.0,  # 24 pixels on the finest level; digits have 14 to 56
            "detector.backbone.widths": (24, 48, 96, 96),
            "detector.pyramid.channels": 48,
            "detector.head.channels": 48,
            "detector.head.num_groups": 12,
            "crops": None,
            "dataset.tfds_dir": "data/composed_digits/1.0.0",
            "dataset.repeats": 1,
            "loader.eval_batch_size": 16,
            "loader.flip": False,  # a mirrored digit is no digit
            "schedule.steps": 1200,
            "optimizer.ema_decay": None,
            "schedule.warmup_steps": 50,
            "inference": Inference(),
            "run.log_every": 50,
            "run.evaluate_every": 1200,
        },
    )
