"""Which optimizer is which: one :class:`Track` each, with an index that survives a resume."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from gradwatch._layout import Layout, Layouts
from gradwatch._measurement import BeforeClip, Identity, Measurement, Track, remember_before_clip
from gradwatch._partial import PartialSteps
from gradwatch._statistics import Statistics
from gradwatch.clipping import Clip


class _InsideBackward:
    """Stands for all optimizers that step inside the backward pass."""


@dataclass(frozen=True)
class _Unclaimed:
    """Clipped before the first step, when it was not known yet whose gradients these are."""

    layout: Layout
    statistics: Statistics
    versions: dict[int, tuple[Tensor, int]]
    """Of each clipped parameter (by id): its gradient and that one's version once clipped."""

    def holds(self) -> bool:
        """Whether the gradients are just what the clipping left."""
        clipped = ((p.grad, *self.versions[id(p)]) for p in self.layout.parameters if id(p) in self.versions)
        return all(now is then and now._version == version for now, then, version in clipped)  # noqa: SLF001

    def for_layout(self, layout: Layout) -> BeforeClip | None:
        """The rows of one optimizer, if any of its gradients was clipped."""
        rows = {id(parameter): row for row, parameter in enumerate(self.layout.parameters)}
        mine = [id(parameter) for parameter in layout.parameters]
        clipped = next((self.versions[i] for i in mine if i in self.versions), None)
        if clipped is None or any(i not in rows for i in mine):
            return None
        statistics = Statistics(self.statistics.data[[rows[i] for i in mine]], self.statistics.columns)
        return BeforeClip(layout, statistics, *clipped)


class Tracks:
    """The optimizers of one model.

    Args:
        model: Held weakly.
        optimizers: The only ones to watch, in the order of their indices; None for every one that owns parameters.
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[Optimizer] | None) -> None:
        self._identities: list[Identity] = []
        self.bind(model, optimizers)

    def bind(self, model: nn.Module, optimizers: Sequence[Optimizer] | None) -> None:
        """Begin with (another) model and its optimizers; indices and counters go on."""
        self.layouts = Layouts(model)
        self._only = None if optimizers is None else weakref.WeakSet(optimizers)
        self._tracks: weakref.WeakKeyDictionary[Any, Track] = weakref.WeakKeyDictionary()
        self._inside = _InsideBackward()
        self._partial = PartialSteps()
        self._unclaimed: _Unclaimed | None = None
        self.expect(optimizers or ())

    def expect(self, optimizers: Iterable[Optimizer]) -> None:
        """Number these optimizers in this order, ahead of any other."""
        for optimizer in optimizers:
            self.of(optimizer)

    def concerns(self, optimizer: Optimizer) -> bool:
        """Whether this optimizer is watched."""
        return self.layouts.owns_any(optimizer) if self._only is None else optimizer in self._only

    def live(self) -> list[Track]:
        """Those that have stepped or are expected to."""
        return list(self._tracks.values())

    def known(self, optimizer: Any) -> Track | None:
        """The track of an optimizer as its last event left it; None before the first."""
        return self._tracks.get(optimizer)

    def of(self, optimizer: Any) -> Track | None:
        """The track of an optimizer, its layout brought up to date; None if it owns nothing here."""
        return self._track(optimizer, self.layouts.of(optimizer))

    def add_partial(self, optimizer: Optimizer, measurement: Measurement, layout: Layout) -> None:
        """A share of a step inside the backward pass."""
        self._partial.add(optimizer, layout, measurement)

    def take_partial(self) -> Track | None:
        """The track of the steps inside the backward pass that is over, with its measurement pending."""
        measurement = self._partial.take(self.layouts)
        track = None if measurement is None else self._track(self._inside, self._partial.layout(self.layouts))
        if track is not None:
            track.pending = measurement
        return track

    def before_clip(self, gradients: list[Tensor], num_changes: int, clip: Clip | None, every: int) -> bool:
        """Somebody is about to clip: measure first whatever is theirs and watched.

        Returns:
            Whether a step is clipped that had been measured already.
        """
        ids = {id(gradient) for gradient in gradients}
        known = self.live()
        behind = False
        claimed = False
        for track in known:
            if not ids.isdisjoint(map(id, track.layout.gradients())):
                claimed = True
                sampled = track.is_sampled(every)
                behind |= remember_before_clip(track, clip, ids, num_changes, sampled=sampled)
        if claimed:
            self._unclaimed = None  # it would keep the first gradients alive
        elif self._only is None:
            self._remember_unclaimed(ids, num_changes, clip)
        return behind

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"identities": [asdict(identity) for identity in self._identities]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`: an optimizer of the same parameters gets its old index."""
        self._identities = [Identity(**identity) for identity in state["identities"]]
        live = list(self._tracks.items())
        self._tracks.clear()
        for key, track in live:
            self._track(key, track.layout)

    def _track(self, key: Any, layout: Layout) -> Track | None:
        track = self._tracks.get(key)
        if track is None:
            if not layout.layers:
                return None
            names = [layer.name for layer in layout.layers]
            track = self._tracks[key] = Track(self._identify(names), layout)
            if self._unclaimed is not None:
                track.before_clip = self._unclaimed.for_layout(layout)
        elif track.layout is not layout:
            track.layout, track.before_clip = layout, None
            track.identity.names = [layer.name for layer in layout.layers]
        return track

    def _identify(self, names: list[str]) -> Identity:
        """An earlier optimizer of the same parameters that is gone, or a new one."""
        taken = {track.index for track in self._tracks.values()}
        for identity in self._identities:
            if identity.index not in taken and identity.names == names:
                return identity
        self._identities.append(Identity(len(self._identities), names))
        return self._identities[-1]

    def _remember_unclaimed(self, ids: set[int], num_changes: int, clip: Clip | None) -> None:
        earlier = self._unclaimed if self._unclaimed is not None and self._unclaimed.holds() else None
        everything = self.layouts.everything() if earlier is None else earlier.layout
        clipped = {id(p): p.grad for p in everything.parameters if p.grad is not None and id(p.grad) in ids}
        if not clipped:
            return
        versions = {i: (g, g._version + num_changes) for i, g in clipped.items()}  # noqa: SLF001 - counts changes
        if earlier is not None:
            self._unclaimed = _Unclaimed(everything, earlier.statistics, {**earlier.versions, **versions})
            return
        probe = Track(Identity(-1, []), everything)
        remember_before_clip(probe, clip, ids, num_changes, sampled=True)
        assert probe.before_clip is not None
        self._unclaimed = _Unclaimed(everything, probe.before_clip.statistics, versions)
