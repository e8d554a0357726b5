"""Records of fast steps wait for one another before they are judged and written: the same is found, and never late."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import batch_loss, small_model

import gradwatch
from gradwatch import _ledger
from gradwatch._judges import Judges
from gradwatch._ledger import MOST_WAITING, Ledger
from gradwatch.records import Layer, ModelInfo, StepRecord

LAYERS = (Layer("a"), Layer("b"))
MODEL = ModelInfo("Net")


class Notes:
    """A user's own writer: notes what it gets."""

    def __init__(self):
        self.steps = []
        self.incidents = []

    def write(self, record):
        """One step."""
        self.steps.append(record.step)

    def write_incident(self, incident):
        """One incident, and after which step it came."""
        self.incidents.append((len(self.steps), incident.to_json()))

    def close(self):
        """Nothing to do."""


def make(step, *, norm=1.0, bad=0, skipped=False):
    """A record."""
    return StepRecord(
        step, 0, LAYERS, np.array([norm, norm]), np.array([bad, 0]), norm * math.sqrt(2), norm, skipped=skipped
    )


class Clock:
    """Seconds by hand."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        """As :func:`time.monotonic`."""
        return self.now


@pytest.fixture
def clock(monkeypatch):
    """The ledger's clock."""
    clock = Clock()
    monkeypatch.setattr(_ledger, "time", clock)
    return clock


def ledger_of(patience=1.0):
    """A ledger and its only writer."""
    notes = Notes()
    return Ledger(Judges([]), [notes], 100, patience=patience), notes


def test_so_many_wait_and_no_more(clock):
    """The sixteenth record of a fast run has all of them written, in order."""
    ledger, notes = ledger_of()
    for step in range(MOST_WAITING - 1):
        ledger.take(make(step), MODEL, urgent=False)
        clock.now += 0.001
    assert notes.steps == []
    ledger.take(make(MOST_WAITING - 1), MODEL, urgent=False)
    assert notes.steps == list(range(MOST_WAITING))


@pytest.mark.parametrize(
    ("fields", "urgent"), [({}, True), ({"bad": 1, "norm": math.nan}, False), ({"skipped": True}, False)]
)
def test_what_is_suspicious_does_not_wait(clock, fields, urgent):
    """With it everything before it is judged and written."""
    ledger, notes = ledger_of()
    for step in range(3):
        ledger.take(make(step), MODEL, urgent=False)
    assert notes.steps == []
    ledger.take(make(3, **fields), MODEL, urgent=urgent)
    assert notes.steps == [0, 1, 2, 3]


def test_slow_steps_do_not_wait(clock):
    """Nothing waits longer than until the first step after a second, and without patience nothing waits."""
    ledger, notes = ledger_of()
    ledger.take(make(0), MODEL, urgent=False)
    clock.now += 1.0
    ledger.take(make(1), MODEL, urgent=False)
    assert notes.steps == [0, 1]
    ledger, notes = ledger_of(patience=0.0)
    ledger.take(make(0), MODEL, urgent=False)
    assert notes.steps == [0]


def explode(watch, model, steps=60, *, each=None):
    """Train with a rate that blows the model up from the 40th step on."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for step in range(steps):
        if step == 40:
            optimizer.param_groups[0]["lr"] = 1e4
        optimizer.zero_grad()
        loss = batch_loss(model)
        watch.loss(loss)
        loss.backward()
        optimizer.step()
        if each is not None:
            each(step)


def test_a_users_own_writer_gets_each_record_at_once():
    """It may stop the training by what it sees."""
    notes = Notes()
    model = small_model()
    with gradwatch.watch(model, writers=[notes]) as watch:
        explode(watch, model, 10, each=lambda step: notes.steps == list(range(step + 1)) or pytest.fail("it is late"))


def test_the_same_is_found_whether_records_wait_or_not(tmp_path):
    """Records, incidents and their order are the same; what is told later is told a few steps later."""

    def run(*writers):
        torch.manual_seed(0)
        model = small_model()
        told = []
        with gradwatch.watch(model, writers=writers) as watch:
            explode(watch, model, each=lambda _: told.append(len(watch._monitor.ledger.incidents)))
        return watch, told

    eager, told_at_once = run(Notes())
    waiting, told = run(gradwatch.JSONLWriter(tmp_path / "run.jsonl"))
    assert eager.incidents
    assert [incident.to_json() for incident in waiting.incidents] == [i.to_json() for i in eager.incidents]
    assert [record.to_json() for record in waiting.history] == [record.to_json() for record in eager.history]
    first, late = told_at_once.index(1), next(step for step, num in enumerate(told) if num)
    assert first <= late <= first + 3  # the next leap of norm or loss has everything judged


def test_whoever_asks_sees_everything(tmp_path):
    """During the run, and after it on disk."""
    model = small_model()
    path = tmp_path / "run.jsonl"
    with gradwatch.watch(model, writers=[gradwatch.JSONLWriter(path)]) as watch:
        explode(watch, model, 7)
        assert watch._monitor.ledger._waiting, "the test would prove nothing"
        assert [record.step for record in watch.history] == list(range(7))
        explode(watch, model, 5)
        assert watch.total_norm == watch.history[-1].total_norm
    steps = [line for line in path.read_text().splitlines() if '"grad_norm"' in line]
    assert len(steps) == 12
