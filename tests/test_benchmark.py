"""The benchmark runs and makes the right comparisons, on shapes that take seconds."""

import re
from pathlib import Path

import pytest

from gfl_jax import config
from gfl_jax.configuration.config_files import load_config

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import benchmark

    return benchmark


@pytest.fixture
def config_file(tmp_path, small_detector):
    """A config file of a small detector. The input pipeline resizes its images to 24 x 32 pixels."""
    small = config.Config(
        name="small",
        detector=small_detector,
        resize=config.Resize(short_side=24, train_short_sides=(24, 24)),
        loader=config.Loader(buckets=((32, 32),)),
    )
    path = tmp_path / "small.py"
    path.write_text(f"from gfl_jax.config import *\n\n\ndef get_config():\n    return {small!r}\n")
    return path


def rows_of(markdown):
    """Parses the lines of a Markdown table as dictionaries."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    header, _, *body = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(header, line, strict=True)) for line in body]


def test_the_table_has_every_comparison(benchmark, config_file, capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.report.available_cores", lambda: 0)  # no worker processes
    monkeypatch.setattr("benchmarks.deformable.LAYERS", ((8, 2),))
    arguments = [f"--config={config_file}", "--repeats=2", "--batch=2", "--size=64x96", "--markdown"]
    assert benchmark.main(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("# small\n")
    assert f"    python scripts/benchmark.py {' '.join(arguments)}\n" in printed
    assert "- Versions: Python 3." in printed
    rows = rows_of(printed)
    deform = []
    for case in ("8 channels, 2 groups, forward", "8 channels, 2 groups, forward and backward"):
        forms = [f"deformable by {form}, {case} (columns: 0 MB)" for form in ("gathers", "products")]
        deform += [(f"convolution, {case}", ""), *((form, f"convolution, {case}") for form in forms)]
    assert [(row["part"], row["batch"], row["case"], row["relative to"]) for row in rows] == [
        ("input", "2 x 480x640", "from JPEG, no worker (a thread)", ""),
        ("atss", "1 x 64x96", "window", ""),
        ("atss", "1 x 64x96", "full matrix", "window"),
        ("atss", "2 x 64x96", "window", ""),
        ("atss", "2 x 64x96", "full matrix", "window"),
        *(("deform", "2 x 64x96", *names) for names in deform),
        ("forward", "2 x 64x96", "forward, float32", ""),
        ("inference", "2 x 64x96", "inference, float32", "forward, float32"),
        ("train", "2 x 64x96", "train step, float32", "forward, float32"),
        ("train", "2 x 64x96", "train step with XLA's kernel gradients, float32", "forward, float32"),
    ]
    for row in rows:
        assert float(row["images/s"]) > 0
        assert bool(row["relative to"]) == bool(row["time ratio"])
        if row["part"] != "deform":  # a plain convolution may need no memory at all
            assert bool(row["relative to"]) == bool(row["temp ratio"])
        assert bool(row["GFLOP"]) == bool(row["temp MB"]) == (row["part"] != "input")


def test_the_input_pipeline_alone(benchmark, config_file, capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.report.available_cores", lambda: 0)
    arguments = [f"--config={config_file}", "--repeats=1", "--batch=2", "--input", "--markdown"]
    assert benchmark.main(arguments) == 0
    (row,) = rows_of(capsys.readouterr().out)
    assert (row["part"], row["case"]) == ("input", "from JPEG, no worker (a thread)")
    assert float(row["images/s"]) > 0


def test_models_of_table_2_are_compared_with_the_first(benchmark, config_file, capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "load_config", lambda name: load_config(config_file))
    arguments = ["--table=2", "--models=gfl,r50;atss,r50", "--repeats=1", "--size=64x96", "--markdown"]
    assert benchmark.main(arguments) == 0
    rows = rows_of(capsys.readouterr().out)
    assert [(row["case"], row["relative to"]) for row in rows] == [
        ("matrix product 4096, float32", ""),
        ("gfl r50, network, float32", ""),
        ("gfl r50, inference, float32", ""),
        ("atss r50, network, float32", "gfl r50, network, float32"),
        ("atss r50, inference, float32", "gfl r50, inference, float32"),
    ]
    assert all(float(row["GFLOP"]) > 0 for row in rows)
    assert [row["of peak"].endswith("%") for row in rows] == [False, True, True, True, True]


def test_cases_are_measured_in_turns(benchmark):
    from benchmarks.measure import Case, measure

    done = []

    def case(name, calls):
        return Case(
            "part", name, (8, 8), 1, lambda: done.append(name), calls=calls, prepare=lambda: done.append("-")
        )

    said = []
    rows = measure([case("a", 1), case("b", 2)], 2, said.append)
    warm_up, round_ = ["-", "a", "-", "b"], ["-", "a", "-", "b", "b"]
    assert done == warm_up + 2 * round_
    assert said == ["part: warming up a", "part: warming up b", "part: round 1 of 2", "part: round 2 of 2"]
    assert [(row.case.name, len(row.seconds)) for row in rows] == [("a", 2), ("b", 2)]


def test_ratios_are_computed_round_by_round(benchmark):
    from benchmarks.measure import Case, Row
    from benchmarks.report import make_table

    one = Row(Case("part", "one", (8, 9), 4, lambda: None), (1.0, 2.0, 4.0), None)
    other = Row(Case("part", "other", (8, 9), 4, lambda: None, against="one"), (2.0, 6.0, 16.0), None)
    table = make_table([[one, other]], markdown=True)
    cells = {column.header: list(column.cells) for column in table.columns}
    assert cells == {
        "part": ["part", "part"],
        "batch": ["4 x 8x9", "4 x 8x9"],
        "case": ["one", "other"],
        "ms": ["2000 (1000..4000)", "6000 (2000..16000)"],
        "images/s": ["2.00", "0.667"],
        "time ratio": ["", "3.00 (2.00..4.00)"],
        "relative to": ["", "one"],
    }


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--parts=atss,speed", "there is no part 'speed'; parts are: input, atss, deform, inference, train"),
        ("--size=800x1333", "both multiples of 32"),
        ("--models=gfl", "backbone='': must be one of 'r50', "),
        ("--size=large", "both multiples of 32"),
        ("--repeats=0", "--repeats=0: must be at least 1"),
        ("--batch=-1", "--batch=-1: must be at least 1"),
    ],
)
def test_bad_arguments_are_one_line_errors(benchmark, capsys, argument, message):
    table = ["--table=2"] if "--models" in argument else []
    assert benchmark.main([*table, argument]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(r"error: .*\n", printed.err)
    assert message in printed.err
