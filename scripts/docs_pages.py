"""The generated parts of the documentation: `mkdocs` calls `on_page_markdown` for each page.

A page marks the place with <!-- generated: commands --> or <!-- generated: fields -->.
"""

import argparse
import ast
import dataclasses
import inspect
import io
import re
import sys
import textwrap
import tokenize
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gfl_jax.command_line.main import COMMANDS, make_parser
from gfl_jax.config import Config
from gfl_jax.configuration.fields import Range, field_types


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The text of a page with its generated parts filled in."""
    for name, make in {"commands": commands, "fields": fields}.items():
        mark = f"<!-- generated: {name} -->"
        if mark in markdown:
            markdown = markdown.replace(mark, make())
    return markdown


def commands() -> str:
    """A section for each command of the command line: its text and a table of its flags."""
    (parsers,) = [action.choices for action in make_parser()._actions if isinstance(action.choices, dict)]
    sections = []
    for name, module in COMMANDS.items():
        rows = [row for action in parsers[name]._actions for row in _flag_rows(action)]
        table = "\n".join(["| argument | meaning |", "| --- | --- |", *rows])
        sections.append(f"## {name}\n\n{_as_markdown(module.TEXT)}\n\n{table}\n")
    return "\n".join(sections)


def _as_markdown(text: str) -> str:
    """The text of a command: its indented lines are commands, its other lines paragraphs."""
    parts = []
    for part in text.strip().split("\n\n"):
        indented = part.startswith("  ")
        parts.append(f"```bash\n{textwrap.dedent(part)}\n```" if indented else _escaped(part))
    return "\n\n".join(parts)


def _flag_rows(action: argparse.Action) -> Iterator[str]:
    if not isinstance(action, argparse._HelpAction):
        value = str(action.metavar or "{" + ",".join(map(str, action.choices or ())) + "}")
        shown = value if action.nargs != 0 and (action.metavar or action.choices) else ""
        name = f"{action.option_strings[0]} {shown}".strip() if action.option_strings else shown
        yield f"| `{name}` | {_escaped(' '.join((action.help or '').split()))} |"


def _escaped(text: str) -> str:
    return re.sub(r"([*_<|])", r"\\\1", text)


def fields() -> str:
    """A section for each dataclass of a config, with a table of its fields."""
    sections = []
    for path, kind in _dataclasses(Config, ""):
        comments = field_comments(kind)
        rows = ["| field | values | default | meaning |", "| --- | --- | --- | --- |"]
        for field in dataclasses.fields(kind):
            hint = field_types(kind)[field.name]
            if _dataclass_in(hint) is None or field.default is None:
                cells = (f"`{field.name}`", values_text(hint), _default_text(field), comments[field.name])
                rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        summary = inspect.cleandoc(kind.__doc__ or "")
        sections.append(f"## {path or 'config'}\n\n{summary}\n\n" + "\n".join(rows) + "\n")
    return "\n".join(sections)


def field_comments(kind: type) -> dict[str, str]:
    """The comment of each field of a dataclass: at the end of its line, or on the lines above it."""
    source = textwrap.dedent(inspect.getsource(kind))
    after, alone = dict[int, str](), dict[int, str]()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            place = alone if token.line.lstrip().startswith("#") else after
            place[token.start[0]] = token.string.removeprefix("#").strip()
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    comments = {}
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            lines = [after[line] for line in range(node.lineno, (node.end_lineno or 0) + 1) if line in after]
            line = node.lineno - 1
            while line in alone:
                lines.insert(0, alone[line])
                line -= 1
            comments[node.target.id] = " ".join(lines)
    return comments


def values_text(hint: Any) -> str:
    """The values that a type allows, in words: "int, from 1 to 8", "`a` or `b`"."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        ranges = [_range_text(one) for one in args[1:] if isinstance(one, Range)]
        return ", ".join(filter(None, [values_text(args[0]), *ranges]))
    if origin in (types.UnionType, typing.Union):
        return " or ".join("None" if arg is type(None) else values_text(arg) for arg in args)
    if origin is Literal:
        return " or ".join(f"`{arg}`" for arg in args)
    if origin is tuple:
        if args[-1] is Ellipsis:
            return f"tuple of any length; each: {values_text(args[0])}"
        return f"tuple of {len(args)}; each: {values_text(args[0])}"
    return str(getattr(hint, "__name__", hint))


def _range_text(numbers: Range) -> str:
    """A range without the bounds that only keep a number within its array's type."""
    unbounded = numbers.most is not None and numbers.most >= 1e9
    return str(dataclasses.replace(numbers, most=None) if unbounded else numbers)


def _default_text(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "(required)"
    if isinstance(field.default, float):
        return f"`{field.default:.6g}`"
    if isinstance(field.default, str):
        return f"`{field.default}`" if field.default else "empty"
    return f"`{field.default!r}`"


def _dataclasses(kind: type, path: str) -> Iterator[tuple[str, type]]:
    """A dataclass and those in its fields, with their paths, from the top down."""
    yield path, kind
    for name, hint in field_types(kind).items():
        inner = _dataclass_in(hint)
        if inner is not None:
            yield from _dataclasses(inner, f"{path}.{name}".lstrip("."))


def _dataclass_in(hint: Any) -> type | None:
    options = [hint, *typing.get_args(hint)]
    return next((one for one in options if isinstance(one, type) and dataclasses.is_dataclass(one)), None)
