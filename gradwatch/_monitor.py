"""The core: the order of the pipeline, the counters and the state. It only sequences.

gradients -> statistics -> clipping -> transfer -> StepRecord -> detectors -> diagnosis -> writers
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from gradwatch import _measurement as step
from gradwatch._arrivals import Arrivals
from gradwatch._audit import CLIPPED_TWICE, SCALED_GRADIENTS
from gradwatch._budget import Budget
from gradwatch._intervention import Intervention
from gradwatch._ledger import Ledger
from gradwatch._measuring import Measuring
from gradwatch._price import Price, event
from gradwatch._probes.loss_reader import LossReader
from gradwatch._probes.schedule import Probes
from gradwatch._steps import has_step_hook, running_backward
from gradwatch._tracks import Tracks, track_of
from gradwatch.clipping import Clip
from gradwatch.errors import StateError, damaged_state_is_told
from gradwatch.records import RunSummary
from gradwatch.writers import Writer

_STATE_VERSION = 1


class Monitor:
    """Listens to optimizer steps (:class:`gradwatch._listeners.Listener`) and turns each into one record.

    Args:
        model: Held weakly.
        optimizers: The only ones to watch; None for every one that owns parameters of the model.
        clip: Our own clipping rule.
        ledger: Gets every record.
        every: Maxima, weights and updates are looked at on every n-th step of an optimizer; None for the default.
        probes: What else is looked at, and how often; None for nothing.
        skip_if_nonfinite: Whether a step whose total norm is not finite is skipped.
        max_overhead: The share of the run above which what is optional is left out; None for no limit.
        local_norms: Whether the ranks' own norms are asked for.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer] | None,
        *,
        clip: Clip | None,
        ledger: Ledger,
        every: int | None,
        probes: Probes | None,
        skip_if_nonfinite: bool,
        max_overhead: float | None,
        local_norms: bool,
    ) -> None:
        self.num_steps = 0
        self.abandoned = False
        self.ledger = ledger
        self._clip = clip
        self._every = every
        self.price = Price()
        self._budget = Budget(self.price, max_overhead)
        self._tracks = Tracks(model, optimizers, probes, self._budget, local_norms=local_norms)
        self._intervention = Intervention(clip, ledger.audit, skip_if_nonfinite=skip_if_nonfinite)
        self._intervention.foresee(optimizers or ())
        self._loss = LossReader(lambda: self._tracks.layouts)
        self.arrivals = Arrivals(every, self.ledger, self._tracks)
        self._measuring = Measuring(clip, every, self._loss, self.arrivals, self._tracks)

    def bind(self, model: nn.Module, optimizers: Sequence[Optimizer] | None, writers: Iterable[Writer]) -> None:
        """Go on with another model, other optimizers or writers; counters, baselines and history stay."""
        self._tracks.bind(model, optimizers)
        self.ledger.write_to(writers)

    def expect(self, optimizers: Iterable[Optimizer]) -> None:
        """Number these optimizers in this order."""
        self._tracks.expect(given := list(optimizers))
        self._intervention.foresee(given)

    @event
    def add_loss(self, loss: Tensor | float, graph: Tensor | None = None) -> None:
        """Take one micro-batch's loss for the step to come, and the tensor with its graph where that is another."""
        self._loss.add(loss, graph)

    def concerns(self, optimizer: Optimizer) -> bool:
        """Whether this optimizer is watched."""
        return self._tracks.concerns(optimizer)

    @event
    def begin(self, optimizer: Any, scale: Tensor | float | None = None) -> None:
        """The gradients are complete, and torch's own hook is still to come, if it comes at all."""
        if (track := track_of(self._tracks, optimizer, quick=True)) is None:
            return
        if track.pending is not None and track.pending.closed:
            return
        if (steps := has_step_hook(optimizer)) and self._measuring.can_wait(track):
            return
        self._measure(track, optimizer, scale)
        if track.pending is not None:
            track.pending.wait_for_step(track.layout)
        if not steps:
            self._emit(track, moved=False)

    @event
    def before_step(self, optimizer: Optimizer) -> None:
        """The gradients are complete: measure, look, clip."""
        if (track := track_of(self._tracks, optimizer, quick=True)) is None:
            return
        if track.pending is None or not track.pending.early:
            self._measure(track, optimizer, self._intervention.scale_of(optimizer))
        assert track.pending is not None
        track.pending.early = False
        self._intervention.before_step(track, optimizer)

    @event
    def before_closure_again(self, optimizer: Optimizer) -> None:
        """LBFGS evaluates its closure again: the record stays that of the first evaluation."""
        if (track := track_of(self._tracks, optimizer)) is not None and track.pending is not None:
            track.pending.closed = True

    @event
    def after_closure_again(self, optimizer: Optimizer) -> None:
        """It has: clip these gradients, too."""
        self._loss.take()
        if self._clip is not None and (track := track_of(self._tracks, optimizer)) is not None:
            step.clip_gradients(self._measuring.again(track, self._clip), track, self._clip)

    @event
    def after_step(self, optimizer: Optimizer) -> None:
        """The update is done: send what was measured on its way."""
        self._intervention.after_step(optimizer)
        track = self._tracks.known(optimizer)
        if track is None or track.pending is None:  # an optimizer that did not evaluate its closure
            if (track := track_of(self._tracks, optimizer)) is None:
                return
            self._measure(track, optimizer, None, skipped=False)
        self._emit(track, moved=True)

    @event
    def step_skipped(self, optimizer: Optimizer) -> None:
        """A GradScaler did not call the optimizer."""
        if (track := track_of(self._tracks, optimizer)) is not None:
            if track.pending is None or not track.pending.early:
                self._measure(track, optimizer, None, skipped=True)
            self._emit(track, moved=False, skipped=True)

    @event
    def before_partial_step(self, optimizer: Optimizer) -> None:
        """An optimizer steps inside the backward pass, on its share of the gradients."""
        layout = self._tracks.layouts.of(optimizer)
        alone = step.Track(step.Identity(-1, []), layout)
        share = step.measure_share(alone, self._clip)
        share.lr = step.learning_rate(optimizer, share)
        self._intervention.clip_share(share, alone, optimizer)
        self._tracks.add_partial(optimizer, share, layout, running_backward())

    @event
    def after_backward(self) -> None:
        """The backward pass with the partial steps is over: they were one step."""
        if (track := self._tracks.take_partial()) is not None and track.pending is not None:
            track.pending = self._measuring.complete(track, track.pending)
            self._emit(track, moved=False)

    @event
    def before_unscale(self, optimizer: Optimizer, scale: Tensor) -> None:
        """A GradScaler is about to take its factor out of the gradients."""
        if (track := track_of(self._tracks, optimizer)) is not None:
            track.loss_scale = scale.clone()  # the scaler changes it in place
            if track.before_clip is not None and track.before_clip.holds_any():
                track.before_clip.scale = track.loss_scale
                self.ledger.audit.say(SCALED_GRADIENTS)

    @event
    def before_clip(self, gradients: list[Tensor], num_changes: int) -> None:
        """Somebody else is about to clip."""
        if self._tracks.before_clip(gradients, num_changes, self._clip, self._every) and self._clip is not None:
            self.ledger.audit.say(CLIPPED_TWICE, clip=self._clip)

    def _measure(self, track: step.Track, optimizer: Any, scale: Any, *, skipped: bool | None = None) -> None:
        if track.pending is not None:
            self._emit(track, moved=False)  # the step before has raised
        measurement = track.pending = self._measuring.measure(track, optimizer, scale, skipped=skipped is True)
        if measurement.was_clipped and scale is not None:
            self.ledger.audit.say(SCALED_GRADIENTS)
        if skipped is None:  # the step is to come
            self._intervention.clip(track, optimizer, but=self)
        self._tracks.hand_over(measurement, track)

    def _emit(self, track: step.Track, *, moved: bool, skipped: bool = False) -> None:
        number, self.num_steps = self.num_steps, self.num_steps + 1
        finish = partial(step.finish, track, number, every=self._every, moved=moved, skipped=skipped)
        self.arrivals.send(track, finish)
        self.arrivals.collect()
        track.plan(self._every, self._budget)
        self._tracks.probing.prepare(self._tracks.live())

    def receive(self, *, wait: bool = False) -> None:
        """Judge and write all that has arrived on the host."""
        with self.price.lock:
            self.arrivals.collect(wait=wait)
            self.ledger.catch_up()

    def close(self) -> None:
        """Everything under way arrives, is written and flushed."""
        try:
            self._finish_steps()
        finally:
            self._intervention.end()
            self.ledger.outlets.close(self.summary)
            self._tracks.release(abandoned=self.abandoned)

    @event
    def _finish_steps(self) -> None:
        for track in self._tracks.live():
            if track.pending is not None:
                track.pending.outdated &= track.exchange is None  # the others may be gone: nothing is exchanged
                self._emit(track, moved=False)
        self.arrivals.finish()

    def summary(self) -> RunSummary:
        """The run so far."""
        self.receive()
        return self.ledger.summary(self._tracks.layouts.info, self.num_steps, self._clip, self._budget)

    def state_dict(self) -> dict[str, Any]:
        """Counters, baselines and incidents as plain values."""
        self.receive(wait=True)
        return {
            "version": _STATE_VERSION,
            "num_steps": self.num_steps,
            "tracks": self._tracks.state_dict(),
            "ledger": self.ledger.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`; a ``StateError`` for what is none of ours, or of another version."""
        if not isinstance(state, Mapping) or state.get("version") != _STATE_VERSION:
            raise StateError(f"gradwatch: this is no state_dict of a watch of version {_STATE_VERSION}")
        with damaged_state_is_told():
            num_steps = int(state["num_steps"])
            self._tracks.load_state_dict(state["tracks"])
            self.ledger.load_state_dict(state["ledger"])
            self.num_steps = num_steps
