"""What the gradient was on each rank before DDP averaged it: right, the same on all ranks, and at no one's expense."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import placements
import pytest
import torch
from plans import Placed, Plan, batches, digits_net, together
from ranks import on_ranks
from test_collectives import Profiling
from test_ddp import WithSpareHead
from test_state_of_ranks import saved
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

import gradwatch
from gradwatch import _distributed_consent
from gradwatch._distributed_buckets import JOINS, BucketTap
from gradwatch._distributed_local import BEGINS, PARTLY, SHARDED
from gradwatch._noise_scale import FEWEST, WHAT
from gradwatch.errors import GradwatchWarning
from gradwatch.records import LocalNorms, StepRecord

Rows = tuple[Tensor, Tensor]


def digits_float() -> nn.Module:
    """In the dtype of nearly all training, with a layer that is read in rows."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(64, 300), nn.Tanh(), nn.Linear(300, 10))


def digits_half() -> nn.Module:
    """Gradients in bfloat16."""
    return digits_float().bfloat16()


class Embedded(nn.Module):
    """With a sparse gradient, which has a bucket of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.table = nn.Embedding(17, 6, sparse=True, dtype=torch.float64)
        self.last = nn.Linear(6, 10, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        """Each pixel by its brightness."""
        return self.last(self.table((16 * x).long()).mean(1))


def itself(ddp: DistributedDataParallel) -> nn.Module:
    """The wrapper."""
    return ddp


@dataclass(frozen=True)
class Case:
    """A training on DDP. Picklable.

    Attributes:
        net: Makes the model, always with the same weights.
        ddp: Options of the wrapper.
        num_steps: Optimizer steps.
        num_micro: Backward passes of each, all but the last under ``no_sync()``.
        set_to_none: How gradients are cleared.
        scaler: Whether there is a GradScaler.
        watched: From the wrapper to what is watched; None for no watch at all.
        same: Whether all ranks read the same rows.
        watch: Options of the watch.
    """

    net: Callable[[], nn.Module] = digits_net
    ddp: dict[str, Any] = field(default_factory=dict)
    num_steps: int = 4
    num_micro: int = 1
    set_to_none: bool = True
    scaler: bool = False
    watched: Callable[[DistributedDataParallel], nn.Module] | None = itself
    same: bool = False
    watch: dict[str, Any] = field(default_factory=lambda: {"local_norms": True})


@dataclass(frozen=True)
class Run:
    """What a rank has of it.

    Attributes:
        records: Of the watch.
        local: By the book, per step: the norm of this rank's own gradient, ``[num_steps]``.
        weights: After the training.
        summary: Of the watch.
        state: Of the watch.
    """

    records: list[StepRecord]
    local: list[float]
    weights: list[Tensor]
    summary: str = ""
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def norms(self) -> list[LocalNorms | None]:
        """``[num_steps]``."""
        return [record.local_norms for record in self.records]

    @property
    def reasons(self) -> list[str]:
        """Why there are none, of each step that has none."""
        return [gap.because for record in self.records for gap in record.unavailable if gap.what == WHAT]


def own_norm(net: Callable[[], nn.Module], weights: dict[str, Tensor], rows: list[Rows]) -> float:
    """Of a gradient of these rows alone: single-process autograd, and a plain sum of squares in float64."""
    model = net()
    model.load_state_dict(weights)
    for x, y in rows:
        loss_of(model, x, y, len(rows)).backward()
    gradients = [p.grad.to_dense().double() for p in model.parameters() if p.grad is not None]
    return math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))


def loss_of(model: nn.Module, x: Tensor, y: Tensor, num_micro: int) -> Tensor:
    """The mean over the micro-batches, share by share."""
    dtype = next(model.parameters()).dtype
    return functional.cross_entropy(
        model(x.to(dtype)).float() if dtype is torch.bfloat16 else model(x.to(dtype)), y
    ) / (num_micro)


def run(case: Case, group: Any = None) -> Run:
    """On this rank."""
    net = case.net()
    ddp = DistributedDataParallel(net, process_group=group, **case.ddp)
    optimizer = torch.optim.SGD(ddp.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=case.scaler)
    model = None if case.watched is None else case.watched(ddp)
    watch = None if model is None else gradwatch.watch(model, writers=[], **case.watch)
    mine = slice(None) if case.same else slice(dist.get_rank(), None, dist.get_world_size())
    local = []
    for micro_batches in batches(Plan(num_steps=case.num_steps, num_micro=case.num_micro)):
        rows = [(x[mine], y[mine]) for x, y in micro_batches]
        local.append(own_norm(case.net, net.state_dict(), rows))
        for index, (x, y) in enumerate(rows):
            with nullcontext() if index == len(rows) - 1 else ddp.no_sync():
                scaler.scale(loss_of(ddp, x, y, len(rows))).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=case.set_to_none)
    weights = [parameter.detach().clone() for parameter in net.parameters()]
    if watch is None:
        return Run([], local, weights)
    watch.close()
    return Run(watch.history, local, weights, watch.summary(), watch.state_dict())


def runs(cases: list[Case]) -> list[Run]:
    """One after the other in one group."""
    return [run(case) for case in cases]


def within(ddp: DistributedDataParallel) -> nn.Module:
    """The module that DDP wraps."""
    return ddp.module


def around(ddp: DistributedDataParallel) -> nn.Module:
    """A module that holds the wrapper."""
    return nn.ModuleDict({"net": ddp})


CASES: dict[str, Case] = {
    "plain": Case(),
    "micro-batches": Case(num_micro=3),
    "unused": Case(net=WithSpareHead, ddp={"find_unused_parameters": True}),
    "static graph": Case(ddp={"static_graph": True}),
    "bucket views": Case(ddp={"gradient_as_bucket_view": True}, set_to_none=False),
    "several buckets": Case(ddp={"bucket_cap_mb": 0.001}, num_micro=2),
    "float32": Case(net=digits_float),
    "half precision": Case(net=digits_half),
    "sparse": Case(net=Embedded),
    "scaler": Case(scaler=True),
    "the inner module": Case(watched=within),
    "round the wrapper": Case(watched=around),
}


def test_each_ranks_norm_is_that_of_its_own_rows():
    """By single-process autograd in float64, however DDP is told to work; the same on all ranks, from step 1 on."""
    by_rank = on_ranks(runs, list(CASES.values()))
    for name, *ranks in zip(CASES, *by_rank, strict=True):
        for seen in ranks:
            assert seen.norms == ranks[0].norms, name
            assert seen.norms[0] is None, name
            assert seen.reasons == [BEGINS], name
            assert seen.state["ledger"]["noise_scales"] == ranks[0].state["ledger"]["noise_scales"], name
        for step, norms in enumerate(ranks[0].norms[1:], start=1):
            expected = [seen.local[step] for seen in ranks]
            assert norms.ranks == (0, 1)
            assert norms.norms == pytest.approx(expected, rel=1e-6), name
            mean = sum(expected) / 2
            assert norms.spread == pytest.approx(abs(expected[0] - mean) / mean, abs=2e-6), name


def test_weights_are_the_same_bit_by_bit():
    """On two ranks, and on three, where a mean by division would be another number."""
    pairs = [
        (Case(net=net, ddp=ddp), Case(net=net, ddp=ddp, watched=None))
        for net in (digits_float, Embedded)
        for ddp in ({}, {"bucket_cap_mb": 0.001}, {"gradient_as_bucket_view": True})
        if net is digits_float or not ddp
    ]
    for num in (2, 3):
        for seen in on_ranks(runs, [case for pair in pairs for case in pair], num=num):
            for with_it, without in zip(seen[::2], seen[1::2], strict=True):
                assert all(map(torch.equal, with_it.weights, without.weights))
            views = seen[4]
            assert (views.norms[-1] is None) == (num == 3)
            assert num != 3 or "last bit" in views.reasons[0]
            assert seen[0].norms[-1] is not None


def divided() -> bool:
    """Whether torch's own ready-made hook gives the weights of a training without one."""
    nets = []
    for hooked in (False, True):
        ddp = DistributedDataParallel(digits_float())
        if hooked:
            ddp.register_comm_hook(None, default_hooks.allreduce_hook)
        optimizer = torch.optim.SGD(ddp.parameters(), 0.1)
        for ((x, y),) in batches(Plan()):
            mine = slice(dist.get_rank(), None, dist.get_world_size())
            loss_of(ddp, x[mine], y[mine], 1).backward()
            optimizer.step()
            optimizer.zero_grad()
        nets.append(list(ddp.parameters()))
    return all(map(torch.equal, *nets))


def test_the_bits_could_differ():
    """The naive handling, torch's allreduce_hook, is seen by the test before."""
    assert not any(on_ranks(divided, num=3))


def of_two_groups() -> Run:
    """Each half of the ranks trains a model of its own."""
    halves = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    return run(Case(), halves[dist.get_rank() // 2])


def test_the_ranks_are_those_of_ddps_own_group():
    """Four processes, two models: nobody hears of the others."""
    ranks = on_ranks(of_two_groups, num=4)
    for rank, seen in enumerate(ranks):
        first = rank // 2 * 2
        assert seen.norms[1].ranks == (first, first + 1)
        assert seen.norms[1].norms == pytest.approx([ranks[first].local[1], ranks[first + 1].local[1]], rel=1e-6)


def known_noise(num_steps: int, scale: float, num_dims: int) -> list[LocalNorms | None]:
    """A linear model whose gradient is a fixed vector of length 1 and Gaussian noise, independent on each rank."""
    torch.manual_seed(3)
    ddp = DistributedDataParallel(nn.Linear(num_dims, 1, bias=False).double())
    signal = functional.normalize(torch.randn(num_dims, dtype=torch.float64), dim=0)
    noise = torch.Generator().manual_seed(100 + dist.get_rank())
    optimizer = torch.optim.SGD(ddp.parameters(), 0.0)
    with gradwatch.watch(ddp, writers=[], probes=False, detectors=[], local_norms=True) as watch:
        for _ in range(num_steps):
            x = signal + torch.randn(num_dims, dtype=torch.float64, generator=noise) * math.sqrt(scale / num_dims)
            ddp(x).backward()
            optimizer.step()
            optimizer.zero_grad()
    return [record.local_norms for record in watch.history]


def test_known_noise_is_found():
    """tr(Sigma) / |G|^2 of a batch is 2: the average over about 200 steps comes within 7.5 %.

    Of one step's estimate the noise has a relative standard deviation of sqrt(2 / (3 ranks * 50 dimensions)) = 0.12 and
    the signal one of 0.22; a moving average of decay 0.99 is over (1 + 0.99) / (1 - 0.99) = 199 steps, so that the
    ratio has one of 1.8 %: 7.5 % is four of these. Without the factor 1 - 1/4 it would be 25 % off.
    """
    ranks = on_ranks(known_noise, 400, 2.0, 50, num=4)
    for norms in ranks:
        assert norms == ranks[0]
        assert norms[-1].noise_scale == pytest.approx(2.0, rel=0.075)
        assert norms[FEWEST].noise_scale is not None
        assert norms[FEWEST - 1].noise_scale is None


def odd_ones() -> dict[str, Any]:
    """Several questions at the cost of one group."""
    found: dict[str, Any] = {}
    found["same rows"] = run(Case(same=True, num_steps=FEWEST + 2))
    found["first"] = first = run(Case(num_steps=FEWEST + 2))
    found["goes on"] = _resumed(first)
    found["twice"] = _twice_averaged()
    found["bad"] = together(placements.ddp, Plan(num_steps=4, spoil=_bad_rows, watch={"local_norms": True})).records
    found["sharded"] = together(placements.fsdp2, Plan(watch={"local_norms": True})).records
    found["no ddp"] = together(Placed, Plan(watch={"local_norms": True})).records
    found["part"] = _partly_owned()
    found["overflow"] = _overflowing().records
    return found


def _overflowing() -> Run:
    """Under a GradScaler that starts so high that one rank overflows in the third step."""
    ddp = DistributedDataParallel(digits_net())
    optimizer = torch.optim.SGD(ddp.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with gradwatch.watch(ddp, writers=[], local_norms=True) as watch:
        for step, ((x, y),) in enumerate(batches(Plan(num_steps=4))):
            loss = loss_of(ddp, x[dist.get_rank() :: 2], y[dist.get_rank() :: 2], 1)
            overflows = step == 2 and dist.get_rank() == 1
            (scaler.scale(loss) * (1e308 if overflows else 1.0)).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    return Run(watch.history, [], [])


def _bad_rows(rows: Tensor, step: int) -> Tensor:
    return rows * math.nan if step == 2 and dist.get_rank() == 1 else rows


def _resumed(first: Run) -> Run:
    """With the state of another training."""
    ddp = DistributedDataParallel(digits_net())
    optimizer = torch.optim.SGD(ddp.parameters(), 0.1)
    watch = gradwatch.watch(ddp, writers=[], local_norms=True)
    watch.load_state_dict(saved(first.state))
    with watch:
        _steps(ddp, optimizer, 2)
    return Run(watch.history, [], [], watch.summary(), watch.state_dict())


def _steps(ddp: nn.Module, optimizer: torch.optim.Optimizer, num: int) -> None:
    for ((x, y),) in batches(Plan(num_steps=num)):
        loss_of(ddp, x[dist.get_rank() :: 2], y[dist.get_rank() :: 2], 1).backward()
        optimizer.step()
        optimizer.zero_grad()


def _twice_averaged() -> Run:
    """In one step both backward passes are averaged, in the next none."""
    ddp = DistributedDataParallel(digits_net())
    optimizer = torch.optim.SGD(ddp.parameters(), 0.1)
    with gradwatch.watch(ddp, writers=[], local_norms=True) as watch:
        for num_averaged in (1, 2, 0, 1):
            x, y = batches(Plan(num_steps=1))[0][0]
            for _ in range(max(1, num_averaged)):
                with nullcontext() if num_averaged else ddp.no_sync():
                    loss_of(ddp, x[dist.get_rank() :: 2], y[dist.get_rank() :: 2], 1).backward()
            optimizer.step()
            optimizer.zero_grad()
    return Run(watch.history, [], [])


def _partly_owned() -> Run:
    """Two optimizers, one DDP: the buckets do not tell whose norm is whose."""
    ddp = DistributedDataParallel(digits_net())
    first, *others = ddp.parameters()
    optimizers = [torch.optim.SGD([first], 0.1), torch.optim.SGD(others, 0.1)]
    with gradwatch.watch(ddp, writers=[], local_norms=True) as watch:
        for ((x, y),) in batches(Plan(num_steps=2)):
            loss_of(ddp, x, y, 1).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
    return Run(watch.history, [], [], watch.summary())


def test_what_the_norms_say_and_why_they_say_nothing():
    """Equal batches, a NaN on one rank, a state that goes on; and each step or run without norms has its reason."""
    ranks = on_ranks(odd_ones)
    for found in ranks:
        same = found["same rows"].norms
        assert [norms.spread for norms in same[1:]] == pytest.approx([0.0] * (FEWEST + 1), abs=1e-12)
        assert same[-1].noise_scale == pytest.approx(0.0, abs=1e-9)

        last, goes_on = found["first"].norms[-1], found["goes on"].norms
        assert last.noise_scale > 0
        assert goes_on[1].noise_scale == pytest.approx(
            last.noise_scale, rel=0.5
        )  # long before there are enough new ones
        assert "gradient noise scale ≈" in found["goes on"].summary

        assert [norms is not None for norms in found["twice"].norms] == [False, False, False, True]
        assert found["twice"].reasons[0] == BEGINS
        assert found["twice"].reasons[1].startswith("2 backward passes were averaged since the step before")
        assert found["twice"].reasons[2].startswith("no backward pass")

        bad = found["bad"][2].local_norms
        assert math.isfinite(bad.norms[0])
        assert math.isnan(bad.norms[1])
        assert math.isnan(bad.spread)

        assert [record.skipped for record in found["overflow"]] == [False, False, True, False]
        first, second = found["overflow"][2].local_norms.norms
        assert math.isfinite(first)
        assert not math.isfinite(second)
        assert all(map(math.isfinite, found["overflow"][3].local_norms.norms))

        for name, why in (("sharded", SHARDED), ("no ddp", "no DistributedDataParallel averages")):
            assert all(record.local_norms is None for record in found[name]), name
            assert all(
                any(gap.what == WHAT and gap.because.startswith(why) for gap in record.unavailable)
                for record in found[name]
            ), name
        assert set(found["part"].reasons) == {PARTLY}
        assert "unavailable, because DDP averages other parameters" in " ".join(found["part"].summary.split())
    assert ranks[0]["goes on"].norms == ranks[1]["goes on"].norms
    assert ranks[0]["bad"][2].local_norms.norms[0] == ranks[1]["bad"][2].local_norms.norms[0]


def on_more_ranks(state: dict[str, Any]) -> Run:
    """A run of two ranks goes on with three."""
    ddp = DistributedDataParallel(digits_net())
    optimizer = torch.optim.SGD(ddp.parameters(), 0.1)
    watch = gradwatch.watch(ddp, writers=[], local_norms=True)
    watch.load_state_dict(state)
    with watch:
        for ((x, y),) in batches(Plan(num_steps=3)):
            loss_of(ddp, x[dist.get_rank() :: 3], y[dist.get_rank() :: 3], 1).backward()
            optimizer.step()
            optimizer.zero_grad()
    return Run(watch.history, [], [], watch.summary())


def test_another_number_of_ranks_begins_anew_and_says_so():
    """What was averaged over two ranks says nothing of three: the batch of a rank may be another."""
    first = on_ranks(run, Case(num_steps=FEWEST + 2))[0]
    assert first.norms[-1].noise_scale is not None
    for seen in on_ranks(on_more_ranks, saved(first.state), num=3):
        assert [norms.noise_scale for norms in seen.norms[1:]] == [None, None]
        said = [gap.because for record in seen.records for gap in record.unavailable if gap.what != WHAT]
        assert [text for text in said if "over 2 ranks before, and there are 3 now" in text]
        assert "begun anew" in " ".join(seen.summary.split())


class Theirs:
    """A communication hook of the user's, with a memory."""

    def __init__(self) -> None:
        self.num_calls = 0

    def register(self, ddp: DistributedDataParallel) -> None:
        """As torch's documentation has it."""
        ddp.register_comm_hook(self, their_hook)


def their_hook(state: Theirs, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """Twice the mean, so that its work shows in the weights."""
    state.num_calls += 1
    return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda future: future.value()[0])


their_hook.__annotations__ = {}


def with_their_hook() -> list[tuple[int, list[Tensor], list[str]]]:
    """Without a watch; registered before it; registered after it, and before the first backward pass; on one rank."""
    found = []
    _distributed_consent.PATIENCE /= 5
    for watched, place in ((False, 0), (True, 0), (True, 1), (True, "built-in")):
        ddp, theirs = DistributedDataParallel(digits_net()), Theirs()
        if place == 0:
            theirs.register(ddp)
        watch = gradwatch.watch(ddp, writers=[], local_norms=True) if watched else None
        if place == 1:
            theirs.register(ddp)
        if place == "built-in":
            ddp._register_builtin_comm_hook(dist.BuiltinCommHookType.ALLREDUCE)
        optimizer = torch.optim.SGD(ddp.parameters(), 0.1)
        _steps(ddp, optimizer, 3)
        records = []
        if watch is not None:
            watch.close()
            records = watch.history
        found.append((theirs.num_calls, [p.detach().clone() for p in ddp.parameters()], Run(records, [], []).reasons))
    ddp = DistributedDataParallel(digits_net())
    if dist.get_rank() == 1:
        ddp.register_comm_hook(None, default_hooks.allreduce_hook)
    with gradwatch.watch(ddp, writers=[], local_norms=True) as watch:
        _steps(ddp, torch.optim.SGD(ddp.parameters(), 0.1), 3)
    found.append((0, [], Run(watch.history, [], []).reasons))
    if dist.get_rank() == 0:  # nobody else watches
        ddp = DistributedDataParallel(digits_net())
        with gradwatch.watch(ddp, writers=[], local_norms=True) as watch:
            _steps(ddp, torch.optim.SGD(ddp.parameters(), 0.1), 3)
        found.append((0, [], Run(watch.history, [], []).reasons))
    else:
        ddp = DistributedDataParallel(digits_net())
        _steps(ddp, torch.optim.SGD(ddp.parameters(), 0.1), 3)
    return found


def test_a_hook_of_the_users_is_left_alone():
    """It is called as often and gives the same weights; whoever has none, or nobody to talk to, is told why."""
    ranks = on_ranks(with_their_hook)
    for found in ranks:
        alone, before, after, built_in, on_one = found[:5]
        assert alone[0] == before[0] == after[0] == 3
        for watched in (before, after):
            assert all(map(torch.equal, watched[1], alone[1]))
            assert (
                watched[2]
                == ["DDP has another communication hook (their_hook), and torch allows one for each module"] * 3
            )
        assert built_in[2][0].startswith("DDP takes no hook of ours (register_comm_hook")
        assert (
            on_one[2]
            == ["DDP has another communication hook (allreduce_hook), and torch allows one for each module"] * 3
        )
    assert ranks[0][5][2] == ["not all ranks asked for them within 1 s: each has to watch the model"] * 3


def broken(name: str, at: int) -> tuple[Run, list[str]]:
    """With one of our own functions broken on rank 1 from its call number ``at`` on."""
    original, calls = getattr(BucketTap, name), [0]

    def raising(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] > at:
            raise RuntimeError("boom")
        return original(*args, **kwargs)

    if dist.get_rank() == 1:
        setattr(BucketTap, name, raising)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", GradwatchWarning)
        seen = run(Case(num_steps=5))
    return seen, [str(one.message) for one in caught if issubclass(one.category, GradwatchWarning)]


def test_an_error_of_ours_in_the_hook_stops_nobody():
    """Both go on training to the same weights; rank 1 says so once, and the records of both name it."""
    plain = on_ranks(run, Case(num_steps=5, watched=None))
    ranks = on_ranks(broken, "_meter", 2)
    for rank, (seen, said) in enumerate(ranks):
        assert all(map(torch.equal, seen.weights, plain[rank].weights))
        assert [norms is not None for norms in seen.norms] == [False, True, True, False, False]
        assert seen.reasons[1:] == ["gradwatch failed on rank 1"] * 2
        assert len(said) == rank
        assert all("RuntimeError: boom" in text for text in said)


def uneven() -> list[tuple[list[bool], list[str]]]:
    """Inside of ``join()`` from the beginning; and entered when the hook is there already."""
    found = []
    for before in (0, 3):
        ddp = DistributedDataParallel(digits_net())
        optimizer = torch.optim.SGD(ddp.parameters(), 0.1)
        with gradwatch.watch(ddp, writers=[], local_norms=True) as watch:
            _steps(ddp, optimizer, before)
            with ddp.join():
                _steps(ddp, optimizer, 2 + dist.get_rank())
        seen = Run(watch.history, [], [])
        found.append(([norms is not None for norms in seen.norms], seen.reasons))
    return found


def test_ranks_that_run_out_of_data_are_not_waited_for():
    """``ddp.join()``: a rank that has left exchanges nothing any more, so nobody does."""
    for rank, (inside, entered) in enumerate(on_ranks(uneven)):
        assert inside == ([False] * (2 + rank), [JOINS] * (2 + rank))
        assert entered == ([False, True, True] + [False] * (2 + rank), [BEGINS, *[JOINS] * (2 + rank)])


def listened() -> tuple[list[int], bool, int]:
    """All-reduces of a step: without a watch, with one, after it, with two, after these; and with one that was dropped.

    And what is left on the module, and in a copy of it.
    """
    ddp: Any = DistributedDataParallel(digits_net())
    optimizer = torch.optim.SGD(ddp.parameters(), 0.1)

    def heard() -> int:
        with Profiling() as ear:
            _steps(ddp, optimizer, 1)
            dist.barrier()  # what nobody has waited for is over, too
        return ear.counts["all_reduce"]

    _steps(ddp, optimizer, 2)
    counts = [heard()]
    for num_watches in (1, 2):
        watches = [gradwatch.watch(ddp, writers=[], local_norms=True) for _ in range(num_watches)]
        _steps(ddp, optimizer, 1)
        counts.append(heard())
        assert all(watch.history[-1].local_norms is not None for watch in watches)
        for watch in watches:
            watch.close()
        counts.append(heard())
    copied = copy.deepcopy(ddp)
    watch = gradwatch.watch(ddp, writers=[], local_norms=True)
    _steps(ddp, optimizer, 1)
    del watch
    counts.append(heard())
    ddp, optimizer = copied, torch.optim.SGD(copied.parameters(), 0.1)
    _steps(ddp, optimizer, 2)
    return counts, bool(ddp._comm_hooks), heard()


def test_one_all_reduce_more_while_anybody_listens_and_none_after():
    """Counted by the backend; one hook serves all watches, and nothing of it is on the module, or in copies.

    Only a watch that was dropped, at a time that nobody knows, goes on: the other ranks may, too.
    """
    for counts, is_listed, of_copy in on_ranks(listened):
        alone = counts[0]
        assert counts == [alone, alone + 1, alone, alone + 1, alone, alone + 1]
        assert of_copy == alone
        assert not is_listed
