"""What an exchange costs is what the layout says; and which elements of a whole lie where is what torch says."""

from __future__ import annotations

from typing import Any

import placements
import pytest
import torch
from plans import Plan, digits_net, together
from ranks import on_ranks
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import gradwatch
from gradwatch._distributed import Form, traffic
from gradwatch._distributed_parts import local, parts_of
from gradwatch._distributed_roster import Holding, Roster
from gradwatch._statistics import ALWAYS, Column
from gradwatch.records import Layer

NUM_PARAMS = len(list(digits_net().parameters()))


def sent(plan: Plan) -> list[int]:
    """Bytes of each all-reduce that we ask for."""
    sizes = []
    original = dist.all_reduce

    def counting(values: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        sizes.append(values.nbytes)
        return original(values, *args, **kwargs)

    dist.all_reduce = counting
    try:
        together(placements.fsdp2, plan)
    finally:
        dist.all_reduce = original
    return sizes


CASES = {
    "usual": (Plan(watch={"every": 4}), Form((*ALWAYS,))),
    "sampled": (Plan(), Form((*ALWAYS, Column.ABS_MAX), sampled=True, num_updated=NUM_PARAMS)),
    "by another norm": (
        Plan(clip=gradwatch.ClipNorm(1.0, 1.5)),
        Form((*ALWAYS, Column.POWER, Column.ABS_MAX), sampled=True, num_updated=NUM_PARAMS),
    ),
    "by value": (
        Plan(clip=gradwatch.ClipValue(0.1)),
        Form((*ALWAYS, Column.ABS_MAX), sampled=True, clamped=True, num_updated=NUM_PARAMS),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bytes_are_those_of_the_form(name):
    """Of the last step: two all-reduces, and no byte beyond what the function of the layout says."""
    plan, form = CASES[name]
    for sizes in on_ranks(sent, plan):
        cost = traffic(NUM_PARAMS, 2, form)
        last = sizes[-cost.num_collectives :]
        assert len(sizes) == cost.num_collectives * plan.num_steps
        assert sum(last) == cost.num_bytes


def test_a_single_process_sends_nothing():
    """Neither calls nor bytes."""
    assert traffic(1_000, 1).num_collectives == 0
    assert traffic(1_000, 1).num_bytes == 0


def test_bytes_grow_by_parameters_and_only_a_little_by_ranks():
    """Four numbers a rank: on 16,384 ranks half a megabyte."""
    small, large = traffic(1_000, 8), traffic(1_000, 16_384)
    assert small.num_collectives == large.num_collectives == 2
    assert large.num_bytes - small.num_bytes == 4 * 8 * (16_384 - 8)
    assert traffic(2_000, 8).num_bytes < 2 * small.num_bytes


def places_of() -> list[tuple[str, list[int]]]:
    """Of tensors split in all ways: the picked elements that are here, read by their place, and what they should be."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    whole = torch.arange(7 * 9, dtype=torch.float64).view(7, 9)
    found = []
    splits = {
        "rows twice": (Shard(0), Shard(0)),
        "rows and columns": (Shard(0), Shard(1)),
        "columns and rows": (Shard(1), Shard(0)),
        "columns, copied": (Replicate(), Shard(1)),
        "copied": (Replicate(), Replicate()),
    }
    picks = torch.tensor([0, 1, 8, 9, 17, 30, 31, 44, 45, 53, 54, 62])
    for name, split in splits.items():
        parameter = torch.nn.Parameter(distribute_tensor(whole, mesh, split))
        found.append((name, _read(parameter, torch.nn.ParameterList([parameter]), picks)))
    linear = torch.nn.Linear(9, 7, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(whole)
    linear.weight = torch.nn.Parameter(distribute_tensor(linear.weight.detach(), mesh["tensor"], [Shard(0)]))
    linear.bias = None
    fully_shard(linear, mesh=mesh["data"])
    found.append(("strided", _read(linear.weight, linear, picks)))
    return found


def _read(parameter: DTensor, model: torch.nn.Module, picks: torch.Tensor) -> list[int]:
    part = parts_of(model)(parameter)
    assert part is not None
    places = part.places(picks)
    assert places is not None
    return local(parameter.detach()).reshape(-1)[places].long().tolist()


def test_the_same_elements_are_looked_at_wherever_they_lie():
    """Over all ranks just the picked ones, each by as many ranks as hold a copy of it."""
    picks = [0, 1, 8, 9, 17, 30, 31, 44, 45, 53, 54, 62]
    copies = {"columns, copied": 2, "copied": 4}
    for cases in zip(*on_ranks(places_of, num=4), strict=True):
        name = cases[0][0]
        read = sorted(element for _, elements in cases for element in elements)
        assert read == sorted(picks * copies.get(name, 1)), name


def layers(*names: str) -> tuple[Layer, ...]:
    """Of one shape."""
    return tuple(Layer(name, name, "Linear", (4, 4)) for name in names)


def holding(rank: int, names: str, parts: int, stage: int = 0) -> Holding:
    """One letter, one layer."""
    return Holding(rank, layers(*names), (parts,) * len(names), (stage,) * len(names))


def test_copies_share_one_weight():
    """HSDP on four: two parts, each twice; a replicated one counts a quarter on each."""
    holdings = [Holding(rank, layers("split", "whole"), (2, 1), (0, 0)) for rank in range(4)]
    view = Roster(holdings).view(holdings[1], torch.device("cpu"))
    assert view.weight.flatten().tolist() == [0.5, 0.25]
    assert view.rows is None


def test_stages_follow_one_another_whoever_tells_first():
    """The roster is in the order of the stages, and every process finds its rows in it."""
    holdings = [holding(0, "cd", 1, stage=1), holding(1, "ab", 1, stage=0)]
    roster = Roster(holdings)
    assert [layer.name for layer in roster.layers] == ["a", "b", "c", "d"]
    view = roster.view(holdings[0], torch.device("cpu"))
    assert view.rows.tolist() == [2, 3]
    assert view.share(torch.ones(2, 1, dtype=torch.float64)).flatten().tolist() == [0, 0, 1, 1]


def test_names_of_two_stages_are_told_apart_and_others_stay():
    """Only the name that both use gets its stage's number."""
    roster = Roster([holding(0, "ab", 1, stage=0), holding(1, "bc", 1, stage=1)])
    assert [layer.name for layer in roster.layers] == ["a", "stage0.b", "stage1.b", "c"]


def test_a_layer_that_came_later_is_left_out_until_all_agree():
    """Its row is not in the roster: the others' rows stay where they are."""
    roster = Roster([holding(0, "ab", 1), holding(1, "ab", 1)])
    later = holding(0, "aXb", 1)
    assert roster.places(later) == [0, -1, 1]
    view = roster.view(later, torch.device("cpu"))
    assert view.spread(torch.tensor([[1.0], [2.0], [3.0]])).flatten().tolist() == [1, 3]
