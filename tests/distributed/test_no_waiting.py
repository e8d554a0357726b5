"""An exchange waits for no device: all around its two collectives runs on tensors without values."""

from __future__ import annotations

import pytest
import torch
from ranks import on_ranks
from torch import Tensor
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from gradwatch._distributed import Exchange, Form, Share
from gradwatch._distributed_buckets import BucketTap, _total
from gradwatch._distributed_roster import Holding
from gradwatch._distributed_world import World
from gradwatch._measuring import _measurement
from gradwatch._statistics import ALWAYS, Column, Statistics
from gradwatch.clipping import ClipNorm
from gradwatch.records import Layer


class _Silent(World):
    """gloo has no collectives for the meta device: these two are left out, everything else is as it is."""

    def add(self, values: Tensor) -> Tensor:
        """Of one process alone."""
        return values

    def largest(self, values: Tensor) -> Tensor:
        """Likewise."""
        return values


def without_values() -> tuple[str, int]:
    """Where the clip coefficient is after an exchange on the meta device; and how many ranks it was over."""
    columns = (*ALWAYS, Column.ABS_MAX)
    own = Holding(dist.get_rank(), (Layer("a.weight", "a", "Linear", (2, 2)),), (2,), (0,))
    exchange = Exchange(_Silent((dist.group.WORLD,), {}), own, torch.device("meta"))
    data = torch.zeros((1, len(columns)), dtype=torch.float64, device="meta")
    statistics = Statistics(data, columns)
    loss = torch.zeros((), device="meta")
    form = Form(columns, sampled=True, num_updated=1)
    whole = exchange.reduce(
        Share(statistics, statistics, statistics, loss=loss, update=data[:, :2]), form, exchange.view
    )
    measurement = _measurement(whole, form, None)
    return ClipNorm(1.0).coefficient(measurement.current).device.type, len(whole.ranks)


def test_an_exchange_waits_for_no_device():
    """On the meta device any look at a value is an error."""
    assert on_ranks(without_values) == [("meta", 2)] * 2


class _Bucket:
    """As DDP hands it over, on the meta device."""

    def index(self) -> int:
        """The first one."""
        return 0

    def is_last(self) -> bool:
        """And the only one."""
        return True

    def parameters(self) -> list[Tensor]:
        """Nobody asks for their values."""
        return []


def bucket_without_values() -> tuple[list[str], Exception | None]:
    """Where the squared norm of a bucket on the meta device is, and what went wrong."""
    tap = BucketTap(DistributedDataParallel(torch.nn.Linear(2, 2)))
    for dtype in (torch.float32, torch.bfloat16):
        tap._look(_Bucket(), torch.empty(1000, dtype=dtype, device="meta"))
    total = _total(tap._squares, torch.device("meta"))
    return [total.device.type, str(total.dtype)], tap.error


def test_a_bucket_is_read_without_waiting_for_its_device():
    """The hook runs in the middle of the backward pass."""
    assert on_ranks(bucket_without_values) == [(["meta", "torch.float64"], None)] * 2


def test_the_proof_can_fail():
    """A look is seen there."""
    with pytest.raises(RuntimeError):
        torch.zeros((), device="meta").item()
