"""Makes text of users, such as class and file names, safe for output formats that interpret markup."""

from rich.text import Text

from gfl_jax.errors import one_line


def plain(text: object) -> Text:
    """The text for a rich console: on one line, and brackets are not markup."""
    return Text(one_line(text))


def markdown_cell(text: str) -> str:
    """The text for a cell of a Markdown table."""
    return one_line(text).replace("|", "\\|")


def shortened(text: str, most: int = 40) -> str:
    """The text on one line for an image or a figure, cut to `most` characters with an ellipsis."""
    line = one_line(text)
    return line if len(line) <= most else line[: most - 3] + "..."
