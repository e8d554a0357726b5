"""The gradients of one rank, at the one place where they lie side by side before DDP averages them: its buckets.

DistributedDataParallel copies the gradients of a backward pass into a few buckets, and hands each to a communication
hook when all ranks are about to reduce it. With a hook the buckets hold the rank's own gradients, not yet divided by
the number of ranks (torch's documentation of ``register_comm_hook``); after micro-batches under ``no_sync()`` those
accumulated over them. Each bucket is read once more, and after the last one one small all-reduce is launched over DDP's
own group: buckets are reduced in the same order on all ranks, so this is at the same place everywhere.

What DDP would have done is done bit by bit: without a hook it multiplies dense gradients by ``1 / num_ranks`` while it
copies them (torch's ready-made ``allreduce_hook`` divides, which is another number in the last bit on 3 ranks), and
divides sparse ones. A gradient that lies in its bucket already (``gradient_as_bucket_view=True``, and not set to None
since) it divides, too, and a hook cannot tell: there is no hook on such a module unless both come to the same.

torch allows one hook for each module, before or during the training, and takes none off again. So ours is registered
once and stays; while nobody listens it averages, and nothing else. It holds no model: torch keeps it for as long as the
module, and copies of the module have none.
"""

from __future__ import annotations

import sys
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradwatch._statistics import Column, Meter
from gradwatch._transfer import on_host

JOINS = "the training runs in ddp.join(), where ranks may leave one by one"

_taps: weakref.WeakKeyDictionary[nn.Module, BucketTap] = weakref.WeakKeyDictionary()


class BucketTap:
    """Listens to the buckets of one DDP module, for any number of listeners.

    Args:
        ddp: The module; held weakly.
    """

    def __init__(self, ddp: nn.Module) -> None:
        dist: Any = sys.modules["torch.distributed"]
        self.ddp = weakref.ref(ddp)
        self.group: Any = ddp.process_group
        """Its processes, between which the gradients are averaged."""
        self.ranks = tuple(int(rank) for rank in dist.get_process_group_ranks(self.group))
        """Their numbers among all processes of the run, ``[num_ranks]``."""
        self._place = int(dist.get_rank(self.group))
        self.num_listeners = 0
        """The same on all ranks: whether anything is exchanged follows from it."""
        self.num_averaged = 0
        """Backward passes that were listened to and averaged so far."""
        self.reduced: dict[int, frozenset[int]] = {}
        """The ids of the parameters in each bucket, by its index."""
        self.error: Exception | None = None
        """What has gone wrong here first; told by whoever listens, for a warning may raise."""
        self._meters: dict[int, tuple[tuple[Any, ...], Meter]] = {}
        self._squares: list[Tensor] = []
        self._under_way: list[tuple[Any, Any, Tensor]] = []
        self._told: tuple[Tensor, Any] | None = None
        self._has_failed = False
        self._seconds = 0.0

    @property
    def joins(self) -> bool:
        """Whether ranks may run out of data one by one (``ddp.join()``): then the others go on with fewer."""
        return _joins(self.ddp())

    def on_its_way(self) -> Callable[[], Tensor]:
        """Of the last backward pass: squared norms and failures of all ranks, ``[2, num_ranks]`` float64.

        Returns:
            What waits for them (on a device its stream does, not the host) and gives them, and never raises.
        """
        if self._told is None:
            raise self.error or RuntimeError("nothing was exchanged")
        told, work = self._told

        def arrived() -> Tensor:
            try:
                work.wait()
            except Exception as error:  # noqa: BLE001 - a rank is gone: the training will learn of it by itself
                self._fail(error)
                return torch.ones_like(told)
            return told

        return arrived

    def take_seconds(self) -> float:
        """Spent on looking since this was asked last."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def average(self, bucket: Any) -> Any:
        """The future of the averaged bucket. Whatever goes wrong with our own look, all ranks reduce as often."""
        dist: Any = sys.modules["torch.distributed"]
        buffer: Tensor = bucket.buffer()
        listens = self.num_listeners > 0 and not self.joins
        if listens:
            self._look(bucket, buffer)
        if buffer.layout is torch.strided:
            buffer.mul_(1.0 / len(self.ranks))
        else:
            buffer.div_(len(self.ranks))
        work = dist.all_reduce(buffer, group=self.group, async_op=True)
        if listens and bucket.is_last():
            self._exchange(dist, buffer.device)
        if not on_host(buffer):
            return work.get_future().then(lambda future: future.value()[0])  # runs here: only a stream has to wait
        return self._completed_by_us(bucket, buffer, work)

    def _completed_by_us(self, bucket: Any, buffer: Tensor, work: Any) -> Any:
        """The future of a bucket in host memory, completed when the last one is under way: DDP waits then, anyway.

        ``then()`` would run Python in a thread of gloo's, which aborts the process where that is just about to end.
        """
        if bucket.index() == 0:  # a backward pass before may have been broken off
            self._under_way = []
        averaged: Any = torch.futures.Future()
        self._under_way.append((averaged, work, buffer))
        if bucket.is_last():
            under_way, self._under_way = self._under_way, []
            for future, reduction, reduced in under_way:
                reduction.wait()
                future.set_result(reduced)
        return averaged

    def _look(self, bucket: Any, buffer: Tensor) -> None:
        started = time.perf_counter()
        try:
            index = int(bucket.index())
            if index == 0:  # a backward pass before may have been broken off
                self._squares, self._has_failed = [], False
            meter = self._meter(index, bucket, buffer)
            self._squares.append(meter.measure([buffer])[Column.SQUARED_NORM])
        except Exception as error:  # noqa: BLE001 - the other ranks are waiting for this bucket
            self._fail(error)
        self._seconds += time.perf_counter() - started

    def _meter(self, index: int, bucket: Any, buffer: Tensor) -> Meter:
        """For a bucket of this form: DDP makes others after the first backward pass."""
        form = (buffer.shape, buffer.dtype, buffer.device, buffer.layout)
        known = self._meters.get(index)
        if known is None or known[0] != form:
            known = self._meters[index] = form, Meter([buffer])
            self.reduced = {**self.reduced, index: frozenset(map(id, bucket.parameters()))}
            if bucket.is_last():  # there were more of them before
                self.reduced = {key: ids for key, ids in self.reduced.items() if key <= index}
        return known[1]

    def _exchange(self, dist: Any, device: torch.device) -> None:
        started = time.perf_counter()
        self.num_averaged += 1
        told = torch.zeros((2, len(self.ranks)), dtype=torch.float64, device=device)
        try:
            told[0, self._place].copy_(_total(self._squares, device), non_blocking=True)
        except Exception as error:  # noqa: BLE001 - the others are about to exchange
            self._fail(error)
        if self._has_failed:
            told[0, self._place], told[1, self._place] = torch.nan, 1.0
        try:
            self._told = told, dist.all_reduce(told, group=self.group, async_op=True)
        except Exception as error:  # noqa: BLE001 - whoever broke the group, it was not the training's backward pass
            self._told = None
            self._fail(error)
        self._seconds += time.perf_counter() - started

    def _fail(self, error: Exception) -> None:
        self.error, self._has_failed = self.error or error, True


def tap_of(ddp: nn.Module) -> BucketTap | str:
    """The one tap of a DDP module, or in words why there can be none."""
    if (known := _taps.get(ddp)) is not None:
        return known
    if why := _obstacle(ddp):
        return why
    tap, module = BucketTap(ddp), _any(ddp)
    try:
        module.register_comm_hook(tap, _hook)
    except RuntimeError as error:  # a built-in hook leaves no other trace
        return f"DDP takes no hook of ours ({str(error).splitlines()[0]})"
    # listed for DDP's Python reducer, which does not run here, and would travel with copies of the module
    module._comm_hooks[:] = [pair for pair in module._comm_hooks if pair[1] is not tap]  # noqa: SLF001
    _taps[ddp] = tap
    return tap


def ddp_kind() -> type[nn.Module] | None:
    """DistributedDataParallel, where anybody has imported it."""
    kind: type[nn.Module] | None = getattr(
        sys.modules.get("torch.nn.parallel.distributed"), "DistributedDataParallel", None
    )
    return kind


def _hook(state, bucket):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - DDP refuses annotations that are text
    return state.average(bucket)


def _obstacle(ddp: nn.Module) -> str:
    """What keeps a hook of ours off a DDP module; "" for nothing."""
    module, one_hook = _any(ddp), "and torch allows one for each module"
    num_ranks, hooks = int(module.process_group.size()), module._comm_hooks  # noqa: SLF001 - no public way to ask
    name = getattr(hooks[0][0], "__qualname__", "unnamed") if hooks else ""
    found = {
        "DDP has one rank only": num_ranks == 1,
        f"DDP's mixed_precision has a communication hook of its own, {one_hook}": module.mixed_precision is not None,
        f"DDP has another communication hook ({name}), {one_hook}": bool(hooks),
        "DDP runs without buckets (torch._dynamo.config.optimize_ddp)": module._use_python_reducer,  # noqa: SLF001
        "DDP reduces some parameters past its buckets (delay_all_reduce_named_params)": bool(
            module._delay_all_reduce_params  # noqa: SLF001
        ),
        JOINS: _joins(ddp),
        f"with gradient_as_bucket_view=True on {num_ranks} ranks, no power of two, a communication hook would change "
        "the averages in the last bit": module.gradient_as_bucket_view and num_ranks & (num_ranks - 1) > 0,
    }
    return next((why for why, is_so in found.items() if is_so), "")


def _joins(ddp: nn.Module | None) -> bool:
    config = getattr(ddp, "_join_config", None)
    return bool(getattr(config, "enable", False))


def _total(squares: Sequence[Tensor], device: torch.device) -> Tensor:
    """Of all buckets, 0-dim."""
    return torch.stack([one.reshape(()).to(device, non_blocking=True) for one in squares]).sum()


def _any(ddp: nn.Module) -> Any:
    """The same, whose attributes mypy knows nothing of."""
    return ddp
