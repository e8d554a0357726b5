"""The entrance for Lightning: a callback, for ``lightning.pytorch`` and ``pytorch_lightning`` alike.

It holds the same core as the context manager and adds what only Lightning knows: when the gradients are complete
(``on_before_optimizer_step``, after unscaling and before its own clipping), the loss, the loggers and the checkpoint.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from torch import Tensor

from gradwatch import _options
from gradwatch._judges import Judges
from gradwatch._ledger import Ledger
from gradwatch._listeners import Subscription
from gradwatch._measurement import EVERY
from gradwatch._monitor import Monitor
from gradwatch._probes.schedule import Probes
from gradwatch._readout import Readout
from gradwatch._taps import listen, scale_of
from gradwatch._voice import announce
from gradwatch.clipping import Clip
from gradwatch.detectors import Detector
from gradwatch.errors import ArgumentTypeError
from gradwatch.records import Incident, StepRecord
from gradwatch.suppression import Suppression
from gradwatch.writers import Writer
from gradwatch.writers.console import ConsoleWriter


def _callback_classes() -> tuple[type, ...]:
    """The two packages' Callback classes are unrelated: a callback of both inherits from both."""
    names = [name for name in ("lightning", "pytorch_lightning") if find_spec(name) is not None]
    if not names:
        raise ImportError(
            "gradwatch.lightning needs Lightning: pip install 'gradwatch[lightning]' (or pytorch-lightning). "
            "Without it, use `with gradwatch.watch(model):`"
        )
    modules = {"lightning": "lightning.pytorch.callbacks", "pytorch_lightning": "pytorch_lightning.callbacks"}
    return tuple(import_module(modules[name]).Callback for name in names)


if TYPE_CHECKING:

    class _Callback:
        def _generate_state_key(self, **kwargs: Any) -> str: ...

else:
    _Callback = type("_Callback", _callback_classes(), {})


class GradWatch(Readout, _Callback):
    """Watch every layer's gradient at every optimizer step of a ``Trainer``.

    ::

        Trainer(callbacks=[GradWatch(clip=gradwatch.ClipNorm(1.0))])

    Without ``logdir`` it writes through the Trainer's own loggers. Its counters and baselines live in the checkpoint.
    With ``ddp_spawn`` it runs in the spawned processes: what it saw is in the logs, not in the object in the script.

    Args:
        logdir: Where TensorBoard logs go; by default into the Trainer's loggers.
        clip: A clipping rule, applied before each step (leave the Trainer's ``gradient_clip_val`` out).
        detectors: What judges the records, by default ``gradwatch.detectors.default_detectors()``.
        writers: Where records and incidents go, besides the logs; by default the terminal. ``[]`` for nowhere.
        suppress: Incidents that are expected: ``gradwatch.Suppression(...)``. The summary says what they kept quiet.
        every: Gradient maxima, weight norms and update ratios are measured on every n-th step; norms on every one.
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

    Raises:
        ArgumentTypeError: An argument has a wrong type (also a ``TypeError``).
        ArgumentValueError: An argument has a wrong value (also a ``ValueError``).
    """

    def __init__(
        self,
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
    ) -> None:
        if logdir is not None and not isinstance(logdir, (str, os.PathLike)):
            raise ArgumentTypeError("logdir", logdir, "a path or None")
        self._logdir = None if logdir is None else os.fspath(logdir)
        self._clip = _options.check_clip(clip)
        self._detectors = _options.check_detectors(detectors)
        self._writers = None if writers is None else _options.check_writers(writers)
        self._suppress = _options.check_suppressions(suppress, self._detectors)
        self._every = _options.check_every(every)
        self._history = _options.check_count("history", history)
        self._probes = _options.check_probes(probes)
        self._skip_if_nonfinite = _options.check_skip(skip_if_nonfinite, self._clip)
        self._max_overhead = _options.check_share("max_overhead", max_overhead)
        self._local_norms = _options.check_flag("local_norms", local_norms)
        self._monitor: Monitor | None = None
        self._subscription: Subscription | None = None
        self._saved: dict[str, Any] | None = None
        self._is_evaluating = False
        self._axis: _Axis | None = None

    @property
    def state_key(self) -> str:
        """Tells two of these callbacks with different options apart in a checkpoint."""
        return self._generate_state_key(
            logdir=self._logdir,
            clip=_described(self._clip),
            detectors=[_described(detector) for detector in self._detectors],
            writers=None if self._writers is None else [_described(writer) for writer in self._writers],
            suppress=[_described(suppression) for suppression in self._suppress],
            every=self._every,
            history=self._history,
            probes=_described(self._probes),
            skip_if_nonfinite=self._skip_if_nonfinite,
            max_overhead=self._max_overhead,
            local_norms=self._local_norms,
        )

    def loss(self, loss: Tensor | float) -> None:
        """Tell a loss that Lightning does not see, such as one that ``backward()`` is called on directly."""
        if self._monitor is not None:
            self._monitor.add_loss(loss)

    def observe(self, optimizer: Any) -> None:
        """Measure (and clip) now, for an optimizer that fires no step hook: call it right before its step."""
        self._begin(_options.check_observable(optimizer), None)

    # ----------------------------------------------------------------------------------------------- Lightning's hooks

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Note what is about to run: ``test`` and the like restore callbacks from a checkpoint, too."""
        del trainer, pl_module
        self._is_evaluating = stage != "fit"

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Start to watch; a second ``fit`` goes on counting."""
        _options.check_model(pl_module, self._clip)
        writers = self._writers_for(trainer)
        if self._monitor is None:
            self._monitor = Monitor(
                pl_module,
                None,
                clip=self._clip,
                ledger=Ledger(Judges(self._detectors, self._suppress), writers, self._history),
                every=self._every,
                probes=self._probes,
                skip_if_nonfinite=self._skip_if_nonfinite,
                max_overhead=self._max_overhead,
                local_norms=self._local_norms,
            )
        else:
            self._monitor.bind(pl_module, None, writers)
        if self._saved is not None:
            self._monitor.load_state_dict(self._saved)
            self._saved = None
        self._monitor.expect(_options.unwrapped(optimizer) for optimizer in trainer.optimizers)
        self._subscription = listen(self._monitor)
        self._steps_at_start = self._monitor.num_steps

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Note where the user's own ``self.log`` values of this batch will stand."""
        del pl_module, batch, batch_idx
        if self._axis is not None:
            # private, but where Lightning's own callbacks log
            self._axis.begin_batch(self.step, int(trainer.fit_loop.epoch_loop._batches_that_stepped))  # noqa: SLF001

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Take the loss: what is handed over here is scaled, and divided by the number of micro-batches."""
        if self._monitor is None or self._subscription is None:
            return
        value = loss.detach()
        if (scale := self._loss_scale(trainer)) is not None:
            value = value / scale
        if pl_module.automatic_optimization:
            value = value * trainer.accumulate_grad_batches
        monitor = self._monitor
        self._subscription.guard(lambda _: monitor.add_loss(value, loss))

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """The gradients are complete, and nobody has clipped yet."""
        del pl_module
        handles_scale = getattr(optimizer, "_step_supports_amp_scaling", False)
        self._begin(optimizer, self._loss_scale(trainer) if handles_scale else None)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Stop watching."""
        del trainer, pl_module
        if (
            self._subscription is not None
            and self._monitor is not None
            and self._monitor.num_steps == self._steps_at_start
        ):
            announce(
                "gradwatch saw no optimizer step in this fit. Did the optimizer own parameters of the LightningModule?"
            )
        self.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Flush and stop: ``teardown`` is not called after an exception."""
        del trainer, pl_module, exception
        self._is_evaluating = False
        self.close()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Stop watching, however the run ended."""
        del trainer, pl_module, stage
        self._is_evaluating = False
        self.close()

    def state_dict(self) -> dict[str, Any]:
        """Counters, baselines and incidents in plain values, for the checkpoint."""
        if self._monitor is not None:
            return self._monitor.state_dict()
        return self._saved or {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a saved state; when testing with an old checkpoint, what the fit has found stays readable.

        Raises:
            StateError: It is not the state of a watch, or of a later version (also a ``ValueError``).
        """
        if not state_dict or self._is_evaluating:
            return
        if self._monitor is None:
            self._saved = dict(state_dict)
        else:
            self._monitor.load_state_dict(state_dict)

    def close(self) -> None:
        """Stop watching: hooks go, what is under way arrives, files are flushed. Any number of times."""
        if self._subscription is not None and self._monitor is not None:
            self._subscription.close()
            self._subscription = None
            self._monitor.close()

    def __getstate__(self) -> dict[str, Any]:
        """For ``ddp_spawn``, which pickles callbacks: the state goes along, files and hooks do not."""
        # Lightning hangs the LightningModule's own log methods on every callback, and will do so again.
        kept = {name: value for name, value in self.__dict__.items() if name not in ("log", "log_dict")}
        fresh = {"_monitor": None, "_subscription": None, "_axis": None}
        return {**kept, **fresh, "_saved": self.state_dict() or None}

    # ---------------------------------------------------------------------------------------------------- translation

    def _begin(self, optimizer: Any, scale: Tensor | None) -> None:
        if self._subscription is not None and self._monitor is not None:
            monitor = self._monitor
            self._subscription.guard(lambda _: monitor.begin(optimizer, scale))

    @staticmethod
    def _loss_scale(trainer: Any) -> Tensor | None:
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        return None if scaler is None or not scaler.is_enabled() else scale_of(scaler)

    def _writers_for(self, trainer: Any) -> list[Writer]:
        self._axis = None
        if not trainer.is_global_zero:
            return []  # one voice
        writers = [ConsoleWriter()] if self._writers is None else list(self._writers)
        if self._logdir is not None:
            from gradwatch.writers.tensorboard import TensorBoardWriter

            return [*writers, TensorBoardWriter(self._logdir)]
        if trainer.fast_dev_run:
            return writers  # its loggers are dummies
        if not trainer.loggers:
            return writers
        self._axis = _Axis()
        loggers = [_logger_writer(logger, self._axis, trainer.log_every_n_steps) for logger in trainer.loggers]
        return [*writers, self._axis, *loggers]


class _Axis:
    """Where in the user's charts a record stands: at the values of its own batch, however late it arrives.

    Written to ahead of the writers that ask it.
    """

    def __init__(self) -> None:
        self._batches: deque[tuple[int, int]] = deque([(0, 0)])

    def begin_batch(self, step: int, place: int) -> None:
        """The optimizer steps from here on belong to a batch that stands there."""
        if self._batches[-1][0] == step:  # none in the batch before
            self._batches.pop()
        self._batches.append((step, place))

    def __call__(self) -> int:
        """The place of what is being written."""
        return self._batches[0][1]

    def write(self, record: StepRecord) -> None:
        """Go to this step's batch."""
        while len(self._batches) > 1 and self._batches[1][0] <= record.step:
            self._batches.popleft()

    def write_incident(self, incident: Incident) -> None:
        """It belongs to the record before it."""

    def close(self) -> None:
        """Nothing to release."""


def _logger_writer(logger: Any, axis: _Axis, every: int | None) -> Writer:
    """Through the user's own SummaryWriter where the logger has one: a second event file would freeze their charts."""
    from torch.utils.tensorboard import SummaryWriter

    from gradwatch.writers.metrics import MetricsWriter
    from gradwatch.writers.tensorboard import TensorBoardWriter

    experiment = getattr(logger, "experiment", None)
    if isinstance(experiment, SummaryWriter):
        experiment._get_file_writer()  # noqa: SLF001 - a fit before has closed it
        return TensorBoardWriter(summary_writer=experiment, axis=axis)
    return MetricsWriter(logger.log_metrics, axis, every=every or EVERY)


def _described(part: object) -> str:
    """The same in every process: without an own ``repr``, an object shows its address."""
    return type(part).__qualname__ if type(part).__repr__ is object.__repr__ else repr(part)
