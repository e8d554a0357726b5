"""Who wants to know of optimizer steps, and how they are told.

Listeners are held weakly. An error in a listener never reaches the training: it is told once as a warning (but what
the user asked to be raised is raised).
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradwatch.errors import GradwatchWarning, NonfiniteGradientError, warn


class Listener(Protocol):
    """What can be listened to. All are called in the thread that steps, without autograd."""

    def concerns(self, optimizer: Optimizer) -> bool:
        """Whether to be told of this optimizer's steps."""

    def before_step(self, optimizer: Optimizer) -> None:
        """The gradients of this step are complete: after the closure, right before the update."""

    def before_closure_again(self, optimizer: Optimizer) -> None:
        """The same step is about to evaluate its closure once more (LBFGS)."""

    def after_closure_again(self, optimizer: Optimizer) -> None:
        """It has: there are gradients once more."""

    def after_step(self, optimizer: Optimizer) -> None:
        """The update is done."""

    def step_skipped(self, optimizer: Optimizer) -> None:
        """A GradScaler found an overflow and did not call the optimizer."""

    def before_partial_step(self, optimizer: Optimizer) -> None:
        """An optimizer steps inside the backward pass, on its share of the gradients."""

    def after_backward(self) -> None:
        """The backward pass with such partial steps is over."""

    def before_unscale(self, optimizer: Optimizer, scale: Tensor) -> None:
        """A GradScaler is about to take ``scale`` out of the gradients."""

    def before_clip(self, gradients: list[Tensor], num_changes: int) -> None:
        """Somebody (the user, Lightning, another watch) is about to clip these gradients in place.

        ``num_changes`` is by how much this advances their version counters.
        """


_subscriptions: list[Subscription] = []
_lock = threading.RLock()


class Subscription:
    """One listener's interest; :meth:`close` ends it, any number of times.

    Args:
        listener: Held weakly; when it is gone, so is its interest.
        begin: Called when there is nobody else yet.
        end: Called when nobody is left.
    """

    def __init__(self, listener: Listener, begin: Callable[[], None], end: Callable[[], None]) -> None:
        self.listener = weakref.ref(listener, lambda _: self.close())
        self._end = end
        self._failed = self._closed = False
        with _lock:
            _subscriptions.append(self)
            if len(_subscriptions) == 1:
                begin()

    def close(self) -> None:
        """Stop listening."""
        self._closed = True
        with _lock:
            if self in _subscriptions:
                _subscriptions.remove(self)
                if not _subscriptions:
                    self._end()

    def guard(self, call: Callable[[Listener], object]) -> None:
        """Run ``call`` on the listener so that no error of ours stops the training."""
        listener = self.listener()
        if listener is None or self._closed:
            return
        try:
            if torch.is_grad_enabled():
                with torch.no_grad():
                    call(listener)
            else:
                call(listener)
        except (NonfiniteGradientError, GradwatchWarning):
            raise  # the latter only where the user turned warnings into errors
        except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
            self._tell(error)

    def is_concerned(self, optimizer: Optimizer) -> bool:
        """Whether the listener wants to know of this optimizer; asked twice a step."""
        listener = self.listener()
        if listener is None or self._closed:
            return False
        try:
            return listener.concerns(optimizer)
        except GradwatchWarning:
            raise
        except Exception as error:  # noqa: BLE001
            self._tell(error)
            return False

    def _tell(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            warn(
                "gradwatch failed while measuring; the training goes on, and what fails is not recorded and not "
                f"clipped. This is said only once ({type(error).__name__}: {error})"
            )


def concerned(optimizer: Optimizer) -> list[Subscription]:
    """Those who want to know of this optimizer."""
    return [subscription for subscription in _subscriptions.copy() if subscription.is_concerned(optimizer)]


def is_alone() -> bool:
    """Whether there is one listener only."""
    return len(_subscriptions) == 1


def tell(optimizer: Optimizer, call: Callable[[Listener], object]) -> None:
    """Tell those who want to know of this optimizer."""
    tell_these(concerned(optimizer), call)


def tell_these(subscriptions: list[Subscription], call: Callable[[Listener], object]) -> None:
    """Tell those who have just been asked whether they want to know."""
    for subscription in subscriptions:
        subscription.guard(call)


def tell_all(call: Callable[[Listener], object], *, but: Listener | None = None) -> None:
    """Tell everybody, except one where it is that one's own doing."""
    for subscription in _subscriptions.copy():
        if but is None or subscription.listener() is not but:
            subscription.guard(call)
