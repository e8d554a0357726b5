"""What a watch does to a step, where it was asked to: it clips, and it skips a step whose gradients are not finite.

A fused optimizer does both by itself, inside its kernel. For any other the gradients are scaled in place, and a step
is skipped by hiding them, which takes a look at their norm: in host memory that is free, elsewhere it is not done.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from gradwatch import _fused
from gradwatch import _measurement as step
from gradwatch._audit import CANNOT_SKIP, CLIPPED_TWICE, INSIDE_BACKWARD, ClipAudit
from gradwatch._listeners import Listener, concerned, is_alone, tell_all
from gradwatch._loans import Loans
from gradwatch._steps import has_step_hook
from gradwatch._transfer import look, on_host
from gradwatch.clipping import Clip, ClipNorm, cuts
from gradwatch.errors import NonfiniteGradientError

_INSIDE_BACKWARD = "it steps inside the backward pass, before the total norm is known"
_NO_HOOK = "it fires no step hook"
_LINE_SEARCH = "it evaluates its closure several times a step"
_WOULD_WAIT = "its gradients are not in host memory, and without fused=True the host would have to wait for their norm"


class Intervention:
    """Our own clipping rule and the policy for non-finite steps.

    Args:
        clip: The rule, None for none.
        skip_if_nonfinite: Whether a step whose total norm is not finite is skipped.
        audit: Says once what cannot work.
    """

    def __init__(self, clip: Clip | None, audit: ClipAudit, *, skip_if_nonfinite: bool) -> None:
        self._rule = clip
        self._skips = skip_if_nonfinite
        self._audit = audit
        self._loans = Loans()
        self._divisions = _fused.Divisions()
        self._unfilled: list[Tensor] = []

    def clip(self, track: step.Track, optimizer: Any, *, but: Listener) -> None:
        """Clip the gradients just measured, or leave it to the optimizer's step, which then clips for free.

        Args:
            track: Its pending measurement is of these gradients.
            optimizer: Whose they are.
            but: Who need not be told of it.
        """
        if not has_step_hook(optimizer):
            self._cannot_skip(optimizer, _NO_HOOK)
        measurement, rule = track.pending, self._rule
        if measurement is None or rule is None or measurement.incomplete:
            return
        if measurement.was_clipped:
            self._audit.say(CLIPPED_TWICE, clip=rule)
        # fused kernels take plain tensors beside plain ones; and who leaves it must be the same on every process
        leave = isinstance(rule, ClipNorm) and track.exchange is None
        leave = leave and self._divisions.possible(optimizer, track.layout)
        if not is_alone():
            leave = leave and len(concerned(optimizer)) == 1  # another watch shall find the gradients clipped
            # the kernel does not advance the version counters
            tell_all(lambda other: other.before_clip(track.layout.present_gradients(), 0 if leave else 1), but=but)
        has_scaler = measurement.scale is not None or track.loss_scale is not None
        if not leave or not isinstance(rule, ClipNorm):
            step.clip_gradients(measurement, track, rule, may_overflow=has_scaler)
            return
        try:
            coefficient = rule.coefficient(measurement.current)
        except NonfiniteGradientError:
            if not has_scaler:
                raise
            return
        measurement.clipped_norm = measurement.current.total_norm() * coefficient
        measurement.extras["own_clipped_norm"] = measurement.clipped_norm
        if cuts(coefficient):
            measurement.left_to_step = _fused.LeftToStep(coefficient)

    def clip_share(self, share: step.Measurement, track: step.Track, optimizer: Optimizer) -> None:
        """Clip what an optimizer that steps inside the backward pass takes of the gradients, as far as that can be."""
        self._cannot_skip(optimizer, _INSIDE_BACKWARD)
        if self._rule is None:
            return
        if self._rule.per_parameter:
            step.clip_gradients(share, track, self._rule)
            step.bring_up_to_date(share, track)
        else:
            self._audit.say(INSIDE_BACKWARD, clip=self._rule)

    def scale_of(self, optimizer: Optimizer) -> Any:
        """The loss scale that a GradScaler has told a fused optimizer, without what a step that raised has left."""
        self.take_back(optimizer)
        return getattr(optimizer, _fused.GRAD_SCALE, None)

    def before_step(self, track: step.Track, optimizer: Optimizer) -> None:
        """The optimizer is about to read its gradients: lend it what it needs to do our part."""
        measurement = track.pending
        if measurement is None:
            return
        step.bring_up_to_date(measurement, track)
        left, measurement.left_to_step = measurement.left_to_step, None
        if left is not None and self._rule is not None:
            if left.holds(track.layout):
                factor = _fused.divisor(left.coefficient, getattr(optimizer, _fused.GRAD_SCALE, None))
                self._loans.lend(optimizer, _fused.GRAD_SCALE, factor)
            else:  # somebody has changed them since, in a hook of Lightning's: our rule is for what they are now
                current = step.measure_gradients(track.layout, self._rule)
                changed = step.measure(track, current, self._rule, measurement.scale)
                step.clip_gradients(changed, track, self._rule)
                measurement.clipped_norm, measurement.outdated = changed.clipped_norm, False
        if isinstance(found_overflow := getattr(optimizer, _fused.FOUND_INF, None), Tensor):
            measurement.extras["skipped"] = found_overflow
        if self._skips:
            self._skip_if_nonfinite(measurement, optimizer)

    def after_step(self, optimizer: Optimizer) -> None:
        """It has read them."""
        if self._unfilled:
            found = getattr(optimizer, _fused.FOUND_INF)
            _fused.clear_if_left_out(optimizer, self._unfilled, found)
            self._unfilled = []
        self.take_back(optimizer)

    def take_back(self, optimizer: Optimizer) -> None:
        """What is left from a step that has raised."""
        self._unfilled = []
        self._loans.take_back(optimizer)

    def end(self) -> None:
        """The same from every optimizer."""
        self._loans.take_back_all()

    def foresee(self, optimizers: Iterable[Any]) -> None:
        """Say now, and not at the first bad step, where steps cannot be skipped."""
        for optimizer in optimizers if self._skips else ():
            if not has_step_hook(optimizer):
                self._cannot_skip(optimizer, _NO_HOOK)
            elif isinstance(optimizer, LBFGS):
                self._cannot_skip(optimizer, _LINE_SEARCH)
            elif not _fused.reads_scale(optimizer):
                owned = (parameter for group in optimizer.param_groups for parameter in group["params"])
                if not all(map(on_host, owned)):
                    self._cannot_skip(optimizer, _WOULD_WAIT)

    def _cannot_skip(self, optimizer: Any, why: str) -> None:
        """Say once that this optimizer's non-finite steps are taken all the same."""
        if self._skips:
            self._audit.say(CANNOT_SKIP, optimizer=type(optimizer).__name__, why=why)

    def _skip_if_nonfinite(self, measurement: step.Measurement, optimizer: Optimizer) -> None:
        total = measurement.statistics.total_norm()
        scalers = getattr(optimizer, _fused.FOUND_INF, None)
        if isinstance(optimizer, LBFGS):
            self._cannot_skip(optimizer, _LINE_SEARCH)
        elif on_host(total):
            if not math.isfinite(float(look(total))):
                self._loans.hide_gradients(optimizer)
                _note_skip(measurement, torch.ones((), dtype=torch.float32, device=total.device), scalers)
        elif _fused.reads_scale(optimizer):
            bad = (~torch.isfinite(total)).to(torch.float32)
            found = _note_skip(measurement, bad, scalers)
            self._unfilled = _fused.buffers_to_come(optimizer)
            self._loans.lend(optimizer, _fused.FOUND_INF, found)
        else:
            self._cannot_skip(optimizer, _WOULD_WAIT)


def _note_skip(measurement: step.Measurement, bad: Tensor, scalers: object) -> Tensor:
    """Note for the record whether the step is skipped, and whether by us alone; return the former."""
    found, ours = bad, bad
    if isinstance(scalers, Tensor):
        overflow = scalers.to(bad.device, non_blocking=True)
        found, ours = torch.maximum(overflow, bad), bad * (overflow == 0)
    measurement.extras["skipped"], measurement.extras["held_back"] = found, ours
    return found
