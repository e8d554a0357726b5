"""The runs that TensorBoard knows, each as it is by now."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

from gradwatch import wording
from gradwatch.records import Incident
from gradwatch.tensorboard_plugin.live import LiveRecording
from gradwatch.tensorboard_plugin.refused import RefusedError
from gradwatch.tensorboard_plugin.store import ProviderStore, Shelves, Source

MAX_INCIDENTS, MAX_FIRST, MAX_LAYERS = 500, 100, 50
MAX_SNAPSHOTS = 200
_RANK = ("info", "warning", "error")
_FRESH = 0.5  # seconds


class Runs:
    """Snapshots of runs: asked again within half a second, TensorBoard is not."""

    def __init__(self) -> None:
        self._shelves = Shelves()
        self._lock = threading.Lock()
        self._serials = itertools.count()
        self._snapshots: dict[tuple[str, str], tuple[Any, LiveRecording]] = {}
        self._listed: dict[tuple[str, str], float] = {}

    def all(self, source: Source) -> dict[str, LiveRecording]:
        """Every run."""
        return {run: self._snapshot(source, run, tags) for run, tags in sorted(source.list().items())}

    def one(self, source: Source, run: str) -> LiveRecording:
        """One run.

        Raises:
            RefusedError: There is none of this name.
        """
        key = source.experiment, run
        with self._lock:
            known = self._snapshots.get(key)
            if known is not None and time.monotonic() - self._listed.get(key, 0.0) < _FRESH:
                return known[1]
        tags = source.list(run).get(run)
        if tags is None:
            raise RefusedError(f"there is no run '{wording.plain(run, 80)}' with data of gradwatch; /runs lists them")
        return self._snapshot(source, run, tags)

    def _snapshot(self, source: Source, run: str, tags: dict[str, Any]) -> LiveRecording:
        key = source.experiment, run
        state = {tag: (series.max_step, series.max_wall_time) for tag, series in tags.items()}
        with self._lock:
            known = self._snapshots.pop(key, None)
            if known is None or known[0] != state:
                store = ProviderStore(source, run, tags, self._shelves)
                known = state, LiveRecording(store, next(self._serials))
            self._snapshots[key] = known
            self._listed[key] = time.monotonic()
            while len(self._snapshots) > MAX_SNAPSHOTS:
                oldest = next(iter(self._snapshots))
                del self._snapshots[oldest], self._listed[oldest]
        return known[1]


def entry(run: str, recording: LiveRecording) -> dict[str, Any]:
    """What the list of runs says of one; a run that cannot be read hides no other."""
    try:
        return _entry(run, recording)
    except Exception:
        logging.getLogger("gradwatch").exception("gradwatch: the run %s cannot be read", run[:200])
        nothing = {"last_step": -1, "steps": 0, "optimizers": [], "statistics": [], "incidents": 0, "worst": None}
        return {"run": run, "state": "unknown", **nothing, "has_through_time": False}


def _entry(run: str, recording: LiveRecording) -> dict[str, Any]:
    told = [incident.severity.value for incident, _ in recording.told]
    last = recording.last_step
    return {
        "run": run,
        "state": {True: "running", False: "finished", None: "unknown"}[recording.is_running],
        "last_step": last,
        "steps": last + 1,
        "optimizers": list(recording.optimizers),
        "statistics": list(recording.statistics),
        "incidents": len(told),
        "worst": max(told, key=_RANK.index, default=None),
        "has_through_time": recording.has_through_time,
    }


def shown(recording: LiveRecording) -> list[tuple[int, Incident, bool]]:
    """The incidents that the page lists, each with its place and whether it was in vain.

    Of too many the first ones, for what follows may follow from them, the first of each severity, and the newest.
    """
    told = recording.told
    kept: Sequence[int] = range(len(told))
    if len(told) > MAX_INCIDENTS:
        first_of_each = {incident.severity: index for index, (incident, _) in reversed([*enumerate(told)])}
        early = {*range(MAX_FIRST), *first_of_each.values()}
        newest = [index for index in kept if index not in early][len(early) - MAX_INCIDENTS :]
        kept = sorted({*early, *newest})
    return [(number, *told[index]) for number, index in enumerate(kept)]


def incidents(recording: LiveRecording) -> dict[str, Any]:
    """The answer to the list of incidents."""
    return {
        "incidents": [_incident(one, superseded=superseded) for _, one, superseded in shown(recording)],
        "total": len(recording.told),
        "skipped": list(recording.unread),
    }


def _incident(incident: Incident, *, superseded: bool) -> dict[str, Any]:
    data = incident.to_json()
    del data["evidence"]
    return {
        **data,
        "headline": wording.headline(incident),
        "layers": data["layers"][:MAX_LAYERS],
        "num_layers_named": len(incident.layers),
        "superseded": superseded,
    }
