"""Dotted overrides of nested dataclasses, each value checked against the type of its field."""

import ast
import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from gfl_jax.errors import UserError

T = TypeVar("T")


def override(config: T, changes: Mapping[str, Any], prefix: str = "config") -> T:
    """Changes fields, named with dots, of nested dataclasses.

    Args:
      config: a dataclass instance; it is left as it is.
      changes: dotted names to values, e.g. {"optimizer.learning_rate": 0.02}.
      prefix: what stands before the names in error messages.

    Returns:
      A copy with the changes.

    Raises:
      UserError: an unknown field, or a value of another type than the field's.
    """
    for name, value in changes.items():
        config = _replace(config, name.split("."), value, prefix)
    return config


def parse_overrides(config: Any, texts: Mapping[str, str]) -> Any:
    """Like `override` with values written as text, as on the command line."""
    return override(config, {name: parse_value(text) for name, text in texts.items()})


def flat_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Nested fields as one mapping from dotted names."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": item for inner, item in flat_fields(value).items()}
        else:
            flat[name] = value
    return flat


def differences(config: Any, other: Any, prefix: str = "config") -> list[str]:
    """The dotted names of the fields in which two JSON-like values of configs differ."""
    if isinstance(config, dict) and isinstance(other, dict):
        keys = list(config) + [key for key in other if key not in config]
        return [
            name for key in keys for name in differences(config.get(key), other.get(key), f"{prefix}.{key}")
        ]
    return [] if config == other else [prefix]


def _replace(config: Any, names: list[str], value: Any, prefix: str) -> Any:
    head, rest = names[0], names[1:]
    hints = typing.get_type_hints(type(config)) if dataclasses.is_dataclass(config) else {}
    if head not in hints:
        known = ", ".join(hints) or "none"
        raise UserError(f"{prefix}.{head}: there is no such field; the fields of {prefix} are: {known}")
    name = f"{prefix}.{head}"
    if rest:
        inner = getattr(config, head)
        value = _replace(_default(hints[head]) if inner is None else inner, rest, value, name)
    else:
        value = checked(value, hints[head], name)
    return dataclasses.replace(config, **{head: value})


def _default(hint: Any) -> Any:
    """The dataclass of an optional field, as it is when none of its fields is set."""
    for option in typing.get_args(hint):
        if dataclasses.is_dataclass(option):
            return option()  # type: ignore[operator]
    return None


def checked(value: Any, hint: Any, name: str) -> Any:
    """Returns `value` as the type `hint` wants it, or raises a UserError that names the field."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):  # int | None, and Literal[...] | None
        if value is None and type(None) in args:
            return None
        return checked(value, next(option for option in args if option is not type(None)), name)
    if origin is Literal:
        if value is None and "none" in args:  # a command line cannot tell the word from the value
            return "none"
        if value in args:
            return value
        raise UserError(f"{name}={value!r}: must be one of {', '.join(map(repr, args))}")
    if origin is tuple and isinstance(value, (tuple, list)):
        items = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(items) == len(value):
            return tuple(
                checked(v, item, f"{name}[{i}]") for i, (v, item) in enumerate(zip(value, items, strict=True))
            )
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    wanted = hint.__name__ if isinstance(hint, type) and origin is None else str(hint)
    raise UserError(f"{name}={value!r}: must be {wanted}, not {type(value).__name__}")


def parse_value(text: str) -> Any:
    """A Python literal where the text is one, else the text: 0.02, (1, 2), None, True, adamw."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
