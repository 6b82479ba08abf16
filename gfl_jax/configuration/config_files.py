"""Config files: Python files that build configs, and JSON files that store them.

A file in `configs/` has one function, `get_config() -> Config`. It builds a `Config`, or takes the one of
another file and changes fields with `override`. The command line also uses `override`
(`--config.optimizer.learning_rate=0.02`), so both are checked in the same way. The function may have
arguments with a default and a type. They are given after a colon:
`--config=configs/table_1.py:assigner=atss,quality=iou`.
"""

import contextlib
import dataclasses
import importlib.util
import inspect
import json
import os
import re
import traceback
import typing
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from etils.epath import Path

from gfl_jax.config import Config
from gfl_jax.configuration.fields import checked
from gfl_jax.configuration.overrides import differences, flat_fields, override, parse_value
from gfl_jax.errors import UserError, one_line
from gfl_jax.files import identity, read_file
from gfl_jax.paths import require_local

# In the repository a link to `configs/`; in an installed package the folder itself.
CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def load_config(name: str | Path) -> Config:
    """Runs `get_config()` of a Python file.

    Args:
      name: FILE, or FILE:ARGUMENT=VALUE,ARGUMENT=VALUE; FILE may be the name of a file in `configs/`.

    Raises:
      UserError: the file does not exist, cannot be run, returns no config, or has no such argument.
    """
    with_arguments = re.fullmatch(r"(.*?\.py|[\w-]+):(?!//)(.*)", str(name), re.DOTALL)
    path, arguments = with_arguments.groups() if with_arguments else (str(name), "")
    module = load_module(path)
    if not callable(getattr(module, "get_config", None)):
        raise UserError(f"--config={path}: has no function get_config(); give it one that returns a Config")
    with _errors_in(path):
        hints = typing.get_type_hints(module.get_config, include_extras=True)
        parameters = inspect.signature(module.get_config).parameters
    given = _arguments(parameters, hints, arguments, path)
    with _errors_in(path):
        config = module.get_config(**given)
    if not isinstance(config, Config):
        raise UserError(
            f"--config={path}: get_config() returned {type(config).__name__}, not a gfl_jax Config"
        )
    return config


def load_module(name: str | Path) -> ModuleType:
    """Runs a Python file of `configs/`.

    Raises:
      UserError: the file does not exist, or it cannot be run.
    """
    require_local(name, "Python files")
    path = Path(name)
    if identity(path) is None and path.name == str(name) and not path.suffix:
        path = CONFIGS / f"{name}.py"  # the name of a file in `configs/`
    if identity(path) is None or not path.is_file():
        raise UserError(f"--config={path}: there is no such file; see configs/ for the available ones")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(
            f"--config={path}: is not a Python file; give one such as configs/gfl_r50_fpn_1x_coco.py"
        )
    module = importlib.util.module_from_spec(spec)
    with _errors_in(str(path)):
        spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _errors_in(path: str) -> Iterator[None]:
    """Turns any error of a config file into a UserError of one line that names the file and its line."""
    try:
        yield
    except UserError as error:
        raise UserError(f"--config={path}{_line(error, path)}: {error}") from error
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise UserError(f"--config={path}{_line(error, path)}: cannot be run: {one_line(reason)}") from error


def _line(error: BaseException, path: str) -> str:
    """The last line of the file in the traceback of an error, as ", line N"; "" if there is none."""
    if isinstance(error, SyntaxError):
        return ""  # its message names the line
    full_path = os.path.abspath(path)
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if os.path.abspath(frame.filename) == full_path]
    return f", line {lines[-1]}" if lines else ""


def _arguments(
    parameters: Mapping[str, inspect.Parameter], hints: dict[str, Any], text: str, path: str
) -> dict[str, Any]:
    """Parses NAME=VALUE,NAME=VALUE as arguments of a function and checks them against its annotations."""
    known = ", ".join(parameters) or "none"
    arguments = {}
    for item in filter(None, text.split(",")):
        name, equals, value = item.partition("=")
        if not equals or name not in parameters:
            raise UserError(
                f"--config={path}:{item}: there is no such argument; "
                f"write NAME=VALUE,NAME=VALUE with these names: {known}"
            )
        hint = hints.get(name, str)
        arguments[name] = checked(parse_value(value, hint), hint, f"--config={path}:{name}")
    many = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [n for n, p in parameters.items() if p.default is inspect.Parameter.empty and p.kind not in many]
    missing = [name for name in needed if name not in arguments]
    if missing:
        raise UserError(f"--config={path}: needs a value for {missing[0]}; write {path}:{missing[0]}=VALUE")
    return arguments


def to_json(config: Config) -> str:
    """The config as JSON text, one field per line."""
    return json.dumps(dataclasses.asdict(config), indent=1)


def config_from_json(path: Path) -> Config:
    """Reads a config from a file that contains the text of `to_json`.

    Raises:
      UserError: the file cannot be read, is not JSON, or has unknown fields or wrong values.
    """
    try:
        return config_from_fields(json.loads(read_file(path)), str(path))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not a readable config ({error}); give --config") from error


def config_from_fields(content: Any, prefix: str) -> Config:
    """Builds a config from nested JSON fields. Missing fields, as in older files, get their defaults.

    Args:
      content: the parsed JSON.
      prefix: what stands before the names of fields in error messages.

    Raises:
      UserError: there are unknown fields or wrong values.
      ValueError: the content is not an object with a name.
    """
    if not isinstance(content, dict) or "name" not in content:
        raise ValueError("it has no 'name'")
    return override(Config(name=""), flat_fields(content), prefix)


def config_differences(config: Config, other: Config) -> list[str]:
    """The dotted names of the fields in which two configs differ. Two ways to write the same do not count."""
    return differences(dataclasses.asdict(_explicit(config)), dataclasses.asdict(_explicit(other)))


def _explicit(config: Config) -> Config:
    """The config with its range of short sides in training written out, or None if nothing is resized."""
    low, high = config.resize.short_sides_in_training
    sides = None if low is None or high is None else (low, high)
    return dataclasses.replace(config, resize=dataclasses.replace(config.resize, train_short_sides=sides))
