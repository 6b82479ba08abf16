"""Compares the other detectors with the reference in float64, on one batch of two images of unequal sizes.

`python main.py verify --dtype=float64 --detector=all` recomputes all batches and a few steps of training.
"""

import jax
import numpy as np
import pytest

from gfl_jax.configuration.config_files import load_config
from gfl_jax.verification.reference import Reference
from gfl_jax.verification.verify import DETECTORS
from gfl_jax.verification.whole_detector import verify_detector

CASE = "d_unequal"


@pytest.mark.parametrize("name", ["atss", "fcos", "fcos_tricks", "gflv2", "ld"])
def test_every_row_of_a_batch_passes_in_float64(reference_dir, name):
    reference = Reference(reference_dir / f"{name}.npz")
    reference.arrays["cases"] = np.array([CASE])
    del reference.arrays["traj/losses"]
    with jax.enable_x64(True):
        rows = list(verify_detector(reference, load_config(DETECTORS[name]), "float64"))
    assert [row for row in rows if not row.passed] == []
    parts = {row.part.removeprefix(f"{CASE}: ") for row in rows}
    own = {"gflv2": {"loss_dfl"}, "ld": {"loss_dfl", "loss_ld"}}
    of_branch = {"loss_centerness", "quality predictions"}
    assert {"targets", "loss_cls", "loss_bbox", *own.get(name, of_branch)} <= parts
    assert len(rows) >= (15 if name == "gflv2" else 16)  # its quality has no branch
