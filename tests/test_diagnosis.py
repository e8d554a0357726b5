from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gradwatch.detectors import default_detectors
from gradwatch.diagnosis import diagnose
from gradwatch.records import Incident, Layer, ModelInfo, ModuleInfo, Severity, StepRecord

DEPTH, WIDTH = 8, 16
WEIGHT = math.sqrt(2 * WIDTH)  # the norm of a matrix with a variance of 2 / fan_in


def layers(dtype="float32", kind="Linear"):
    return tuple(Layer(f"net.{2 * i}.weight", f"net.{2 * i}", kind, (WIDTH, WIDTH), dtype) for i in range(DEPTH))


def model(act="ReLU", norm=""):
    modules = []
    for i in range(DEPTH):
        modules += [ModuleInfo(f"net.{2 * i}", "Linear", WIDTH**2), ModuleInfo(f"net.{2 * i + 1}", norm or act)]
    return ModelInfo("Net", tuple(modules[:-1]), DEPTH * WIDTH**2)


def run(norms, info, *, steps=6, scale=1.0, dtype="float32", **fields):
    """The last incident of a run in which every step looks the same; the weights are measured at the first."""
    detectors, found = default_detectors(), []
    bad = fields.pop("num_nonfinite", np.zeros(DEPTH, dtype=np.int64))
    norms = np.where(bad > 0, math.nan, norms)
    total = math.nan if bad.any() else float(np.linalg.norm(norms))
    these = layers(dtype)
    for step in range(steps):
        record = StepRecord(
            **{
                "step": step,
                "optimizer": 0,
                "layers": these,
                "grad_norm": norms,
                "num_nonfinite": bad,
                "total_norm": total,
                "clipped_norm": total,
                "weight_norm": np.full(DEPTH, WEIGHT * scale) if step == 0 else None,
                **fields,
            }
        )
        found += [diagnose(i, record, info) for d in detectors for i in d.observe(record)]
    return found[-1]


FADING = 0.2 ** np.arange(DEPTH - 1, -1, -1.0)


def test_saturating_activations_are_counted():
    """A fade through sigmoids names them, with their number and a line of code for this model."""
    incident = run(FADING, model("Sigmoid"))
    cause = incident.causes[0]
    assert (cause.name, incident.kind) == ("saturating_activations", "vanishing")
    assert "7 Sigmoid activations" in cause.evidence
    assert "model.net[1] = nn.ReLU()" in cause.remedies[0].snippet
    assert "nn.init.kaiming_normal_(model.net[0].weight" in cause.remedies[0].snippet


def test_small_weights_come_before_tanh():
    """Weights far too small are the likelier cause of a fade through tanh, though they were measured earlier."""
    causes = run(FADING, model("Tanh"), scale=0.05).causes
    assert [cause.name for cause in causes][:2] == ["small_weights", "saturating_activations"]
    assert "0.05 of the size" in causes[0].evidence


def test_depth_without_normalisation_needs_the_absence_of_one():
    """A net that normalises is not told to normalise."""
    assert [c.name for c in run(FADING, model("GELU")).causes] == ["no_normalisation"]
    assert [c.name for c in run(FADING, model(norm="LayerNorm")).causes] == ["unknown"]


@pytest.mark.parametrize(("scale", "name"), [(1.0, "dead_relu"), (0.0, "zero_weights")])
def test_zero_gradient_is_a_dead_relu_or_zero_weights(scale, name):
    """A gradient of exactly zero behind a ReLU is a dead one, unless the weights are zero."""
    norms = np.where(np.arange(DEPTH) < 5, 0.0, 1.0)
    assert run(norms, model(), scale=scale).causes[0].name == name


def test_dead_relu_remedy_is_for_this_layer():
    """The snippet replaces the last ReLU before the layer that still learns."""
    cause = run(np.where(np.arange(DEPTH) < 5, 0.0, 1.0), model()).causes[0]
    assert cause.remedies[0].snippet == "model.net[9] = nn.LeakyReLU(0.01)"


def test_learning_rate_too_high_says_how_much_lower():
    """The suggested learning rate follows from the measured update."""
    incident = run(np.ones(DEPTH), model(), update_ratio=np.full(DEPTH, 3.0), lr=0.5)
    cause = incident.causes[0]
    assert (incident.kind, cause.name) == ("lr_too_high", "lr_too_high")
    assert "3 times as large as the weights" in cause.evidence
    assert "lower by a factor of 10: 0.05 in place of 0.5" in cause.remedies[0].action


def test_large_weights_come_before_the_learning_rate():
    """An initialisation far too large explains too large an update."""
    causes = run(np.ones(DEPTH), model(), scale=3.0, update_ratio=np.full(DEPTH, 300.0), lr=0.5, steps=1).causes
    assert causes[0].name == "large_weights"
    assert "3 times the size" in causes[0].evidence


def test_an_infinite_update_is_no_error():
    """Updates beyond all numbers still get a cause, without a nonsensical learning rate."""
    causes = run(np.ones(DEPTH), model(), update_ratio=np.full(DEPTH, math.inf), lr=0.5, steps=1).causes
    assert "lr_too_high" in [cause.name for cause in causes]


def jumped(usual=2.0, name="net.0.weight", clipped=500.0):
    incident = Incident("exploding", 9, (name,), Severity.ERROR, 500.0, 60.0, "", evidence={"usual_norm": usual})
    zeros = np.zeros(DEPTH, dtype=np.int64)
    return incident, StepRecord(9, 0, layers(), np.ones(DEPTH), zeros, 500.0, clipped)


def test_clipping_is_suggested_at_twice_the_usual_norm():
    """The limit comes from this run's history; where something clips already, it is not suggested."""
    incident, record = jumped()
    (cause,) = diagnose(incident, record, model()).causes
    assert cause.name == "no_clipping"
    assert "ClipNorm(max_norm=4)" in cause.remedies[0].snippet
    incident, record = jumped(clipped=1.0)
    assert diagnose(incident, record, model()).causes[0].name == "unknown"


def test_recurrence_is_named_where_its_layer_is():
    """A recurrent module counts only when the incident names it."""
    info = ModelInfo("Net", (ModuleInfo("rnn", "RNN", 100), ModuleInfo("out", "Linear", 10)))
    incident, record = jumped(name="rnn.weight_hh_l0")
    assert diagnose(incident, record, info).causes[0].name == "long_recurrence"
    incident, record = jumped(name="out.weight")
    assert diagnose(incident, record, info).causes[0].name == "no_clipping"


BAD = np.array([0, 0, 3, 0, 0, 0, 0, 0])


@pytest.mark.parametrize(
    ("fields", "name", "words"),
    [
        ({"num_nonfinite": BAD, "num_nonfinite_weight": BAD, "loss": math.nan}, "nonfinite_weight", "net.4.weight"),
        ({"num_nonfinite": BAD, "loss": math.nan}, "nonfinite_loss", "NaN"),
        ({"num_nonfinite": BAD, "loss": 1.0}, "nonfinite_gradient", "the loss is finite"),
        ({"num_nonfinite": BAD}, "nonfinite_gradient", "the loss is not known"),
        ({"num_nonfinite": BAD, "loss": 1.0, "dtype": "float16"}, "half_precision_overflow", "65,504"),
        ({"num_nonfinite": BAD, "skipped": True, "loss_scale": 0.5, "steps": 20}, "loss_scale", "0.5 still overflows"),
        ({"loss": math.inf}, "nonfinite_loss", "inf"),
    ],
)
def test_nonfinite_causes(fields, name, words):
    """Each way to a non-finite value has its cause, with the evidence for it."""
    cause = run(np.ones(DEPTH), model(), **{"steps": 1, **fields}).causes[0]
    assert cause.name == name
    assert words in cause.evidence


def test_nothing_known_is_said():
    """An incident that no rule explains gets one cause that says so, at low confidence."""
    incident, record = jumped(usual=None)
    (cause,) = diagnose(incident, record, ModelInfo("")).causes
    assert (cause.name, cause.remedies != ()) == ("unknown", True)
    assert cause.confidence < 0.2


def test_causes_are_ranked_and_the_incident_unchanged():
    """Causes come in order of confidence; nothing else of the incident changes."""
    incident = run(FADING, model("Sigmoid"), scale=0.05)
    confidences = [cause.confidence for cause in incident.causes]
    assert confidences == sorted(confidences, reverse=True)
    assert len(confidences) == 3
    assert Incident.from_json(incident.to_json()) == incident


def test_the_initialisation_suits_the_activations_and_all_layers():
    """A tanh network is not told to use Kaiming's law for ReLUs, and the code reaches every layer; it runs."""
    for act, law in (("Tanh", "xavier_normal_"), ("ReLU", "kaiming_normal_")):
        incident = run(np.ones(DEPTH), model(act), update_ratio=np.full(DEPTH, 30.0), lr=0.5, scale=6.0)
        (remedy,) = [c.remedies[0] for c in incident.causes if c.name == "large_weights"]
        assert remedy.snippet.startswith("for m in model.modules():")
        assert law in remedy.snippet
        network = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, 8))
        before = network[2].weight.clone()
        exec(remedy.snippet, {"model": network, "nn": torch.nn})  # noqa: S102 - what the user is told to run
        assert not torch.equal(before, network[2].weight)
