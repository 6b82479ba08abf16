"""The one exception that stands for a mistake of the user, not of the program."""


class UserError(Exception):
    """Bad input: one line that names the file, field or value and says what to do.

    The command line prints it on stderr and exits with status 2, without a traceback.
    """


def one_line(text: object) -> str:
    """A text on one line that every terminal takes: what cannot be printed, as in odd file names, escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
