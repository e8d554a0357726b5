"""The words that the terminal, the report and ``summary()`` share."""

from __future__ import annotations

import math

import pytest

from gradwatch import wording
from gradwatch.records import Cause, Incident, LayerSummary, ModelInfo, Remedy, RunSummary, Severity


def _incident(layers=("fc0",), **changes):
    values = {"kind": "vanishing", "step": 4, "severity": Severity.WARNING, "value": 1.0, "threshold": 2.0}
    return Incident(layers=layers, message="it fades", **{**values, **changes})


def _summary(num_layers=3, **changes):
    layers = tuple(LayerSummary(f"fc{index}.weight", 1.0, 1.0, 1.1, 7) for index in range(num_layers))
    values = {
        "model": ModelInfo("MLP", (), 101_770),
        "num_steps": 400,
        "num_skipped": 0,
        "num_clipped": 0,
        "clip": None,
        "last_total_norm": 0.5,
        "layers": layers,
        "incidents": (),
        "notes": (),
        "watch_seconds": 0.21,
        "run_seconds": 23.3,
    }
    return RunSummary(**{**values, **changes})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (3.2e-12, "3.2e-12"),
        (0.2617, "0.262"),
        (7.0, "7"),
        (40_000.0, "40,000"),
        (123_456.0, "123,456"),
        (1.5e30, "1.5e30"),
        (math.nan, "NaN"),
        (-math.inf, "-inf"),
    ],
)
def test_number(value, text):
    """A number has three digits that count, and never a long tail."""
    assert wording.number(value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (0.0004, "under 0.1 %"), (0.009, "0.9 %"), (0.26, "26 %"), (0.9999, "over 99 %"), (1, "100 %")],
)
def test_percent(share, text):
    """A share is 0 % or 100 % only where it is exactly that."""
    assert wording.percent(share) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.012, "12 ms"), (0.21, "0.21 s"), (42.0, "42 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_duration(seconds, text):
    """A duration has the unit that one would say."""
    assert wording.duration(seconds) == text


def test_headline():
    """The first line says what, when, where and its code."""
    layers = tuple(f"fc{index}" for index in range(6))
    expected = "vanishing · step 4 · fc0 … fc5 (6 of 13 layers) · GW102"
    assert wording.headline(_incident(layers, num_layers=13)) == expected
    assert wording.headline(_incident((), kind="nonfinite")) == "nonfinite · step 4 · GW103"


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        (("fc0",), "fc0"),
        (("fc1", "fc0"), "fc1, fc0 (2 of 13 layers)"),
        (("fc11", "fc10", "fc9", "fc8"), "fc8 … fc11 (4 of 13 layers)"),
        (("fc3", "fc0", "fc5", "fc4"), "fc3, fc0, fc5 and 1 more (4 of 13 layers)"),
    ],
)
def test_where(layers, text):
    """Layers are a range only where they are one; otherwise the worst come first."""
    assert wording.where(layers, 13) == text


@pytest.mark.parametrize(("value", "word"), [(0.9, "confident"), (0.6, "likely"), (0.2, "possible")])
def test_confidence(value, word):
    """A confidence is a word."""
    cause = Cause("small_initialisation", value, "std 0.01")
    assert wording.because(cause) == f"small initialisation ({word}): std 0.01"
    known = Cause("small_weights", value, "std 0.01")
    assert wording.because(known) == f"small weights ({word}): std 0.01 · GW202"


def test_advice():
    """A remedy says what to do and why, in one piece."""
    assert wording.advice(Remedy("use ReLU.", "it passes the signal on.")) == "use ReLU: it passes the signal on"


def test_verdict_healthy():
    """A healthy run says in one line what was watched, that nothing was found, and what it cost."""
    assert wording.verdict(_summary()) == (
        "gradwatch: 400 steps of MLP (3 parameter tensors, 101,770 elements): nothing found; "
        "watching took 0.21 s, 0.9 % of the run"
    )


def test_verdict_sick():
    """A sick run names its first incident."""
    line = wording.verdict(_summary(incidents=(_incident(), _incident(step=9))))
    assert "2 incidents, first: vanishing at step 4 in fc0; watching took" in line


def test_verdict_without_steps():
    """Silence is never an answer: a watch that saw no step says so."""
    assert "no optimizer step of MLP" in wording.verdict(_summary(num_steps=0))


@pytest.mark.parametrize("hostile", ["x" * 10_000, "a\x1b[2Jb", "a\nb\u2028c", "\ud800", "a\tb\x00"])
def test_hostile_names_stay_on_one_short_line(hostile):
    """No name can steer a terminal or fill it."""
    text = wording.headline(_incident((hostile,)))
    assert text.isprintable()
    assert len(text) < 120


def test_markdown():
    """Markdown and HTML show a text as it is, and run nothing of it."""
    assert wording.markdown("<b>*a*|[x](y)_&") == "&#60;b&#62;&#42;a&#42;&#124;&#91;x&#93;(y)&#95;&#38;"


def test_interesting():
    """Few layers stand for many: first, last, those of incidents and the extremes, in depth order."""
    layers = list(_summary(100).layers)
    layers[50] = LayerSummary("fc50.weight", 1.0, 1.0, 1e6, 3)
    layers[60] = LayerSummary("fc60.weight", 1.0, 1.0, math.nan, 3)
    summary = _summary(layers=tuple(layers), incidents=(_incident(("fc70", "fc71.weight")),))
    names = [layer.name for layer in wording.interesting(summary, limit=6)]
    assert names == [f"fc{index}.weight" for index in (0, 50, 60, 70, 71, 99)]


def test_facts():
    """Clipping, skipped steps, notes and cost are told with the numbers of the run."""
    rows = wording.facts(_summary(clip="ClipNorm(max_norm=1.0)", num_clipped=31, num_skipped=2, notes=("note it",)))
    assert rows[0] == ("clipping", "ClipNorm(max_norm=1.0): 31 of 400 steps clipped (7.8 %)")
    assert [label for label, _ in rows] == ["clipping", "total norm", "skipped", "note", "cost"]
