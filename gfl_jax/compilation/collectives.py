"""The collectives of a compiled program (the data that it sends between chips), read from its text:

    %all-reduce.1 = (f32[256]{0}, f32[64,3]{1,0}) all-reduce(%a, %b), replica_groups=[1,8]<=[8], ...

An asynchronous collective is a pair of instructions, NAME-start and NAME-done, where the type of NAME-done is
the result. Or it is an instruction in a computation that an `async-start` or a fusion calls.
"""

import math
import re
from collections import Counter
from typing import NamedTuple

from gfl_jax.compilation.program_text import computations_of

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_INSTRUCTION = re.compile(rf"%?([\w.-]+) = (\(.*?\)|\S+) ({'|'.join(KINDS)})(-start|-done)?\(%?([\w.-]*)")
_ARRAY = re.compile(r"\b(pred|bf16|[sufc]\d+\w*)\[([\d,]*)\]")


class Collectives(NamedTuple):
    """The collectives of one kind in a program."""

    kind: str
    instructions: int
    bytes: int  # of the whole arrays on one chip: before a reduce-scatter, after an all-gather
    dtypes: dict[str, int]  # `bytes` by data type, such as "f32"
    in_loops: int  # the `instructions` in loops, which run more than once
    largest_group: int  # most chips in one collective; in a permutation, the chips that send


def collectives_of(text: str) -> list[Collectives]:
    """The collectives of a compiled program, in the order of KINDS; absent kinds are left out.

    Args:
      text: of the optimized program, from `compiled.as_text()`.
    """
    found: dict[str, list[_Collective]] = {kind: [] for kind in KINDS}
    for computation in computations_of(text).values():
        groups = dict[str, int]()  # an asynchronous collective has its group at NAME-start
        for line in computation.lines:
            match = _INSTRUCTION.search(line)
            if match is None:
                continue
            instruction, result, kind, phase, operand = match.groups()
            group = groups.get(operand, 1) if phase == "-done" else _group_size(line)
            if phase == "-start":
                groups[instruction] = group
                continue
            whole = group if kind == "reduce-scatter" else 1
            sizes = Counter({dtype: size * whole for dtype, size in _bytes(result).items()})
            found[kind].append(_Collective(sizes, computation.in_loop, group))
    return [_summary(kind, each) for kind, each in found.items() if each]


class _Collective(NamedTuple):
    sizes: Counter[str]  # bytes by type
    in_loop: bool
    group: int


def _summary(kind: str, found: list[_Collective]) -> Collectives:
    sizes = sum((each.sizes for each in found), Counter[str]())
    in_loops = sum(each.in_loop for each in found)
    return Collectives(
        kind, len(found), sizes.total(), dict(sizes), in_loops, max(each.group for each in found)
    )


def _bytes(types: str) -> Counter[str]:
    """The bytes by data type of the arrays in a type such as (f32[2,3]{1,0}, bf16[])."""
    sizes = Counter[str]()
    for dtype, shape in _ARRAY.findall(types):
        bits = 8 if dtype == "pred" else int(re.findall(r"\d+", dtype)[0])
        sizes[dtype] += math.prod(int(side) for side in shape.split(",") if side) * bits // 8
    return sizes


def _group_size(line: str) -> int:
    """The number of chips in a collective, from one of XLA's three notations of groups or a permutation.

    It is 2 in replica_groups={{0,1},{2,3}}, in =[2,2]<=[4], and in =mesh['a'=2,'b'=2] {'b'}.
    """
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\] *\{([^}]*)\}", line):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
        # A part of an axis is written 'a':(2)4: 4 chips at a distance of 2.
        parts = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", named[2])
        return math.prod(int(part) if part else sizes[name] for name, part in parts)
    if iota := re.search(r"replica_groups=\[(?:\d+,)*(\d+)\]<=", line):
        return int(iota[1])
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return len(listed[1].split(","))
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", line):
        return pairs[1].count("{")
    return 1
