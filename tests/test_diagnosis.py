from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from faults import reads_well, train
from models import mlp
from torch import nn
from torch.nn import functional

from gradwatch._scene import Scene
from gradwatch.causes._remedies import normalise
from gradwatch.detectors import default_detectors
from gradwatch.diagnosis import diagnose
from gradwatch.records import Incident, Layer, ModelInfo, ModuleInfo, Severity, StepRecord, number_to_json

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
    code = cause.remedies[0].snippet  # mends all of them
    assert "if isinstance(m, nn.Sigmoid):\n        model.set_submodule(name, nn.ReLU())" in code
    assert "elif isinstance(m, nn.Linear):\n        nn.init.kaiming_normal_(m.weight" in code
    net = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Sequential(nn.Sigmoid(), nn.Linear(4, 4)))
    exec(code, {"model": net, "nn": nn})  # noqa: S102 - it is our own code, and has to run
    assert not any(isinstance(module, nn.Sigmoid) for module in net.modules())


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


# ------------------------------------------------------------------------------------------- faults put into real nets


def first_cause(model, num_steps=60, **options):
    """The first incident of a real training on digits, and its first cause."""
    (incident, *_) = train(model, num_steps, **options).incidents
    reads_well(incident)
    return incident, incident.causes[0]


class ByFunctions(torch.nn.Module):
    """No module stands for its ReLUs, and none is given what the last of them gives as it is."""

    def __init__(self, bias=0.0):
        super().__init__()
        self.a, self.b, self.head = torch.nn.Linear(64, 48), torch.nn.Linear(48, 48), torch.nn.Linear(48, 10)
        self.b.bias.data += bias

    def forward(self, x):
        return self.head(self.b(self.a(x).relu()).relu() * 1.0)


def test_a_bias_that_decides_alone_is_named_without_its_activation():
    """By its size against what the weights add to it; where the weights themselves are negative, it is not blamed."""
    model = ByFunctions(-60.0)
    size = float(model.b.bias.detach().norm() / model.b.weight.detach().norm())
    incident, cause = first_cause(model)
    assert (incident.kind, cause.name) == ("dead_relu", "dead_by_bias")
    assert incident.evidence["bias_size"] == pytest.approx(size, rel=0.01)
    assert cause.remedies[0].snippet == "nn.init.zeros_(model.b.bias)"
    model = ByFunctions()
    model.b.weight.data.abs_().neg_()
    model.b.bias.data.abs_().neg_()
    incident, cause = first_cause(model)
    assert incident.kind == "dead_relu"
    assert "dead_by_bias" not in [cause.name for cause in incident.causes]


def dead_net(gain):
    """One layer is dead; the weights of all are that many times as large."""
    layers = [
        torch.nn.Linear(64, 48),
        torch.nn.ReLU(),
        torch.nn.Linear(48, 48),
        torch.nn.ReLU(),
        torch.nn.Linear(48, 10),
    ]
    model = torch.nn.Sequential(*layers)
    for layer in model[::2]:
        layer.weight.data *= gain
    model[2].bias.data -= 60.0 * gain
    return model


def test_units_that_large_weights_have_killed():
    """Weights far above the common size come first, and at the common size they are not named."""
    incident, cause = first_cause(dead_net(8.0), num_steps=12)
    assert (incident.kind, cause.name) == ("dead_relu", "large_weights")
    assert "times the size that keeps a signal" in cause.evidence
    incident, cause = first_cause(dead_net(1.0), num_steps=12)
    assert "large_weights" not in [cause.name for cause in incident.causes]


def dead(**evidence):
    """A bare incident of dead units."""
    facts = {"rule": "dead", "activation": "net.1", "layer": "net.0", "share": 1.0, "weight_scale": 0.5, **evidence}
    incident = Incident("dead_relu", 40, ("net.0", "net.1"), Severity.ERROR, 1.0, 0.95, "", evidence=facts)
    zeros = np.zeros(DEPTH, dtype=np.int64)
    causes = diagnose(incident, StepRecord(40, 0, layers(), np.ones(DEPTH), zeros, 1.0, 1.0), model()).causes
    return {cause.name: cause for cause in causes}


def test_a_wild_update_of_one_layer_explains_dead_units():
    """Half of its weights in one step, though the usual layer was well; ordinary steps explain nothing."""
    assert "dead_by_learning_rate" not in dead(largest_update=0.01, wildest_update=0.3)
    one = dead(largest_update=0.01, wildest_update=0.8)["dead_by_learning_rate"]
    assert "0.8 times as large as the weights of one layer" in one.evidence
    every = dead(largest_update=2.0, wildest_update=0.0)["dead_by_learning_rate"]
    assert "of one layer" not in every.evidence
    assert every.confidence > one.confidence


def test_the_wildest_update_is_remembered():
    """That of the layer that was changed most at any sampled step of a real run, beside the usual one; also resumed."""
    net = dead_net(1.0)
    rates = [{"params": net[2].parameters(), "lr": 20.0}, {"params": [*net[0].parameters(), *net[4].parameters()]}]
    net[2].bias.data += 60.0
    watch = train(net, 20, optimizer=torch.optim.SGD(rates, 0.01))
    records = [record for record in watch.history if record.update_ratio is not None]
    matrices = [index for index, layer in enumerate(records[0].layers) if len(layer.shape) == 2]
    scene = Scene()
    for record in watch.history:
        scene.observe(record)
    again = Scene()
    again.load_state_dict(json.loads(json.dumps(number_to_json(scene.state_dict()))))
    for kept in (scene, again):
        facts = kept.complete(Incident("dead_relu", 20, (), Severity.ERROR, 1.0, 0.9, "")).evidence
        wildest = max(float(record.update_ratio[matrices].max()) for record in records)
        assert facts["wildest_update"] == pytest.approx(wildest)
        assert wildest > 0.5 > 10 * facts["largest_update"]


class Swelling(torch.nn.Module):
    """Twelve shortcuts that each make the signal larger, by weights of usual size."""

    def __init__(self, *, norm):
        super().__init__()
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(64, 64) for _ in range(12))
        self.norm, self.head = torch.nn.LayerNorm(64) if norm else torch.nn.Identity(), torch.nn.Linear(64, 10)

    def forward(self, x):
        x = self.norm(x)
        for block in self.blocks:
            x = x + 3 * block(x).relu()
        return self.head(x)


@pytest.mark.parametrize(("norm", "name"), [(False, "no_normalisation"), (True, "large_weights")])
def test_a_signal_that_swells_is_not_the_rates_fault(norm, name):
    """The loss is huge before anything was learnt: normalisation where there is none, else the weights, come first."""
    incident, cause = first_cause(Swelling(norm=norm), 10)
    assert (incident.kind, cause.name) == ("exploding", name)
    assert incident.step == 0
    assert "before anything was learnt" in cause.evidence
    assert [c.name for c in incident.causes].index("lr_too_high") > 0


def test_large_targets_are_no_swelling():
    """There the gradients grow with the error, the square root of the loss: nothing is said of the model's inside."""
    facts = {"rule": "replaced", "update_ratio": 50.0, "weight_scale": 0.4, "loss": 1e6, "loss_growth": 1.0}

    def names(**more):
        incident = Incident("exploding", 0, ("net.0",), Severity.ERROR, 50.0, 1.0, "", evidence={**facts, **more})
        record = StepRecord(0, 0, layers(), np.ones(DEPTH), np.zeros(DEPTH, dtype=np.int64), 1.0, 1.0)
        return {cause.name: cause.confidence for cause in diagnose(incident, record, model(norm="LayerNorm")).causes}

    assert "large_weights" in names(total_norm=1e6)
    assert "large_weights" not in names(total_norm=1e3)
    assert "large_weights" not in names(total_norm=1e6, loss_growth=100.0), "it came later"


@pytest.mark.parametrize(
    ("step", "rule", "growth", "expected"),
    [(12, "jump", 50.0, True), (12, "burst", 50.0, True), (40, "jump", 50.0, False), (12, "jump", 2.0, False)],
)
def test_a_run_that_diverged_at_once(step, rule, growth, expected):
    """A loss tenfold within the first twenty steps is the rate's; later, or a loss that has hardly grown, is not."""
    facts = {"rule": rule, "usual_norm": 1.0, "loss_growth": growth, "total_norm": 500.0}
    incident = Incident("exploding", step, ("net.0.weight",), Severity.ERROR, 500.0, 60.0, "", evidence=facts)
    record = StepRecord(step, 0, layers(), np.ones(DEPTH), np.zeros(DEPTH, dtype=np.int64), 500.0, 500.0, lr=0.3)
    found = [cause for cause in diagnose(incident, record, model()).causes if cause.name == "lr_too_high"]
    assert bool(found) == expected
    if found:
        assert (
            found[0].evidence == f"the loss is 50 times its first value after {step} steps, at a learning rate of 0.3"
        )


def squared(output, labels):
    """A regression of the label."""
    return functional.mse_loss(output, labels.float()[:, None])


def test_inputs_that_made_the_loss_overflow():
    """Inputs of a thousand under which the loss grew until it was infinite come before the rate; sound ones do not."""
    names = []
    for scale, lr in ((1e3, 1e-2), (1.0, 30.0)):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.LeakyReLU(), torch.nn.Linear(32, 1))
        optimizer = torch.optim.SGD(net.parameters(), lr)
        incidents = train(net, 40, scale=scale, optimizer=optimizer, loss_fn=squared).incidents
        (bad,) = [incident for incident in incidents if incident.kind == "nonfinite"]
        names.append([cause.name for cause in bad.causes])
    assert names[0][:2] == ["unscaled_inputs", "lr_too_high"]
    assert "unscaled_inputs" not in names[1]
    assert "lr_too_high" in names[1]


class Probabilities(torch.nn.Module):
    """Ends in a function that gives probabilities."""

    def __init__(self, function):
        super().__init__()
        self.body, self.function = mlp(), function

    def forward(self, x):
        return self.function(self.body(x))


def one_hot(labels):
    """As targets of each class."""
    return functional.one_hot(labels, 10).float()


def stalled_by(net, loss_fn):
    """The causes of a run that hardly moves."""
    optimizer = torch.optim.SGD(net.parameters(), 1e-5)
    incident, _ = first_cause(net, 110, optimizer=optimizer, loss_fn=loss_fn)
    assert incident.kind == "stalled"
    return {cause.name: cause for cause in incident.causes}


TWICE = {
    "module": (lambda: torch.nn.Sequential(*mlp(), torch.nn.Softmax(-1)), functional.cross_entropy),
    "function": (lambda: Probabilities(lambda x: functional.softmax(x, -1)), functional.cross_entropy),
    "in the loss": (mlp, lambda o, y: functional.cross_entropy(o.softmax(-1), y)),
    "sigmoid": (
        lambda: Probabilities(torch.sigmoid),
        lambda o, y: functional.binary_cross_entropy_with_logits(o, one_hot(y)),
    ),
}


@pytest.mark.parametrize("way", TWICE)
def test_a_softmax_that_is_taken_twice(way):
    """Once by the model, once by the loss: named first, whoever takes it, with the loss that does it alone."""
    make, loss_fn = TWICE[way]
    causes = stalled_by(make(), loss_fn)
    assert next(iter(causes)) == "unsuited_loss"
    cause = causes["unsuited_loss"]
    word = "sigmoid" if way == "sigmoid" else "softmax"
    assert f"the loss takes a {word} of what has passed through a {word} already" in cause.evidence
    assert f"before the {word}" in cause.remedies[0].action


class Choosing(torch.nn.Module):
    """A softmax inside, as in attention, with a layer behind it."""

    def __init__(self):
        super().__init__()
        self.scores, self.values, self.head = (torch.nn.Linear(64, n) for n in (16, 16, 10))
        self.head = torch.nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.scores(x).softmax(-1) * self.values(x))


@pytest.mark.parametrize(
    ("make", "loss_fn"),
    [
        (mlp, functional.cross_entropy),
        (Choosing, functional.cross_entropy),
        (lambda: Probabilities(torch.sigmoid), lambda o, y: functional.binary_cross_entropy(o, one_hot(y))),
        (mlp, lambda o, y: functional.binary_cross_entropy_with_logits(o, one_hot(y))),
        (mlp, lambda o, y: ((o - one_hot(y)) ** 2).mean()),
        (lambda: Probabilities(lambda x: functional.log_softmax(x, -1)), functional.nll_loss),
    ],
)
def test_a_suited_loss_is_not_blamed(make, loss_fn):
    """A softmax that attention takes, and losses that belong to what the model gives, are in their place."""
    assert "unsuited_loss" not in stalled_by(make(), loss_fn)


@pytest.mark.parametrize("function", [torch.sigmoid, lambda x: x.softmax(-1)], ids=["sigmoid", "softmax"])
@pytest.mark.parametrize(
    "loss_fn",
    [functional.mse_loss, lambda p, y: ((p - y) ** 2).mean(), lambda p, y: (p - y).square().sum(-1).mean()],
    ids=["function", "by hand", "square"],
)
def test_a_squared_error_of_a_probability(function, loss_fn):
    """By torch's function or by hand, it is named with what suits."""
    cause = stalled_by(Probabilities(function), lambda o, y: loss_fn(o, one_hot(y)))["unsuited_loss"]
    assert "a squared error is taken of what a" in cause.evidence
    suits = "nn.BCEWithLogitsLoss" if function is torch.sigmoid else "nn.CrossEntropyLoss"
    assert suits in cause.remedies[0].snippet


def test_weights_that_decay_has_shrunk():
    """They were sound: less decay is advised, and no other initialisation, which would shrink as well."""
    torch.manual_seed(0)
    net = mlp()
    decaying = torch.optim.SGD(net.parameters(), 0.1, weight_decay=0.5)
    incident, cause = first_cause(net, 100, optimizer=decaying)
    assert (incident.kind, cause.name) == ("vanishing", "small_weights")
    assert "have shrunk from a norm of" in cause.evidence
    assert "weight_decay" in cause.remedies[0].snippet
    assert [cause.name for cause in incident.causes].count("small_weights") == 1
    small = mlp()
    for parameter in small.parameters():
        parameter.data *= 0.1
    _, cause = first_cause(small, 60)
    assert "initialisation" in cause.remedies[0].action


def test_a_rate_that_leapt_and_came_down_again():
    """One step of one group at ten thousand times the rate: what it leapt to is told, not where it is by then."""
    torch.manual_seed(0)
    net = dead_net(1.0)
    net[2].bias.data += 60.0
    rest = [*net[0].parameters(), *net[4].parameters()]
    optimizer = torch.optim.SGD([{"params": net[2].parameters()}, {"params": rest}], 0.05)

    def before(step):
        optimizer.param_groups[0]["lr"] = 500.0 if step == 20 else 0.05

    incident, cause = first_cause(net, 40, optimizer=optimizer, before=before)
    assert (incident.kind, incident.step, cause.name) == ("lr_too_high", 21, "lr_jumped")
    assert "from 0.05 to 500" in incident.message
    assert "from 0.05 to 500" in cause.evidence


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        ("Linear", "LayerNorm", (5, 4)),
        ("Conv1d", "BatchNorm1d", (5, 4, 6)),
        ("Conv2d", "BatchNorm2d", (5, 4, 6, 6)),
        ("Conv3d", "BatchNorm3d", (5, 4, 6, 6, 6)),
        ("Embedding", "LayerNorm", (5, 4)),
    ],
)
def test_the_normalisation_suits_the_layers(layer, norm, shape):
    """What is usual behind most of the model's layers, a single Linear head aside; the code runs."""
    modules = [ModuleInfo("head", "Linear", 10), *(ModuleInfo(f"l{i}", layer, 10) for i in range(3))]
    snippet = normalise(ModelInfo("Net", tuple(modules), 40)).snippet
    assert norm in snippet
    assert eval(snippet, {"nn": torch.nn, "n": 4})(torch.randn(shape)).shape == shape  # noqa: S307 - what a user is told
    assert "LayerNorm" in normalise(ModelInfo("")).snippet


def test_a_convolutional_net_is_advised_batchnorm():
    """A real one, of which the signal fades."""
    convolutions = [part for _ in range(8) for part in (torch.nn.Conv2d(4, 4, 3, padding=1), torch.nn.Sigmoid())]
    net = torch.nn.Sequential(
        torch.nn.Unflatten(1, (1, 8, 8)),
        torch.nn.Conv2d(1, 4, 1),
        *convolutions,
        torch.nn.Flatten(),
        torch.nn.Linear(256, 10),
    )
    incident, cause = first_cause(net)
    assert incident.kind == "vanishing"
    assert any("nn.BatchNorm2d(n)" in remedy.snippet for remedy in cause.remedies)
