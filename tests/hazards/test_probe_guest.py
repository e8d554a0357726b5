"""The forward probe is a guest: it changes nothing, breaks nothing, leaves nothing behind, and compiles away."""

from __future__ import annotations

import contextlib
import copy
import gc
import io
import pickle
import warnings
import weakref

import pytest
import torch
from helpers import batch_loss, copies, quiet_watch, small_model, torch_as_it_is
from models import MODELS, batch, loss_of
from torch import nn
from torch.nn import functional
from torch.nn.modules import module as torch_module
from torch.optim.swa_utils import AveragedModel

from gradwatch._probes.forward import ForwardProbe
from gradwatch._probes.schedule import Probes

ALWAYS = Probes(every=1)


def armed(model, num_steps=2):
    """A watch whose probe is armed: the next forward pass is looked at."""
    watch = quiet_watch(model, probes=ALWAYS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(num_steps):
        optimizer.zero_grad()
        batch_loss(model).backward()
        optimizer.step()
    assert is_armed()
    return watch, optimizer


def is_armed():
    """Whether a process-wide hook is in place."""
    return bool(torch_module._global_forward_hooks)


def hooks():
    """The process-wide hooks, and torch's book-keeping that it forgets to clear."""
    return [*torch_module._global_forward_hooks, *torch_module._global_forward_hooks_with_kwargs]


@pytest.mark.parametrize("kind", MODELS)
def test_training_is_bit_equal_with_probes_at_every_step(kind):
    """Weights and random numbers after 50 steps, dropout and in-place ReLUs included."""
    results = []
    for opened in (lambda _: contextlib.nullcontext(), lambda model: quiet_watch(model, probes=ALWAYS)):
        torch.manual_seed(0)
        model = MODELS[kind]()
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        with opened(model) as watch:
            for step in range(50):
                loss = loss_of(model, batch(model, torch.Generator().manual_seed(step), 4))
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
        results.append([*copies(model.state_dict().values()), torch.get_rng_state()])
    assert all(record.activations is not None for record in list(watch.history)[1:])
    for plain, watched in zip(*results, strict=True):
        assert torch.equal(plain, watched)


@pytest.mark.parametrize("leave", ["close", "drop", "exception"])
def test_no_hook_is_left_behind(leave):
    """Also where the watch is left between a forward pass and its step."""
    model = small_model()
    if leave == "exception":
        with contextlib.suppress(ZeroDivisionError), quiet_watch(model, probes=ALWAYS):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for step in range(4):
                (batch_loss(model) * (1 // (3 - step))).backward()
                optimizer.step()
        assert not hooks()
        return
    watch, _ = armed(model)
    loss = batch_loss(model)
    if leave == "close":
        watch.close()
    del watch
    gc.collect()
    assert not hooks()
    loss.backward()


def test_the_users_forward_or_loss_may_raise():
    """The next step is looked at as if nothing had happened, and nothing piles up."""
    model = small_model()
    watch, optimizer = armed(model)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="shape"):
            model(torch.randn(2, 5))
        with pytest.raises(ValueError, match="batch"):
            functional.cross_entropy(model(torch.randn(2, 6)), torch.ones(5, dtype=torch.long))
    optimizer.zero_grad()
    batch_loss(model).backward()
    optimizer.step()
    watch.close()
    assert watch.history[2].activations is not None
    assert len(watch.history[2].activations.modules) <= 12
    assert not hooks()


def test_overlapping_watches():
    """Two watches on one model, closed in any order, see the same."""
    model = small_model()
    first, optimizer = armed(model)
    second = quiet_watch(model, probes=ALWAYS)
    for _ in range(3):
        optimizer.zero_grad()
        batch_loss(model).backward()
        optimizer.step()
    first.close()
    optimizer.zero_grad()
    batch_loss(model).backward()
    optimizer.step()
    second.close()
    assert first.history[4].activations.modules == second.history[2].activations.modules
    assert (first.history[4].activations.out_grad == second.history[2].activations.out_grad)[[0, 2]].all()


def test_users_may_copy_pickle_and_save_everything():
    """The model, copies of it, its averages and its outputs, while the probe is armed; no warning, no hook on them."""
    model = small_model()
    watch, _ = armed(model)
    output = model(torch.randn(3, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.save(model, io.BytesIO())
        torch.save(output, io.BytesIO())
        again = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), AveragedModel(model).module]
    for other in again:
        assert not other._forward_hooks
        other(torch.randn(3, 6)).sum().backward()
    watch.close()


def _fake(model):
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        return model(torch.randn(3, 6))


def _batched(model):
    y = model(torch.randn(2, 6))
    return torch.autograd.grad(y, list(model.parameters()), torch.randn(5, *y.shape), is_grads_batched=True)


def _penalty(model):
    x = torch.randn(2, 6, requires_grad=True)
    (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    (slope.square().sum() + model(x).sum()).backward()


def _saved(model):
    with torch.autograd.graph.save_on_cpu():
        model(torch.randn(2, 6)).sum().backward()


TRANSFORMS = {
    "vmap": lambda m: torch.func.vmap(lambda x: torch.func.functional_call(m, dict(m.named_parameters()), (x,)))(
        torch.randn(3, 6)
    ),
    "grad": lambda m: torch.func.grad(lambda p: torch.func.functional_call(m, p, (torch.randn(3, 6),)).sum())(
        dict(m.named_parameters())
    ),
    "jacrev": lambda m: torch.func.jacrev(m)(torch.randn(6)),
    "jvp": lambda m: torch.func.jvp(m, (torch.randn(3, 6),), (torch.randn(3, 6),)),
    "trace": lambda m: torch.jit.trace(m, torch.randn(3, 6)),
    "fx": torch.fx.symbolic_trace,
    "export": lambda m: torch.export.export(m, (torch.randn(3, 6),)),
    "make_fx": lambda m: torch.fx.experimental.proxy_tensor.make_fx(m)(torch.randn(3, 6)),
    "fake": _fake,
    "batched": _batched,
    "double backward": _penalty,
    "hessian": lambda m: torch.autograd.functional.hessian(lambda x: m(x).square().sum(), torch.randn(2, 6)),
    "saved tensors": _saved,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", TRANSFORMS)
def test_function_transforms_and_tracers_work_while_armed(name):
    """They work as ever, and the step after them is looked at."""
    model = small_model()
    watch, optimizer = armed(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        TRANSFORMS[name](model)
    assert not [w for w in caught if "gradwatch" in str(w.message)]
    for _ in range(2):
        optimizer.zero_grad()
        batch_loss(model).backward()
        optimizer.step()
    watch.close()
    assert watch.history[3].activations.modules == ("0", "1", "2")
    assert all(record.total_norm > 0 for record in watch.history)


@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_compiled_models(when):
    """No graph break, no error, no warning; what cannot be seen is said.

    Compiled while armed, torch compiles once more when the hook has gone: its guards ask whether there are any.
    """
    torch._dynamo.reset()
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    model, x = small_model(), torch.randn(8, 6)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if when == "before":
                torch.compile(model, backend=backend, fullgraph=True)(x)
                watch, optimizer = quiet_watch(model, probes=ALWAYS), torch.optim.SGD(model.parameters(), lr=0.1)
            else:
                watch, optimizer = armed(model)
            if when == "after":
                watch.close()
            compiled = torch.compile(model, backend=backend, fullgraph=True)
            for _ in range(5):
                optimizer.zero_grad()
                compiled(x).square().sum().backward()
                optimizer.step()
            watch.close()
    finally:
        torch._dynamo.reset()
    assert len(graphs) == (2 if when == "during" else 1)
    if when != "after":
        assert watch.history[-1].activations is None
        assert any("torch.compile" in gap.because for record in watch.history for gap in record.unavailable)


def test_data_parallel_replicas_are_not_mistaken():
    """Names lose the wrapper; a replica in another thread is nobody we know."""
    model = nn.DataParallel(small_model())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with quiet_watch(model, probes=ALWAYS) as watch:
        for _ in range(3):
            optimizer.zero_grad()
            batch_loss(model).backward()
            optimizer.step()
    assert watch.history[2].activations.modules == ("0", "1", "2")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    """Low precision outputs are measured; the statistics are not rounded to it."""
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with quiet_watch(model, probes=ALWAYS) as watch:
        for _ in range(3):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=dtype):
                loss = model(torch.full((8, 6), 1.001)).float().square().mean()
            loss.backward()
            optimizer.step()
    found = watch.history[2].activations
    assert found.in_mean[0] == pytest.approx(1.001, rel=1e-6)
    assert (found.out_grad > 0).all()


def test_nothing_waits_for_the_device():
    """On the meta device every look at a value would raise: all is measured there, and only travels afterwards."""
    model = MODELS["cnn"]().to("meta")
    probe = ForwardProbe(model)
    probe.arm()
    model(torch.randn(4, 64, device="meta")).sum().backward()
    found = probe.take()
    assert found.values.device.type == "meta"
    assert len(found.values) == len(found.places)
    assert "out_grad" in {column for cells in found.places for _, column in cells}


def test_gan_with_two_optimizers():
    """Each network is seen in its own optimizer's steps."""
    model = nn.ModuleDict({"g": nn.Linear(4, 6), "d": nn.Linear(6, 1)})
    optimizers = {name: torch.optim.SGD(part.parameters(), lr=0.01) for name, part in model.items()}
    with quiet_watch(model, probes=ALWAYS) as watch:
        for _ in range(4):
            model.zero_grad()
            with torch.no_grad():
                fake = model["g"](torch.randn(3, 4))
            (model["d"](fake) - model["d"](torch.randn(3, 6))).mean().backward()
            optimizers["d"].step()
            model.zero_grad()
            (-model["d"](model["g"](torch.randn(3, 4)))).mean().backward()
            optimizers["g"].step()
    last = list(watch.history)[-2:]
    assert [record.layers[0].module for record in last] == ["d", "g"]
    assert "d" in last[0].activations.modules
    assert last[1].activations.modules == ("g", "d")
    assert watch.incidents == []


def test_a_module_that_came_into_being_in_mid_run():
    """It is known at the next look; one that was replaced is forgotten."""
    model = small_model()
    watch, _ = armed(model)
    old = weakref.ref(model[2])
    model[2] = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        batch_loss(model).backward()
        optimizer.step()
    watch.close()
    assert watch.history[-1].activations.modules == ("0", "1", "2.0", "2.1", "2.2")
    gc.collect()
    assert old() is None


def test_user_hooks_of_every_kind_go_on():
    """Hooks on modules, tensors and the process, the user's own, see what they always saw."""
    model = small_model()
    before = torch_as_it_is()
    told = []
    handles = [
        model[0].register_forward_hook(lambda *_: told.append("forward")),
        model[2].register_full_backward_hook(lambda *_: told.append("backward")),
        torch_module.register_module_forward_hook(lambda m, *_: told.append("global") if m is model[0] else None),
    ]
    watch, optimizer = armed(model)
    told.clear()
    optimizer.zero_grad()
    batch_loss(model).backward()
    optimizer.step()
    watch.close()
    assert sorted(told) == ["backward", "forward", "global"]
    for handle in handles:
        handle.remove()
    assert torch_as_it_is() == before
