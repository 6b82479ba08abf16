"""Reference figures recomputed on the user's own machine."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import jax

from gfl_jax.config import Config
from gfl_jax.configuration.config_files import load_config
from gfl_jax.verification.deformable import verify_deformable
from gfl_jax.verification.reference import Reference, Row
from gfl_jax.verification.units import verify_units
from gfl_jax.verification.whole_detector import verify_detector

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "tests/data/reference/units.npz"
MORE_UNITS = ROOT / "tests/data/reference/units_extra.npz"
DEFAULT_CONFIG = ROOT / "configs/gfl_r50_fpn_1x_coco.py"
DETECTORS = {  # files of figures in tests/data/reference, and whose they are
    "gfl": "gfl_r50_fpn_1x_coco",
    "atss": "atss_r50_fpn_1x_coco",
    "fcos": "fcos_r50_fpn_1x_coco",
    "fcos_tricks": "fcos_r50_fpn_tricks_1x_coco",
    "gfl_r101_dcn": "gfl_r101_dcn_c3-c5_fpn_ms2x_coco",
}


def verify_default(precision: str, detectors: Sequence[str] = ("gfl",)) -> Iterator[Row]:
    """The single functions (in float32, like their figures), and whole detectors."""
    yield from verify_units(Reference(UNITS))
    yield from verify_deformable(Reference(UNITS))
    yield from verify_deformable(Reference(MORE_UNITS))
    for name in detectors:
        config = load_config(ROOT / f"configs/{DETECTORS[name]}.py")
        for row in verify_file(ROOT / f"tests/data/reference/{name}.npz", config, precision):
            yield row._replace(part=f"{name} {row.part}" if len(detectors) > 1 else row.part)


def verify_file(path: str | Path, config: Config, precision: str) -> Iterator[Row]:
    """A file of reference figures of the detector that `config` describes.

    Args:
      path: an .npz file.
      config: the same detector.
      precision: "float64", "float32" or "bfloat16".
    """
    reference = Reference(path)
    with jax.enable_x64(precision == "float64"):
        yield from verify_detector(reference, config, precision)
