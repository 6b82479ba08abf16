"""The training loop: it starts or resumes a run, logs, evaluates, saves and stops."""

import contextlib
import functools
from typing import Any, NamedTuple

import jax
from etils.epath import Path
from jaxtyping import Array, Int

from gfl_jax.config import Config
from gfl_jax.configuration.experiment_check import check_experiment
from gfl_jax.data.loader import train_batches
from gfl_jax.data.plan import steps_per_epoch
from gfl_jax.data.source import Source
from gfl_jax.drawing import plot_losses
from gfl_jax.errors import UserError
from gfl_jax.evaluation.evaluate import detect_source, measure_results
from gfl_jax.evaluation.results import Result
from gfl_jax.evaluation.snapshots import save_snapshots
from gfl_jax.inference.test_time_augmentation import make_detect_in_views
from gfl_jax.models.network import build_detector
from gfl_jax.parallel.agreement import from_first, is_first
from gfl_jax.parallel.mesh import (
    check_accumulate,
    check_batch_size,
    gather,
    make_mesh,
    put_batch,
    put_everywhere,
    split_over_fsdp,
)
from gfl_jax.paths import as_path
from gfl_jax.training.checkpoint import Checkpoints, claim_workdir
from gfl_jax.training.lease import Lease
from gfl_jax.training.log import RunLog
from gfl_jax.training.optimizer import make_optimizer, make_schedule, scaled_learning_rate
from gfl_jax.training.profile import Profile
from gfl_jax.training.run_data import open_run_data, write_run_data
from gfl_jax.training.start import check_start, start_from_file
from gfl_jax.training.state import create_state, state_shapes
from gfl_jax.training.step import Metrics, make_train_step
from gfl_jax.training.stop import StopRequest
from gfl_jax.training.teacher import make_teacher
from gfl_jax.training.trained import load_trained, trained_config


class NonFiniteLossError(UserError):
    """The loss or its gradient became NaN or infinite, so the run stopped."""


class DoneStep(NamedTuple):
    """A training step that was started on the device, and whose numbers were not fetched yet."""

    step: int
    metrics: Metrics
    indices: Int[Array, "batch"]  # of its images, in the source


def train(
    config: Config, workdir: str | Path, stop: StopRequest | None = None, profile_steps: range | None = None
) -> dict[str, float]:
    """Trains a detector. Resumes from the latest checkpoint in `workdir` if there is one.

    What a step does depends only on the config and the number of the step. Therefore a run that was
    stopped or killed and then resumed is bit-identical to an uninterrupted one (on GPUs only if
    `config.compiler.deterministic` is set).

    Args:
      config: the experiment.
      workdir: gets checkpoints/, best/, metrics.jsonl, tensorboard/, pictures/ and config.json.
      stop: holds afterwards whether the run was asked to stop, and by which signal.
      profile_steps: the steps to trace into profile/, counted from 1.

    Returns:
      The COCO metrics after the last step. Empty if the run was asked to stop earlier, or has no
      evaluation data.

    Raises:
      UserError: the config does not fit the data, the devices or the work directory, or no file
        provides its frozen parts.
      NonFiniteLossError: the message names the step and its images; all checkpoints are good.
    """
    check_experiment(config)
    workdir, run = as_path(workdir), config.run
    check_start(config, workdir)
    mesh = make_mesh(config.mesh)
    check_batch_size(config.loader.batch_size, mesh)
    check_accumulate(config.loader.batch_size, config.optimizer.accumulate, mesh)
    data = open_run_data(config, workdir)
    source, evaluation = data.train, data.evaluation
    epoch_steps = steps_per_epoch(source.sizes, config)
    total_steps = config.schedule.steps or config.schedule.epochs * epoch_steps

    model = build_detector(config.detector, config.precision)
    learning_rate = scaled_learning_rate(config.optimizer, config.loader.batch_size)
    schedule = make_schedule(config.schedule, learning_rate, total_steps)
    optimizer = make_optimizer(config.optimizer, schedule, config.detector.backbone)
    teacher, teacher_variables = None, tuple[Any, ...]()
    if config.distillation.teacher:
        trained = load_trained(config.distillation.teacher, trained_config(config.distillation.teacher))
        teacher = make_teacher(trained.config, config)
        teacher_variables = (put_everywhere(trained.variables, mesh),)
    train_step = make_train_step(model, optimizer, schedule, config, mesh, teacher)
    detect = make_detect_in_views(model, config.normalization, config.inference, mesh, config.compiler)

    def is_due(every: int) -> bool:
        return step > 0 and (step % every == 0 or step == total_steps)

    claim_workdir(workdir, config)
    lease = Lease(workdir, write=is_first())
    if is_first():
        write_run_data(workdir, data)
    stop = stop or StopRequest()
    with contextlib.closing(Checkpoints(workdir, run.keep_checkpoints)) as checkpoints, stop:
        averaged = config.optimizer.ema_decay is not None
        shapes = state_shapes(model, optimizer, averaged)
        shardings = split_over_fsdp(shapes, mesh)
        state = checkpoints.restore_latest(shapes, shardings)
        if state is None:
            state = create_state(model, optimizer, config.seed, averaged)
            if config.init_from:
                state = start_from_file(state, config.init_from, config.detector, data.classes)
            state = jax.device_put(state, shardings)
        step = int(state.step)

        with (
            RunLog(workdir, step, total_steps, config.loader, run.log_every) as log,
            Profile(profile_steps, workdir / "profile", step, total_steps, log.say) as profile,
            train_batches(source, config, step, jax.process_index(), jax.process_count()) as batches,
        ):
            log.say(step, _opening(step, total_steps, config, learning_rate))
            check_and_log = functools.partial(
                _check_and_log, log=log, source=source, checkpoints=checkpoints, lease=lease
            )
            # The numbers of a step are fetched while the next step runs. Thus the device never waits.
            previous: DoneStep | None = None
            while True:
                stopping = stop.at(step)
                evaluating = evaluation is not None and not stopping
                evaluating = evaluating and is_due(run.evaluate_every or epoch_steps)
                evaluating = evaluating and from_first(log.evaluation_at(step) is None)
                if stopping or evaluating or is_due(run.checkpoint_every):
                    lease.check()
                    check_and_log(previous)
                    previous = None
                    # Save before the evaluation: if it fails, no training is lost.
                    with log.clock.measure("checkpoint"):
                        log.flush()
                        checkpoints.save(state, wait=stopping or step == total_steps)
                if evaluating and evaluation is not None:
                    with log.clock.measure("evaluation"):
                        variables = put_everywhere(state.evaluated, mesh)
                        results = detect_source(detect, variables, evaluation, config, mesh, stop.now)
                        scalars = None
                        if results is not None:
                            most = config.inference.max_detections
                            scalars = stop.run_unless_stopped(
                                functools.partial(_measure, evaluation, results, most)
                            )
                        stopping = scalars is None  # the resumed run begins with this evaluation
                        if results is not None and scalars is not None:
                            lease.check()
                            checkpoints.save_best(state, scalars["AP"])
                            log.evaluation(step, scalars)
                            if step % (run.pictures_every or 1) == 0 and is_first():
                                save_snapshots(workdir / "pictures", f"step_{step:07d}_", evaluation, results)
                                plot_losses(log.rows, workdir / "curves.png", config.name)
                if stopping or step == total_steps:
                    break

                with profile.step(step + 1, before=state):
                    with log.clock.measure("input"):
                        batch = next(batches)
                    state, step_metrics = train_step(state, put_batch(batch, mesh), *teacher_variables)
                step += 1
                log.clock.step_started(step_metrics)
                profile.started(step_metrics)
                check_and_log(previous)
                previous = DoneStep(step, step_metrics, batch.indices)
            if step == total_steps and is_first() and not (workdir / "curves.png").is_file():
                plot_losses(log.rows, workdir / "curves.png", config.name)  # no evaluation, or lost
            if stopping:
                log.say(step, "stopped and saved; rerun the same command to resume")
            return log.evaluation_at(total_steps) or {}


def _opening(step: int, total_steps: int, config: Config, learning_rate: float) -> str:
    """The first line of a run."""
    if step == total_steps:
        return "this run has ended; to train longer, start a new run with init_from set to this one"
    shown = f"{config.loader.batch_size} {'crops' if config.crops else 'images'}"
    left = (
        f"{total_steps - step} steps of {shown}, learning rate {learning_rate:.3g} after warm-up; compiling"
    )
    return f"{'resuming' if step else 'starting'}: {left}"


def _measure(evaluation: Source, results: list[Result], max_detections: int) -> dict[str, float]:
    """Computes the COCO metrics by name."""
    metrics = measure_results(evaluation, results, max_detections)
    assert metrics is not None  # data without annotations are refused at the start
    return metrics.scalars()


def _check_and_log(
    done: DoneStep | None, log: RunLog, source: Source, checkpoints: Checkpoints, lease: Lease
) -> None:
    """Waits for the numbers of a step and logs them. Raises `NonFiniteLossError` if they are not finite."""
    if done is None:
        return
    numbers = jax.device_get(done.metrics)
    if numbers.pop("finite"):
        if log.has_row(done.step):
            lease.check()
        log.training(done.step, numbers)
        return
    values = ", ".join(f"{name} {float(value):.4g}" for name, value in numbers.items())
    names = ", ".join(dict.fromkeys(source.file_names[i] for i in gather(done.indices)))
    good = checkpoints.latest() or "not saved yet"
    raise NonFiniteLossError(
        f"step {done.step}: the loss or its gradient is not finite ({values}) on the images {names}; "
        f"the last good checkpoint is {good}; check these images, or start another --workdir with a lower "
        "config.optimizer.learning_rate or with config.optimizer.clip_norm (and with config.init_from set "
        "to that checkpoint)"
    )
