"""What the compiler reports about a program: its memory, its work, and the data that it sends."""

from typing import NamedTuple

import jax

from gfl_jax.compilation.collectives import Collectives, collectives_of
from gfl_jax.compilation.cycles import Cycles, cycles_of

# In the errors of XLA's backends for programs that need more memory than is available.
_TOO_LARGE = "RESOURCE_EXHAUSTED"


class Memory(NamedTuple):
    """Bytes of one chip's memory, by kind."""

    arguments: int
    outputs: int
    temporaries: int
    aliased: int  # outputs that reuse the memory of arguments
    code: int

    @property
    def total(self) -> int:
        """The memory that the chip needs while the program runs."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


class Measures(NamedTuple):
    """What one chip needs, computes and sends in one run of a program."""

    memory: Memory
    flops: float
    bytes_accessed: float  # read and written by all instructions, as XLA counts them
    collectives: list[Collectives]
    cycles: Cycles | None  # the TPU compiler's estimate; None for other compilers


class TooLarge(NamedTuple):
    """A program that the compiler refused because it does not fit."""

    reason: str


def compile_and_measure(lowered: jax.stages.Lowered) -> Measures | TooLarge:
    """Compiles a program for the devices that it was lowered for, and returns its measures."""
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if _TOO_LARGE not in str(error):
            raise
        return TooLarge(str(error).splitlines()[0])
    text = compiled.as_text() or ""
    stats, cost = compiled.memory_analysis(), compiled.cost_analysis()
    if stats is None or cost is None:
        raise RuntimeError("this backend of jax does not report the memory and work of a program")
    memory = Memory(
        arguments=stats.argument_size_in_bytes,
        outputs=stats.output_size_in_bytes,
        temporaries=stats.temp_size_in_bytes,
        aliased=stats.alias_size_in_bytes,
        code=stats.generated_code_size_in_bytes,
    )
    flops, accessed = cost["flops"], cost["bytes accessed"]
    return Measures(memory, flops, accessed, collectives_of(text), cycles_of(text))
