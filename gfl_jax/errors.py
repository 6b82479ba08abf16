"""The one exception that stands for a mistake of the user, not of the program."""


class UserError(Exception):
    """Bad input: one line that names the file, field or value and says what to do.

    The command line prints it on stderr and exits with status 2, without a traceback.
    """
