"""A recording from the packed statistics of a TensorBoard log, wherever its tags are read from."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from gradwatch._sources.protocol import STATISTICS
from gradwatch._sources.sessions import Session, in_vain, valid
from gradwatch._sources.tables import Part, Table, join, module_of, within
from gradwatch._summary_json import summary_from_json
from gradwatch.records import Incident, Layer, LocalNorms, ModelInfo, RunSummary, TimeProfile
from gradwatch.tensorboard_plugin import metadata

_DAMAGED = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)
T = TypeVar("T")


class Store(Protocol):
    """Where the tags of one run are kept: event files, or TensorBoard's own data provider."""

    def contents(self) -> Mapping[str, bytes]:
        """Every tag of the plugin, with the plugin content of its first event."""

    def numbers(self, tag: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Steps ``[T]`` and values ``[T, L]`` of a packed statistic, in the order of writing."""

    def texts(self, tag: str) -> Iterable[tuple[int, Sequence[str]]]:
        """Step and strings of each event of a tag with JSON, in the order of writing."""


@dataclass
class _Written:
    """The tags of one session by what they hold, segments in order; ``None`` in place of the optimizer for all."""

    tags: dict[tuple[int | None, str], list[str]] = field(default_factory=dict)


class PackedRecording:
    """A run from its packed tags (:class:`gradwatch.recording.Recording`). Tags are read when they are asked for.

    Args:
        store: Where they are.
        skipped: In words, what the store could not read.
    """

    def __init__(self, store: Store, skipped: Iterable[str] = ()) -> None:
        self._store = store
        self._skipped = list(dict.fromkeys(skipped))
        self._contents = dict(store.contents())
        self._written: dict[str, _Written] = {}
        foreign: dict[int, int] = {}
        places = {tag: place for tag in self._contents if (place := metadata.parse_tag(tag)) is not None}
        for tag, place in sorted(places.items(), key=lambda item: (item[1].session, item[1].segment)):
            if place.version != metadata.VERSION:
                foreign[place.version] = foreign.get(place.version, 0) + 1
                continue
            known = self._written.setdefault(place.session, _Written())
            known.tags.setdefault((place.optimizer, place.what), []).append(tag)
        for version, count in foreign.items():
            self._skip(f"{count:,} tags of wire format {version}; this gradwatch reads {metadata.VERSION}")

    @functools.cached_property
    def sessions(self) -> tuple[Session[str], ...]:
        """What each process wrote, in order of time; ``rows`` is the session's name."""
        return tuple(
            Session(self._first_step(name), tuple(self._texts(name, None, "incidents", Incident.from_json)), name)
            for name in self._written
        )

    @functools.cached_property
    def optimizers(self) -> tuple[int, ...]:
        """Their indices, ascending."""
        known = {key[0] for written in self._written.values() for key in written.tags if key[1] == "grad_norm"}
        return tuple(sorted(index for index in known if index is not None))

    @functools.cached_property
    def statistics(self) -> tuple[str, ...]:
        """Those that have a value."""
        known = {what for written in self._written.values() for _, what in written.tags}
        return tuple(name for name in STATISTICS if name in known)

    @functools.cached_property
    def incidents(self) -> tuple[Incident, ...]:
        """In order of step; those of steps that a resumed session has repeated are its own."""
        kept = [i for session, limit in valid(self.sessions) for i in session.incidents if i.step < limit]
        return tuple(sorted(kept, key=lambda incident: incident.step))

    @property
    def skipped(self) -> tuple[str, ...]:
        """In words, what could not be read or is not shown."""
        gone = in_vain(self.sessions)  # reads the incidents, which may add to the list
        return (*self._skipped, *gone)

    @functools.cached_property
    def summary(self) -> RunSummary | None:
        """As the last session wrote it at its end; None where it still runs or was killed."""
        if not self._written:
            return None
        found = list(self._texts(list(self._written)[-1], None, "summary", summary_from_json))
        return replace(found[-1], incidents=self.incidents) if found else None

    @property
    def is_running(self) -> bool | None:
        """False where it has come to its end; else a log cannot tell."""
        return None if self.summary is None else False

    @functools.cached_property
    def model(self) -> ModelInfo | None:
        """What was last known of the model."""
        for session in reversed(self._written):
            if found := list(self._texts(session, None, "model", ModelInfo.from_json)):
                return found[-1]
        return None if self.summary is None else self.summary.model

    def layers(self, optimizer: int = 0) -> tuple[Layer, ...]:
        """The parameters of an optimizer in the model's order; names and modules alone in an older log."""
        known: dict[str, Layer] = {}
        for session in self._written:
            for layers in self.layers_written(session, optimizer):
                known.update((layer.name, layer) for layer in layers)
        names = self.names(optimizer)
        return tuple(known[name] if name in known else Layer(name, module_of(name)) for name in names)

    def layers_written(self, session: str, optimizer: int) -> list[tuple[Layer, ...]]:
        """Every list of layers that a session wrote for an optimizer, in order."""
        return list(self._texts(session, optimizer, "layers", lambda data: tuple(Layer.from_json(one) for one in data)))

    def names(self, optimizer: int = 0) -> tuple[str, ...]:
        """The parameters of an optimizer in the model's order."""
        empty = np.empty(0, np.int64)
        parts = [
            Part(names, empty, np.empty((0, len(names)), np.float32))
            for session in self._written
            for tag in self._tags(session, optimizer, "grad_norm")
            if (names := self._names(tag)) is not None
        ]
        return join(parts, "grad_norm").names

    def table(self, statistic: str, optimizer: int = 0, *, first: int | None = None, last: int | None = None) -> Table:
        """One statistic; see :meth:`gradwatch.recording.Recording.table`."""
        parts = []
        for session, limit in valid(self.sessions):
            until = last if limit == float("inf") else int(min(limit - 1, limit if last is None else last))
            for part in self.parts(session.rows, statistic, optimizer):
                inside = within(part, first, until)
                if inside is not None:
                    parts.append(inside)
        return join(parts, statistic, metadata.SCALARS if statistic == "scalars" else self.names(optimizer))

    def parts(self, session: str, statistic: str, optimizer: int) -> Iterator[Part]:
        """The segments of one statistic of one session, as far as they can be read."""
        for tag in self._tags(session, optimizer, statistic):
            steps, values = self._store.numbers(tag)
            if values.ndim == 2:  # noqa: PLR2004
                yield Part(self._names_for(tag, statistic, optimizer, values.shape[1]), steps, values)

    def through_time(self, step: int | None = None) -> tuple[tuple[int, TimeProfile], ...]:
        """The learning signal through time at the last sampled step up to ``step``."""
        found = []
        for optimizer in self.optimizers:
            latest: tuple[int, tuple[TimeProfile, ...]] | None = None
            for at, profiles in self.profiles_through_time(optimizer):
                if step is None or at <= step:
                    latest = at, profiles
            if latest is not None:
                found += [(latest[0], profile) for profile in latest[1]]
        return tuple(found)

    def profiles_through_time(
        self, optimizer: int, only: str | None = None
    ) -> Iterator[tuple[int, tuple[TimeProfile, ...]]]:
        """Every sampled step of an optimizer with its profiles: of one session, or of all without repeated steps."""
        for session, limit in valid(self.sessions):
            if only not in (None, session.rows):
                continue
            for tag in self._tags(session.rows, optimizer, "through_time"):
                for step, texts in self._store.texts(tag):
                    if step < limit or only is not None:
                        yield step, tuple(self._parsed(tag, texts, TimeProfile.from_json))

    def local_norms(self, session: str, optimizer: int) -> dict[int, LocalNorms]:
        """What a session wrote of the ranks' own norms, by step."""
        return {
            step: norms
            for tag in self._tags(session, optimizer, "local_norms")
            for step, texts in self._store.texts(tag)
            for norms in self._parsed(tag, texts, LocalNorms.from_json)
        }

    def models(self, session: str) -> list[tuple[int, ModelInfo]]:
        """From which step on a session knew what of the model."""
        return [
            (step, model)
            for tag in self._tags(session, None, "model")
            for step, texts in self._store.texts(tag)
            for model in self._parsed(tag, texts, ModelInfo.from_json)
        ]

    # ----------------------------------------------------------------------------------------------------- the parts

    def _tags(self, session: str, optimizer: int | None, what: str) -> list[str]:
        return self._written[session].tags.get((optimizer, what), [])

    def _names(self, tag: str) -> tuple[str, ...] | None:
        try:
            layers = metadata.parse_content(self._contents[tag])["layers"]
        except _DAMAGED:
            return None
        return tuple(map(str, layers)) if isinstance(layers, list) else None

    def _names_for(self, tag: str, statistic: str, optimizer: int, width: int) -> tuple[str, ...]:
        """The names of a tag's columns; where its first event is lost, those of another tag, else numbers."""
        names = self._names(tag)
        if names is not None and len(names) == width:
            return names
        if statistic == "scalars":
            return metadata.SCALARS[:width]
        if len(others := self.names(optimizer)) == width:
            return others
        self._skip(f"{tag}: the names of its layers are lost, so that they are numbered")
        return tuple(f"layer {index}" for index in range(width))

    def _first_step(self, session: str) -> int | None:
        firsts = []
        for (_, what), tags in self._written[session].tags.items():
            if what in ("grad_norm", "scalars"):
                steps, _ = self._store.numbers(tags[0])
                if len(steps):
                    firsts.append(int(steps.min()))
        return min(firsts, default=None)

    def _texts(self, session: str, optimizer: int | None, what: str, parse: Callable[[Any], T]) -> Iterator[T]:
        for tag in self._tags(session, optimizer, what):
            for _, texts in self._store.texts(tag):
                yield from self._parsed(tag, texts, parse)

    def _parsed(self, tag: str, texts: Iterable[str], parse: Callable[[Any], T]) -> Iterator[T]:
        for text in texts:
            try:
                yield parse(json.loads(text))
            except _DAMAGED as error:
                self._skip(f"{tag}: an entry that does not fit ({type(error).__name__})")

    def _skip(self, text: str) -> None:
        if text not in self._skipped:
            self._skipped.append(text)
