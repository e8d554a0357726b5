"""Where the commands print: as wide as the terminal, and plain where there is none."""

from __future__ import annotations

from rich.console import Console

from gradwatch.writers.console import WIDTH


def open_console() -> Console:
    """The process's stdout."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDTH)
