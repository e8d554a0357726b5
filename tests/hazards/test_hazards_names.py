"""A13-A14: parameters that change, and what they are called."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.distributed as dist
from helpers import batch_loss, grad_norm, quiet_watch, small_model, train
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import parametrizations

import gradwatch

NAMES = ("0.weight", "0.bias", "2.weight", "2.bias")


def _step(watch: gradwatch.Watch, model: nn.Module, optimizer: torch.optim.Optimizer) -> gradwatch.StepRecord:
    """One step; its record must be of the gradients there are now."""
    optimizer.zero_grad()
    batch_loss(model).backward()
    owned = nn.ParameterList([p for group in optimizer.param_groups for p in group["params"]])
    norm = grad_norm(owned)
    optimizer.step()
    assert watch.total_norm == pytest.approx(norm, rel=1e-5)
    return watch.history[-1]


def test_a13_a_replaced_parameter() -> None:
    """A parameter that was replaced, in model and optimizer, goes on under its name; the old one is gone."""
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with quiet_watch(model) as watch:
        assert _step(watch, model, optimizer).names == NAMES
        model[0].weight = nn.Parameter(torch.randn(16, 6))
        optimizer.param_groups[0]["params"][0] = model[0].weight
        record = _step(watch, model, optimizer)
        assert record.names == NAMES
        assert not record.absent.any()


def test_a13_a_replaced_parameter_that_the_optimizer_does_not_know() -> None:
    """If the optimizer still holds the old one, no row is shown under its name."""
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with quiet_watch(model) as watch:
        _step(watch, model, optimizer)
        model[0].weight = nn.Parameter(torch.randn(16, 6))
        train(model, optimizer, 1)
    assert watch.history[-1].names == NAMES[1:]


def test_a13_a_module_parametrized_in_mid_run() -> None:
    """Weight normalisation put on a layer shows its own two parameters from then on."""
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with quiet_watch(model) as watch:
        _step(watch, model, optimizer)
        parametrizations.weight_norm(model[0])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        record = _step(watch, model, optimizer)
    assert set(record.names) == {name for name, _ in model.named_parameters()}
    layer = next(layer for layer in record.layers if layer.name.startswith("0.parametrizations"))
    assert (layer.module, layer.module_type) == ("0", "Linear")


def test_a13_a_lazy_model() -> None:
    """A lazy model can be watched before its first batch."""
    model = nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with quiet_watch(model, optimizer, every=1) as watch:
        for _ in range(2):
            record = _step(watch, model, optimizer)
            assert record.names == NAMES
            assert record.layers[0].shape == (16, 6)


def test_a13_a_parameter_group_added() -> None:
    """A group added in mid-run shows up in the same optimizer's records."""
    model = small_model()
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    with quiet_watch(model) as watch:
        assert _step(watch, model, optimizer).names == NAMES[:2]
        optimizer.add_param_group({"params": list(model[2].parameters()), "lr": 0.7})
        record = _step(watch, model, optimizer)
    assert (record.names, record.optimizer, record.lr) == (NAMES, 0, 0.7)


def test_a13_a_layer_frozen_and_thawed() -> None:
    """A frozen layer leaves the records, and comes back when it is trained again."""
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    names = []
    with quiet_watch(model) as watch:
        for frozen in (True, False, True, False):
            model[0].requires_grad_(not frozen)
            names.append(_step(watch, model, optimizer).names)
    assert names == [NAMES[2:], NAMES] * 2
    assert not watch.incidents


@pytest.mark.parametrize("change", ["resized", "double", "half the model double"])
def test_a13_a_parameter_with_other_data(change: str) -> None:
    """``.data`` of another shape or dtype in the same parameter is measured for what it is."""
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with quiet_watch(model, optimizer, every=1) as watch:
        _step(watch, model, optimizer)
        if change == "resized":
            model[0].weight.data, model[0].bias.data = torch.randn(24, 6), torch.randn(24)
            model[2].weight.data = torch.randn(4, 24)
            record = _step(watch, model, optimizer)
            assert record.layers[0].shape == (24, 6)
            return
        (model if change == "double" else model[2]).double()
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 1e100 if parameter.dtype == torch.float64 else 1.0)
        optimizer.step()
    record = watch.history[-1]
    assert record.num_nonfinite.sum() == 0
    assert record.layers[-1].dtype == "float64"
    assert record.grad_norm[-1] == pytest.approx(2e100)


class _WithModule(nn.Module):
    """A user's own attribute called ``module``, and a wrapped part inside."""

    def __init__(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.module = nn.Linear(6, 6)
        self.inner = wrap(nn.Linear(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.module(x))


@pytest.fixture
def _one_process_group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "nothing": lambda module: module,
    "compile": lambda module: torch.compile(module, backend="eager"),
    "DataParallel": nn.DataParallel,
    "DistributedDataParallel": nn.parallel.DistributedDataParallel,
    "DataParallel of compile": lambda module: nn.DataParallel(torch.compile(module, backend="eager")),
    "checkpoint": checkpoint_wrapper,
}


@pytest.mark.usefixtures("_one_process_group")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # torch's own
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a14_names_lose_wrappers_prefixes(wrap: Callable[[nn.Module], nn.Module]) -> None:
    """Wrapped as a whole or in part, a parameter keeps its one name; the user's own ``module`` stays."""
    torch._dynamo.reset()
    names = ("module.weight", "module.bias", "inner.weight", "inner.bias")
    for model in (_WithModule(wrap), wrap(_WithModule(lambda module: module))):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with quiet_watch(model) as watch:
            train(model, optimizer, 2)
        assert [record.names for record in watch.history] == [names] * 2
        assert [layer.module for layer in watch.history[0].layers] == ["module", "module", "inner", "inner"]


def test_a14_two_parameters_never_share_a_name() -> None:
    """A wrapper with a parameter that is called like one inside gets a name of its own."""
    wrapped = nn.DataParallel(nn.Linear(6, 4))
    wrapped.weight = nn.Parameter(torch.ones(()))
    with quiet_watch(wrapped) as watch:
        (batch_loss(wrapped) * wrapped.weight).backward()
        torch.optim.SGD(wrapped.parameters(), lr=0.1).step()
    assert len(set(watch.history[0].names)) == 3


def test_a14_compiled_in_mid_run_is_the_same_series() -> None:
    """Steps before and after ``torch.compile`` are under the same names."""
    torch._dynamo.reset()
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with quiet_watch(model) as watch:
        train(model, optimizer, 2)
        model[0] = torch.compile(model[0], backend="eager")
        train(model, optimizer, 2)
    assert {record.names for record in watch.history} == {NAMES}
