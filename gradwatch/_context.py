"""The entrance for plain torch: a context manager round the training loop."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import Self

from gradwatch import _options
from gradwatch._distributed_world import rank_and_size
from gradwatch._judges import Judges
from gradwatch._ledger import Ledger
from gradwatch._listeners import Subscription
from gradwatch._monitor import Monitor
from gradwatch._probes.schedule import Probes
from gradwatch._readout import Readout
from gradwatch._taps import listen
from gradwatch._voice import announce, is_speaker
from gradwatch.clipping import Clip
from gradwatch.detectors import Detector
from gradwatch.errors import GradwatchWarning, warn
from gradwatch.suppression import Suppression
from gradwatch.writers import Writer
from gradwatch.writers.console import ConsoleWriter

_PATIENCE = 1.0
"""Seconds that the records of fast steps may wait for one another. A user's own detector or writer gets each at once,
and ``max_overhead`` could not tell what a look has cost."""


def watch(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    *,
    logdir: str | os.PathLike[str] | None = None,
    clip: Clip | None = None,
    detectors: Iterable[Detector] | None = None,
    writers: Iterable[Writer] | None = None,
    suppress: Iterable[Suppression] = (),
    every: int | None = None,
    history: int = _options.HISTORY,
    probes: Probes | bool = True,
    skip_if_nonfinite: bool = False,
    max_overhead: float | None = None,
    local_norms: bool = False,
) -> Watch:
    """Watch every layer's gradient at every optimizer step.

    ::

        with gradwatch.watch(model):
            ...  # the training loop as it is

    Args:
        model: What is trained. Nothing is set on it, and it is not kept alive.
        optimizer: One or several to narrow the watch to; by default every optimizer that owns parameters of the model
            is found by itself when it steps.
        logdir: Where TensorBoard logs go; by default nothing is written to disk.
        clip: A clipping rule, applied right before each step, such as ``gradwatch.ClipNorm(1.0)``.
        detectors: What judges the records, by default ``gradwatch.detectors.default_detectors()``.
        writers: Where records and incidents go, besides ``logdir``; by default the terminal. ``[]`` for nowhere.
        suppress: Incidents that are expected: ``gradwatch.Suppression(...)``. The summary says what they kept quiet.
        every: Gradient maxima, weight norms and update ratios are measured on every n-th step; norms on every one. By
            default on every 10th of the first hundred steps, where most faults are, and on every 20th from there on.
        history: Number of records kept in ``.history``.
        probes: What is looked at in the forward pass, and how often: ``gradwatch.Probes(...)``, or False for nothing.
        skip_if_nonfinite: Skip every step whose total norm is not finite: weights, the optimizer's state and its count
            of steps stay as they are, the record says ``skipped``, and the incident is told all the same. On an
            accelerator only with ``fused=True`` (Adam, AdamW, SGD, Adagrad): for any other the host would have to wait.
        max_overhead: The largest share of the run that watching may take, such as 0.01: from the fifth step on, samples
            and probes are left out where they would exceed it, and the summary says so. Norms are measured at every
            step, whatever they cost. By default nothing is left out; nor is it where many processes share the model,
            for each has a clock of its own, and all have to look at the same steps.
        local_norms: Also record the norm that the gradient had on each rank before DDP averaged it, how far these are
            apart, and the gradient noise scale, which tells whether more ranks or larger batches pay off
            (``StepRecord.local_norms``). Costs one more look at the gradients and one small all-reduce a step; has to
            be the same on all ranks, and registers DDP's one communication hook, at the first step and for good: a hook
            of your own is to be registered before. Where they cannot be had, ``StepRecord.unavailable`` says why.

    On many processes every rank opens a watch, whatever it holds of the model: records, incidents and decisions are the
    same on all of them, and the first one alone writes and prints.

    Returns:
        A running watch: use it in a ``with`` statement, or call ``close()`` at the end.

    Raises:
        ArgumentTypeError: An argument has a wrong type (also a ``TypeError``).
        ArgumentValueError: An argument has a wrong value, or the model has nothing to train (also a ``ValueError``).
        LogdirError: ``logdir`` cannot be written (also an ``OSError``).
    """
    rule = _options.check_clip(clip)
    _options.check_model(model, rule)
    optimizers = _options.check_optimizers(optimizer, model)
    judging = _options.check_detectors(detectors)
    judges = Judges(judging, _options.check_suppressions(suppress, judging))
    num_every, num_history = _options.check_every(every), _options.check_count("history", history)
    outlets: list[Writer] = [ConsoleWriter()] if writers is None else _options.check_writers(writers)
    if not is_speaker():
        outlets = []
    elif logdir is not None:
        outlets = [*outlets, _tensorboard(logdir)]
    share = _options.check_share("max_overhead", max_overhead)
    all_ours = all(type(one).__module__.startswith("gradwatch.") for one in (*outlets, *judging))
    waits = all_ours and share is None and rank_and_size()[1] == 1  # what goes wrong on one rank is told at once
    patience = _PATIENCE if waits else 0.0
    return Watch(
        Monitor(
            model,
            optimizers,
            clip=rule,
            ledger=Ledger(judges, outlets, num_history, patience=patience),
            every=num_every,
            probes=_options.check_probes(probes),
            skip_if_nonfinite=_options.check_skip(skip_if_nonfinite, rule),
            max_overhead=share,
            local_norms=_options.check_flag("local_norms", local_norms),
        )
    )


class Watch(Readout):
    """A running watch; made by :func:`watch`. Readable during the run and after ``close()``."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor: Monitor = monitor
        self._subscription = listen(monitor)
        self._finalizer = weakref.finalize(self, _abandon, monitor, self._subscription)

    def __enter__(self) -> Self:
        if not self._finalizer.alive:
            warn("gradwatch: this watch is closed and sees nothing more; make a new one with gradwatch.watch(model)")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(quietly=kind is not None)

    def loss(self, loss: Tensor | float) -> None:
        """Tell the loss of a (micro-)batch, before the optimizer steps; its mean goes into the step's record.

        Args:
            loss: A tensor with one element, or a number. Not waited for.

        Raises:
            ArgumentTypeError: It is neither.
            ArgumentValueError: It has other than one element.
        """
        self._monitor.add_loss(loss)

    def observe(self, optimizer: Any) -> None:
        """Measure (and clip) now, for an optimizer that fires no step hook: call it right before its step.

        Args:
            optimizer: Any object; with ``param_groups`` only their parameters are looked at, else all of the model.

        Raises:
            ArgumentTypeError: It cannot be told from others: it is not hashable or not weakly referable.
        """
        inner = _options.check_observable(optimizer)
        self._subscription.guard(lambda _: self._monitor.begin(inner))

    def state_dict(self) -> dict[str, Any]:
        """Counters, the detectors' baselines and incidents, in plain values (``torch.load(weights_only=True)``)."""
        return self._monitor.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state, before the first step.

        Raises:
            StateError: It is not the state of a watch, or of a later version (also a ``ValueError``).
        """
        self._monitor.load_state_dict(state)

    def close(self) -> None:
        """Stop watching: hooks go, what is under way arrives, files are flushed. Any number of times."""
        self._close(quietly=False)

    def _close(self, *, quietly: bool) -> None:
        if self._finalizer.detach() is None:
            return
        _finish(self._monitor, self._subscription)
        if not quietly and self._monitor.num_steps == 0:
            announce(
                "gradwatch saw no optimizer step, so it has measured nothing. Did the optimizer own this model's "
                "parameters, and did it step while the watch was open? An optimizer that is no torch.optim.Optimizer "
                "fires no hook: call watch.observe(optimizer) right before its step"
            )


def _finish(monitor: Monitor, subscription: Subscription) -> None:
    subscription.close()
    try:
        monitor.close()
    except GradwatchWarning:
        raise  # only where the user turned warnings into errors
    except Exception as error:  # noqa: BLE001 - it must not hide an exception of the training's
        warn(f"gradwatch failed while it closed ({type(error).__name__}: {error}); what was written before is safe")


def _abandon(monitor: Monitor, subscription: Subscription) -> None:
    """The watch was never closed, and nobody holds it any more."""
    if monitor.num_steps == 0:
        warn("gradwatch: a watch was dropped before any step: use `with gradwatch.watch(model):` or keep the result")
    monitor.abandoned = True
    _finish(monitor, subscription)


def _tensorboard(logdir: str | os.PathLike[str]) -> Writer:
    from gradwatch.writers.tensorboard import TensorBoardWriter

    return TensorBoardWriter(logdir)
