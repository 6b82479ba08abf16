"""The paper's choice of n and delta: the number of bins of a box side, and their distance.

    python main.py train --config=configs/table_dfl.py:n=14,delta=1 --workdir=runs/n_14
    python main.py compare --table=dfl --dataset=trees --seeds=3

The bins are at 0, delta, 2 delta, ..., n delta strides. On COCO, n delta should be at least 16, because
otherwise the last level cannot reach the sides of the largest boxes. The rows with another delta keep n
delta at 16.
"""

from typing import Literal

from gfl_jax.comparison.rows import Row
from gfl_jax.config import Config
from gfl_jax.configs import gfl
from gfl_jax.configuration.overrides import override

TITLE = "DFL's bins"
N_AND_DELTA = ((12, 1), (14, 1), (16, 1), (18, 1), (32, 0.5), (8, 2), (4, 4))
ROWS = tuple(Row(f"n {n}, delta {delta}", "ATSS", {"n": n, "delta": delta}) for n, delta in N_AND_DELTA)


def get_config(
    n: int = 16, delta: float = 1.0, dataset: Literal["coco", "trees", "digits"] = "coco"
) -> Config:
    return override(
        gfl.get_config(dataset),
        {
            "name": f"table_dfl_{n}_{delta:g}_{dataset}",
            "detector.box.reg_max": n,
            "detector.box.spacing": delta,
        },
    )
