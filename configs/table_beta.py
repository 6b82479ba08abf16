"""The paper's choice of beta, the exponent of the quality focal loss. Beta 0 is plain cross-entropy.

    python main.py train --config=configs/table_beta.py:beta=2.5 --workdir=runs/beta_2.5
    python main.py compare --table=beta --dataset=trees --seeds=3

Everything else is as in the last row of Table I: ATSS, with one number for each box side.
"""

from typing import Literal

from gfl_jax.comparison.rows import Row
from gfl_jax.config import Config
from gfl_jax.configs import table_1
from gfl_jax.configuration.overrides import override

TITLE = "QFL's beta"
ROWS = tuple(Row(f"beta {beta}", "ATSS", {"beta": beta}) for beta in (0, 1, 2, 2.5, 4))


def get_config(beta: float = 2.0, dataset: Literal["coco", "trees", "digits"] = "coco") -> Config:
    return override(
        table_1.get_config(dataset=dataset),
        {"name": f"table_beta_{beta:g}_{dataset}", "detector.classification.beta": beta},
    )
