"""What watching adds to the talk between the ranks: nothing where nothing is sharded, else two all-reduces a step."""

from __future__ import annotations

from collections import Counter
from typing import Any

import placements
import pytest
import torch
from placements import column_row_net
from plans import Placed, Plan, batches
from ranks import on_ranks
from test_pipeline import piped, piped_and_sharded
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import Self

import gradwatch

OPTIONS: dict[str, dict[str, Any]] = {
    "as usual": {},
    "sampling each step": {"every": 1},
    "clipping": {"clip": gradwatch.ClipNorm(0.3)},
    "by another norm": {"clip": gradwatch.ClipNorm(0.3, 1.5), "skip_if_nonfinite": True},
    "by value": {"clip": gradwatch.ClipValue(0.02), "every": 1},
    "asking for local norms": {"local_norms": True},
}


class Listening(TorchDispatchMode):
    """Counts what is asked of the process groups, by whichever of torch's functions."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in ("c10d", "_c10d_functional", "_c10d_functional_autograd"):
            name = func._opname.strip("_").replace("allreduce", "all_reduce")
            if name != "wait_tensor":
                self.counts[name] += 1
        return func(*args, **(kwargs or {}))


class Profiling:
    """Counts what the backend does: sees also what DDP's own engine asks for. Slow."""

    def __enter__(self) -> Self:
        self._profile = profile(activities=[ProfilerActivity.CPU])
        self._profile.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._profile.__exit__(*error)

    @property
    def counts(self) -> Counter[str]:
        """By the backend's own names."""
        events = [event for event in self._profile.key_averages() if event.key.startswith("gloo:")]
        return Counter({event.key.removeprefix("gloo:"): event.count for event in events})


def talk(place: Any, plan: Plan, ear: type[Listening | Profiling], *names: str) -> dict[str, list[Counter[str]]]:
    """For each of the options what is said in each step but the first; under ``"unwatched"`` what torch says itself."""
    said = {"unwatched": _talk(place(plan.net()), plan, ear, None)}
    for name in names:
        said[name] = _talk(place(plan.net()), plan, ear, OPTIONS[name])
    return said


def _talk(
    placed: Placed, plan: Plan, ear: type[Listening | Profiling], options: dict[str, Any] | None
) -> list[Counter[str]]:
    optimizer = torch.optim.SGD(placed.model.parameters(), 0.1)
    watch = None if options is None else gradwatch.watch(placed.model, writers=[], **options)
    counts = []
    for ((x, y),) in batches(plan):
        mine = slice(placed.part, None, placed.num_parts)
        with ear() as heard:
            if placed.backward is not None:
                placed.backward(x[mine], y[mine])
            else:
                loss = functional.cross_entropy(placed.model(x[mine]), y[mine])
                if watch is not None:
                    watch.loss(loss)
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        counts.append(heard.counts)
    if watch is not None:
        with ear() as heard:
            watch.close()
            watch.summary()
            watch.state_dict()
        assert not heard.counts, "a rank that has failed is not there any more"
        assert len(watch.history) == plan.num_steps
    return counts[1:]


SHARDED = {
    "fsdp2": (placements.fsdp2, 2, Plan()),
    "fsdp1": (placements.fsdp1, 2, Plan()),
    "hsdp": (placements.hsdp, 4, Plan()),
    "tensor parallel": (placements.tensor_parallel, 2, Plan(net=column_row_net)),
    "fsdp and tensor parallel": (placements.fsdp_and_tensor_parallel, 4, Plan(net=column_row_net)),
    "pipeline": (piped, 2, Plan()),
    "pipeline, sharded": (piped_and_sharded, 4, Plan()),
}
FEW = ("clipping", "by value")


def test_nothing_is_said_where_nothing_is_sharded():
    """DDP's own all-reduce is all there is, watched or not; the backend itself is asked."""
    for said in on_ranks(talk, placements.ddp, Plan(num_steps=3), Profiling, *FEW):
        alone = said.pop("unwatched")
        assert all(counter["all_reduce"] >= 1 for counter in alone)
        assert said == dict.fromkeys(FEW, alone)


@pytest.mark.parametrize("name", SHARDED)
def test_two_all_reduces_a_step_where_something_is(name):
    """A sum and a maximum, whatever is asked for; also where a step is sampled, and none to close."""
    place, num, plan = SHARDED[name]
    for said in on_ranks(talk, place, Plan(net=plan.net, num_steps=4), Listening, *OPTIONS, num=num):
        _two_more(said, tuple(OPTIONS), num_steps=4)


def test_the_backend_has_heard_the_same():
    """Counted where the words arrive: nothing goes past the ear of the test before."""
    for said in on_ranks(talk, placements.fsdp2, Plan(num_steps=3), Profiling, *FEW):
        _two_more(said, FEW, num_steps=3)


def _two_more(said: dict[str, list[Counter[str]]], names: tuple[str, ...], *, num_steps: int) -> None:
    alone = said.pop("unwatched")
    more = {
        name: [after - before for after, before in zip(counts, alone, strict=True)] for name, counts in said.items()
    }
    assert more == dict.fromkeys(names, [Counter(all_reduce=2)] * (num_steps - 1))
