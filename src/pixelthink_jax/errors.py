"""The one exception for mistakes made outside the library."""


class InputError(ValueError):
    """A file, text, setting or folder that cannot be used as given.

    The message is one line that names the thing, the value, what was expected and what to do. The command
    line prints it to stderr and exits with status 2; a notebook shows it as an ordinary exception.
    """
