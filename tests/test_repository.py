"""Checks what the documentation states about the code."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = [path for path in (ROOT / "gfl_jax").rglob("*.py") if path.name != "__init__.py"]


def files_in_the_map() -> list[Path]:
    """The package's files in the order of the map in docs/code.md."""
    section = (ROOT / "docs" / "code.md").read_text().split("```text")[1].split("```")[0]
    found, folder = [], ROOT / "gfl_jax"
    for line in section.splitlines():
        if match := re.match(r"^(\w+)/", line):
            folder = ROOT / "gfl_jax" / match[1]
        elif match := re.match(r"^( *)(\w+\.py)\s", line):
            found.append((folder if match[1] else ROOT / "gfl_jax") / match[2])
    return found


def imported_files(path: Path) -> list[Path]:
    """The package's files that a file imports, inside functions too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gfl_jax"):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            file = ROOT / (name.replace(".", "/") + ".py")
            if file.is_file():
                found.append(file)
    return found


def test_the_code_map_lists_every_file_once():
    assert sorted(files_in_the_map()) == sorted(FILES)


def test_files_import_only_files_above_them():
    order = {path: i for i, path in enumerate(files_in_the_map())}
    upwards = [
        f"{path.relative_to(ROOT)} imports {other.relative_to(ROOT)}"
        for path in FILES
        for other in imported_files(path)
        if order[other] >= order[path]
    ]
    assert upwards == []


def test_no_file_is_long():
    long = [path for path in FILES if len(path.read_text().splitlines()) > 400]
    assert long == []


def test_torch_and_tensorflow_are_not_needed():
    requirements = (ROOT / "requirements.txt").read_text()
    assert not re.search(r"^(torch|tensorflow)\b(?!-)", requirements, re.MULTILINE)
    source = "\n".join(path.read_text() for path in FILES)
    assert not re.search(r"^\s*(import|from) (torch|tensorflow)\b", source, re.MULTILINE)
