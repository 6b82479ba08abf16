"""docs/scaling.md holds what its reports say, and its script works."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def scaling(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import scaling

    return scaling


@pytest.fixture
def reports(scaling):
    return scaling.read_reports(ROOT / "docs" / "scaling")


def training(reports, topology, precision="bfloat16", fsdp=1):
    (report,) = [
        r
        for r in reports
        if (r["topology"], r["precision"], r["mesh"]["fsdp"]) == (topology, precision, fsdp)
    ]
    return report["parts"][0]


def test_the_tables_are_those_of_the_reports(scaling, reports):
    document = (ROOT / "docs" / "scaling.md").read_text()
    assert scaling.with_tables(document, scaling.tables(reports)) == document


def test_more_chips_do_and_send_the_same(reports):
    small, large = training(reports, "v5e:2x2"), training(reports, "v5e:8x8")
    assert small["flops"] == large["flops"]
    (few,), (many,) = small["collectives"], large["collectives"]
    assert few["kind"] == many["kind"] == "all-reduce"
    assert few["bytes"] == many["bytes"]
    assert (few["largest_group"], many["largest_group"]) == (4, 64)


def test_the_script_writes_both_files(scaling, tmp_path, capsys):
    document = tmp_path / "scaling.md"
    names = ("training", "inference", "rates", "terms", "weak", "strong", "input")
    document.write_text("".join(f"<!-- {name} -->\nold\n<!-- end -->\n" for name in names))
    figure = tmp_path / "scaling.png"
    arguments = [f"--document={document}", f"--figure={figure}"]
    assert scaling.main(arguments) == 0
    text = document.read_text()
    assert "old" not in text
    assert "| v5e:8x8 | 64 x 1 | bfloat16 | 4 |" in text
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == f"{document}\n{figure}\n"


@pytest.mark.parametrize("broken", ["reports", "document"])
def test_one_line_for_what_is_missing(scaling, tmp_path, capsys, broken):
    document = tmp_path / "scaling.md"
    document.write_text("nothing\n")
    folder = ROOT / "docs" / "scaling" if broken == "document" else tmp_path
    arguments = [f"--document={document}", f"--reports={folder}", f"--figure={tmp_path / 'x.png'}"]
    assert scaling.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    expected = "has no report of v5e" if broken == "reports" else "no place for the table `training`"
    assert expected in line
    assert document.read_text() == "nothing\n"
