import io
import json
import logging
import os
import signal
import time

import numpy as np
import pytest
from rich.console import Console

from gfl_jax.config import Loader
from gfl_jax.training.log import TIME_COLUMNS, RunLog
from gfl_jax.training.metrics_file import MetricsFile, read_rows
from gfl_jax.training.stop import StopRequest
from gfl_jax.training.terminal import Terminal, duration

LOADER = Loader(batch_size=8)


def test_rows_after_the_resumed_step_and_incomplete_lines_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": step, "loss": 1 / step} for step in (1, 2, 3, 4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 5, "lo')
    assert read_rows(path) == rows
    file = MetricsFile(path, last_step=2)
    file.append({"step": 3, "loss": 0.25})
    assert read_rows(path) == rows[:2] + [{"step": 3, "loss": 0.25}]
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_a_process_other_than_the_first_reads_but_does_not_write(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    file = MetricsFile(path, last_step=1, write=False)
    file.append({"step": 2})
    assert file.rows == [{"step": 1}, {"step": 2}]
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_float32_numbers_are_read_back_exactly(tmp_path):
    metrics = {"loss": np.float32(1 / 3), "loss_cls": np.float32(1e-30), "learning_rate": np.float32(0.1)}
    with RunLog(tmp_path, step=0, total_steps=10, loader=LOADER, log_every=4) as log:
        for step in range(1, 11):
            log.training(step, metrics)
        log.evaluation(10, {"AP": 0.25, "AP50": 0.5, "AP75": -1.0})
        assert log.evaluation_at(10) == {"AP": 0.25, "AP50": 0.5, "AP75": -1.0}
        assert log.evaluation_at(8) is None
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 4, 8, 10, 10]
    for name, value in metrics.items():
        assert np.float32(rows[0][name]) == value


def test_an_evaluation_before_the_resumed_step_is_kept(tmp_path):
    with RunLog(tmp_path, 0, 10, LOADER, 4) as log:
        log.evaluation(5, {"AP": 0.25, "AP50": 0.5, "AP75": 0.125})
    with RunLog(tmp_path, 5, 10, LOADER, 4) as log:
        assert log.evaluation_at(5) == {"AP": 0.25, "AP50": 0.5, "AP75": 0.125}
    with RunLog(tmp_path, 4, 10, LOADER, 4) as log:
        assert log.evaluation_at(5) is None


def test_the_times_of_all_rows_sum_to_the_time_of_the_run(tmp_path):
    with RunLog(tmp_path, 0, 10, LOADER, 4) as log:
        for step in range(1, 11):
            with log.clock.measure("input"):
                time.sleep(0.002)
            log.training(step, {"loss": 1.0, "learning_rate": 0.1})
            if step == 6:
                with log.clock.measure("evaluation"):
                    time.sleep(0.02)
                    log.evaluation(6, {"AP": 0.25, "AP50": 0.5, "AP75": 0.125})
                    time.sleep(0.02)
    rows = read_rows(tmp_path / "metrics.jsonl")
    times = [name for name in TIME_COLUMNS if name.startswith("time/")]
    assert times == ["time/input", "time/step", "time/checkpoint", "time/evaluation"]
    total = 0.0
    for row in rows:
        total += sum(row[name] for name in times)
        assert row["seconds"] == pytest.approx(total, abs=0.001)
    assert [row["step"] for row in rows] == [1, 4, 6, 8, 10]
    assert [row["step"] for row in rows if row["time/evaluation"]] == [6, 8]


def test_slow_input_gives_one_warning_but_not_in_the_first_interval(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "level", logging.ERROR)  # as in processes other than the first
    with RunLog(tmp_path, 0, 10, LOADER, 4) as log:
        lap = {"input": 3.0, "step": 7.0, "checkpoint": 0.0, "evaluation": 0.0}
        monkeypatch.setattr(log.clock, "lap", lambda: lap)
        for step in range(1, 11):
            log.training(step, {"loss": 1.0, "learning_rate": 0.1})
            assert len(caplog.records) == int(step >= 4)
    assert caplog.messages[0].startswith(
        "input is the bottleneck: from step 2 to 4 the device was idle for 3 of 10 s (30%)"
    )
    speeds = [row["images_per_second"] for row in read_rows(tmp_path / "metrics.jsonl")]
    assert speeds == [0.8, 2.4, 3.2, 1.6]  # 10 s each for steps 1, 2 to 4, 5 to 8, 9 to 10 of 8 images


NUMBERS = {"loss": 1.5, "loss_cls": 1.0, "loss_dfl": 0.5, "learning_rate": 0.004}


def test_plain_lines_without_a_terminal():
    output = io.StringIO()
    terminal = Terminal(20, 0, Console(file=output))
    terminal.advance(3)
    terminal.show(4, NUMBERS, images_per_second=12.34, input_share=0.034, seconds_left=3725)
    terminal.show(5, NUMBERS, 12.34, 0.0, None)
    terminal.close()
    expected = (
        "step 4/20  loss 1.5000 (cls 1.0000, dfl 0.5000)  learning rate 0.004  12.3 images/s  input 3%  "
        "1:02:05 left"
    )
    first, second = output.getvalue().splitlines()
    assert first == expected
    assert second.endswith("12.3 images/s  input 0%")
    assert duration(59.6) == "0:01:00"


def test_a_progress_bar_on_a_terminal():
    output = io.StringIO()
    terminal = Terminal(20, 0, Console(file=output, force_terminal=True, width=160))
    terminal.advance(3)
    terminal.show(4, NUMBERS, 12.34, 0.5, 3725)
    terminal.say(4, "AP 0.1")
    terminal.close()
    text = output.getvalue()
    assert "4/20" in text
    assert "loss 1.5000 (cls 1.0000, dfl 0.5000)" in text
    assert "step 4/20  AP 0.1" in text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_requests_a_stop_and_the_second_acts_as_usual(number):
    received = []
    before = signal.signal(number, lambda *_: received.append(number))
    try:
        with StopRequest() as stop:
            assert not stop.at(1)
            os.kill(os.getpid(), number)
            assert stop.at(2)
            assert stop.status == 128 + number
            assert received == []
            os.kill(os.getpid(), number)
            assert received == [number]
    finally:
        signal.signal(number, before)
