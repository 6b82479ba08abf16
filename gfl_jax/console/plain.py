"""Text of users, such as names of classes and files, where others would read markup into it."""

from rich.text import Text

from gfl_jax.errors import one_line


def plain(text: object) -> Text:
    """For rich: shown as it is, on one line, brackets too."""
    return Text(one_line(text))


def markdown_cell(text: str) -> str:
    """For a cell of a Markdown table."""
    return one_line(text).replace("|", "\\|")


def shortened(text: str, most: int = 40) -> str:
    """For an image or a figure: on one line, and with an ellipsis where it is longer."""
    line = one_line(text)
    return line if len(line) <= most else line[: most - 3] + "..."
