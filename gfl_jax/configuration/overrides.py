"""Changes of nested dataclasses by dotted names. Each value is checked against the type of its field."""

import ast
import dataclasses
import difflib
import functools
import types
import typing
import warnings
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from gfl_jax.configuration.fields import checked, field_types
from gfl_jax.errors import UserError

T = TypeVar("T")


def override(config: T, changes: Mapping[str, Any], prefix: str = "config") -> T:
    """Changes fields of nested dataclasses by their dotted names.

    Args:
      config: a dataclass instance; it is not changed itself.
      changes: dotted names to values, e.g. {"optimizer.learning_rate": 0.02}.
      prefix: what stands before the names in error messages.

    Returns:
      A copy with the changes.

    Raises:
      UserError: a field is unknown, or a value has the wrong type or is out of the range of its field.
    """
    for name, value in changes.items():
        config = _replace(config, name.split("."), functools.partial(_unchanged, value), prefix)
    return config


def parse_overrides(config: T, texts: Mapping[str, str]) -> T:
    """Like `override`, but the values are texts, as on the command line."""
    for name, text in texts.items():
        config = _replace(config, name.split("."), functools.partial(parse_value, text), "config")
    return config


def flat_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Flattens nested fields to one mapping from dotted names."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict) and value:
            flat |= {f"{name}.{inner}": item for inner, item in flat_fields(value).items()}
        else:
            flat[name] = value
    return flat


def differences(config: Any, other: Any, prefix: str = "config") -> list[str]:
    """The dotted names of the fields in which two configs, given as JSON-like values, differ."""
    if isinstance(config, dict) and isinstance(other, dict):
        keys = list(config) + [key for key in other if key not in config]
        return [
            name for key in keys for name in differences(config.get(key), other.get(key), f"{prefix}.{key}")
        ]
    return [] if config == other else [prefix]


def _unchanged(value: Any, hint: Any) -> Any:
    del hint
    return value


def _replace(config: Any, names: list[str], value_as: Callable[[Any], Any], prefix: str) -> Any:
    head, rest = names[0], names[1:]
    hints = field_types(type(config))
    if head not in hints:
        close = difflib.get_close_matches(head, hints, 1)
        known = ", ".join(hints) or "none"
        meant = f"; did you mean {close[0]}?" if close else ""
        raise UserError(
            f"{prefix}.{head}: there is no such field; the fields of {prefix} are: {known}{meant}"
        )
    name = f"{prefix}.{head}"
    if rest:
        inner = getattr(config, head)
        value = _replace(_default(hints[head]) if inner is None else inner, rest, value_as, name)
    else:
        value = checked(value_as(hints[head]), hints[head], name)
    return dataclasses.replace(config, **{head: value})


def _default(hint: Any) -> Any:
    """The dataclass of an optional field, with default values; None if it has no dataclass."""
    for option in typing.get_args(hint):
        if dataclasses.is_dataclass(option):
            return option()  # type: ignore[operator]
    return None


def parse_value(text: str, hint: Any = None) -> Any:
    """Converts a text to a value for a field of the type `hint`.

    For a field of texts the result is the text itself, even `2024` or `none`; quotes around it are removed.
    The words of a `Literal` stay as they are. Any other text becomes a Python literal if it is one: 0.02,
    (1, 2), None, True.
    """
    options = _options(hint)
    if text in options:
        return text
    words = {"true": True, "false": False, "none": None}
    if str not in options and text.lower() in words:
        return words[text.lower()]
    try:
        with warnings.catch_warnings():  # Python warns about texts such as `1is`
            warnings.simplefilter("ignore")
            value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # no literal, or too large
        return text
    return text if str in options and not isinstance(value, str) else value


def _options(hint: Any) -> tuple[Any, ...]:
    """The types and the literal words that a field accepts."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _options(args[0])
    if origin in (types.UnionType, typing.Union):
        return tuple(option for arg in args for option in _options(arg))
    return args if origin is Literal else (hint,)
