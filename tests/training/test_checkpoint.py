import errno
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gfl_jax import config, files
from gfl_jax.configuration.config_files import config_from_json
from gfl_jax.configuration.overrides import override
from gfl_jax.errors import UserError
from gfl_jax.parallel.mesh import make_mesh, put_everywhere
from gfl_jax.training import checksums
from gfl_jax.training.checkpoint import Checkpoints, claim_workdir, load_variables, steps_in
from gfl_jax.training.optimizer import make_optimizer
from gfl_jax.training.state import TrainState

CONFIG = config.Config(name="a")


def make_state(step, width=3, devices=8):
    rng = np.random.default_rng(step)
    arrays = {"kernel": rng.normal(size=(16, width)).astype(np.float32), "bias": np.ones(width, np.float32)}
    params = {"backbone": {"conv1": arrays}, "head": {"box": arrays}}
    batch_stats = {"backbone": {"bn1": {"mean": np.full(width, step, np.float32)}}}
    optimizer = make_optimizer(config.Optimizer(), lambda step: 0.1, config.Backbone(frozen_stages=1))
    state = TrainState(jnp.asarray(step, jnp.int32), params, batch_stats, optimizer.init(params))
    return put_everywhere(state, make_mesh(devices=jax.devices()[:devices]))


def assert_same(a: TrainState, b: TrainState):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def save(workdir, steps, keep=3):
    checkpoints = Checkpoints(workdir, keep)
    for step in steps:
        checkpoints.save(make_state(step))
    checkpoints.close()


def restore(workdir, like):
    checkpoints = Checkpoints(workdir, 3)
    state = checkpoints.restore_latest(like, like.step.sharding)
    checkpoints.close()
    return state


def halve(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_a_byte(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_the_last_checkpoints_are_kept_and_the_newest_is_restored(tmp_path):
    save(tmp_path, [10, 20, 30, 40], keep=2)
    assert steps_in(tmp_path / "checkpoints") == [30, 40]
    assert_same(restore(tmp_path, make_state(0)), make_state(40))


def test_a_new_work_directory_has_nothing_to_restore(tmp_path):
    assert restore(tmp_path, make_state(0)) is None


def test_a_step_is_not_saved_twice(tmp_path):
    save(tmp_path, [10, 10])
    save(tmp_path, [10])
    assert steps_in(tmp_path / "checkpoints") == [10]


def test_restoring_on_another_mesh(tmp_path):
    save(tmp_path, [7])
    state = restore(tmp_path, make_state(0, devices=2))
    assert_same(state, make_state(7, devices=2))
    assert len(state.params["head"]["box"]["kernel"].sharding.device_set) == 2


def test_the_best_checkpoint_is_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, 3)
    kept = [
        checkpoints.save_best(make_state(step), ap) for step, ap in [(1, 0.1), (2, 0.3), (3, 0.3), (4, 0.2)]
    ]
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path, 3)
    assert not checkpoints.save_best(make_state(5), 0.3)
    checkpoints.close()
    assert kept == [True, True, False, False]
    assert steps_in(tmp_path / "best") == [2]
    assert load_variables(tmp_path)["batch_stats"]["backbone"]["bn1"]["mean"][0] == 2


def test_a_damaged_best_checkpoint_is_set_aside_and_replaced(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path, 3)
    checkpoints.save_best(make_state(5), 0.3)
    checkpoints.close()
    halve(tmp_path / "best/5/score/metadata")
    checkpoints = Checkpoints(tmp_path, 3)
    assert checkpoints.save_best(make_state(5), 0.2)
    checkpoints.close()
    assert "best/5: cannot be read" in caplog.text
    jax.tree.map(np.testing.assert_array_equal, load_variables(tmp_path), make_state(5).variables)
    assert (tmp_path / "broken_checkpoints/best_5").is_dir()


def test_variables_are_loaded_from_a_workdir_a_folder_or_a_step(tmp_path):
    save(tmp_path, [10, 20])
    for path, step in [("", 20), ("checkpoints", 20), ("checkpoints/10", 10)]:
        variables = load_variables(tmp_path / path)
        jax.tree.map(np.testing.assert_array_equal, variables, make_state(step).variables)
        assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(variables))
    with pytest.raises(UserError, match="has no checkpoint; name a work directory"):
        load_variables(tmp_path / "nowhere")


@pytest.mark.parametrize("damage", [halve, flip_a_byte, pathlib.Path.unlink])
def test_damage_to_any_file_restores_an_intact_checkpoint(tmp_path, caplog, damage):
    """It restores the newest step intact, or the step before with a single warning."""
    save(tmp_path / "whole", [10, 20])
    newest = tmp_path / "whole/checkpoints/20"
    fallen_back = 0
    for file in sorted(f.relative_to(newest) for f in newest.rglob("*") if f.is_file()):
        if (newest / file).stat().st_size < 2:
            continue
        workdir = tmp_path / "broken"
        shutil.copytree(tmp_path / "whole", workdir)
        damage(workdir / "checkpoints/20" / file)
        caplog.clear()
        state = restore(workdir, make_state(0))
        messages = [message for message in caplog.messages if "cannot be read" in message]
        assert_same(state, make_state(20 - 10 * len(messages)))
        if messages:
            fallen_back += 1
            assert len(messages) == 1
            assert str(workdir / "checkpoints/20") in messages[0]
            assert "\n" not in messages[0]
            assert steps_in(workdir / "checkpoints") == [10]
            assert (workdir / "broken_checkpoints/checkpoints_20").is_dir()
        shutil.rmtree(workdir)
    assert fallen_back >= 10


def test_a_step_can_be_saved_again_after_its_broken_copy_was_set_aside(tmp_path, caplog):
    save(tmp_path, [10, 20])
    halve(tmp_path / "checkpoints/20/variables/_METADATA")
    checkpoints = Checkpoints(tmp_path, 3)
    checkpoints.restore_latest(make_state(0), make_state(0).step.sharding)
    assert "checkpoints/20: cannot be read (variables/_METADATA is damaged)" in caplog.text
    checkpoints.save(make_state(20))
    checkpoints.close()
    assert_same(restore(tmp_path, make_state(0)), make_state(20))


def test_no_checkpoint_is_moved_if_none_can_be_read(tmp_path):
    save(tmp_path, [10, 20])
    for step in [10, 20]:
        halve(tmp_path / f"checkpoints/{step}/variables/_METADATA")
    with pytest.raises(UserError, match="no checkpoint in it can be read"):
        restore(tmp_path, make_state(0))
    with pytest.raises(UserError, match="checkpoints/20: this checkpoint cannot be read"):
        load_variables(tmp_path)
    assert steps_in(tmp_path / "checkpoints") == [10, 20]


def test_wrong_shapes_are_an_error_that_names_the_leaf(tmp_path):
    save(tmp_path, [10])
    with pytest.raises(UserError, match=r"variables/.*/bn1/mean has shape \(3,\), not \(4,\)"):
        restore(tmp_path, make_state(0, width=4))
    assert_same(restore(tmp_path, make_state(0)), make_state(10))


def test_a_work_directory_belongs_to_one_configuration(tmp_path):
    claim_workdir(tmp_path, CONFIG)
    other = override(CONFIG, {"seed": 3, "optimizer.momentum": 0.5})
    claim_workdir(tmp_path, other)  # allowed before the first checkpoint
    claim_workdir(tmp_path, CONFIG)
    save(tmp_path, [10])
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(UserError, match=r"different in config\.seed, config\.optimizer\.momentum;"):
        claim_workdir(tmp_path, other)
    assert (tmp_path / "config.json").read_text() == before
    harmless = {"run.log_every": 1, "loader.workers": 0, "loader.cache_images": True}
    claim_workdir(tmp_path, override(CONFIG, harmless | {"inference.max_detections": 7, "mesh.fsdp": 4}))


def test_accumulate_may_change_if_batch_norms_are_frozen(tmp_path):
    for norm in ("frozen", "batch"):
        config = override(CONFIG, {"detector.backbone.norm": norm})
        claim_workdir(tmp_path / norm, config)
        save(tmp_path / norm, [10])
        parts = override(config, {"optimizer.accumulate": 2})
        if norm == "frozen":
            claim_workdir(tmp_path / norm, parts)
        else:
            with pytest.raises(UserError, match=r"different in config\.optimizer\.accumulate;"):
                claim_workdir(tmp_path / norm, parts)


def test_a_damaged_config_is_an_error_and_a_missing_one_a_warning(tmp_path, caplog):
    save(tmp_path, [10])
    for damage in ("{", '{"seed": 1}', "[]"):
        (tmp_path / "config.json").write_text(damage)
        with pytest.raises(UserError, match=r"config\.json: cannot be read.* delete the file"):
            claim_workdir(tmp_path, CONFIG)
    for lost in ("", None):
        caplog.clear()
        (tmp_path / "config.json").unlink()
        if lost is not None:
            (tmp_path / "config.json").write_text(lost)
        claim_workdir(tmp_path, CONFIG)
        assert "config.json: is missing or empty; assuming that the checkpoints have" in caplog.text
        assert config_from_json(tmp_path / "config.json") == CONFIG


def failing_reads(monkeypatch, times):
    """Makes the first `times` reads of checkpoints fail with a temporary storage error."""
    calls = iter(range(times))
    read = checksums._checksum

    def read_or_fail(file):
        if next(calls, None) is not None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return read(file)

    monkeypatch.setattr(checksums, "_checksum", read_or_fail)
    monkeypatch.setattr(files.time, "sleep", lambda _: None)


def test_a_temporary_storage_failure_is_not_damage(tmp_path, monkeypatch):
    save(tmp_path, [1, 2])
    failing_reads(monkeypatch, 3)
    assert int(restore(tmp_path, make_state(0)).step) == 2
    assert not (tmp_path / "broken_checkpoints").exists()


def test_a_permanent_storage_failure_is_an_error_and_sets_no_checkpoint_aside(tmp_path, monkeypatch):
    save(tmp_path, [1, 2])
    failing_reads(monkeypatch, 1000)
    with pytest.raises(UserError, match=r"checkpoints/2/.*: cannot be read: Stale file handle, 6 times"):
        restore(tmp_path, make_state(0))
    assert not (tmp_path / "broken_checkpoints").exists()
    assert steps_in(tmp_path / "checkpoints") == [1, 2]
