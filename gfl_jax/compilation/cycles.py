"""Where the cycles of a TPU program go, by the compiler's own guess.

The guess stands in the text of the program, as an undocumented remark on each instruction. It knows
nothing of a real chip, but it sees what the compiler sees: layouts, padding, copies and fusions.
"""

import re
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from gfl_jax.compilation.collectives import KINDS as COLLECTIVES
from gfl_jax.compilation.program_text import Computation, called_by, computations_of, known_trips, opcode

MOVES = "moving data"  # a kind of work: copies, padding, slices, changes of layout

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_NORM = re.compile(r"/\w*(?:_gn|bn\d?)/")
_PART = re.compile(r"\bDetectorNetwork\)*/(?:(backbone)/(layer\d)?|(pyramid|head)/)")
_SCOPE = re.compile(r"\b(input|targets|losses|optimizer|decoding|suppression)\b")
_MOVING = {
    *("copy", "copy-start", "copy-done", "transpose", "reverse", "reshape", "broadcast", "pad", "slice"),
    *("concatenate", "dynamic-slice", "dynamic-update-slice", "slice-start", "slice-done"),
}
_NOTHING = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "convert", "iota", ""}
_LOOKING_UP = {"gather", "scatter", "sort", "custom-call"}


class Cycles(NamedTuple):
    """The cycles of one run of a program on one chip."""

    total: int
    in_loops: int  # of these, within loops: the cycles of the body times the number of its runs
    open_loops: int  # loops whose number of runs the compiler does not know; they count as one run
    by_kind: Mapping[str, int]  # most first
    by_part: Mapping[str, int]  # of the detector, most first

    @property
    def moving(self) -> float:
        """The share that only moves data."""
        return self.by_kind.get(MOVES, 0) / max(self.total, 1)


def cycles_of(text: str) -> Cycles | None:
    """The cycles of a compiled program; None if its text says nothing of them, as on CPUs and GPUs.

    Args:
      text: of the optimized program, as `compiled.as_text()` gives it.
    """
    computations = computations_of(text)
    by_kind, by_part = Counter[str](), Counter[str]()
    in_loops = open_loops = 0
    for computation in computations.values():
        for line in computation.lines:
            if opcode(line) == "while":
                open_loops += known_trips(line) is None
                continue  # its cycles are those of its body
            guess = _CYCLES.search(line)
            if guess is None:
                continue
            cycles = int(guess[1]) * computation.runs
            in_loops += cycles * computation.in_loop
            name = _OP_NAME.search(line)
            op_name = name[1] if name else ""
            by_kind[_kind(_opcodes(line, computations), op_name)] += cycles
            by_part[_part(op_name)] += cycles
    if not by_kind:
        return None
    return Cycles(
        by_kind.total(), in_loops, open_loops, dict(by_kind.most_common()), dict(by_part.most_common())
    )


def _opcodes(line: str, computations: Mapping[str, Computation]) -> set[str]:
    """What an instruction does, and what the computations do that it is made of."""
    found = {opcode(line)} - {"fusion", "call", "async-start", "async-done"}
    for name in called_by(line):
        for inner in computations[name].lines if name in computations else ():
            found |= _opcodes(inner, computations)
    return found


def _kind(opcodes: set[str], op_name: str) -> str:
    """The kind of work, from the operations of an instruction and its name in the source."""
    if any(code.startswith(COLLECTIVES) for code in opcodes):
        return "collectives"
    if opcodes & {"convolution", "dot"}:
        return "convolutions"
    if opcodes & _LOOKING_UP:
        return "gathers, scatters, sorts"
    if opcodes <= _MOVING | _NOTHING:
        return MOVES
    return "norms" if _NORM.search(op_name) else "elementwise, sums"


def _part(op_name: str) -> str:
    """The part of the detector that an instruction belongs to."""
    if network := _PART.search(op_name):
        backbone, layer, other = network.groups()
        return other or f"{backbone} {layer or 'stem'}"
    scopes = _SCOPE.findall(op_name)
    return scopes[-1] if scopes else "other"
