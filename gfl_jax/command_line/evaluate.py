"""The `evaluate` command: COCO metrics of a trained detector."""

import argparse
import json
from collections.abc import Sequence

from gfl_jax.command_line.arguments import add_launch, add_output, add_trained, whole_number
from gfl_jax.command_line.setup import config_from_args, default_output_root, detector_from_args, processes
from gfl_jax.files import require_writable, write_file
from gfl_jax.paths import as_path

TEXT = """\
Computes the COCO metrics of a trained detector on its evaluation split.

  python main.py evaluate --workdir=runs/gfl_r50
  python main.py evaluate --workdir=runs/gfl_trees --config.dataset.eval_split=far
  python main.py evaluate --workdir=runs/gfl_r50 \\
      --config.inference.test_scales="(0.8,1.0,1.25)" --config.inference.test_flip=True

The command prints the twelve COCO metrics and, for several classes, the AP of each class. It writes the
detections to results.json, in the COCO results format. Without --config, it uses the config in the work
directory.

Classes are matched by name; their order in the data does not matter. Classes that only the data or only the
detector has are reported and do not count.

For data without annotations, such as COCO's image_info_test-dev2017.json, the command writes results.json for
the evaluation server and computes no metrics."""


def add_flags(command: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    add_trained(command)
    add_output(command)
    command.add_argument(
        "--backend",
        choices=["hotcoco", "pycocotools"],
        default="hotcoco",
        help="library that computes the metrics (default hotcoco); pycocotools is the reference: it gives "
        "the same numbers and takes twenty times as long",
    )
    command.add_argument(
        "--pictures",
        type=whole_number("--pictures", 0),
        default=4,
        metavar="N",
        help="draw ground truth and detections of the first N images (default 4)",
    )
    add_launch(command)


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Runs the command and returns the exit status."""
    with processes(args, stop_together=False):
        _evaluate(args, overrides)
    return 0


def _evaluate(args: argparse.Namespace, overrides: dict[str, str]) -> None:
    from rich.console import Console

    from gfl_jax.console.plain import counted
    from gfl_jax.data.loader import log_shapes, make_source
    from gfl_jax.evaluation.coco_metrics import class_table, metrics_table
    from gfl_jax.evaluation.evaluate import evaluate_source, in_labels_of
    from gfl_jax.evaluation.output_names import require_free
    from gfl_jax.evaluation.results import Result, looks_like_results, write_results
    from gfl_jax.evaluation.snapshots import save_snapshots, snapshot_paths
    from gfl_jax.parallel.agreement import is_first
    from gfl_jax.parallel.mesh import make_mesh

    config = config_from_args(args, overrides)
    output = args.output or default_output_root(args) / "evaluate" / (
        config.dataset.eval_split if config.dataset.tfds_dir else ""
    )
    if is_first():
        require_writable(output)
    source = make_source(config, "eval")  # an error here comes before a download of weights
    trained = detector_from_args(args, config)
    source = in_labels_of(source, config, trained.classes, trained.name)
    log_shapes(source, config, training=False)
    written = [output / "results.json", output / "metrics.json"]
    written += snapshot_paths(output, "", source, args.pictures)
    images = config.dataset.eval_images
    inputs = [as_path(images) / name for name in source.file_names] if images else []
    require_free(written, inputs, may_replace=looks_like_results(written[0]))
    mesh = make_mesh()
    variables, detect = trained.on(mesh)

    def keep(results: Sequence[Result]) -> None:
        if is_first():
            (output / "metrics.json").unlink(missing_ok=True)  # it belongs to older detections
            write_results(output / "results.json", results)

    metrics, results = evaluate_source(detect, variables, source, config, mesh, args.backend, keep)
    if not is_first():
        return
    if metrics is not None:
        write_file(output / "metrics.json", json.dumps(metrics.scalars(), indent=1))
    console = Console()
    if metrics is None:
        print(f"{source.name}: has no annotations; no metrics are computed")
    else:
        if len(metrics.classes) > 1:
            console.print(class_table(metrics))
        console.print(metrics_table(metrics))
    found = f"{counted(len(results), 'detection')} in {counted(len(source), 'image')}"
    print(f"{found}: {output}/results.json")
    drawn = save_snapshots(output, "", source, results, args.pictures)
    print(f"{counted(len(drawn), 'image')} with ground truth and detections: {output}")
