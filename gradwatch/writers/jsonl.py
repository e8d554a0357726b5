"""One JSON line a record: a run that any tool can read, also one that was killed.

Line types: ``run`` (first line of every session), ``model`` (whenever more is known of it), ``layers`` (whenever those
of an optimizer changed), ``step``, ``incident``, ``summary`` (at the end of a session: it has not been killed).
"""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TextIO

from gradwatch._summary_json import summary_from_json, summary_to_json
from gradwatch._voice import is_speaker
from gradwatch.errors import ArgumentTypeError, LogdirError, RecordError
from gradwatch.records import Incident, Layer, ModelInfo, RunSummary, StepRecord
from gradwatch.writers._lines import dumps

VERSION = 1

MAX_LINE = 2**26
"""Characters; a step of a model with a million parameter tensors is shorter, and a file of something else may have no
line ends at all."""

MAX_SKIPPED = 1_000
"""What could not be read is named so often, then counted: a foreign file may have a million lines."""


class JSONLWriter:
    """Appends every record and every incident to a file of JSON lines. Of many processes the first one alone writes.

    Args:
        path: The file; missing directories are made. An existing file is continued, with a new ``run`` line.

    Raises:
        LogdirError: The file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise ArgumentTypeError("path", path, "a path of a file")
        self._path = os.fspath(path)
        self._layers: dict[int, tuple[Layer, ...]] = {}
        self._model: ModelInfo | None = None
        self._file: TextIO | None = None
        if is_speaker():  # it can be written; but who will write may be another process (ddp_spawn)
            _open_to_append(self._path).close()

    def __repr__(self) -> str:
        return f"JSONLWriter({self._path!r})"

    def write_model(self, model: ModelInfo) -> None:
        """Append what is known of the model, where it is news: a replay needs it for its diagnoses."""
        self._open()
        if model != self._model:
            self._model = model
            self._put({"type": "model", **model.to_json()})

    def write(self, record: StepRecord) -> None:
        """Append one step, after its layers where they are new."""
        self._open()
        known = self._layers.get(record.optimizer)
        if record.layers is not known:
            if record.layers != known:
                layers = [layer.to_json() for layer in record.layers]
                self._put({"type": "layers", "optimizer": record.optimizer, "layers": layers})
            self._layers[record.optimizer] = record.layers
        self._put({"type": "step", **record.to_json()})

    def write_incident(self, incident: Incident) -> None:
        """Append one incident and hand everything to the operating system, so that it outlives the process."""
        self._put({"type": "incident", **incident.to_json()})
        self._open().flush()

    def write_summary(self, summary: RunSummary) -> None:
        """Append the run as a whole, without its incidents: they have lines of their own."""
        self._put({"type": "summary", **summary_to_json(summary)})

    def close(self) -> None:
        """Flush and close the file; what is written later (a second ``fit``) continues it."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy in another process opens the file again."""
        return {**self.__dict__, "_file": None}

    def _open(self) -> TextIO:
        if self._file is None:
            self._file = _open_to_append(self._path)
            self._layers = {}
            started = dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds")
            self._file.write(dumps({"type": "run", "version": VERSION, "started": started}) + "\n")
            if self._model is not None:
                self._file.write(dumps({"type": "model", **self._model.to_json()}) + "\n")
        return self._file

    def _put(self, data: dict[str, Any]) -> None:
        self._open().write(dumps(data) + "\n")


@dataclass(frozen=True)
class RecordedRun:
    """What a file of JSON lines holds.

    Attributes:
        records: Every step, in the order of writing; a resumed run may repeat steps.
        incidents: Every incident, in the order of writing.
        skipped: In words, what could not be read.
        models: What was known of the model at each step, ``[num_records]``; None in a file of an early gradwatch.
        sessions: Index of each session's first record: a run that was resumed, or another one, written to one file.
        incidents_at: For each incident, how many records stand before it, ``[num_incidents]``.
        summary: Of the last session, without incidents; None where it was not brought to its end.
    """

    records: tuple[StepRecord, ...]
    incidents: tuple[Incident, ...]
    skipped: tuple[str, ...]
    models: tuple[ModelInfo | None, ...] = ()
    sessions: tuple[int, ...] = ()
    incidents_at: tuple[int, ...] = ()
    summary: RunSummary | None = None


def read_jsonl(path: str | os.PathLike[str]) -> RecordedRun:
    """Read what :class:`JSONLWriter` wrote, as far as it goes.

    Args:
        path: The file.

    Returns:
        The run; a torn or foreign line is left out and named in ``skipped``.

    Raises:
        RecordError: The file cannot be opened.
    """
    reader = _Reader()
    try:
        with open(path, encoding="utf-8", errors="replace", newline="\n") as file:  # noqa: PTH123
            for index, line in enumerate(_lines(file), start=1):
                if len(line) > MAX_LINE:
                    reader.skip(f"line {index}: longer than {MAX_LINE:,} characters")
                elif line.strip():
                    reader.take(index, line)
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        reason = getattr(error, "strerror", None) or error
        raise RecordError(f"gradwatch: {os.fspath(path)!r} cannot be read: {reason}") from error
    return reader.run()


def _lines(file: TextIO) -> Iterator[str]:
    """Every line, of one that is too long only the beginning: it must not fill the memory."""
    while line := file.readline(MAX_LINE + 1):
        yield line
        while len(line) > MAX_LINE and not line.endswith("\n"):
            line = file.readline(MAX_LINE + 1)
            if not line:
                return


@dataclass
class _Reader:
    """The state of reading: whose layers the next step has."""

    records: list[StepRecord] = field(default_factory=list)
    incidents: list[Incident] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    layers: dict[int, tuple[Layer, ...]] = field(default_factory=dict)
    model: ModelInfo | None = None
    models: list[ModelInfo | None] = field(default_factory=list)
    sessions: list[int] = field(default_factory=list)
    incidents_at: list[int] = field(default_factory=list)
    summary: RunSummary | None = None
    num_skipped: int = 0
    readable: bool = True

    def run(self) -> RecordedRun:
        """Everything that was read."""
        skipped = list(self.skipped)
        if self.num_skipped > len(skipped):
            skipped.append(f"and {self.num_skipped - len(skipped):,} more lines")
        starts = dict.fromkeys(start for start in self.sessions if start < len(self.records))  # one without a step
        return RecordedRun(
            records=tuple(self.records),
            incidents=tuple(self.incidents),
            skipped=tuple(skipped),
            models=tuple(self.models),
            sessions=tuple(starts),
            incidents_at=tuple(self.incidents_at),
            summary=self.summary,
        )

    def skip(self, what: str) -> None:
        """Name what could not be read."""
        self.num_skipped += 1
        if len(self.skipped) < MAX_SKIPPED:
            self.skipped.append(what)

    def take(self, index: int, line: str) -> None:
        try:
            data = json.loads(line)
            kind = data.pop("type")
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            torn = "" if line.endswith("\n") else ", torn off: the run was killed while it was written"
            self.skip(f"line {index}: not a line of gradwatch{torn}")
            return
        if kind == "run":
            self._start(index, data)
        elif self.readable:
            self._keep(index, kind, data)

    def _start(self, index: int, data: dict[str, Any]) -> None:
        self.layers.clear()
        self.model = self.summary = None
        self.sessions.append(len(self.records))
        self.readable = data.get("version") == VERSION
        if not self.readable:
            version = data.get("version")
            self.skip(f"line {index}: a run of version {version!r}; this gradwatch reads version {VERSION}")

    def _keep(self, index: int, kind: object, data: dict[str, Any]) -> None:
        try:
            if kind == "layers":
                self.layers[data["optimizer"]] = tuple(Layer.from_json(layer) for layer in data["layers"])
            elif kind == "step":
                self.records.append(StepRecord.from_json(data, self.layers[data["optimizer"]]))
                self.models.append(self.model)
            elif kind == "model":
                self.model = ModelInfo.from_json(data)
            elif kind == "incident":
                self.incidents.append(Incident.from_json(data))
                self.incidents_at.append(len(self.records))
            elif kind == "summary":
                self.summary = summary_from_json(data)
            else:
                self.skip(f"line {index}: unknown type {_short(kind)}")
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            self.skip(f"line {index}: a {kind} that does not fit ({type(error).__name__}: {_short(error)})")


def _short(value: object, limit: int = 100) -> str:
    text = str(value) if isinstance(value, BaseException) else repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _open_to_append(path: str) -> TextIO:
    """Open ``path`` at the start of a new line: the last one may have been torn by a kill."""
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)  # noqa: PTH103, PTH120
        with open(path, "ab+") as file:  # noqa: PTH123
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
        return open(path, "a", encoding="ascii", newline="\n")  # noqa: PTH123
    except OSError as error:
        raise LogdirError(
            f"gradwatch: path={path!r} cannot be written ({error.strerror or error}): "
            "give a file in a directory that this process may write to"
        ) from error
