import gzip
import json

import jax.numpy as jnp
import pytest

from gfl_jax.errors import UserError
from gfl_jax.training.profile import Profile, parse_steps


def nothing(step, text):
    pass


def test_steps_are_parsed():
    assert parse_steps("1:2") == range(1, 2)
    assert parse_steps("20:25") == range(20, 25)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must be START:STOP"),
        ("20", "must be START:STOP"),
        ("a:b", "must be START:STOP"),
        ("-1:3", "must be START:STOP"),
        ("1:2:3", "must be START:STOP"),
        ("5:5", "holds no step"),
        ("9:5", "holds no step"),
        ("0:5", "holds no step"),
    ],
)
def test_invalid_steps_are_errors(text, words):
    with pytest.raises(UserError, match=f"--profile={text}: {words}") as caught:
        parse_steps(text)
    assert "\n" not in str(caught.value)


def test_steps_after_the_end_of_the_run_are_an_error(tmp_path):
    with pytest.raises(UserError, match=r"--profile=11:12: this run has 10 steps; choose some of them"):
        Profile(range(11, 12), tmp_path, 4, 10, nothing)


def test_steps_that_are_already_done_are_no_error(tmp_path):
    """A scheduler restarts a run with the same command."""
    said = []
    with Profile(range(3, 5), tmp_path / "profile", 4, 10, lambda *line: said.append(line)) as profile:
        with profile.step(5, jnp.zeros(())):
            pass
        profile.started(jnp.zeros(()))
    assert said == [(4, "no profile: steps 3 to 4 are already done")]
    assert not (tmp_path / "profile").exists()


def test_without_steps_there_is_no_trace(tmp_path):
    with Profile(None, tmp_path / "profile", 0, 3, nothing) as profile, profile.step(1, jnp.zeros(())):
        profile.started(jnp.zeros(()))
    assert not (tmp_path / "profile").exists()


@pytest.mark.parametrize(("first", "last"), [(2, 4), (1, 9)])
def test_a_trace_names_its_steps(tmp_path, first, last):
    """Also if the first step is already done, and if the run ends before the last one."""
    said = []
    x = jnp.zeros(())
    with Profile(range(first, last), tmp_path, 1, 10, lambda *line: said.append(line)) as profile:
        for step in range(2, 6):
            with profile.step(step, before=x):
                x = x + 1
            profile.started(x)
    end = min(last - 1, 5)
    assert said == [(end, f"profile of steps 2 to {end}, for TensorBoard and Perfetto: {tmp_path}")]
    (folder,) = (tmp_path / "plugins" / "profile").iterdir()
    for file in (*folder.glob("*.trace.json.gz"), folder / "perfetto_trace.json.gz"):
        events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
        steps = [event["args"]["step_num"] for event in events if event.get("name") == "train"]
        assert steps == [str(step) for step in range(2, end + 1)]
    assert len(list(folder.glob("*.trace.json.gz"))) == 1
    assert len(list(folder.glob("*.xplane.pb"))) == 1
