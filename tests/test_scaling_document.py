"""docs/scaling.md has the tables of its reports, and its script works."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def scaling(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import scaling

    return scaling


def test_the_document_has_the_tables_of_the_reports(scaling):
    document = (ROOT / "docs" / "scaling.md").read_text()
    reports = scaling.read_reports(ROOT / "docs" / "scaling")
    assert scaling.with_tables(document, scaling.tables(reports)) == document


def test_the_script_fills_the_tables(scaling, tmp_path, capsys):
    document = tmp_path / "scaling.md"
    names = ("training", "inference", "weak", "strong", "input")
    document.write_text("".join(f"<!-- {name} -->\nold\n<!-- end -->\n" for name in names))
    assert scaling.main([f"--document={document}"]) == 0
    text = document.read_text()
    assert "old" not in text
    assert "| v5e | 8 | " in text
    assert capsys.readouterr().out == f"{document}\n"


@pytest.mark.parametrize("broken", ["none", "another file", "document"])
def test_missing_input_gives_a_one_line_error(scaling, tmp_path, capsys, broken):
    document = tmp_path / "scaling.md"
    document.write_text("nothing\n")
    folder = ROOT / "docs" / "scaling" if broken == "document" else tmp_path
    if broken == "another file":
        (tmp_path / "x.json").write_text("{}")
    assert scaling.main([f"--document={document}", f"--reports={folder}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    expected = {
        "none": "has no reports",
        "another file": "x.json: is not a report of main.py compile",
        "document": "no place for the table `training`",
    }
    assert expected[broken] in line
    assert document.read_text() == "nothing\n"
