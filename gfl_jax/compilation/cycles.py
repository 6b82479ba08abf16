"""The cycles of a TPU program by kind of work and by part of the detector, as the compiler estimates them.

The text of the program has an undocumented estimate for each instruction. It is not measured on a chip, but
it includes what the compiler knows: layouts, padding, copies and fusions.
"""

import re
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from gfl_jax.compilation.collectives import KINDS as COLLECTIVES
from gfl_jax.compilation.program_text import Computation, called_by, computations_of, known_trips, opcode

MOVES = "moving data"  # a kind of work: copies, padding, slices, changes of layout

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_NO_ESTIMATE = 2**63 - 1  # what the compiler for v6e states for some gathers
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_NORM = re.compile(r"/\w*(?:_gn|bn\d?)/")
_PART = re.compile(r"\bDetectorNetwork\)*/(?:(backbone)/(layer\d)?|(pyramid|head)/)")
_SCOPE = re.compile(r"\b(input|targets|losses|optimizer|decoding|suppression)\b")
_MOVING = {
    *("copy", "copy-start", "copy-done", "transpose", "reverse", "reshape", "broadcast", "pad", "slice"),
    *("concatenate", "dynamic-slice", "dynamic-update-slice", "slice-start", "slice-done"),
}
_NOTHING = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "convert", "iota", ""}
_LOOKUPS = {"gather", "scatter", "sort", "custom-call"}


class Cycles(NamedTuple):
    """The estimated cycles of one run of a program on one chip."""

    total: int
    in_loops: int  # of these, in loops: the cycles of the body times its number of runs
    open_loops: int  # loops for which the compiler does not know the number of runs; it counts as one
    by_kind: Mapping[str, int]  # of work, most cycles first
    by_part: Mapping[str, int]  # of the detector, most cycles first

    @property
    def moving(self) -> float:
        """The share of cycles that only move data."""
        return self.by_kind.get(MOVES, 0) / max(self.total, 1)


def cycles_of(text: str) -> Cycles | None:
    """The cycles of a compiled program; None if its text has no estimates, as on CPUs and GPUs.

    Args:
      text: of the optimized program, from `compiled.as_text()`.
    """
    computations = computations_of(text)
    by_kind, by_part = Counter[str](), Counter[str]()
    in_loops = open_loops = 0
    for computation in computations.values():
        for line in computation.lines:
            if opcode(line) == "while":
                open_loops += known_trips(line) is None
                continue  # the cycles of a loop are those of its body
            estimate = _CYCLES.search(line)
            if estimate is None or int(estimate[1]) == _NO_ESTIMATE:
                continue
            cycles = int(estimate[1]) * computation.runs
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
    """The operations of an instruction and of the computations that it calls."""
    found = {opcode(line)} - {"fusion", "call", "async-start", "async-done"}
    for name in called_by(line):
        for inner in computations[name].lines if name in computations else ():
            found |= _opcodes(inner, computations)
    return found


def _kind(opcodes: set[str], op_name: str) -> str:
    """The kind of work of an instruction, from its operations and its name in the source."""
    if any(code.startswith(COLLECTIVES) for code in opcodes):
        return "collectives"
    if opcodes & {"convolution", "dot"}:
        return "convolutions"
    if opcodes & _LOOKUPS:
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
