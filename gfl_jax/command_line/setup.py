"""The first steps that commands share: start processes, load a config, load a trained detector."""

import argparse
import contextlib
import os
from typing import TYPE_CHECKING

from etils.epath import Path

from gfl_jax.config import Config
from gfl_jax.configuration.config_files import config_from_json, load_config
from gfl_jax.configuration.experiment_check import check_experiment
from gfl_jax.configuration.overrides import parse_overrides
from gfl_jax.errors import UserError
from gfl_jax.pretrained.published import require_detector

if TYPE_CHECKING:
    from gfl_jax.training.trained import Trained


def processes(args: argparse.Namespace, stop_together: bool) -> contextlib.AbstractContextManager[None]:
    """The context in which a command uses jax: one process, or several as the flags or a launcher say."""
    from gfl_jax.parallel.launch import find_launch

    flags = {name: getattr(args, name) for name in ("coordinator", "num_processes", "process_id")}
    launch = find_launch(os.environ, flags, args.distributed)
    if launch is None:
        return contextlib.nullcontext()
    from gfl_jax.parallel.distributed import processes

    return processes(launch, args.heartbeat_seconds, stop_together)


def config_from_args(args: argparse.Namespace, overrides: dict[str, str]) -> Config:
    """Loads the config of --config, of the model or of the work directory, and applies the overrides."""
    if getattr(args, "model", None):
        require_detector(args.model)
    if args.config or getattr(args, "model", None):
        config = load_config(args.config or args.model)
    else:
        path = args.workdir / "config.json"
        if not path.is_file():
            raise UserError(
                f"{path}: there is no such file; name a work directory of `train`, or give --config"
            )
        config = config_from_json(path)
    config = parse_overrides(config, overrides)
    check_experiment(config)
    return config


def detector_from_args(args: argparse.Namespace, config: Config) -> "Trained":
    """Loads the detector of --model or --workdir."""
    from gfl_jax.training.trained import load_published, load_run

    if args.model and args.checkpoint:
        raise UserError(
            f"--checkpoint={args.checkpoint}: works only with --workdir; leave it out with --model"
        )
    if args.model:
        return load_published(args.model, config)
    return load_run(args.workdir, config, args.checkpoint)


def default_output_root(args: argparse.Namespace) -> Path:
    """The folder for outputs without --output: the work directory, or runs/MODEL with --model."""
    return args.workdir or Path("runs") / args.model
