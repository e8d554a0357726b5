"""What the probes have last seen, as evidence for whoever judges in between; and the signal over depth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gradwatch._scene import Forward, Plan, Scene
from gradwatch._signal import SignalProfiles
from gradwatch.records import ACTIVATION_COLUMNS, Activations, Incident, Layer, Severity, StepRecord, Unavailable

KINDS = ("Embedding", "Linear", "ReLU", "Linear", "Sigmoid", "Linear", "Softmax")
MODULES = ("embed", "a", "act", "b", "gate", "head", "out")


LAYERS = tuple(
    Layer(f"{name}.weight", name, kind, (4, 4))
    for name, kind in zip(MODULES, KINDS, strict=True)
    if kind in ("Embedding", "Linear")
)


def record(step=1, **columns):
    """A step at which the probe has looked; columns by name."""
    table = {
        name: np.array(columns.get(name, [math.nan] * len(MODULES)), dtype=np.float64) for name in ACTIVATION_COLUMNS
    }
    ones = np.ones(len(LAYERS))
    seen = Activations(MODULES, KINDS, **table)
    return StepRecord(step, 0, LAYERS, ones, np.zeros(len(LAYERS), np.int64), 2.0, 2.0, activations=seen)


def incident(**evidence):
    """Any one."""
    return Incident("stalled", 5, ("a",), Severity.ERROR, 1.0, 1.0, "It is so.", evidence=evidence)


def test_a_plan_tells_layers_from_activations():
    """What follows what, which activations are hidden, and which are the output."""
    plan = Plan(MODULES, KINDS, frozenset({"embed", "a", "b", "head"}))
    assert plan.is_layer.tolist() == [True, True, False, True, False, True, False]
    assert plan.before.tolist() == [-1, 0, 1, 1, 3, 3, 5]
    assert plan.bounded.tolist() == [4]
    assert plan.outputs.tolist() == [6]
    assert plan.relus.tolist() == [2]
    assert plan.chain_modules == ("a", "b", "head")


def test_calls_are_made_once_a_step():
    """All who share it get the same; none where nobody has looked."""
    forward, looked = Forward(), record()
    assert forward.of(looked) is forward.of(looked)
    assert forward.of(record(2)).plan is forward.of(looked).plan
    plain = StepRecord(3, 0, looked.layers, looked.grad_norm, looked.num_nonfinite, 2.0, 2.0)
    assert forward.of(plain) is None


def test_what_was_last_seen_is_evidence_between_the_looks_and_after_a_resume():
    """Inputs and saturation of the last look go into an incident; what the incident says itself has precedence."""
    scene = Scene()
    nan = math.nan
    given = [nan, 3.0, nan, nan, nan, nan, nan]
    scene.observe(
        record(
            in_mean=given,
            in_std=[nan, 4.0, nan, nan, nan, nan, nan],
            in_max=[nan, 9.0, nan, nan, nan, nan, nan],
            in_spread=[nan, 2.0, nan, nan, nan, nan, nan],
            from_data=[0, 1, 0, 0, 0, 0, 0],
            saturated_share=[nan, nan, nan, nan, 0.25, nan, 0.9],
        )
    )
    again = Scene()
    again.load_state_dict(scene.state_dict())
    for told in (scene.complete(incident()), again.complete(incident())):
        assert told.evidence["input_module"] == "a"
        assert told.evidence["input_rms"] == pytest.approx(5.0)
        assert told.evidence["saturated_share"] == pytest.approx(0.25)
        assert told.evidence["num_bounded"] == 1
    assert scene.complete(incident(input_rms=7.0)).evidence["input_rms"] == 7.0


def test_gaps_are_told_once():
    """What could not be seen goes along with an incident, and not twice."""
    scene, gap = Scene(), Unavailable("activations", "torch.compile is in use")
    looked = record()
    scene.observe(StepRecord(3, 0, looked.layers, looked.grad_norm, looked.num_nonfinite, 2.0, 2.0, unavailable=(gap,)))
    told = scene.complete(incident())
    assert told.unavailable == (gap,)
    assert scene.complete(told).unavailable == (gap,)
    scene.observe(looked)
    assert scene.complete(incident()).unavailable == ()


def test_the_signal_over_depth():
    """Levels of the layers' output gradients, first to last; an unknown one is left out, a zero is -inf."""
    nan = math.nan
    profile = SignalProfiles().of(record(out_grad=[1.0, 1e-4, 1e-3, 1e-2, 1.0, 1.0, 1.0]))
    assert profile.modules == ("a", "b", "head")
    np.testing.assert_allclose(profile.level, [-4, -2, 0], atol=1e-12)
    assert profile.fade == pytest.approx(4.0)
    assert SignalProfiles().of(record(out_grad=[1.0, nan, 1.0, 1e-2, 1.0, 1.0, 1.0])).modules == ("b", "head")
    assert SignalProfiles().of(record(out_grad=[nan, nan, nan, nan, nan, 1.0, nan])) is None
    zero = SignalProfiles().of(record(out_grad=[1.0, 0.0, 1.0, 1e-2, 1.0, 1.0, 1.0]))
    assert zero.lowest == -math.inf
    assert math.isfinite(zero.fade)
