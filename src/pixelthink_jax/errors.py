"""The one exception for mistakes made outside the library."""


class InputError(ValueError):
    r"""A file, text, setting or folder that cannot be used as given.

    The message is one line that names the thing, the value, what was expected and what to do. The command
    line prints it to stderr and exits with status 2; a notebook shows it as an ordinary exception. Whatever names it
    repeats, it can be printed and stored: halves of surrogate pairs are escaped.

    >>> str(InputError("no file \ud83d.png"))
    'no file \\ud83d.png'
    """

    def __str__(self) -> str:
        return super().__str__().encode("utf-8", "backslashreplace").decode("utf-8")
