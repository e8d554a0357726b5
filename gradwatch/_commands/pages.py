"""The catalogue as it stands in a terminal or a file."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gradwatch.catalogue import PAGES, Page, words_in
from gradwatch.records import CAUSE_CODES, KIND_CODES


def print_plain(renderable: RenderableType, console: Console) -> None:
    """Print it without the spaces that fill every line of a table."""
    with console.capture() as capture:
        console.print(renderable)
    for line in capture.get().splitlines():
        console.file.write(f"{line.rstrip()}\n")


def page(shown: Page) -> RenderableType:
    """One page: what happened, where, why, what to do, and when it is no fault."""
    rows = [
        ("what", shown.what),
        ("where", shown.where),
        ("why", shown.why),
        *(("" if rank > 1 else "what to do", f"{rank}. {step}") for rank, step in enumerate(shown.what_to_do, start=1)),
        ("no fault", shown.not_a_fault),
    ]
    if (other := _namesake(shown)) is not None:
        rows.append(("same name", f"{other.code} is the {_sort(other)} of this name"))
    rows.append(("see also", ", ".join(f"{code} {PAGES[code].name}" for code in shown.see)))
    if shown.paper:
        rows.append(("paper", shown.paper))
    rows += [("" if rank else "words", f"{word}: {text}") for rank, (word, text) in enumerate(words_in(shown))]
    return Group(
        Text(f"{shown.code} · {shown.name} · {_sort(shown)}", style="bold cyan"),
        Text(shown.title, style="bold"),
        _grid(rows),
    )


def contents() -> RenderableType:
    """All codes with their names and titles."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for header in ("code", "name", "in one line"):
        table.add_column(header)
    table.add_row(Text("alarms", style="bold cyan"))
    for code in KIND_CODES.values():
        table.add_row(code, PAGES[code].name, Text(PAGES[code].title))
    table.add_row(Text("causes", style="bold cyan"))
    for code in CAUSE_CODES.values():
        table.add_row(code, PAGES[code].name, Text(PAGES[code].title))
    return Group(table, Text(), Text("`gradwatch explain GW102` explains one of them."))


def _sort(shown: Page) -> str:
    return "cause" if CAUSE_CODES.get(shown.name) == shown.code else "kind of incident"


def _namesake(shown: Page) -> Page | None:
    codes = {KIND_CODES.get(shown.name), CAUSE_CODES.get(shown.name)} - {shown.code, None}
    return PAGES[str(codes.pop())] if codes else None


def _grid(rows: list[tuple[str, str]]) -> RenderableType:
    grid = Table.grid(padding=(0, 3, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column()
    for label, text in rows:
        grid.add_row(Text(label), Text(text))
    return Padding(grid, (0, 0, 0, 2))
