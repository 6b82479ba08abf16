"""Text for people to read: counts with nouns, and names made safe for formats that interpret markup."""

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


def counted(count: int, noun: str) -> str:
    """A count with its noun, in the singular or the plural: "1 image", "2 boxes"."""
    plural = f"{noun}es" if noun.endswith(("s", "x")) else f"{noun}s"
    return f"{count} {noun if count == 1 else plural}"
