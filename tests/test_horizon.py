"""The memory horizon from a profile, and the detector and the causes that go by it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

import gradwatch
from gradwatch._horizon import horizon, in_words
from gradwatch.detectors import default_detectors
from gradwatch.detectors.through_time import ThroughTimeDetector
from gradwatch.diagnosis import diagnose
from gradwatch.records import Incident, Layer, ModelInfo, StepRecord, TimeProfile

LAYERS = (Layer("rnn.weight_hh_l0", "rnn", "RNN", (8, 8)), Layer("out.weight", "out", "Linear", (2, 8)))


def profile(per_step=0.5, steps=30, *, direct="end", kind="RNN", module="rnn", layer="0", response=True):
    """A signal that is multiplied by ``per_step`` on its way back."""
    signal = per_step ** np.arange(steps - 1, -1, -1.0)
    spoken = np.zeros(steps) if direct == "end" else np.ones(steps)
    spoken[-1] = 1.0
    norm = signal if direct == "end" else np.ones(steps)
    return TimeProfile(
        module, kind, tuple(norm), layer, tuple(spoken) if response else (), tuple(signal) if response else ()
    )


def make(step, *profiles, loss=1.0, norm=1.0, **fields):
    return StepRecord(
        step=step,
        optimizer=0,
        layers=LAYERS,
        grad_norm=np.array([norm, norm]),
        num_nonfinite=np.zeros(2, dtype=np.int64),
        total_norm=norm,
        clipped_norm=norm,
        loss=loss,
        through_time=profiles,
        **fields,
    )


def found(*profiles, steps=120, every=10, loss=lambda step: 1.0, norm=lambda step: 1.0, detector=None):
    """The incidents of a run in which every tenth step is probed."""
    detector = detector or ThroughTimeDetector()
    records = (
        make(step, *(profiles if step % every == 0 else ()), loss=loss(step), norm=norm(step)) for step in range(steps)
    )
    return [incident for record in records for incident in detector.observe(record)]


# ------------------------------------------------------------------------------------------------------ the horizon


@pytest.mark.parametrize("per_step", [0.3, 0.9, 0.99])
def test_half_life_and_factor_of_an_even_fade(per_step):
    """An exponential fade is read exactly."""
    seen = horizon(profile(per_step))
    assert seen.per_step == pytest.approx(per_step)
    assert seen.half_life == pytest.approx(math.log(0.5) / math.log(per_step))
    assert seen.decades == pytest.approx(-29 * math.log10(per_step))
    assert seen.at_end


def test_one_odd_step_does_not_move_the_fit():
    """A least-squares line would follow the outlier."""
    values = np.array(profile(0.8).response)
    values[3] = 1e-12
    seen = horizon(TimeProfile("rnn", "RNN", tuple(values), response=tuple(values)))
    assert seen.per_step == pytest.approx(0.8, rel=0.02)


def test_a_loss_on_every_step_hides_nothing():
    """The total gradient is flat there; the response to the last one is what counts."""
    seen = horizon(profile(0.5, direct="every"))
    assert seen.per_step == pytest.approx(0.5)
    assert seen.at_end is False


def test_growth_is_negative_loss():
    """A signal that grows has no half-life."""
    seen = horizon(profile(2.0))
    assert (seen.half_life, seen.decades) == (math.inf, pytest.approx(-29 * math.log10(2)))


def test_a_signal_that_dies_out_altogether():
    """Exact zeros at the beginning are no missing data, and break no logarithm."""
    values = (0.0,) * 10 + tuple(0.1 ** np.arange(9, -1, -1.0))
    seen = horizon(TimeProfile("rnn", "RNN", values, response=values))
    assert (seen.decades, seen.ratio) == (pytest.approx(19), 0.0)
    assert seen.per_step == pytest.approx(0.1)
    assert "nothing measurable" in in_words(seen)


def test_samples_that_do_not_reach_back_are_left_out():
    """NaN at the beginning is time before every sample."""
    values = (math.nan,) * 10 + tuple(0.5 ** np.arange(19, -1, -1.0))
    assert horizon(TimeProfile("rnn", "RNN", values, response=values)).num_steps == 20


@pytest.mark.parametrize(
    "values", [(1.0, 1.0), (math.nan,) * 9, (0.0,) * 9, (1.0, math.inf, 1.0, 1.0, 1.0), ()], ids=str
)
def test_what_tells_nothing(values):
    """Too short, not finite, or no signal at all."""
    assert horizon(TimeProfile("rnn", "RNN", values, response=values)) is None


def test_of_a_loop_steps_behind_the_last_signal_do_not_count():
    """A loss on an earlier step leaves zeros behind it: the signal begins where it enters."""
    values = (*(0.5 ** np.arange(9, -1, -1.0)), 0.0, 0.0, 0.0)
    seen = horizon(TimeProfile("cell", "GRUCell", values))
    assert (seen.num_steps, seen.at_end, seen.exact) == (10, None, False)
    assert seen.per_step == pytest.approx(0.5)


def test_plain_words():
    """Newcomers read steps and fractions, no logarithms."""
    assert in_words(horizon(profile(0.5 ** (1 / 7)))) == (
        "the learning signal halves every 7 time steps on its way back through time, so the first of 30 time steps "
        "receives 1/18 of it"
    )
    assert "is divided by 5 at every time step" in in_words(horizon(profile(0.2)))
    assert "doubles every 2 time steps" in in_words(horizon(profile(2**0.5)))
    assert "is carried back through all of 30" in in_words(horizon(profile(1.0)))


def test_profiles_survive_json():
    """A recorded run can be judged later, NaN included."""
    before = TimeProfile("rnn", "LSTM", (1.0, 2.0), "0 reverse", (0.0, 2.0), (math.nan, 1.0))
    after = TimeProfile.from_json(json.loads(json.dumps(before.to_json())))
    assert str(after) == str(before)
    old = {key: value for key, value in before.to_json().items() if key != "response"}
    assert TimeProfile.from_json(old).response == ()


# ----------------------------------------------------------------------------------------------------- the detector


def test_a_fade_counts_once_the_loss_has_stood_still():
    """One incident that goes on, at the first probed step from 60 without progress."""
    incidents = found(profile(0.4), steps=300)
    assert [(i.kind, i.step, i.layers) for i in incidents] == [("vanishing", 60, ("rnn",))]
    facts = incidents[0].evidence
    assert (facts["rule"], facts["module"], facts["num_steps"]) == ("through_time", "rnn", 30)
    assert facts["per_step"] == pytest.approx(0.4)
    assert facts["since"] == 0


def test_a_milder_fade_counts_where_nothing_was_learnt():
    """A thousandth is left, and after ninety steps nothing has been learnt: told; not sooner, and not if a bit was."""
    thousandth = profile(10 ** (-3.5 / 29))
    (incident,) = found(thousandth, steps=300)
    assert (incident.kind, incident.step, incident.layers) == ("vanishing", 90, ("rnn",))
    assert incident.threshold == pytest.approx(1e-3)
    assert incident.value == pytest.approx(10**-3.5, rel=1e-3)
    (stronger,) = found(profile(0.4), steps=300)
    assert (stronger.step, stronger.threshold) == (60, pytest.approx(1e-4))
    assert found(thousandth, steps=300, loss=lambda step: max(0.99**step, 0.9)) == []
    assert found(profile(10 ** (-2.5 / 29)), steps=300) == []


@pytest.mark.parametrize(
    ("name", "profiles", "loss"),
    [
        ("it still learns", (profile(0.4),), lambda step: 0.98**step),
        ("its task is done", (profile(0.4),), lambda step: max(1.0 * 0.8**step, 0.01)),
        ("short memory is enough", (profile(0.4, direct="every"),), lambda step: max(0.97**step, 0.5)),
        ("a mild fade", (profile(0.85),), lambda step: 1.0),
        ("another layer remembers", (profile(0.4), profile(0.98, layer="1")), lambda step: 1.0),
        ("no loss told", (profile(0.4),), lambda step: None),
        ("nothing recurrent", (), lambda step: 1.0),
        ("a radius above 1", (profile(1.3),), lambda step: 1.0),
    ],
)
def test_what_is_no_fault(name, profiles, loss):
    """A fade, or a growth, is none by itself."""
    assert found(*profiles, loss=loss, steps=400) == []


def test_a_loss_that_stands_still_because_nothing_moves_is_another_fault():
    """A learning rate of next to nothing is not blamed on the memory."""
    detector = ThroughTimeDetector()
    for step in range(200):
        ratios = {"update_ratio": np.full(2, 1e-7), "weight_norm": np.ones(2)}
        assert detector.observe(make(step, profile(0.4), **ratios)) == []


def test_a_run_that_has_learnt_something_is_told_so():
    """What was learnt may be all that there is: the message leaves that open, and only there."""
    (half,) = found(profile(0.4), loss=lambda step: max(0.97**step, 0.5), steps=300)
    (none,) = found(profile(0.4), steps=300)
    assert "needs no longer memory" in half.message
    assert "needs no longer memory" not in none.message


def test_growth_needs_harm():
    """Ten thousandfold growth is an alarm where the loss stands still, none where it falls."""
    assert found(profile(1.45), loss=lambda step: 0.99**step, steps=300) == []
    (incident,) = found(profile(1.45), steps=300)
    assert (incident.kind, incident.layers, incident.step) == ("exploding", ("rnn",), 60)


def test_growth_with_a_jump_of_the_norm_is_told_sooner():
    """The norm need not wait for the loss."""
    incidents = found(profile(1.45), norm=lambda step: 1e4 if step == 18 else 1.0)
    assert [(i.kind, i.step) for i in incidents] == [("exploding", 20)]
    assert "jumped 2 steps ago" in incidents[0].message


def test_growth_beyond_all_measure_needs_no_harm():
    """A hundred-thousandfold growth at two looks is told although the loss still falls."""
    (incident,) = found(profile(2.0), loss=lambda step: 0.99**step, steps=300)
    assert (incident.kind, incident.step) == ("exploding", 10)


def test_one_odd_batch_is_no_growth():
    """Two probed steps in a row have to agree."""
    detector = ThroughTimeDetector()
    records = [make(t, *([profile(2.0 if t % 20 else 1.0)] if t % 10 == 0 else [])) for t in range(300)]
    assert [i for record in records for i in detector.observe(record)] == []


def test_nonfinite_steps_and_profiles_do_not_count():
    """They neither alarm nor blind it."""
    detector = ThroughTimeDetector()
    broken = TimeProfile("rnn", "RNN", (math.nan,) * 30, direct=(math.nan,) * 30, response=(math.nan,) * 30)
    for step in range(20):
        assert detector.observe(make(step, broken)) == []
    assert len(found(profile(0.4), detector=detector)) == 1


def test_the_state_survives_a_checkpoint():
    """A resumed run goes on counting where it was."""
    first, second = ThroughTimeDetector(), ThroughTimeDetector()
    assert found(profile(0.4), steps=51, detector=first) == []
    second.load_state_dict(json.loads(json.dumps(gradwatch.records.number_to_json(first.state_dict()))))
    rest = [i for t in range(51, 70) for i in second.observe(make(t, *([profile(0.4)] if t % 10 == 0 else [])))]
    assert [i.step for i in rest] == [60]


def test_it_is_one_of_the_default_detectors():
    """And its state has a name of its own: two detectors of one kind would overwrite each other's."""
    kinds = [detector.kind for detector in default_detectors()]
    assert kinds.count("through_time") == 1
    assert len(set(kinds)) == len(kinds)


# ------------------------------------------------------------------------------------------------------- the causes


def told(kind, per_step, module="rnn"):
    """The diagnosed incident of a faulty run."""
    (incident,) = found(profile(per_step, kind=kind, module=module))
    return diagnose(incident, make(60), ModelInfo("Net"))


class Net(nn.Module):
    """A model for the snippets to run on."""

    def __init__(self, kind):
        super().__init__()
        fused = not kind.endswith("Cell")
        self.rnn = getattr(nn, kind)(3, 4, **({"num_layers": 2, "batch_first": True} if fused else {}))


@pytest.mark.parametrize("per_step", [0.4, 2.5])
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell"])
def test_every_snippet_runs_on_this_very_model(kind, per_step):
    """Code that is handed out works as it stands."""
    incident = told(kind, per_step)
    cause = incident.causes[0]
    assert (cause.name, incident.kind) == ("long_recurrence", "vanishing" if per_step < 1 else "exploding")
    assert "(measured)" in cause.evidence
    assert cause.remedies
    for remedy in cause.remedies:
        if "model.rnn" in remedy.snippet:
            exec(remedy.snippet, {"nn": nn, "torch": torch, "model": Net(kind)})  # noqa: S102 - our own code


def test_the_forget_gate_opens_for_so_many_steps():
    """A bias of log(T) in the forget gate's block and nowhere else."""
    model = Net("LSTM")
    before = model.rnn.bias_ih_l0.detach().clone()
    exec(told("LSTM", 0.4).causes[0].remedies[0].snippet, {"model": model})  # noqa: S102 - our own code
    changed = model.rnn.bias_ih_l0.detach()
    assert torch.equal(changed[4:8], torch.full((4,), 3.4))
    assert torch.equal(torch.cat((changed[:4], changed[8:])), torch.cat((before[:4], before[8:])))


def test_the_orthogonal_snippet_does_each_gate_by_itself():
    """A stack of three orthogonal blocks, not one orthogonal stack."""
    model = Net("GRU")
    remedies = told("GRU", 2.5).causes[0].remedies
    exec(remedies[1].snippet, {"nn": nn, "model": model})  # noqa: S102 - our own code
    for gate in model.rnn.weight_hh_l1.detach().chunk(3):
        assert torch.allclose(gate @ gate.T, torch.eye(4), atol=1e-5)


def test_remedies_fit_the_kind():
    """Nobody with an LSTM is told to use an LSTM."""
    assert "nn.GRU" in " ".join(r.action for r in told("RNN", 0.4).causes[0].remedies)
    assert "nn.GRU" not in " ".join(r.action for r in told("LSTM", 0.4).causes[0].remedies)
    assert "your own cell" in told("MyCell", 0.4).causes[0].remedies[0].action
    assert "ClipNorm" in told("RNN", 2.5).causes[0].remedies[0].snippet


def test_a_live_run_is_told_where_its_memory_ends():
    """A small radius over 30 frames through the whole watch; with a radius of 1 the same task is learnt in silence."""

    def run(radius):
        torch.manual_seed(0)
        model = Recall(radius)
        optimizer = torch.optim.Adam(model.parameters(), 2e-3)
        with gradwatch.watch(model, optimizer, writers=[]) as watch:
            for _ in range(160):
                kind = torch.randint(4, (32,))
                x = torch.cat((nn.functional.one_hot(kind, 5)[:, None].float(), 0.1 * torch.randn(32, 29, 5)), 1)
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x), kind)
                watch.loss(loss)
                loss.backward()
                optimizer.step()
        return watch.incidents

    (incident,) = run(0.4)
    assert (incident.kind, incident.layers[0], incident.causes[0].name) == ("vanishing", "rnn", "long_recurrence")
    assert isinstance(incident, Incident)
    assert run(1.0) == []


class Recall(nn.Module):
    """Has to tell the first frame from the last state."""

    def __init__(self, radius):
        super().__init__()
        self.rnn, self.out = nn.RNN(5, 32, batch_first=True), nn.Linear(32, 4)
        with torch.no_grad():
            self.rnn.weight_hh_l0.copy_(nn.init.orthogonal_(torch.empty(32, 32)) * radius)

    def forward(self, x):
        return self.out(self.rnn(x)[0][:, -1])
