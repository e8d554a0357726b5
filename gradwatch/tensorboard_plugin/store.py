"""The tags of one run, read through TensorBoard's own data provider. No path of a file is ever seen here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorboard.data.provider import RunTagFilter

from gradwatch.tensorboard_plugin.cache import Cache
from gradwatch.tensorboard_plugin.metadata import PLUGIN_NAME

EVERY_STEP = 10**9
"""What is asked for as a number of samples: all."""

MAX_NUMBERS, MAX_TEXTS = 256 * 2**20, 32 * 2**20
"""Bytes that are kept of what was read, over all runs."""

Numbers = tuple[NDArray[np.int64], NDArray[np.float32]]
Texts = tuple[tuple[int, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Source:
    """Where a request reads.

    Attributes:
        provider: TensorBoard's data provider.
        context: Of the request.
        experiment: Its id.
    """

    provider: Any
    context: Any
    experiment: str

    def list(self, run: str | None = None) -> dict[str, dict[str, Any]]:
        """Runs, their tags and what TensorBoard knows of these; of one run where it is named."""
        chosen = None if run is None else RunTagFilter(runs=[run])
        found: dict[str, dict[str, Any]] = self.provider.list_tensors(
            self.context, experiment_id=self.experiment, plugin_name=PLUGIN_NAME, run_tag_filter=chosen
        )
        return {name: dict(tags) for name, tags in found.items() if tags}

    def read(self, run: str, tag: str) -> Sequence[Any]:
        """Every datum of one tag, in order of step."""
        found = self.provider.read_tensors(
            self.context,
            experiment_id=self.experiment,
            plugin_name=PLUGIN_NAME,
            downsample=EVERY_STEP,
            run_tag_filter=RunTagFilter(runs=[run], tags=[tag]),
        )
        data: Sequence[Any] = found.get(run, {}).get(tag, ())
        return data


class Shelves:
    """What was read, of all runs."""

    def __init__(self) -> None:
        self.numbers: Cache[Numbers] = Cache(MAX_NUMBERS, lambda value: value[0].nbytes + value[1].nbytes)
        self.texts: Cache[Texts] = Cache(MAX_TEXTS, lambda value: 64 + sum(len(t) for _, ts in value for t in ts))


class ProviderStore:
    """A :class:`gradwatch.recording.Store`.

    Args:
        source: Where to read.
        run: A key of ``source.list()``.
        tags: Its tags, as listed.
        shelves: What was read before.
    """

    def __init__(self, source: Source, run: str, tags: Mapping[str, Any], shelves: Shelves) -> None:
        self._source, self._run, self._tags, self._shelves = source, run, tags, shelves

    def contents(self) -> dict[str, bytes]:
        """Every tag with the plugin content of its first event."""
        return {tag: series.plugin_content for tag, series in self._tags.items()}

    def last_step(self, tag: str) -> int:
        """The last step of a tag, known without reading it."""
        return int(self._tags[tag].max_step)

    def last_time(self) -> float:
        """When the run was last heard of, in seconds since 1970."""
        return max((float(series.max_wall_time) for series in self._tags.values()), default=0.0)

    def state(self, tag: str) -> tuple[Any, ...]:
        """Names what the tag holds by now: a tag that has grown has another."""
        series = self._tags[tag]
        return self._source.experiment, self._run, tag, series.max_step, series.max_wall_time

    def numbers(self, tag: str) -> Numbers:
        """Steps ``[T]`` and values ``[T, L]`` of a packed statistic."""
        return self._shelves.numbers.get(self.state(tag), lambda: self._read_numbers(tag))

    def numbers_once(self, tag: str) -> Numbers:
        """The same; not kept where it was not known: for a sweep over more than would fit."""
        known = self._shelves.numbers.peek(self.state(tag))
        return self._read_numbers(tag) if known is None else known

    def texts(self, tag: str) -> Texts:
        """Step and strings of each event of a tag with JSON."""
        return self._shelves.texts.get(self.state(tag), lambda: self._read_texts(tag))

    def _read_numbers(self, tag: str) -> Numbers:
        """What does not fit the others (another tool's data, a damaged event) is left out."""
        data = [datum for datum in self._source.read(self._run, tag) if _is_row(datum.numpy)]
        if not data:
            return np.empty(0, np.int64), np.empty((0, 0), np.float32)
        width = data[-1].numpy.shape
        if any(datum.numpy.shape != width for datum in data):
            data = [datum for datum in data if datum.numpy.shape == width]
        steps = np.fromiter((datum.step for datum in data), np.int64, len(data))
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.stack([datum.numpy for datum in data]).astype(np.float32, copy=False)
        if len(steps) > 1 and (np.diff(steps) <= 0).any():
            steps, last = np.unique(steps[::-1], return_index=True)
            values = values[::-1][last]
        return steps, values

    def _read_texts(self, tag: str) -> Texts:
        data = [datum for datum in self._source.read(self._run, tag) if datum.numpy.dtype == object]
        return tuple((int(datum.step), tuple(_text(item) for item in datum.numpy.ravel())) for datum in data)


def _is_row(values: Any) -> bool:
    return bool(values.ndim == 1 and values.dtype.kind in "fiu")


def _text(item: object) -> str:
    return item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item)
