"""What a path leads to: a file of JSON lines, an event file, or a log directory with either."""

from __future__ import annotations

import os
from pathlib import Path

from gradwatch._sources.event_files import EventFiles
from gradwatch._sources.event_records import looks_like_events
from gradwatch._sources.memory import MemoryRecording
from gradwatch._sources.packed import PackedRecording
from gradwatch._sources.unpacked import unpacked
from gradwatch.errors import RecordError
from gradwatch.writers.jsonl import RecordedRun, read_jsonl

_EVENTS = "tfevents"
_MAX_NAMED = 8


def open_recording(path: str | os.PathLike[str]) -> MemoryRecording | PackedRecording:
    """The run that is kept there; see :func:`gradwatch.recording.read`."""
    found = _find(path)
    if isinstance(found, Path):
        run = read_jsonl(found)
        return MemoryRecording(
            run.records,
            run.incidents,
            starts=run.sessions,
            incidents_at=run.incidents_at,
            model=next((model for model in reversed(run.models) if model is not None), None),
            summary=run.summary,
            skipped=run.skipped,
            is_running=None if run.summary is None else False,
        )
    return _packed(found)


def open_records(path: str | os.PathLike[str]) -> tuple[RecordedRun, tuple[str, ...]]:
    """The same as records, for whoever judges them again.

    Returns:
        The run, and in words what such a log does not tell.

    Raises:
        RecordError: As :func:`gradwatch.recording.read`.
    """
    found = _find(path)
    return (read_jsonl(found), ()) if isinstance(found, Path) else unpacked(_packed(found))


def _packed(files: list[Path]) -> PackedRecording:
    try:
        store = EventFiles(files)
    except OSError as error:
        raise RecordError(f"gradwatch: {error.filename!r} cannot be read: {error.strerror or error}") from error
    return PackedRecording(store, store.skipped)


def _find(path: str | os.PathLike[str]) -> Path | list[Path]:
    """A file of JSON lines, or event files in order of time.

    Raises:
        RecordError: There is neither.
    """
    place = Path(path)
    try:
        if place.is_dir():
            return _in_directory(place)
        if _EVENTS in place.name or looks_like_events(place):
            with place.open("rb"):
                return [place]
    except RecordError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        reason = getattr(error, "strerror", None) or error
        raise RecordError(f"gradwatch: {os.fspath(path)!r} cannot be read: {reason}") from error
    return place


def _in_directory(place: Path) -> Path | list[Path]:
    events = sorted(file for file in place.iterdir() if _EVENTS in file.name and file.is_file())
    lines = sorted(file for file in place.iterdir() if file.suffix == ".jsonl" and file.is_file())
    if events and (not lines or any(_is_ours(file) for file in events)):
        return events
    if len(lines) == 1:
        return lines[0]
    if lines:
        names = ", ".join(repr(file.name) for file in lines[:_MAX_NAMED])
        raise RecordError(f"gradwatch: {str(place)!r} holds several recorded runs, name one of them: {names}")
    below = sorted({str(file.parent.relative_to(place)) for file in place.rglob(f"*{_EVENTS}*") if file.is_file()})
    where = f"; there are some in {', '.join(map(repr, below[:_MAX_NAMED]))}" if below else ""
    raise RecordError(f"gradwatch: {str(place)!r} holds no event file and no .jsonl file{where}")


def _is_ours(file: Path) -> bool:
    """Whether there is anything of gradwatch in it: our own files say so, of a user's own the content does."""
    if file.name.endswith(".gradwatch"):
        return True
    with file.open("rb") as opened:
        return any(b"gradwatch/v" in chunk for chunk in iter(lambda: opened.read(2**20), b""))
