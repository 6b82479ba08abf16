"""Files that make configs, or keep them.

A file in `configs/` has one function, `get_config() -> Config`. It builds a `Config` or
takes another file's and changes fields with `override`, which the command line uses too
(`--config.optimizer.learning_rate=0.02`), so both are checked in the same way. It may have
arguments with a default and a type, which are given after a colon:
`--config=configs/table_1.py:assigner=atss,quality=iou`.
"""

import dataclasses
import importlib.util
import inspect
import json
import typing
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from gfl_jax.config import Config
from gfl_jax.errors import UserError
from gfl_jax.overrides import checked, differences, flat_fields, override, parse_value


def load_config(name: str | Path) -> Config:
    """Runs `get_config()` of a Python file.

    Args:
      name: FILE, or FILE:ARGUMENT=VALUE,ARGUMENT=VALUE.

    Raises:
      UserError: there is no such file, it is not a config, or it takes no such argument.
    """
    path, colon, arguments = str(name).partition(".py:")
    path = f"{path}.py" if colon else path
    module = load_module(path)
    if not hasattr(module, "get_config"):
        raise UserError(f"--config={path}: has no function get_config(); give it one that returns a Config")
    config = module.get_config(**_arguments(module.get_config, arguments, path))
    if not isinstance(config, Config):
        raise UserError(
            f"--config={path}: get_config() returned {type(config).__name__}, not a gfl_jax Config"
        )
    return config


def load_module(name: str | Path) -> ModuleType:
    """Runs a Python file of `configs/`.

    Raises:
      UserError: there is no such file, or it cannot be run.
    """
    path = Path(name)
    if not path.is_file():
        raise UserError(f"--config={path}: there is no such file; see configs/ for the ones there are")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"--config={path}: not a Python file; name one like configs/gfl_r50_fpn_1x_coco.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError) as error:
        raise UserError(f"--config={path}: cannot be read: {error}") from error
    return module


def _arguments(function: Callable[..., Any], text: str, path: str) -> dict[str, Any]:
    """NAME=VALUE,NAME=VALUE as arguments of a function, checked against its annotations."""
    hints = typing.get_type_hints(function)
    known = ", ".join(inspect.signature(function).parameters) or "none"
    arguments = {}
    for item in filter(None, text.split(",")):
        name, equals, value = item.partition("=")
        if not equals or name not in inspect.signature(function).parameters:
            raise UserError(
                f"--config={path}:{item}: there is no such argument; "
                f"write NAME=VALUE,NAME=VALUE with these names: {known}"
            )
        arguments[name] = checked(parse_value(value), hints[name], f"--config={path}:{name}")
    return arguments


def to_json(config: Config) -> str:
    """The config as JSON text, one field a line."""
    return json.dumps(dataclasses.asdict(config), indent=1)


def config_from_json(path: Path) -> Config:
    """Reads what `to_json` gave.

    Raises:
      UserError: the file is no JSON, or has fields that a config does not have.
    """
    try:
        return config_from_fields(json.loads(path.read_text()), str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is no config that can be read ({error!r}); give --config") from error


def config_from_fields(content: dict[str, Any], prefix: str) -> Config:
    """The config of nested JSON fields; one that is not there, as in older files, has its default.

    Raises:
      UserError: there are fields that a config does not have; `prefix` stands before their names.
      KeyError, TypeError: it is something else.
    """
    return override(Config(name=content["name"]), flat_fields(content), prefix)


def config_differences(config: Config, other: Config) -> list[str]:
    """The dotted names of the fields in which two configs differ."""
    return differences(dataclasses.asdict(config), dataclasses.asdict(other))
