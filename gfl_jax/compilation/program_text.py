"""Parses the text of a compiled program: its computations, and how often each of them runs.

XLA prints a program as computations with one instruction per line, such as

    %fusion.1 = bf16[8,64]{1,0} fusion(%a, %b), kind=kLoop, calls=%computation.1, metadata={op_name="..."}

The computations that an instruction calls come before the computation of the instruction. The entry is last.
"""

import re
from typing import NamedTuple

_HEADER = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\{$")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|condition|branch_computations|called_computations|"
    r"true_computation|false_computation)=(\{[^}]*\}|%?[\w.-]+)"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
# A type may be a tuple with comments in it, such as /*index=5*/.
_OPCODE = re.compile(r"= (?:\(.*?\)|\S+) ([\w-]+)\(")


class Computation(NamedTuple):
    """One computation of a program."""

    lines: list[str]  # one instruction each
    runs: int  # in one run of the program; a loop of unknown length counts once
    in_loop: bool  # whether a loop runs it, directly or through other computations


def computations_of(text: str) -> dict[str, Computation]:
    """The computations of an optimized program by name, callers first.

    Args:
      text: from `compiled.as_text()`.
    """
    lines: dict[str, list[str]] = {}
    entry = ""
    current: list[str] = []
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = lines.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif line.startswith("  "):
            current.append(line)
    runs, in_loop = dict.fromkeys(lines, 0), dict.fromkeys(lines, False)
    if entry:
        runs[entry] = 1
    for name in reversed(lines):
        for line in lines[name]:
            loop = opcode(line) == "while"
            for called in called_by(line):
                if called in lines:
                    runs[called] += runs[name] * (known_trips(line) or 1 if loop else 1)
                    in_loop[called] |= loop or in_loop[name]
    return {name: Computation(lines[name], runs[name], in_loop[name]) for name in reversed(lines)}


def opcode(line: str) -> str:
    """The operation of an instruction, such as "fusion"; "" if the line is not an instruction."""
    match = _OPCODE.search(line)
    return match[1] if match else ""


def called_by(line: str) -> list[str]:
    """The names of the computations that an instruction calls."""
    names = [name for group in _CALLED.findall(line) for name in group.strip("{}").split(",")]
    return [name.strip().lstrip("%") for name in names if name.strip()]


def known_trips(line: str) -> int | None:
    """The number of times that a loop runs its body; None if the compiler does not know it."""
    match = _TRIPS.search(line)
    return int(match[1]) if match else None
