"""Recomputes reference values on the user's machine.

By default, accelerators multiply float32 numbers in bfloat16 or TF32. Here they multiply in full float32.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import jax

from gfl_jax.config import Config
from gfl_jax.configuration.config_files import load_config
from gfl_jax.errors import UserError
from gfl_jax.verification.deformable import verify_deformable
from gfl_jax.verification.reference import Reference, Row
from gfl_jax.verification.units import verify_units
from gfl_jax.verification.whole_detector import verify_detector

REFERENCE_DIR = Path(__file__).resolve().parents[2] / "tests/data/reference"
UNITS, MORE_UNITS = REFERENCE_DIR / "units.npz", REFERENCE_DIR / "units_extra.npz"
DEFAULT_CONFIG = "gfl_r50_fpn_1x_coco"
DETECTORS = {  # files in REFERENCE_DIR, and the config of each detector
    "gfl": "gfl_r50_fpn_1x_coco",
    "atss": "atss_r50_fpn_1x_coco",
    "fcos": "fcos_r50_fpn_1x_coco",
    "fcos_tricks": "fcos_r50_fpn_tricks_1x_coco",
    "gfl_r101_dcn": "gfl_r101_dcn_c3-c5_fpn_ms2x_coco",
    "gflv2": "gflv2_r50_fpn_1x_coco",
    "ld": "ld_r50_gfl_r101_fpn_1x_coco",
}


def verify_default(precision: str, detectors: Sequence[str] = ("gfl",)) -> Iterator[Row]:
    """Verifies the single functions (in float32, like their reference values) and whole detectors."""
    if not REFERENCE_DIR.is_dir():
        raise UserError(
            "verify: the reference values are not part of the installed package; run it in the repository "
            "of gfl_jax, or give --reference=FILE.npz"
        )
    with jax.default_matmul_precision("highest"):
        yield from verify_units(Reference(UNITS))
        yield from verify_deformable(Reference(UNITS))
        yield from verify_deformable(Reference(MORE_UNITS))
    for name in detectors:
        config = load_config(DETECTORS[name])
        for row in verify_file(REFERENCE_DIR / f"{name}.npz", config, precision):
            yield row._replace(part=f"{name} {row.part}" if len(detectors) > 1 else row.part)


def verify_file(path: str | Path, config: Config, precision: str) -> Iterator[Row]:
    """Verifies a detector with a file of reference values.

    Args:
      path: an .npz file.
      config: of the same detector.
      precision: "float64", "float32" or "bfloat16".
    """
    reference = Reference(path)
    with jax.enable_x64(precision == "float64"), jax.default_matmul_precision("highest"):
        yield from verify_detector(reference, config, precision)
