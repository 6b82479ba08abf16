"""The report of `main.py compile` about an experiment on a set of chips."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import jax
from etils.epath import Path
from jax.sharding import Mesh

from gfl_jax.compilation import programs
from gfl_jax.compilation.batch_search import MOST, largest_fitting
from gfl_jax.compilation.chips import Chip
from gfl_jax.compilation.measures import Measures, TooLarge, compile_and_measure
from gfl_jax.compilation.topology import Target
from gfl_jax.config import Config
from gfl_jax.data.buckets import Shape
from gfl_jax.errors import UserError
from gfl_jax.files import write_file
from gfl_jax.parallel.mesh import check_accumulate, make_mesh, round_up_batch

Part = Literal["train", "inference"]
PARTS: tuple[Part, ...] = ("train", "inference")


@dataclasses.dataclass(frozen=True)
class PartReport:
    """The report about one program."""

    part: Part
    canvas: Shape  # (height, width) of the batches that it was compiled for
    compilations: int  # of a whole run, one for each shape of a batch
    images_per_chip: int
    result: Measures | TooLarge
    compile_seconds: float

    @property
    def cycles_per_image(self) -> float | None:
        """The compiler's estimate; None if it makes none, or if the program does not fit."""
        if isinstance(self.result, TooLarge) or self.result.cycles is None:
            return None
        return self.result.cycles.total / self.images_per_chip

    def share_of_peak(self, chip: Chip) -> float | None:
        """The program's FLOPs as a share of what the chip's matrix units could do in its estimated cycles."""
        if isinstance(self.result, TooLarge) or self.result.cycles is None:
            return None
        return self.result.flops / (self.result.cycles.total / chip.clock * chip.flops)

    @property
    def batch(self) -> str:
        """The batch that the program was compiled for, in words."""
        return describe_batch(self.images_per_chip, self.canvas)

    def fits(self, capacity: float | None) -> bool:
        """Whether it fits into a chip's memory. If the capacity is unknown, the compiler decides."""
        if isinstance(self.result, TooLarge):
            return False
        return capacity is None or self.result.memory.total <= capacity


@dataclasses.dataclass(frozen=True)
class Report:
    """The reports about the programs of an experiment on a set of chips."""

    config: str
    precision: str
    target: Target
    mesh: dict[str, int]
    gradient_bytes: int
    parts: Sequence[PartReport]

    @property
    def fits(self) -> bool:
        """Whether all programs fit."""
        return all(part.fits(self.target.capacity) for part in self.parts)


def make_report(
    config: Config,
    target: Target,
    parts: Sequence[Part] = PARTS,
    images_per_chip: int | None = None,
    canvas: Shape | None = None,
    find_batch: bool = False,
    sweep: Sequence[int] = (),
    say: Callable[[str], None] = lambda _: None,
    keep: Callable[[Report], None] = lambda _: None,
) -> Report:
    """Compiles the train step and inference of an experiment, and returns a report about them.

    Args:
      config: the experiment.
      target: the chips.
      parts: the programs to compile.
      images_per_chip: None: a chip's share of the config's batch sizes.
      canvas: (height, width) to compile for; None: the largest of the config's buckets.
      find_batch: whether to search for the fastest batch that fits, starting at `images_per_chip` or 1. Only
        this batch is reported.
      sweep: several numbers of images per chip. Each of them is compiled and reported.
      say: is called with a line about each piece of work.
      keep: is called after each program with the report so far.

    Raises:
      UserError: the chips cannot share the config's batch evenly, or do not fit its mesh.
    """
    mesh = make_mesh(config.mesh, target.devices)
    # Comes first, because it may raise: compiling takes minutes.
    canvases = {part: _canvases(config, part, canvas) for part in parts}

    def compile_batch(part: Part, images: int) -> PartReport:
        return _compile_part(config, part, mesh, canvases[part], canvas, images, say)

    def search(part: Part) -> PartReport:
        # All micro-batches have the same number of images of each chip.
        unit = config.optimizer.accumulate if part == "train" else 1
        tried: dict[int, PartReport] = {}

        def fits(units: int) -> bool:
            tried[units] = found = compile_batch(part, units * unit)
            good = found.fits(target.capacity)
            say(f"{part}: {found.batch}: {'fits' if good else 'does not fit'}")
            return good

        start = min(max((images_per_chip or 1) // unit, 1), MOST)
        largest = tried[largest_fitting(fits, start) or 1]
        fitting = [found for found in tried.values() if found.fits(target.capacity)]
        return quickest(fitting) or largest

    def reports_of(part: Part) -> Iterator[PartReport]:
        if find_batch:
            yield search(part)
        else:
            for images in sweep or [images_per_chip or _share_of_a_chip(config, part, mesh)]:
                yield compile_batch(part, images)

    report = Report(
        config=config.name,
        precision=config.precision,
        target=target,
        mesh=dict(mesh.shape),
        gradient_bytes=programs.gradient_bytes(config),
        parts=[],
    )
    for part in parts:
        for found in reports_of(part):
            report = dataclasses.replace(report, parts=[*report.parts, found])
            keep(report)
    return report


def quickest(reports: Iterable[PartReport]) -> PartReport | None:
    """The report with the fewest cycles per image; None if the compiler makes no estimates."""
    estimated = [(found.cycles_per_image, found) for found in reports if found.cycles_per_image is not None]
    return min(estimated, key=lambda pair: pair[0])[1] if estimated else None


def _share_of_a_chip(config: Config, part: Part, mesh: Mesh) -> int:
    if part == "inference":
        return round_up_batch(config.loader.eval_batch_size, mesh) // mesh.size
    batch = config.loader.batch_size
    if batch % mesh.size:
        raise UserError(
            f"config.loader.batch_size={batch}: not divisible by the {mesh.size} chips; "
            f"give another, or give the images per chip as --batch=N"
        )
    return batch // mesh.size


def _canvases(config: Config, part: Part, canvas: Shape | None) -> Sequence[Shape]:
    """The shapes of the batches: those of the config, or `canvas` if the config has none."""
    if canvas is not None and config.loader.buckets is None:
        return [canvas]
    return {"train": programs.training_canvases, "inference": programs.inference_canvases}[part](config)


def _compile_part(
    config: Config,
    part: Part,
    mesh: Mesh,
    shapes: Sequence[Shape],
    canvas: Shape | None,
    images_per_chip: int,
    say: Callable[[str], None],
) -> PartReport:
    lower = {"train": programs.lower_training, "inference": programs.lower_inference}[part]
    canvas = canvas or shapes[-1]
    if part == "train":
        check_accumulate(images_per_chip * mesh.size, config.optimizer.accumulate, mesh)
    say(f"{part}: compiling for a {describe_batch(images_per_chip, canvas)}")
    start = time.monotonic()
    result = compile_and_measure(lower(config, mesh, canvas, images_per_chip * mesh.size))
    return PartReport(part, canvas, len(shapes), images_per_chip, result, time.monotonic() - start)


def describe_batch(images_per_chip: int, canvas: Shape) -> str:
    """The batch of a chip, in words."""
    return f"batch of {images_per_chip} at {canvas[0]}x{canvas[1]} per chip"


def to_fields(report: Report) -> dict[str, Any]:
    """The report as a JSON object."""

    def part_fields(part: PartReport) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "part": part.part,
            "canvas": part.canvas,
            "compilations": part.compilations,
            "images_per_chip": part.images_per_chip,
            "compile_seconds": round(part.compile_seconds, 1),
            "fits": part.fits(report.target.capacity),
        }
        result = part.result
        if isinstance(result, TooLarge):
            return fields | {"too_large": result.reason}
        return fields | {
            "memory": result.memory._asdict() | {"total": result.memory.total},
            "flops": result.flops,
            "bytes_accessed": result.bytes_accessed,
            "cycles": result.cycles and result.cycles._asdict(),
            "collectives": [collectives._asdict() for collectives in result.collectives],
        }

    return {
        "config": report.config,
        "precision": report.precision,
        "topology": report.target.name,
        "kind": report.target.kind,
        "chips": len(report.target.devices),
        "mesh": report.mesh,
        "capacity": report.target.capacity,
        "gradient_bytes": report.gradient_bytes,
        "jax": jax.__version__,
        "parts": [part_fields(part) for part in report.parts],
    }


def write_json(report: Report, path: Path) -> None:
    """Writes the report as JSON."""
    write_file(path, json.dumps(to_fields(report), indent=1) + "\n")
