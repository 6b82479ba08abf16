"""The rows of a table of the paper. A file `configs/table_*.py` lists them beside its `get_config`."""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from etils.epath import Path

from gfl_jax.config import Config
from gfl_jax.configuration.config_files import CONFIGS, load_config, load_module
from gfl_jax.errors import UserError


class Row(NamedTuple):
    """One detector of a table."""

    label: str
    column: str  # the column group; rows with the same label share a line
    arguments: Mapping[str, Any]  # of the file's `get_config`
    paper_ap: float | None = None  # on COCO, in percent, if the paper or its rebuttal states it
    teacher: str | None = None  # the name of an earlier row; its run with the same seed teaches this one

    @property
    def name(self) -> str:
        """The name for files and the command line, such as atss_iou."""
        return "_".join(str(value) for value in self.arguments.values())


def load_table(name: str) -> tuple[Path, ModuleType]:
    """Loads a table: returns its file, and the module with TITLE, ROWS and get_config.

    Raises:
      UserError: there is no such table.
    """
    folders = (Path("configs"), CONFIGS)
    for folder in folders:
        file = folder / f"table_{name}.py"
        if file.is_file():
            return file, load_module(file)
    tables = {path.stem.removeprefix("table_") for folder in folders for path in folder.glob("table_*.py")}
    raise UserError(
        f"--table={name}: there is no configs/table_{name}.py; the tables are: " + ", ".join(sorted(tables))
    )


def row_config(file: Path, row: Row, dataset: str) -> Config:
    """Loads the config of a table's row on a data set.

    Raises:
      UserError: the table does not know the data set.
    """
    arguments = {**row.arguments, "dataset": dataset}
    return load_config(f"{file}:" + ",".join(f"{name}={value}" for name, value in arguments.items()))


def select_rows(rows: Sequence[Row], names: str | None) -> Sequence[Row]:
    """Returns the rows with these comma-separated names. None: all rows.

    Raises:
      UserError: no row has such a name.
    """
    if names is None:
        return rows
    known = {row.name: row for row in rows}
    unknown = [name for name in names.split(",") if name not in known]
    if unknown:
        raise UserError(f"--rows={names}: there is no row {unknown[0]}; the rows are: {', '.join(known)}")
    return [known[name] for name in names.split(",")]
