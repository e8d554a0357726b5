"""What watching adds to the talk between the ranks: nothing where nothing is sharded, else two all-reduces a step."""

from __future__ import annotations

from collections import Counter
from typing import Any

import placements
import pytest
import torch
from placements import column_row_net
from plans import Plan, batches
from ranks import on_ranks
from test_ddp import WithSpareHead
from test_pipeline import piped, piped_and_sharded
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

import gradwatch

NUM_STEPS = 4


def talk(place: Any, plan: Plan, options: dict[str, Any] | None) -> list[Counter[str]]:
    """Calls of the backend by name in each step but the first; without ``options`` nobody watches."""
    placed = place(plan.net())
    optimizer = torch.optim.SGD(placed.model.parameters(), 0.1)
    watch = None if options is None else gradwatch.watch(placed.model, writers=[], **options)
    counts = []
    for ((x, y),) in batches(plan):
        mine = slice(placed.part, None, placed.num_parts)
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            if placed.backward is not None:
                placed.backward(x[mine], y[mine])
            else:
                loss = functional.cross_entropy(placed.model(x[mine]), y[mine])
                if watch is not None:
                    watch.loss(loss)
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        counts.append(Counter({event.key: event.count for event in profiler.key_averages() if ":" in event.key}))
    if watch is not None:
        assert len(watch.history) == plan.num_steps
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            watch.summary()
            watch.state_dict()
            watch.close()
        counts.append(Counter({event.key: event.count for event in profiler.key_averages() if ":" in event.key}))
        assert not _of_backend(counts.pop())
    return [_of_backend(counter) for counter in counts[1:]]


def _of_backend(counter: Counter[str]) -> Counter[str]:
    return Counter({key: count for key, count in counter.items() if key.startswith("gloo:")})


OPTIONS: dict[str, dict[str, Any]] = {
    "as usual": {},
    "sampling each step": {"every": 1},
    "clipping": {"clip": gradwatch.ClipNorm(0.3)},
    "by another norm": {"clip": gradwatch.ClipNorm(0.3, 1.5), "skip_if_nonfinite": True},
    "by value": {"clip": gradwatch.ClipValue(0.02), "every": 1},
}

WHOLE = {"ddp": (placements.ddp, Plan()), "unused": (placements.ddp_unused, Plan(net=WithSpareHead))}

SHARDED = {
    "fsdp2": (placements.fsdp2, 2, Plan()),
    "fsdp1": (placements.fsdp1, 2, Plan()),
    "hsdp": (placements.hsdp, 4, Plan()),
    "tensor parallel": (placements.tensor_parallel, 2, Plan(net=column_row_net)),
    "fsdp and tensor parallel": (placements.fsdp_and_tensor_parallel, 4, Plan(net=column_row_net)),
    "pipeline": (piped, 2, Plan()),
    "pipeline, sharded": (piped_and_sharded, 4, Plan()),
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", WHOLE)
def test_nothing_is_said_where_nothing_is_sharded(name, options):
    """DDP's own all-reduce is all there is, watched or not."""
    place, plan = WHOLE[name]
    plan = Plan(net=plan.net, num_steps=NUM_STEPS)
    alone = on_ranks(talk, place, plan, None)
    assert on_ranks(talk, place, plan, OPTIONS[options]) == alone
    assert all(counter["gloo:all_reduce"] >= 1 for counter in alone[0])


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", SHARDED)
def test_two_all_reduces_a_step_where_something_is(name, options):
    """A sum and a maximum, whatever is asked for; also where a step is sampled, and none to close."""
    place, num, plan = SHARDED[name]
    plan = Plan(net=plan.net, num_steps=NUM_STEPS)
    plain = on_ranks(talk, place, plan, None, num=num)
    for watched, alone in zip(on_ranks(talk, place, plan, OPTIONS[options], num=num), plain, strict=True):
        assert [after - before for after, before in zip(watched, alone, strict=True)] == [
            Counter({"gloo:all_reduce": 2})
        ] * (NUM_STEPS - 1)
