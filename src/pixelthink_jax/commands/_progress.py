"""The progress bar of the commands: on a terminal's stderr, and silent everywhere else."""

from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def progress_bar() -> Progress:
    """A bar with counts and times; a task's `note` field is shown at its end."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not console.is_terminal,
    )


def say_above(bar: Progress, text: Any) -> None:
    """Prints one line on stderr without disturbing the bar; the text is not read as markup."""
    bar.console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)
