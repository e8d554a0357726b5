"""A19-A24: the watch is a guest: nothing on the model, nothing left behind, no error of ours in the training."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from helpers import batch_loss, copies, grad_norm, norm_of, quiet_watch, small_model, torch_as_it_is, train
from torch import Tensor, nn
from torch.nn import functional

import gradwatch


class _InPlace(nn.Module):
    """Residual and ReLU in place, right after the layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body(x)
        hidden += x
        return self.head(functional.relu(hidden, inplace=True))


def test_a19_in_place_networks_train() -> None:
    """In-place operations right after a layer work, and train to the same bits as without a watch."""
    model = _InPlace()
    twin = copy.deepcopy(model)
    for network in (model, twin):
        torch.manual_seed(1)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        if network is twin:
            train(network, optimizer)
            continue
        with quiet_watch(network, every=1) as watch:
            train(network, optimizer)
            for module in network.modules():
                assert module._is_full_backward_hook is None
    assert watch.step == 5
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_a20_a_watched_model_is_copied_pickled_and_saved() -> None:
    """deepcopy, pickle and torch.save work on model and optimizer under watch, and the copies are not watched."""
    model = small_model()
    optimizer = torch.optim.Adam(model.parameters())
    with quiet_watch(model) as watch:
        train(model, optimizer, 2)
        before = set(vars(model))
        file = io.BytesIO()
        torch.save({"model": model, "optimizer": optimizer.state_dict()}, file)
        file.seek(0)
        saved = torch.load(file, weights_only=False)
        clones = [copy.deepcopy((model, optimizer)), pickle.loads(pickle.dumps((model, optimizer)))]
        clones.append((saved["model"], torch.optim.Adam(saved["model"].parameters())))
        for clone, its_optimizer in clones:
            train(clone, its_optimizer, 2)
            assert set(vars(clone)) == before
        assert watch.step == 2
        train(model, optimizer, 1)
    assert watch.step == 3


def test_a21_other_models_are_not_seen() -> None:
    """Another model's optimizer, also in another thread, leaves no record and is not clipped."""
    model, other = small_model(), small_model()
    for_other = torch.optim.SGD(other.parameters(), lr=0.1)
    norms = []

    def train_other() -> None:
        batch_loss(other).backward()
        norms.append(grad_norm(other))
        for_other.step()
        norms.append(grad_norm(other))
        for_other.zero_grad()

    with quiet_watch(model, clip=gradwatch.ClipNorm(1e-3)) as watch:
        train_other()
        thread = threading.Thread(target=train_other)
        thread.start()
        thread.join()
        train(model, torch.optim.SGD(model.parameters(), lr=0.1), 2)
    assert norms[0] == norms[1]
    assert norms[2] == norms[3]
    assert watch.step == 2


def test_a21_a_step_in_another_thread_is_seen() -> None:
    """The watched model may be stepped from any thread."""
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with quiet_watch(model) as watch:
        thread = threading.Thread(target=train, args=(model, optimizer, 3))
        thread.start()
        thread.join()
    assert watch.step == 3


def test_a21_threads_that_train_at_once() -> None:
    """Hogwild: steps of two optimizers in two threads are all recorded, numbered in order."""
    model = nn.ModuleList([small_model(), small_model()])
    optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in model]
    with quiet_watch(model) as watch:
        threads = [threading.Thread(target=train, args=(p, o, 20)) for p, o in zip(model, optimizers, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [record.step for record in watch.history] == list(range(40))
    assert [record.optimizer for record in watch.history].count(0) == 20


@pytest.mark.parametrize("named", [False, True])
def test_a21_the_model_is_not_kept_alive(*, named: bool) -> None:
    """With the watch still open, a deleted model and its optimizer are gone, and other training goes on."""
    model = small_model()
    optimizer = torch.optim.Adam(model.parameters())
    watch = quiet_watch(model, optimizer if named else None)
    train(model, optimizer, 2)
    alive = [weakref.ref(model), weakref.ref(optimizer)]
    del model, optimizer
    gc.collect()
    assert [ref() for ref in alive] == [None, None]
    other = small_model()
    train(other, torch.optim.SGD(other.parameters(), lr=0.1), 2)
    assert watch.step == 2
    watch.close()


def test_a21_clipped_gradients_are_not_kept_alive() -> None:
    """No gradient of an earlier step is held by the watch, whoever clipped it."""
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with quiet_watch(model):
        alive = []
        for _ in range(3):
            optimizer.zero_grad()
            batch_loss(model).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            alive += [parameter.grad.untyped_storage()._weak_ref() for parameter in model.parameters()]
            optimizer.step()
        optimizer.zero_grad()
        gc.collect()
        freed = [torch.UntypedStorage._new_with_weak_ptr(ref) is None for ref in alive]
    for ref in alive:
        torch.UntypedStorage._free_weak_ref(ref)
    assert all(freed)


def test_a21_a_forgotten_watch_ends_by_itself() -> None:
    """A watch that was never closed restores torch once nobody holds it."""
    before = torch_as_it_is()
    model = small_model()
    watch = quiet_watch(model)
    train(model, torch.optim.SGD(model.parameters(), lr=0.1), 1)
    assert torch_as_it_is() != before
    del watch
    gc.collect()
    assert torch_as_it_is() == before


def test_a22_an_exception_in_the_loop() -> None:
    """It passes through unchanged, torch is as before, and what was measured can be read."""
    before = torch_as_it_is()
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(KeyboardInterrupt), quiet_watch(model) as watch:  # noqa: PT012
        train(model, optimizer, 2)
        raise KeyboardInterrupt
    assert torch_as_it_is() == before
    assert len(watch.history) == 2


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_a22_overlapping_watches_close_in_any_order(order: Sequence[int]) -> None:
    """Each watch sees what happens while it is open, and with the last one everything is gone."""
    before = torch_as_it_is()
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watches = [quiet_watch(model) for _ in range(3)]
    for index in order:
        train(model, optimizer, 1)
        watches[index].close()
    train(model, optimizer, 1)
    assert [watches[index].step for index in order] == [1, 2, 3]
    assert torch_as_it_is() == before
    for watch in watches:
        watch.close()


def test_a22_two_watches_each_with_its_own_optimizer() -> None:
    """Two watches on one model, narrowed to one optimizer each, are independent."""
    model = small_model()
    optimizers = [torch.optim.SGD(model[0].parameters(), lr=0.1), torch.optim.Adam(model[2].parameters())]
    with quiet_watch(model, optimizers[0]) as first, quiet_watch(model, [optimizers[1]]) as second:
        for _ in range(3):
            model.zero_grad()
            batch_loss(model).backward()
            for optimizer in optimizers:
                optimizer.step()
    assert {r.names for r in first.history} == {("0.weight", "0.bias")}
    assert {r.names for r in second.history} == {("2.weight", "2.bias")}
    assert first.step == second.step == 3


def test_a22_somebody_wrapped_the_same_function_meanwhile() -> None:
    """A patch that was put over ours survives, works, and we are out of it."""
    original = torch.amp.GradScaler.step
    model = small_model()
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.1), torch.amp.GradScaler("cpu")
    calls = []
    try:
        with quiet_watch(model) as watch:
            ours = torch.amp.GradScaler.step

            def theirs(*args: Any, **kwargs: Any) -> Any:
                calls.append(1)
                return ours(*args, **kwargs)

            torch.amp.GradScaler.step = theirs
            scaler.scale(batch_loss(model)).backward()
            scaler.step(optimizer)
            scaler.update()
        assert torch.amp.GradScaler.step is theirs
        scaler.scale(batch_loss(model) * float("inf")).backward()
        scaler.step(optimizer)
    finally:
        torch.amp.GradScaler.step = original
    assert len(calls) == 2
    assert watch.step == 1


class _Broken:
    """A clipping rule with a bug in it."""

    norm_type, needs, per_parameter = 2.0, (), False

    def apply(self, parameters: Any, statistics: Any, scale: Any) -> None:
        raise ZeroDivisionError("a bug of ours")


@pytest.mark.parametrize("with_closure", [False, True])
def test_a23_an_error_of_ours_does_not_stop_the_training(*, with_closure: bool) -> None:
    """It is told once; the weights are those of an unwatched run, bit by bit."""
    results = []
    for watched in (False, True):
        torch.manual_seed(2)
        model = small_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def closure(model: nn.Module = model, optimizer: torch.optim.Optimizer = optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = batch_loss(model)
            loss.backward()
            return loss

        def run(step: Any = optimizer.step, closure: Any = closure) -> None:
            for _ in range(4):
                if with_closure:
                    assert isinstance(step(closure), Tensor)
                else:
                    closure()
                    assert step() is None

        if watched:
            with quiet_watch(model, clip=_Broken()), pytest.warns(gradwatch.GradwatchWarning, match="a bug") as warned:
                run()
            assert len(warned) == 1
        else:
            run()
        results.append(copies(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


class _NotTorch:
    """An optimizer that is no ``torch.optim.Optimizer``."""

    def __init__(self, parameters: Any) -> None:
        self.parameters = list(parameters)

    def step(self) -> None:
        with torch.no_grad():
            for parameter in self.parameters:
                parameter.sub_(parameter.grad)


def test_a24_no_step_seen_is_told() -> None:
    """A watch that saw no optimizer step says so at its end, and how to help it."""
    model = small_model()
    watch = quiet_watch(model)
    batch_loss(model).backward()
    _NotTorch(model.parameters()).step()
    with pytest.warns(gradwatch.GradwatchWarning, match=r"no optimizer step.*observe"):
        watch.close()


def test_a24_observe_stands_in_for_the_hook() -> None:
    """``watch.observe(optimizer)`` before a foreign optimizer's step measures and clips."""
    model = small_model()
    optimizer = _NotTorch(model.parameters())
    with quiet_watch(model, clip=gradwatch.ClipNorm(0.01)) as watch:
        for _ in range(3):
            model.zero_grad()
            batch_loss(model).backward()
            before, norm = copies(model.parameters()), grad_norm(model)
            watch.observe(optimizer)
            optimizer.step()
            moved = norm_of(a - b for a, b in zip(before, model.parameters(), strict=True))
            assert moved == pytest.approx(0.01, rel=1e-3)
            assert watch.total_norm == pytest.approx(norm, rel=1e-5)
    assert watch.step == 3


def test_a24_observing_a_torch_optimizer_does_not_count_twice() -> None:
    """``observe`` ahead of a step that fires a hook is the same step."""
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with quiet_watch(model) as watch:
        for _ in range(3):
            batch_loss(model).backward()
            watch.observe(optimizer)
            optimizer.step()
    assert watch.step == 3
