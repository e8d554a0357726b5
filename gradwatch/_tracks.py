"""Which optimizer is which: one :class:`Track` each, with an index that survives a resume."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from gradwatch._before_clip import BeforeClip
from gradwatch._budget import Budget
from gradwatch._distributed import Exchange
from gradwatch._distributed_local import LocalLook
from gradwatch._layout import Layout, Layouts, nothing
from gradwatch._measurement import Identity, Measurement, Track, look_before_clip, measure_gradients
from gradwatch._partial import PartialSteps
from gradwatch._probes.alertness import Alertness
from gradwatch._probes.schedule import Probes, Probing
from gradwatch._statistics import Statistics
from gradwatch.clipping import Clip


class _InsideBackward:
    """Stands for all optimizers that step inside the backward pass."""


class Tracks:
    """The optimizers of one model.

    Args:
        model: Held weakly.
        optimizers: The only ones to watch, in the order of their indices; None for every one that owns parameters.
        probes: What else is looked at, and how often; None for nothing.
        budget: Grants what is optional.
        local_norms: Whether the ranks' own norms are asked for.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer] | None,
        probes: Probes | None,
        budget: Budget,
        *,
        local_norms: bool,
    ) -> None:
        self._local = LocalLook(budget, wanted=local_norms)
        self._identities: list[Identity] = []
        self._probes, self._budget = probes, budget
        self._alertness = Alertness()
        self.bind(model, optimizers)

    def bind(self, model: nn.Module, optimizers: Sequence[Optimizer] | None) -> None:
        """Begin with (another) model and its optimizers; indices and counters go on."""
        self._local.bind(model)
        self.layouts = Layouts(model)
        self.probing = Probing(model, self.layouts, self._probes, self._alertness, self._budget)
        self._only = None if optimizers is None else weakref.WeakSet(optimizers)
        self._tracks: weakref.WeakKeyDictionary[Any, Track] = weakref.WeakKeyDictionary()
        self._inside = _InsideBackward()
        self._partial = PartialSteps()
        self._unclaimed: BeforeClip | None = None
        self.expect(optimizers or ())

    def expect(self, optimizers: Iterable[Optimizer]) -> None:
        """Number these optimizers in this order, ahead of any other."""
        for optimizer in optimizers:
            self.of(optimizer)
        self.probing.prepare(self.live())  # a resumed run may be due at its first step

    def concerns(self, optimizer: Optimizer) -> bool:
        """Whether this optimizer is watched."""
        try:
            self.layouts.claim(optimizer)
            return self.layouts.owns_any(optimizer) if self._only is None else optimizer in self._only
        except Exception as error:
            if self.excused(optimizer, error) is None:
                raise
            return True

    def live(self) -> list[Track]:
        """Those that have stepped or are expected to."""
        return list(self._tracks.values())

    def known(self, optimizer: Any) -> Track | None:
        """The track of an optimizer as its last event left it; None before the first."""
        return self._tracks.get(optimizer)

    def of(self, optimizer: Any, *, quick: bool = False) -> Track | None:
        """The track of an optimizer, its layout brought up to date; None if it owns nothing here.

        Args:
            optimizer: Or another object that steps.
            quick: :meth:`look` follows, and will see what a quick check does not.
        """
        return self._track(optimizer, self.layouts.of(optimizer, quick=quick))

    def look(self, track: Track, optimizer: Any, clip: Clip | None, *, sampled: bool) -> Statistics:
        """Measure the gradients of a step as they are; what they tell of a stale layout is heeded."""
        layout = track.layout
        try:
            found = measure_gradients(layout, clip, sampled=sampled)
        except (RuntimeError, ValueError):  # other shapes than promised
            self.of(optimizer)
            if track.layout is layout:
                raise
        else:
            if not layout.is_usual(found):
                self.of(optimizer)
        return found if track.layout is layout else measure_gradients(track.layout, clip, sampled=sampled)

    def excused(self, optimizer: Any, error: Exception) -> Track | None:
        """The track as it was, or an empty one: where other processes wait for us, we take part all the same."""
        if self.layouts.world is None:
            return None
        track = self._tracks.get(optimizer) or self._track(optimizer, nothing(f"{type(error).__name__}: {error}"))
        if track is not None:
            track.trouble = error
        return track

    def hand_over(self, measurement: Measurement, track: Track) -> None:
        """The gradients of a step are complete: what was seen of it beside them goes into its measurement."""
        self._local.hand_over(measurement, track)
        self.probing.hand_over(measurement, track)

    def add_partial(self, optimizer: Optimizer, measurement: Measurement, layout: Layout, backward: int) -> None:
        """A share of a step inside the backward pass of this number."""
        self._partial.add(optimizer, layout, measurement, backward)

    def take_partial(self) -> Track | None:
        """The track of the steps inside the backward pass that is over, with its measurement pending."""
        measurement = self._partial.take(self.layouts)
        track = None if measurement is None else self._track(self._inside, self._partial.layout(self.layouts))
        if track is not None and measurement is not None:
            track.pending = measurement
            self._local.hand_over(measurement, track, inside=True)
            self.probing.hand_over(measurement, track, moved=True)
        return track

    def before_clip(self, gradients: list[Tensor], num_changes: int, clip: Clip | None, every: int | None) -> bool:
        """Somebody is about to clip: measure first whatever is theirs and watched.

        Returns:
            Whether a step is clipped that had been measured already.
        """
        behind = claimed = False
        for key, track in list(self._tracks.items()):
            if key is self._inside:
                continue
            looked = track.before_clip is not None and track.before_clip.knows(gradients)
            if not looked and isinstance(key, Optimizer):
                self.of(key)  # a layer may have been unfrozen or added since the last step
            mine = gradients if looked else track.layout.among(gradients)
            if not mine:
                continue
            claimed = True
            if track.pending is not None:
                track.pending.outdated = behind = True
                continue
            sampled = track.is_sampled(every)
            track.before_clip = look_before_clip(track.before_clip, track.layout, clip, mine, sampled=sampled)
            track.before_clip.expect(mine, num_changes)
        if claimed:
            self._unclaimed = None  # it would keep the first gradients alive
        elif self._only is None:
            self._look_unclaimed(gradients, num_changes, clip)
        return behind

    def release(self, *, abandoned: bool) -> None:
        """Let go of all parameters and gradients; counters and names stay.

        Args:
            abandoned: As for :meth:`LocalLook.close`.
        """
        self.probing.stop()
        self._local.close(abandoned=abandoned)
        self._tracks.clear()
        self._partial = PartialSteps()
        self._unclaimed = None

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "identities": [asdict(identity) for identity in self._identities],
            "alertness": self._alertness.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`: an optimizer of the same parameters gets its old index."""
        self._identities = [Identity(**identity) for identity in state["identities"]]
        self._alertness.load_state_dict(state["alertness"])
        live = list(self._tracks.items())
        self._tracks.clear()
        for key, track in live:
            self._track(key, track.layout)
        self.probing.prepare(self.live())

    def _track(self, key: Any, layout: Layout) -> Track | None:
        track = self._tracks.get(key)
        if track is None:
            world, own, exchange = self.layouts.world, layout.holding, None
            if world is not None and own is not None:
                exchange = Exchange(world, own, layout.meter.device)  # all processes agree here
                self.layouts.info = exchange.roster.model or self.layouts.info
            layers = layout.layers if exchange is None else exchange.roster.layers
            if not layers:
                return None
            names = [layer.name for layer in layers]
            track = self._tracks[key] = Track(self._identify(names), layout, exchange=exchange)
            if self._unclaimed is not None:
                track.before_clip = self._unclaimed.for_layout(layout)
                self._unclaimed = self._unclaimed.without(layout)
        elif track.layout is not layout:
            track.layout, track.before_clip = layout, None
            if track.exchange is not None and layout.holding is not None:
                track.exchange.hold(layout.holding, layout.meter.device)
            track.identity.names = [layer.name for layer in track.layers]
        return track

    def _identify(self, names: list[str]) -> Identity:
        """An earlier optimizer of the same parameters that is gone, or a new one."""
        taken = {track.index for track in self._tracks.values()}
        for identity in self._identities:
            if identity.index not in taken and identity.names == names:
                return identity
        self._identities.append(Identity(len(self._identities), names))
        return self._identities[-1]

    def _look_unclaimed(self, gradients: list[Tensor], num_changes: int, clip: Clip | None) -> None:
        """Clipped before the first step, when it is not known yet whose gradients these are."""
        earlier = self._unclaimed
        layout = self.layouts.everything() if earlier is None else earlier.layout
        if mine := layout.among(gradients):
            self._unclaimed = look_before_clip(earlier, layout, clip, mine, sampled=True)
            self._unclaimed.expect(mine, num_changes)


def track_of(tracks: Tracks, optimizer: Any, *, quick: bool = False) -> Track | None:
    """The track of an optimizer; where that fails and other processes wait for us, one that takes part all the same.

    Args:
        tracks: All of them.
        optimizer: Or another object that steps.
        quick: As for :meth:`Tracks.of`.
    """
    try:
        return tracks.of(optimizer, quick=quick)
    except Exception as error:
        if (track := tracks.excused(optimizer, error)) is None:
            raise
        return track
