import gzip
import json

import jax.numpy as jnp
import pytest

from gfl_jax.errors import UserError
from gfl_jax.training.profile import Profile, parse_steps


def nothing(step, text):
    pass


def test_start_and_stop():
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
def test_no_steps(text, words):
    with pytest.raises(UserError, match=f"--profile={text}: {words}") as caught:
        parse_steps(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("steps", [range(3, 9), range(4, 5), range(11, 12)])
def test_steps_that_the_run_has_done_or_will_not_do(steps, tmp_path):
    with pytest.raises(
        UserError, match=rf"--profile={steps.start}:{steps.stop}: this run has done 4 of its 10"
    ):
        Profile(steps, tmp_path, 4, 10, nothing)


def test_no_steps_make_no_trace(tmp_path):
    with Profile(None, tmp_path / "profile", 0, 3, nothing) as profile, profile.step(1, jnp.zeros(())):
        profile.started(jnp.zeros(()))
    assert not (tmp_path / "profile").exists()


@pytest.mark.parametrize("last", [4, 9])
def test_a_trace_holds_its_steps_by_name(tmp_path, last):
    """Also where the run ends before the last of them."""
    said = []
    x = jnp.zeros(())
    with Profile(range(2, last), tmp_path, 0, 10, lambda *line: said.append(line)) as profile:
        for step in range(1, 6):
            with profile.step(step, before=x):
                x = x + 1
            profile.started(x)
    end = min(last - 1, 5)
    assert said == [(end, f"profile of the steps 2 to {end}, for TensorBoard and Perfetto: {tmp_path}")]
    (folder,) = (tmp_path / "plugins" / "profile").iterdir()
    for file in (*folder.glob("*.trace.json.gz"), folder / "perfetto_trace.json.gz"):
        events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
        steps = [event["args"]["step_num"] for event in events if event.get("name") == "train"]
        assert steps == [str(step) for step in range(2, end + 1)]
    assert len(list(folder.glob("*.trace.json.gz"))) == 1
    assert len(list(folder.glob("*.xplane.pb"))) == 1
