"""Checks the fields of frozen dataclasses against their types and ranges.

    batch_size: Annotated[int, Range(least=1)] = 16

`__post_init__` calls `check_fields`, so every object has valid values, wherever they came from: a config
file, the command line, a JSON file or a program.
"""

import dataclasses
import functools
import math
import types
import typing
from typing import Annotated, Any, Literal

from gfl_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Range:
    """The range of numbers that a field may have; None: no bound."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def has(self, value: float) -> bool:
        """Whether a number is in the range; NaN never is, if the range has a bound."""
        return (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        low, high = (
            next((f"{word}{value}" for word, value in ends if value is not None), "")
            for ends in (
                (("from ", self.least), ("above ", self.above)),
                (("to ", self.most), ("to below ", self.below)),
            )
        )
        return f"{low} {high}".strip() if high else low.replace("from", "at least")


# The largest integer that arrays of 32-bit integers hold.
INT32 = 2**31 - 1

Count = Annotated[int, Range(least=1, most=INT32)]
Natural = Annotated[int, Range(least=0, most=INT32)]
Share = Annotated[float, Range(least=0, most=1)]
Positive = Annotated[float, Range(above=0, most=1e9)]
NotNegative = Annotated[float, Range(least=0, most=1e9)]


def field_types(kind: type) -> dict[str, Any]:
    """The types of a dataclass's fields by name, with their ranges; {} if it is not a dataclass."""
    return _field_types(kind) if dataclasses.is_dataclass(kind) else {}


@functools.cache
def _field_types(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def check_fields(instance: Any) -> None:
    """Checks each field of a frozen dataclass and converts it to its type: 1 to a float, [1] to a tuple.

    Raises:
      UserError: names the first field that has the wrong type or is out of its range.
    """
    kind = type(instance)
    for name, hint in field_types(kind).items():
        value = checked(getattr(instance, name), hint, f"{kind.__name__}.{name}")
        object.__setattr__(instance, name, value)


def checked(value: Any, hint: Any, name: str) -> Any:
    """Returns `value` converted to the type `hint`, or raises a UserError that names the field."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is Annotated:
        found = checked(value, args[0], name)
        for range_ in args[1:]:
            if not range_.has(found):
                raise UserError(f"{name}={_shown(value)}: must be {range_}")
        return found
    if origin in (types.UnionType, typing.Union):  # int | None, and Literal[...] | None
        if value is None and type(None) in args:
            return None
        return checked(value, next(option for option in args if option is not type(None)), name)
    if origin is Literal:
        if value is None and "none" in args:  # on a command line the word and the value look alike
            return "none"
        if any(type(value) is type(option) and value == option for option in args):
            return value
        raise UserError(f"{name}={_shown(value)}: must be one of {', '.join(map(repr, args))}")
    if origin is tuple and isinstance(value, (tuple, list)):
        items = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(items) == len(value):
            return tuple(
                checked(v, item, f"{name}[{i}]") for i, (v, item) in enumerate(zip(value, items, strict=True))
            )
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not _is_finite(value):
            raise UserError(f"{name}={_shown(value)}: must be a finite number")
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    wanted = hint.__name__ if isinstance(hint, type) and origin is None else str(without_ranges(hint))
    remedy = ""
    if dataclasses.is_dataclass(hint) and isinstance(value, str):
        remedy = f"; set its fields instead, such as {name}.{dataclasses.fields(hint)[0].name}"
    raise UserError(f"{name}={_shown(value)}: must be {wanted}, not {type(value).__name__}{remedy}")


def without_ranges(hint: Any) -> Any:
    """The type of a field without the ranges of its numbers, such as `tuple[int, ...]`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return without_ranges(args[0])
    return tuple[tuple(map(without_ranges, args))] if origin is tuple else hint  # type: ignore[misc]


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that is too large for a float
        return False


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer with thousands of digits
        return "(a huge number)"
    return text if len(text) <= 80 else f"{text[:77]}..."
