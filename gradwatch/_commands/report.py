"""``gradwatch report``: what a recorded run has to say, in the terminal, as a page, or for programs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gradwatch.errors import LogdirError, RecordError

if TYPE_CHECKING:
    from gradwatch._report.story import Story
    from gradwatch.recording import Recording

_UNREADABLE = 2
_PAGES = (".html", ".htm")


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "report",
        help="what a recorded run has to say: what went wrong, where, why, and what to do",
        description="Report on a run that gradwatch recorded: verdict, incidents with their causes and remedies, the "
        "layers that matter, clipping and cost. The exit code is 0 where the run can be read, whatever it says, and 2 "
        "where it cannot.",
    )
    parser.add_argument(
        "recorded",
        metavar="RUN",
        help="a log directory, an event file, or a file of JSON lines (gradwatch.JSONLWriter)",
    )
    parser.add_argument("--json", action="store_true", help="answer with one JSON object")
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="write a page with figures that opens offline, report.html"
    )
    parser.set_defaults(run=_report)


def _report(arguments: argparse.Namespace) -> int:
    try:
        recording, told = _read(arguments.recorded)
    except RecordError as error:
        return _fail(str(error), arguments)
    if arguments.output is not None:
        _spare(Path(arguments.recorded), arguments.output)
        _write(recording, told, arguments.output)
    if arguments.json:
        from gradwatch._report.answer import answer
        from gradwatch.writers._lines import dumps

        print(dumps(answer(told)))  # noqa: T201 - this is a command
    elif arguments.output is not None:
        print(f"gradwatch: {told.verdict()}\nthe report is in {arguments.output}")  # noqa: T201
    else:
        from gradwatch._commands.pages import print_plain
        from gradwatch._commands.terminal import open_console
        from gradwatch._report.terminal import rendered

        print_plain(rendered(told), open_console())
    return 0


def _read(path: str) -> tuple[Recording, Story]:
    """The run and what it has to say; a ``RecordError`` where it cannot be read or holds not one step."""
    from gradwatch._report.story import story
    from gradwatch.recording import read

    recording = read(path)
    told = story(recording, path)
    if told is None:
        why = f": {recording.skipped[0]}" if recording.skipped else ""
        raise RecordError(f"gradwatch: {path!r} holds no step of a recorded run{why}")
    return recording, told


def _spare(recorded: Path, output: Path) -> None:
    """Refuse to write over the recorded run, which nobody could get back.

    Raises:
        LogdirError: It would be.
    """
    own = [recorded, *(recorded.iterdir() if recorded.is_dir() else ())]
    kept = [file for file in own if file.is_file() and (file == recorded or file.suffix not in _PAGES)]
    if output.exists() and any(output.samefile(file) for file in kept):
        raise LogdirError(f"gradwatch: --output {str(output)!r} is part of the recorded run: give another file")


def _write(recording: Recording, told: Story, output: Path) -> None:
    from gradwatch._report.page import page

    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(page(recording, told), encoding="utf-8")
    except OSError as error:
        why = error.strerror or error
        raise LogdirError(f"gradwatch: --output {str(output)!r} cannot be written: {why}") from error


def _fail(message: str, arguments: argparse.Namespace) -> int:
    if arguments.json:
        from gradwatch._report.answer import ABOUT, SCHEMA
        from gradwatch.writers._lines import dumps

        print(dumps({"schema": SCHEMA, "about": ABOUT, "run": arguments.recorded, "error": message}))  # noqa: T201
    else:
        print(message, file=sys.stderr)  # noqa: T201
    return _UNREADABLE
