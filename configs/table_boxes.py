"""The paper's box representations: one number, a Gaussian, a general distribution, without and with DFL.

    python main.py train --config=configs/table_boxes.py:box=gaussian --workdir=runs/gaussian
    python main.py compare --table=boxes --dataset=trees --seeds=3

Everything else is as in GFL: ATSS, quality in the class score, QFL.
"""

from typing import Any, Literal

from gfl_jax.comparison.rows import Row
from gfl_jax.config import Config
from gfl_jax.configs import gfl
from gfl_jax.configuration.overrides import override

TITLE = "Representation of a box side (GFL otherwise)"
BOXES: dict[str, tuple[str, dict[str, Any]]] = {
    "dirac": ("one number (Dirac)", {"detector.box.kind": "dirac"}),
    "gaussian": ("mean and variance (Gaussian)", {"detector.box.kind": "gaussian"}),
    "general": ("general distribution", {"detector.box.kind": "general", "detector.box.dfl_weight": 0.0}),
    "general_dfl": ("general distribution with DFL", {"detector.box.kind": "general"}),
}
ROWS = tuple(Row(label, "ATSS", {"box": box}) for box, (label, _) in BOXES.items())


def get_config(
    box: Literal["dirac", "gaussian", "general", "general_dfl"] = "general_dfl",
    dataset: Literal["coco", "trees", "digits"] = "coco",
) -> Config:
    return override(gfl.get_config(dataset), {"name": f"table_boxes_{box}_{dataset}", **BOXES[box][1]})
