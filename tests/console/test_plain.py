"""Names of classes, files and runs are shown unchanged, whatever markup they contain."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from rich.console import Console

from gfl_jax.analysis.text_tables import Table, for_console, write_csv
from gfl_jax.comparison.rows import Row
from gfl_jax.comparison.table import comparison_table, csv_text, markdown
from gfl_jax.console.plain import counted, markdown_cell, plain, shortened
from gfl_jax.console.progress import progress
from gfl_jax.drawing import draw_boxes, draw_comparison, plot_losses
from gfl_jax.errors import one_line
from gfl_jax.evaluation.coco_metrics import class_table, evaluate_coco, metrics_table

ROOT = Path(__file__).resolve().parents[2]
NAMES = [
    "end [/limit]",
    "valve [open]",
    "[red]x",
    "a\nb",
    "🙂",
    "",
    "n" * 300,
    "$x_$y",
    "a$b$",
    "\\[bold]",
    "é|ß",
    "кошка",
    "[link=x]y[/link]",
    "a]b[",
]


def shown(*things):
    """The output of a rich console with 4,000 columns."""
    console = Console(file=io.StringIO(), width=4000)
    for thing in things:
        console.print(thing)
    return console.file.getvalue()


@given(st.text(max_size=30))
@example("[/]")
@example(":smile:")
@settings(max_examples=50)
def test_any_text_is_shown_unchanged_on_one_line(text):
    assert shown(plain(text)) == one_line(text) + "\n"


@pytest.mark.parametrize("name", NAMES)
def test_names_in_tables(tmp_path, name):
    table = Table(f"title {name}", (f"heading {name}", "n"), [(name, 1)], f"caption {name}")
    text = shown(for_console(table))
    for part in ("title ", "heading ", "caption ", ""):
        assert one_line(part + name) in text
    write_csv(tmp_path / "table.csv", table)
    with open(tmp_path / "table.csv", newline="") as file:
        assert list(csv.reader(file)) == [[f"heading {name}", "n"], [name, "1"]]


def test_class_names_in_the_metrics():
    truth = {
        "images": [{"id": 1, "height": 50, "width": 50, "file_name": "1.png"}],
        "categories": [{"id": i, "name": name} for i, name in enumerate(NAMES, 1) if name],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
        ],
    }
    metrics = evaluate_coco(json.loads(json.dumps(truth)), [])
    text = shown(class_table(metrics), metrics_table(metrics, "COCO metrics of [/x]"))
    assert "COCO metrics of [/x]" in text
    assert all(one_line(name) in text for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_labels_of_a_comparison(name):
    rows = [Row(name, f"column {name}", {"a": "x"})]
    results = {"x": [{"AP": 0.5, "AP50": 0.5, "AP75": 0.5}]}
    assert one_line(f"column {name} AP50") in shown(comparison_table(f"title {name}", rows, results))
    lines = markdown(rows, results).splitlines()
    assert len(lines) == 3
    assert {line.replace("\\|", "").count("|") for line in lines} == {5}
    assert markdown_cell(name) in lines[2]
    (found,) = csv.DictReader(io.StringIO(csv_text(rows, results)))
    assert (found["label"], found["column"]) == (name, f"column {name}")


@pytest.mark.parametrize("name", ["$x_$y", "a$b$", r"\$\frac{", "🙂 кошка", "a\nb", "n" * 300])
def test_names_in_figures_are_not_parsed_as_math(tmp_path, monkeypatch, name):
    texts = []
    real = Figure.savefig

    def savefig(figure, *args, **kwargs):
        real(figure, *args, **kwargs)
        titles = [axis.title for axis in figure.axes]
        texts.extend(text for text in [figure._suptitle, *titles] if text is not None and text.get_text())

    monkeypatch.setattr(Figure, "savefig", savefig)
    plot_losses([{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}], tmp_path / "a.png", title=name)
    assert [text.get_text() for text in texts] == [shortened(name, 80)]
    assert not texts[0].get_parse_math()
    assert (tmp_path / "a.png").stat().st_size > 1000


@pytest.mark.parametrize("name", NAMES)
def test_names_on_images(name):
    image = np.full((400, 640, 3), 90, np.uint8)
    boxes, labels, scores = np.array([[100.0, 100, 500, 350]]), np.array([0]), np.array([0.5])
    drawn = draw_boxes(image, boxes, labels, scores, [name])
    assert (drawn != draw_boxes(image, boxes)).any()
    assert draw_comparison(image, boxes, boxes, scores, labels, labels, [name]).dtype == np.uint8


def test_letters_beyond_ascii_are_not_drawn_as_question_marks():
    image = np.full((400, 640, 3), 90, np.uint8)
    boxes, labels = np.array([[100.0, 100, 500, 350]]), np.array([0])
    drawn = [draw_boxes(image, boxes, labels, None, [name]) for name in ("кошка", "собак", "?????", "éßéßé")]
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert (one != other).any()


def test_labels_of_progress_bars_are_not_markup(monkeypatch):
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    monkeypatch.setattr("rich.get_console", lambda: console)
    monkeypatch.setattr("rich.progress.get_console", lambda: console)
    assert list(progress([1, 2], "reading a [/b]", 2)) == [1, 2]
    assert "reading a [/b]" in console.file.getvalue()


def test_letters_that_a_terminal_cannot_encode_are_escaped(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from gfl_jax.errors import UserError, exit_status\n"
        "def run():\n    print('кошка \\udcff.png ±'); raise UserError('кошка \\udcff.png')\n"
        "sys.exit(exit_status(run))"
    )
    (tmp_path / "code.py").write_text(code)
    command = [sys.executable, tmp_path / "code.py", ROOT]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    found = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert found.returncode == 2
    assert found.stdout == "\\u043a\\u043e\\u0448\\u043a\\u0430 \\udcff.png \\xb1\n"
    assert found.stderr == "error: \\u043a\\u043e\\u0448\\u043a\\u0430 \\udcff.png\n"


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [(1, "image", "1 image"), (0, "image", "0 images"), (2, "box", "2 boxes"), (3, "class", "3 classes")],
)
def test_counts_have_the_right_number(count, noun, text):
    assert counted(count, noun) == text
