"""What is sampled, what was clipped before, and what changes on the way: as on one process, on every rank."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import placements
import pytest
import torch
from agreement import RELATIVE
from placements import column_row_net
from plans import BATCH, Placed, Plan, batches, digits_net, together
from ranks import on_ranks
from test_pipeline import piped
from test_watcher_errors import PLACES as PLACES_OF_ERRORS
from test_watcher_errors import broken_together
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.nn import functional

import gradwatch
from gradwatch.records import StepRecord


def wide_net() -> nn.Sequential:
    """One matrix is larger than what is sampled of it, and 71 rows do not divide evenly."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(64, 71), nn.Tanh(), nn.Linear(71, 10)).double()


def wide_named_net() -> nn.Sequential:
    """The same in names that the placements know; tensor parallelism needs an even number of columns between two."""
    torch.manual_seed(3)
    layers = {"first": nn.Linear(64, 70), "act": nn.Tanh(), "second": nn.Linear(70, 10)}
    return nn.Sequential(OrderedDict(layers)).double()


PLACES: dict[str, tuple[Any, int, Callable[[], nn.Module]]] = {
    "fsdp2": (placements.fsdp2, 2, wide_net),
    "fsdp1": (placements.fsdp1, 2, wide_net),
    "hsdp": (placements.hsdp, 4, wide_net),
    "tensor parallel": (placements.tensor_parallel, 2, column_row_net),
    "fsdp and tensor parallel": (placements.fsdp_and_tensor_parallel, 4, wide_named_net),
    "pipeline": (piped, 2, digits_net),
}


@pytest.mark.parametrize("name", PLACES)
def test_weights_and_updates_are_those_of_one_process(name):
    """Weight norms, update ratios, loss and learning rate; of large matrices the same elements are looked at."""
    place, num, net = PLACES[name]
    plan = Plan(net=net, num_steps=4)
    (alone,) = on_ranks(together, Placed, plan, num=1)
    for seen in on_ranks(together, place, plan, num=num):
        for record, expected in zip(seen.records, alone.records, strict=True):
            np.testing.assert_allclose(record.weight_norm, expected.weight_norm, rtol=RELATIVE)
            assert record.loss == pytest.approx(expected.loss, rel=RELATIVE)
            assert record.lr == expected.lr
            assert record.total_norm == pytest.approx(expected.total_norm, rel=RELATIVE)
        for record, expected in zip(seen.records[:-1], alone.records[:-1], strict=True):
            assert record.update_ratio is not None
            np.testing.assert_allclose(record.update_ratio, expected.update_ratio, rtol=RELATIVE)
        assert seen.records[-1].update_ratio is None  # there is no exchange any more that could bring it


def clip_by_hand(model: nn.Module, step: int) -> None:
    """By torch's own function, as most people do."""
    nn.utils.clip_grad_norm_(model.parameters(), 0.3)


def clip_by_value(model: nn.Module, step: int) -> None:
    """Likewise."""
    nn.utils.clip_grad_value_(model.parameters(), 0.02)


@pytest.mark.parametrize("clip", [clip_by_hand, clip_by_value])
@pytest.mark.parametrize("name", ["fsdp2", "hsdp"])
def test_norms_are_from_before_the_users_own_clipping(name, clip):
    """And the clipped norm is from after it."""
    place, num, net = PLACES[name]
    plan = Plan(net=net, tamper=clip)
    (alone,) = on_ranks(together, Placed, plan, num=1)
    for seen in on_ranks(together, place, plan, num=num):
        for record, expected in zip(seen.records, alone.records, strict=True):
            np.testing.assert_allclose(record.grad_norm, expected.grad_norm, rtol=RELATIVE)
            assert record.total_norm == pytest.approx(expected.total_norm, rel=RELATIVE)
            assert record.clipped_norm == pytest.approx(expected.clipped_norm, rel=RELATIVE)
            assert record.clipped


@dataclass
class _Run:
    """What a rank tells of a training that it wrote itself."""

    records: list[StepRecord]
    num_before_close: int
    total_norm: float


def thawing(place: Any, net: Callable[[], nn.Module], whose: int) -> _Run:
    """On one rank alone a layer is frozen at first, or it is on all (``whose`` = -1)."""
    placed = place(net())
    model = placed.model
    late = [p for name, p in model.named_parameters() if name.split(".")[-2] in ("0", "second")]
    frozen = late if whose in (-1, dist.get_rank()) else []
    for parameter in frozen:
        parameter.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    watch = gradwatch.watch(model, writers=[])
    for step, ((x, y),) in enumerate(batches(Plan(num_steps=4))):
        if step == 2:
            for parameter in frozen:
                parameter.requires_grad_(True)
        mine = slice(placed.part, None, placed.num_parts)
        if placed.backward is not None:
            placed.backward(x[mine], y[mine])
        else:
            functional.cross_entropy(model(x[mine]), y[mine]).backward()
        optimizer.step()
        optimizer.zero_grad()
    before_close, total_norm = len(watch.history), watch.total_norm
    watch.close()
    return _Run(watch.history, before_close, total_norm)


@pytest.mark.parametrize(("place", "net", "whose"), [(placements.fsdp2, wide_net, -1), (piped, digits_net, 1)])
def test_a_layer_that_is_unfrozen_later_is_measured_from_then_on(place, net, whose):
    """All processes agree again, also where only one has it; every record is there at once, and none hangs."""
    first, second = on_ranks(thawing, place, net, whose, limit=30)
    for run in (first, second):
        numbers = [len(record.names) for record in run.records]
        assert numbers[0] == numbers[1] < numbers[2] == numbers[3]
        assert all(np.isfinite(record.grad_norm).all() for record in run.records)
        assert run.num_before_close == 4
        assert run.total_norm == run.records[-1].total_norm
    for record, other in zip(first.records, second.records, strict=True):
        np.testing.assert_equal(record.to_json(), other.to_json())


def two_optimizers(place: Any) -> list[tuple[int, tuple[str, ...], float]]:
    """A step of one, then of the other, as in a GAN."""
    placed = place(wide_net())
    model = placed.model
    optimizers = [torch.optim.SGD(model[index].parameters(), 0.1) for index in (0, 2)]
    with gradwatch.watch(model, optimizers, writers=[]) as watch:
        for ((x, y),) in batches(Plan(num_steps=2)):
            mine = slice(placed.part, None, placed.num_parts)
            for optimizer in optimizers:
                functional.cross_entropy(model(x[mine]), y[mine]).backward()
                optimizer.step()
                model.zero_grad()
    assert [record.step for record in watch.history] == [0, 1, 2, 3]
    return [(record.optimizer, record.names, record.total_norm) for record in watch.history]


def test_two_optimizers_are_two_series():
    """Each with its own parameters and their norm over all ranks."""
    (alone,) = on_ranks(two_optimizers, Placed, num=1)
    for seen in on_ranks(two_optimizers, placements.fsdp2):
        for (index, names, norm), (expected_index, expected_names, expected) in zip(seen, alone, strict=True):
            assert (index, names) == (expected_index, expected_names)
            assert norm == pytest.approx(expected, rel=RELATIVE)


def in_backward(place: Any) -> list[StepRecord]:
    """One optimizer a parameter, each of which steps as soon as its gradient is there."""
    placed = place(wide_net())
    model = placed.model
    optimizers = {parameter: torch.optim.SGD([parameter], 0.1) for parameter in model.parameters()}

    def step(parameter: Tensor) -> None:
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step)
    with gradwatch.watch(model, writers=[]) as watch:
        for ((x, y),) in batches(Plan(num_steps=3)):
            mine = slice(placed.part, None, placed.num_parts)
            functional.cross_entropy(model(x[mine]), y[mine]).backward()
    return watch.history


def test_optimizers_inside_the_backward_pass_are_one_step_on_many_ranks():
    """Their shares are put together, and only then exchanged."""
    (alone,) = on_ranks(in_backward, Placed, num=1)
    assert len(alone) == 3
    for seen in on_ranks(in_backward, first_by_rows):
        for record, expected in zip(seen, alone, strict=True):
            assert record.names == expected.names
            np.testing.assert_allclose(record.grad_norm, expected.grad_norm, rtol=RELATIVE)


def first_by_rows(model: nn.Module) -> Placed:
    """The first matrix is split by rows, everything else is whole."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    parallelize_module(model, mesh, {"0": ColwiseParallel(output_layouts=Replicate())})
    return Placed(model)


def scaled(place: Any) -> list[StepRecord]:
    """Under a GradScaler, with an overflow at the second step, on one rank's rows alone."""
    placed = place(wide_net().float())
    model = placed.model
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    with gradwatch.watch(model, writers=[], clip=gradwatch.ClipNorm(0.3)) as watch:
        for step, ((x, y),) in enumerate(batches(Plan(num_steps=4))):
            rows = x[placed.part :: placed.num_parts].float()
            if step == 1 and placed.part == 0:
                rows = rows * math.inf
            scaler.scale(functional.cross_entropy(model(rows), y[placed.part :: placed.num_parts])).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    return watch.history


def test_an_overflow_is_skipped_on_every_rank():
    """One rank's overflow is everybody's after the reduction: the step is skipped, and is no incident."""
    (alone,) = on_ranks(scaled, Placed, num=1)
    for seen in on_ranks(scaled, placements.fsdp2):
        assert [record.skipped for record in seen] == [False, True, False, False]
        for step in (0, 2, 3):
            assert seen[step].total_norm == pytest.approx(alone[step].total_norm, rel=1e-5)
            assert seen[step].clipped_norm == pytest.approx(alone[step].clipped_norm, rel=1e-5)
            assert seen[step].loss_scale == alone[step].loss_scale


def on_a_part_of_the_ranks() -> list[StepRecord] | None:
    """Two of three ranks share a model; the third one trains another, at its own pace."""
    mesh = DeviceMesh("cpu", [0, 1])
    if dist.get_rank() == 2:
        model, rows = wide_net(), slice(None)
    else:
        model, rows = wide_net(), slice(dist.get_rank(), None, 2)
        for module in (model[0], model[2], model):
            fully_shard(module, mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with gradwatch.watch(model, writers=[], every=1) as watch:
        for ((x, y),) in batches(Plan(num_steps=5 if dist.get_rank() == 2 else 3)):
            functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
    return watch.history


def test_only_those_who_share_the_model_are_asked():
    """Nobody waits for a rank that has no part of it, and that one measures alone."""
    first, second, other = on_ranks(on_a_part_of_the_ranks, num=3, limit=30)
    assert len(other) == 5
    for record, same, expected in zip(first, second, other[:3], strict=True):
        np.testing.assert_equal(record.to_json(), same.to_json())
        np.testing.assert_allclose(record.grad_norm, expected.grad_norm, rtol=RELATIVE)


def flat_fsdp1(model: nn.Module) -> Placed:
    """As FSDP1 is by default: the optimizer sees flat parameters, padded to divide evenly."""
    return Placed(FullyShardedDataParallel(model, device_id=torch.device("cpu")), dist.get_rank(), 2)


def flat(place: Any) -> list[StepRecord]:
    """A training whose parameters have no names of their own."""
    placed = place(wide_net())
    optimizer = torch.optim.SGD(placed.model.parameters(), 0.1)
    with gradwatch.watch(placed.model, writers=[], every=1, clip=gradwatch.ClipNorm(0.3)) as watch:
        for ((x, y),) in batches(Plan(num_steps=3)):
            mine = slice(placed.part, None, placed.num_parts)
            functional.cross_entropy(placed.model(x[mine]), y[mine]).backward()
            optimizer.step()
            optimizer.zero_grad()
    return watch.history


def test_flat_parameters_have_the_whole_norm():
    """What is known of them is their total, and that is right, clipped, too."""
    (alone,) = on_ranks(flat, Placed, num=1)
    for seen in on_ranks(flat, flat_fsdp1):
        for record, expected in zip(seen, alone, strict=True):
            assert len(record.names) == 1
            assert record.layers[0].numel == sum(layer.numel for layer in expected.layers)
            assert record.total_norm == pytest.approx(expected.total_norm, rel=RELATIVE)
            assert record.clipped_norm == pytest.approx(expected.clipped_norm, rel=RELATIVE)
            weights = math.sqrt((expected.weight_norm**2).sum())
            assert record.weight_norm[0] == pytest.approx(weights, rel=RELATIVE)


@pytest.mark.parametrize("broken", ["gradients cannot be measured", "the layout is not found"])
def test_an_error_among_partial_gradients_stops_nobody(broken):
    """They are summed by all ranks before anything is measured: also by the one that then fails."""
    plan = Plan(net=column_row_net, num_steps=4)
    answers = on_ranks(broken_together, placements.sequence_parallel, plan, *PLACES_OF_ERRORS[broken], limit=30)
    for seen, _ in answers:
        assert len(seen.whole) == 4
    assert len(answers[0][0].records) == 4
    assert "boom" in answers[1][1][0]


def test_the_batch_divides_by_what_is_tried_here():
    """Or else the mean over ranks would be another than that over rows."""
    assert BATCH % 4 == 0
