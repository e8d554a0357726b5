"""``max_overhead`` keeps the measured share of watching under the promise, and says what that took."""

from __future__ import annotations

import itertools

import pytest
import torch
from models import batch, loss_of, mlp

import gradwatch
from gradwatch import _measurement, _price, _steps
from gradwatch._budget import EXEMPT_STEPS, PROBE, SAMPLE, Budget
from gradwatch._price import Price


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def train(monkeypatch, max_overhead, *, steps=400, norms=0.002, samples=0.2, every=10, probes=False):
    """A second a step of the user's; so many of ours for norms and for samples."""
    clock, true_measure = Clock(), _measurement.measure

    def measure(*args, sampled=False, **kwargs):
        clock.now += norms + samples * sampled
        return true_measure(*args, sampled=sampled, **kwargs)

    monkeypatch.setattr(_measurement, "measure", measure)
    torch.manual_seed(0)
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(1)
    watch = gradwatch.watch(model, writers=[], every=every, probes=probes, max_overhead=max_overhead)
    watch._monitor.price.clock = clock
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model, batch(model, generator)).backward()
        clock.now += 1.0
        optimizer.step()
    watch.close()
    return watch


def share(watch):
    """Of the run, as measured."""
    price = watch._monitor.price
    return price.watch_seconds / price.run_seconds


def sampled(watch):
    """Steps with maxima, weight norms and update ratios."""
    steps = [r.step for r in watch.history if r.weight_norm is not None]
    assert steps == [r.step for r in watch.history if r.grad_max is not None]
    assert steps == [r.step for r in watch.history if r.update_ratio is not None]
    return steps


def test_the_share_stays_under_the_promise(monkeypatch):
    """Samples are thinned evenly and never more than it takes; norms come at every step."""
    free = train(monkeypatch, None)
    assert share(free) == pytest.approx(0.022, rel=0.05)
    assert sampled(free) == list(range(0, 400, 10))
    kept = train(monkeypatch, 0.01)
    assert 0.008 < share(kept) <= 0.01
    assert set(sampled(kept)) < set(sampled(free))
    assert sampled(kept)[0] == 0
    gaps = [b - a for a, b in itertools.pairwise(sampled(kept)[1:])]
    assert max(gaps) <= 50
    assert all(record.total_norm > 0 for record in kept.history)
    assert len(kept.history) == 400


def test_the_same_run_is_thinned_alike(monkeypatch):
    """With the same clock the same steps are left out."""
    assert sampled(train(monkeypatch, 0.01)) == sampled(train(monkeypatch, 0.01))


def test_nothing_is_left_out_where_it_fits(monkeypatch):
    """A generous limit changes nothing and is not mentioned."""
    watch = train(monkeypatch, 0.5, steps=60)
    assert sampled(watch) == list(range(0, 60, 10))
    assert "max_overhead" not in watch.summary()


def test_the_summary_says_what_was_left_out(monkeypatch):
    """The share of the run, the limit, and how many of how many samples."""
    watch = train(monkeypatch, 0.01)
    text = " ".join(watch.summary().split())
    num = 40 - len(sampled(watch))
    assert f"{num} of 40 samples of maxima, weights and updates" in text
    assert "below 1.00% of the run (max_overhead)" in text
    assert "% of the run" in text
    assert "alone cost more" not in text


def test_norms_alone_above_the_limit(monkeypatch):
    """They are measured all the same, nothing else is, and the summary says so."""
    watch = train(monkeypatch, 0.001, steps=100)
    assert sampled(watch) == [0]
    assert len(watch.history) == 100
    assert "The norms of every step alone cost more than that" in " ".join(watch.summary().split())


def test_probes_are_thinned_too(monkeypatch):
    """Of the forward pass's looks only the first few remain where nothing fits."""
    watch = train(monkeypatch, 0.001, steps=100, probes=gradwatch.Probes(every=10))
    looked = [record.step for record in watch.history if record.activations is not None]
    assert looked == [1, 2, 3, 4]
    assert "looks at the forward pass" in " ".join(watch.summary().split())


def test_the_users_clipping_comes_first(monkeypatch):
    """A step measured early, ahead of the user's own clipping, is thinned like any other."""
    clock = Clock()
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    watch = gradwatch.watch(model, writers=[], every=1, probes=False, max_overhead=1e-9)
    watch._monitor.price.clock = clock
    for _ in range(10):
        optimizer.zero_grad()
        loss_of(model, batch(model, torch.Generator().manual_seed(1))).backward()
        clock.now += 1.0
        watch._monitor.price.watch_seconds += 1.0
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()
    watch.close()
    assert [record.step for record in watch.history if record.grad_max is not None] == list(range(EXEMPT_STEPS))


def test_a_look_is_granted_when_its_price_fits():
    """What watching has cost and what the last such look has cost, together, against the share of the run."""
    clock = Clock()
    price = Price(clock)
    budget = Budget(price, 0.1)
    start = price.start()
    clock.now = 100.0
    price.stop(start)
    price.watch_seconds = 9.0
    budget.step_is_over()
    assert budget.grants(SAMPLE, 100)
    budget.step_is_over()
    price.watch_seconds = 9.5  # the look has cost half a second
    budget.step_is_over()
    assert budget.grants(SAMPLE, 100)
    assert not Budget(price, 0.09).grants(SAMPLE, 100)
    price.watch_seconds = 9.8
    assert not budget.grants(SAMPLE, 100)
    assert budget.grants(PROBE, 100)
    assert budget.grants(SAMPLE, EXEMPT_STEPS - 1)


@pytest.mark.parametrize("by_closure", [False, True])
def test_the_price_has_all_that_the_training_waits_for_and_nothing_of_its_own(monkeypatch, by_closure):
    """Finding out whom a step concerns (a second here, before and after it) counts; what a closure does does not."""
    clock, true_concerned, true_measure = Clock(), _steps.concerned, _measurement.measure

    def concerned(optimizer):
        clock.now += 1.0
        return true_concerned(optimizer)

    def measure(*args, **kwargs):
        clock.now += 0.25
        return true_measure(*args, **kwargs)

    monkeypatch.setattr(_price, "CLOCK", clock)
    monkeypatch.setattr(_steps, "concerned", concerned)
    monkeypatch.setattr(_measurement, "measure", measure)
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    stranger = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.01)

    def closure():
        clock.now += 100.0
        optimizer.zero_grad()
        loss = loss_of(model, batch(model, torch.Generator().manual_seed(1)))
        loss.backward()
        return loss

    with gradwatch.watch(model, writers=[], probes=False) as watch:
        for _ in range(3):
            if by_closure:
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()
            stranger.step()
            watch.loss(0.0)
    before = 0.0 if by_closure else 1.0  # with a closure torch's hook is long over when the gradients are there
    assert watch._monitor.price.watch_seconds == pytest.approx(3 * (before + 0.25 + 1.0))


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ("1%", TypeError, "max_overhead=.* is of type str"),
        (True, TypeError, "max_overhead=.* is of type bool"),
        (0, ValueError, "max_overhead=0"),
        (1.5, ValueError, "at most 1"),
        (float("nan"), ValueError, "max_overhead=nan"),
    ],
)
def test_wrong_arguments_say_what_is_allowed(given, error, text):
    """At both entrances, before training starts."""
    from gradwatch.lightning import GradWatch

    for make in (lambda: gradwatch.watch(mlp(), max_overhead=given), lambda: GradWatch(max_overhead=given)):
        with pytest.raises(error, match=text) as caught:
            make()
        assert isinstance(caught.value, gradwatch.GradwatchError)
