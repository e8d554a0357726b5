"""Stalled, learning rate too high, data outlier, and which of several incidents is told."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from faults import reads_well, train
from models import mlp
from sklearn.datasets import load_breast_cancer, load_diabetes
from torch import nn
from torch.nn import functional

import gradwatch
from gradwatch._baselines import CLEAN_STEPS
from gradwatch._judges import Judges
from gradwatch._precedence import FOLLOWS, LONG_AFTER, Precedence
from gradwatch.detectors import default_detectors
from gradwatch.errors import StateError
from gradwatch.records import Cause, Incident, Layer, ModelInfo, Operations, Remedy, Severity, StepRecord

DEPTH, WIDTH = 6, 64
FRESH = math.sqrt(WIDTH / 3)
"""The norm of a square matrix as torch initialises it."""

LAYERS = tuple(Layer(f"fc{i}.weight", f"fc{i}", "Linear", (WIDTH, WIDTH)) for i in range(DEPTH))


def make(step, norm=1.0, ratio=1e-3, *, weight=FRESH, every=10, layers=LAYERS, **fields):
    """A record; update ratios and weight norms on every tenth step."""
    norms = np.broadcast_to(np.asarray(norm, dtype=np.float64), (len(layers),)).copy()
    bad = fields.pop("bad", np.zeros(len(layers), dtype=np.int64))
    norms[bad > 0] = math.nan
    total = math.nan if bad.any() else float(np.linalg.norm(np.nan_to_num(norms)))
    sampled = step % every == 0
    values = {
        "optimizer": 0,
        "total_norm": total,
        "clipped_norm": total,
        "lr": 0.1,
        "weight_norm": np.broadcast_to(np.float64(weight), (len(layers),)).copy() if sampled else None,
        "update_ratio": np.broadcast_to(np.asarray(ratio, np.float64), (len(layers),)).copy() if sampled else None,
    }
    return StepRecord(**{"step": step, "layers": layers, "grad_norm": norms, "num_nonfinite": bad, **values, **fields})


def told(records, chance=None):
    """What a watch tells of these records, consequences sifted out; ``chance`` is the loss that guessing gives."""
    judges, model = Judges(default_detectors()), ModelInfo("", operations=Operations(chance=chance))
    return [incident for record in records for incident in judges.observe(record, model)]


def flat(rng, level=2.3):
    """A loss that does not improve."""
    return float(level * np.exp(rng.normal(0, 0.05)))


# ------------------------------------------------------------------------------------------------------- healthy runs


def healthy_linear_warm_up(rng):
    """The learning rate rises from nothing over 3,000 steps, so that nothing moves at first."""
    return [make(t, ratio=1e-9 + 1e-6 * t, lr=1e-6 * t, loss=flat(rng)) for t in range(600)]


def healthy_fine_tuning(rng):
    """Trained weights at their floor, with a deliberately tiny learning rate."""
    weights = FRESH * np.linspace(0.9, 2.0, DEPTH)
    return [make(t, ratio=2e-6, weight=weights, lr=1e-6, loss=flat(rng, 0.1)) for t in range(300)]


def healthy_slow_but_learning(rng):
    """Tiny updates of fresh weights that make the loss fall all the same."""
    return [make(t, ratio=2e-5, lr=1e-4, loss=2.3 * 0.995**t) for t in range(300)]


def healthy_cosine_to_zero(rng):
    """The learning rate falls to zero at the end; the weights have come far enough."""
    rates = [0.5 * (1 + math.cos(math.pi * t / 400)) for t in range(400)] + [0.0] * 150
    return [make(t, ratio=5e-3 * r, lr=0.1 * r, loss=flat(rng, max(0.1, 2.0 - t / 200))) for t, r in enumerate(rates)]


def healthy_frozen_backbone(rng):
    """Most layers have no gradient, or one learning rate a million times smaller than the head's."""
    for_head = np.where(np.arange(DEPTH) < DEPTH - 1, 1e-9, 1e-3)
    norms = np.where(np.arange(DEPTH) < 3, math.nan, 1.0)
    return [make(t, norms, ratio=for_head, loss=flat(rng, 2.3 * 0.99**t)) for t in range(200)]


def healthy_zero_initialised_adapters(rng):
    """Adapters that start at zero are replaced by their first updates; the rest is frozen."""
    adapters = np.where(np.arange(DEPTH) % 2 == 0, 1e-4, FRESH)
    ratio = np.where(np.arange(DEPTH) % 2 == 0, 50.0, 1e-3)
    return [make(t, ratio=ratio if t == 0 else 1e-3, weight=adapters if t == 0 else FRESH) for t in range(100)]


def healthy_small_initial_weights(rng):
    """Weights initialised far below the common size grow to it in a few bold steps."""
    sizes = [FRESH * min(1.0, 0.05 + t / 40) for t in range(100)]
    return [make(t, ratio=0.06 * FRESH / s, weight=s, loss=2.3 * 0.98**t) for t, s in enumerate(sizes)]


def healthy_warm_restarts(rng):
    """A schedule that goes back to where it began, by a factor of 1,000, every 50 steps."""
    rates = [0.1 * max(1e-3, 0.5 * (1 + math.cos(math.pi * (t % 50) / 50))) for t in range(300)]
    norms = [40.0 if t % 50 == 2 else float(np.exp(rng.normal(0, 0.3))) for t in range(300)]
    return [make(t, norms[t], lr=rates[t], ratio=rates[t] / 10, loss=flat(rng, 0.5)) for t in range(300)]


def healthy_stepped_warm_up(rng):
    """A learning rate that is raised tenfold after 40 steps (He et al., 2016), with no harm done."""
    return [make(t, np.exp(rng.normal(0, 0.4)), lr=0.01 if t < 40 else 0.1, loss=flat(rng, 1.0)) for t in range(120)]


def healthy_heavy_tailed_targets(rng):
    """Log-normal targets: now and then a batch has a loss a hundred times the usual, and a norm ten times."""
    records = []
    for t in range(400):
        far = 10 ** rng.uniform(1, 2) if t % 37 == 30 else float(np.exp(rng.normal(0, 0.5)))
        records.append(make(t, math.sqrt(far), loss=far))
    return records


def healthy_converged_and_bouncing(rng):
    """The loss falls by eight decades and one batch brings it half way back."""
    size = [10 ** -min(8.0, t / 20) * float(np.exp(rng.normal(0, 0.5))) for t in range(300)]
    size[250] = 1e-2
    return [make(t, s, loss=s, ratio=1e-3 * min(1.0, s * 1e4) + 1e-9) for t, s in enumerate(size)]


def healthy_bold_first_steps(rng):
    """A small net under Adam: the first update changes a third of the weights, and the loss falls."""
    return [make(t, ratio=0.35 / (1 + t), loss=2.3 * 0.97**t) for t in range(100)]


def healthy_only_zero_gradients(rng):
    """Alternating phases: for long stretches this optimizer's gradients are all exactly zero."""
    zero = [t // 70 % 2 == 1 for t in range(280)]
    return [make(t, 0.0 if z else 1.0, ratio=0.0 if z else 1e-3, loss=flat(rng)) for t, z in enumerate(zero)]


HEALTHY = [value for name, value in sorted(globals().items()) if name.startswith("healthy_")]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("run", HEALTHY, ids=lambda run: run.__name__)
def test_healthy_runs_raise_nothing(run, seed):
    """A healthy run stays silent, whatever its learning rate and its updates do."""
    assert [incident.message for incident in told(run(np.random.default_rng(seed)))] == []


# ------------------------------------------------------------------------------------------------------------ stalled


def stalled(steps=100, ratio=1e-6, seed=0, **fields):
    """The incidents of fresh weights that hardly move, under a loss that stands still."""
    rng = np.random.default_rng(seed)
    return told(make(t, **{"ratio": ratio, "loss": flat(rng), "lr": 1e-5, **fields}) for t in range(steps))


def test_weights_that_do_not_move_are_one_incident():
    """Found after sixty steps, once, with how much higher the learning rate should be."""
    (incident,) = stalled(300)
    assert (incident.kind, incident.code) == ("stalled", "GW107")
    assert 60 <= incident.step <= 100
    assert "1e-06 of its size" in incident.message
    assert incident.causes[0].name == "lr_too_low"
    assert "higher by a factor of about 1,000: 0.01 in place of 1e-05" in incident.causes[0].remedies[0].action


def test_trained_weights_may_hardly_move():
    """What stalls fresh weights is fine-tuning for others; what float32 rounds away is neither."""
    trained = FRESH * np.linspace(0.9, 2.0, DEPTH)
    assert stalled(weight=trained) == []
    (incident,) = stalled(weight=trained, ratio=1e-8)
    assert incident.evidence["rule"] == "motionless"


def test_clipping_to_nothing_is_the_cause():
    """Where clipping leaves a millionth of the gradients, it is named, and not the learning rate."""
    (incident,) = stalled(clipped_norm=2e-6)
    assert [cause.name for cause in incident.causes] == ["clipping_too_small"]
    assert "ClipNorm(max_norm=4.9)" in incident.causes[0].remedies[0].snippet


def test_an_eps_that_drowns_the_gradients_is_the_cause():
    """Updates that are the gradient over one large number in every layer tell of an eps of that size."""
    lr, eps, norms = 1e-2, 1e3, np.array([1.0, 0.4, 2.5, 0.8, 1.5, 0.6])
    (incident,) = stalled(lr=lr, norm=norms, ratio=lr * norms / eps / FRESH)
    assert [cause.name for cause in incident.causes] == ["eps_too_large"]
    assert "by about 1,000" in incident.causes[0].evidence


def test_half_precision_weights_round_small_updates_away():
    """bfloat16 weights that do not move are told why."""
    layers = tuple(dataclasses.replace(layer, dtype="bfloat16") for layer in LAYERS)
    (incident,) = stalled(layers=layers, ratio=0.0)
    assert incident.causes[0].name == "rounded_away"
    assert "exactly zero" in incident.message


def test_a_learning_rate_of_zero_is_said():
    """A schedule that never begins is found, and no factor is suggested."""
    (incident,) = stalled(lr=0.0, ratio=0.0)
    assert incident.causes[0].evidence == "the learning rate is exactly zero"


def test_an_untold_loss_cannot_object():
    """Without a loss the weights alone are judged."""
    (incident,) = stalled(loss=None)
    assert "loss" not in incident.message


def mislabelled(output, _labels):
    """Labels that have nothing to do with the images, as after a shuffle of one of the two."""
    return functional.cross_entropy(output, torch.randint(10, (len(output),)))


def test_a_model_that_learns_nothing_although_its_weights_move():
    """Labels that do not belong to the images: told after 200 steps; with the right ones the same run is silent."""
    runs = []
    for loss_fn in (mislabelled, functional.cross_entropy):
        torch.manual_seed(0)
        model = mlp()
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        runs.append(train(model, 240, optimizer=optimizer, size=256, loss_fn=loss_fn).incidents)
    ((incident,), healthy) = runs
    assert healthy == []
    assert (incident.kind, incident.evidence["rule"]) == ("stalled", "idle")
    assert 200 <= incident.step <= 210
    assert "has learnt nothing" in incident.message
    assert "lr_too_low" not in [cause.name for cause in incident.causes], "the weights move as they should"
    reads_well(incident)


def idle(steps=260, *, loss=lambda _t: 2.3, ratio=3e-3, **fields):
    """Weights that move as they should, and a loss that stays where it was."""
    return [make(t, ratio=ratio, loss=loss(t), **fields) for t in range(steps)]


def test_what_a_loss_can_hide_is_not_called_idle():
    """A loss that fluctuates may have fallen by a hundredth, and one that has is learning; a warm-up has not begun."""
    rng = np.random.default_rng(0)
    assert [(i.step, i.evidence["rule"]) for i in told(idle())] == [(200, "idle")]
    assert told(idle(loss=lambda _t: flat(rng))) == []
    assert told(idle(loss=lambda t: 2.3 - 0.0003 * t)) == []
    assert told(idle(loss=lambda t: 2.3 + 0.001 * t)) == [], "two networks may play against each other"
    warming = [make(t, ratio=3e-3, loss=2.3, lr=1e-6 * 1.02**t) for t in range(260)]
    assert told(warming) == []


def test_idle_is_news_only_where_nothing_else_was_told():
    """After a NaN long ago, or an explosion, nobody need be told that nothing has been learnt."""
    bad = np.zeros(DEPTH, dtype=np.int64)
    bad[2] = 1
    for worse in (make(20, 1e5, loss=2.3), make(20, bad=bad, loss=2.3)):
        records = idle(400)
        records[20] = worse
        (incident,) = told(records)
        assert incident.step == 20
        assert incident.kind != "stalled"


@pytest.mark.parametrize("chance", [None, 2.3, 9.2])
def test_trained_weights_may_rest_unless_they_know_nothing(chance):
    """Fine-tuning at its floor is silent; a loss that guessing would give is none, whatever the weights look like."""
    trained = FRESH * np.linspace(0.9, 2.0, DEPTH)
    incidents = told(idle(weight=trained), chance)
    assert [i.evidence["rule"] for i in incidents] == (["idle"] if chance == 2.3 else [])


def test_a_crawl_is_told_as_soon_as_a_loss_counts_as_standing_still():
    """Untrained weights that have come next to nowhere need not wait for ninety steps; a little farther, they must."""
    slow, faster = (told(idle(150, ratio=ratio)) for ratio in (4e-5, 1e-4))
    assert [(i.step, i.evidence["rule"]) for i in slow] == [(70, "fresh")]
    assert [(i.step, i.evidence["rule"]) for i in faster] == [(100, "fresh")]
    assert told(idle(150, ratio=1e-4, loss=lambda t: 2.3 * 0.996**t)) == []
    (creeps,) = told(idle(150, ratio=4e-4))
    assert (creeps.step, creeps.evidence["rule"]) == (100, "fresh")
    assert "all updates together change even the layer that moves most by 0.04 of its size" in creeps.message
    assert told(idle(150, ratio=2e-3)) == [], "they move, and have time until a loss counts as idle"


# ------------------------------------------------------------------------------------------------ what guessing gives


def restless(first=20.0, then=2.3):
    """Bold steps; a wild first loss falls to another one and stays."""
    return [make(t, ratio=0.1, loss=first if t < 3 else then) for t in range(160)]


def test_a_fall_to_what_guessing_gives_is_no_learning():
    """From a wild start to chance is not nine tenths of the way: told where chance is known, and not where it is."""
    assert told(restless()) == []
    (incident,) = told(restless(), chance=2.3)
    assert incident.kind == "lr_too_high"
    assert told(restless(), chance=20.0) == [], "far below chance something has been learnt"


@pytest.mark.parametrize("cut", [5, 70, 100])
def test_chance_survives_a_checkpoint(cut):
    """Saved, sent through JSON, loaded into new judges: the same is told, also where the graph is seen no more."""
    known, unknown = (ModelInfo("", operations=Operations(chance=chance)) for chance in (2.3, None))
    for later in (known, ModelInfo(""), unknown):
        first, second = Judges(default_detectors()), Judges(default_detectors())
        got = [i for record in restless()[:cut] for i in first.observe(record, known)]
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert second.state_dict()["stalled"] == first.state_dict()["stalled"]
        assert first.state_dict()["stalled"]["0"]["learning"]["chance"] == 2.3
        got += [i for record in restless()[cut:] for i in second.observe(record, later)]
        assert got == told(restless(), chance=2.3)


def test_a_watch_hands_chance_on():
    """A real classifier's detectors know what guessing gives; those of a regression do not."""
    for loss_fn, expected in (
        (functional.cross_entropy, math.log(10)),
        (lambda output, y: functional.mse_loss(output, functional.one_hot(y, 10).float()), math.inf),
    ):
        model = mlp()
        watch = train(model, 12, loss_fn=loss_fn)
        states = watch._monitor.ledger._judges.state_dict()
        for kind in ("stalled", "vanishing", "exploding"):
            assert float(states[kind]["0"]["learning"]["chance"]) == pytest.approx(expected)


# -------------------------------------------------------------------------------------------------------- lr_too_high


def test_sound_weights_that_are_replaced_blame_the_rate():
    """With weights of common size the rate is to blame; far larger weights, or updates beyond any rate, explode."""
    kinds = {
        "rate": told([make(0, ratio=3.0)]),
        "weights": told([make(0, ratio=3.0, weight=10 * FRESH)]),
        "gradients": told([make(0, ratio=1e4)]),
        "adam": told([make(0, ratio=0.5 * WIDTH / FRESH, lr=0.5)]),
    }
    assert {name: incident.kind for name, (incident,) in kinds.items()} == {
        "rate": "lr_too_high",
        "weights": "exploding",
        "gradients": "exploding",
        "adam": "lr_too_high",
    }


def test_a_replacing_step_must_do_harm():
    """A step that replaces the weights is a fault once the loss has been no better for two steps."""
    (incident,) = told(make(t, ratio=2.0 if t == 20 else 0.01, loss=2.3 if t <= 20 else 4.0) for t in range(29))
    assert (incident.kind, incident.step, incident.evidence["rule"]) == ("lr_too_high", 22, "replaced")
    assert told(make(t, ratio=2.0 if t == 0 else 0.01, loss=(0.7, 1.2, 0.6, 0.5)[min(t, 3)]) for t in range(60)) == []


def test_a_leap_of_the_rate_explains_the_explosion():
    """A rate that leaps up, and a norm that follows, are one incident of the rate, which says what it was before."""
    records = [make(t, loss=2.0) for t in range(43)]
    records += [make(43 + t, 1.0 if t == 0 else 1e3 * 4**t, lr=30.0, loss=2.0 * 50**t) for t in range(7)]
    (incident,) = told(records)
    assert (incident.kind, incident.step) == ("lr_too_high", 44)
    assert incident.causes[0].name == "lr_jumped"
    assert "from 0.1 to 30" in incident.message
    assert 'group["lr"] = 0.1' in incident.causes[0].remedies[0].snippet


def test_a_loss_far_above_where_it_began():
    """Large steps and a loss ten times that of the untrained model, for three steps, need no history."""
    (incident,) = told(make(t, ratio=0.5, loss=2.3 if t == 0 else 50.0) for t in range(20))
    assert (incident.step, incident.evidence["rule"]) == (3, "diverged")
    assert told(make(t, ratio=0.01, loss=2.3 if t == 0 else 50.0) for t in range(20)) == []


def test_a_model_that_jumps_about_learns_nothing():
    """A fifth of the weights changed by every step and no better loss for sixty steps: weak evidence that lasts."""
    rng = np.random.default_rng(0)
    (incident,) = told(make(t, ratio=0.2, loss=flat(rng)) for t in range(200))
    assert incident.evidence["rule"] == "restless"
    assert told(make(t, ratio=0.2, loss=2.3 * 0.99**t) for t in range(200)) == []


def set_back(loss=4.5, steps=20):
    """A leap of the learning rate after 60 steps, and a loss that is worse for so many of the next."""
    return [make(t, loss=loss if 60 <= t < 60 + steps else 2.0, lr=1.0 if t >= 60 else 0.1) for t in range(120)]


def test_a_leap_that_sets_the_run_back():
    """Twice the usual loss at nearly every step since the leap: told when its aftermath is over, and told why."""
    (incident,) = told(set_back(steps=60))
    assert (incident.kind, incident.step, incident.evidence["rule"]) == ("lr_too_high", 80, "jumped")
    assert "has been about 4.5 ever since, where 2 was usual" in incident.message
    assert incident.causes[0].name == "lr_jumped"
    assert told(set_back(steps=12)) == [], "it has come back"
    assert told(set_back(loss=3.0, steps=60)) == [], "that is not much worse"


def test_a_real_run_that_a_leap_sets_back():
    """Ten times the learning rate after 300 good steps, and the loss is what it was long ago: told 20 steps later."""
    torch.manual_seed(0)
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)

    def leap(step):
        optimizer.param_groups[0]["lr"] = 0.5 if step >= 300 else 0.05

    (incident,) = train(model, 330, optimizer=optimizer, before=leap).incidents
    assert (incident.kind, incident.step, incident.causes[0].name) == ("lr_too_high", 320, "lr_jumped")
    reads_well(incident)


def sinking(ratio=0.04, worse=6.0):
    """A loss that is soon worse than it was, by steps of that size."""
    return [make(t, ratio=ratio, loss=(2.3 if t < 20 else worse) * (1 + 0.05 * (-1) ** t)) for t in range(160)]


def test_a_model_that_becomes_worse_and_worse():
    """Twice the first loss for long by bold steps; not by ordinary ones, whose doing it cannot be, and not for less."""
    (incident,) = told(sinking())
    assert (incident.kind, incident.evidence["rule"]) == ("lr_too_high", "sinking")
    assert 60 <= incident.step <= 75
    assert "makes the model worse: the loss is 2.6 times" in incident.message
    assert told(sinking(ratio=2e-3)) == []
    assert told(sinking(worse=4.0)) == []


def test_wild_first_updates_have_five_steps():
    """Adagrad's first updates are its largest: they may do harm for a few steps, and later on for two."""

    def harmed(steps, at=0):
        worse = range(at + 1, at + 1 + steps)
        return [make(t, ratio=3.0 if t == at else 0.01, loss=4.0 if t in worse else 2.0 * 0.99**t) for t in range(60)]

    assert told(harmed(4)) == []
    assert [(i.step, i.evidence["rule"]) for i in told(harmed(6))] == [(5, "replaced")]
    assert [(i.step, i.evidence["rule"]) for i in told(harmed(3, at=20))] == [(22, "replaced")]


@pytest.mark.parametrize(("scaled", "expected"), [(False, [("stalled", 100, "unscaled_targets")]), (True, [])])
def test_targets_that_nobody_has_scaled(scaled, expected):
    """Disease progression in its own unit, about 150, under Adam: the way there is a hundred times too long."""
    inputs, targets = (torch.tensor(part, dtype=torch.float32) for part in load_diabetes(return_X_y=True))
    inputs = inputs / inputs.std(0)
    targets = (targets - targets.mean()) / targets.std() if scaled else targets
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    with gradwatch.watch(model, optimizer, writers=[]) as watch:
        for _ in range(150):
            batch = torch.randint(0, len(inputs), (32,))
            loss = nn.functional.mse_loss(model(inputs[batch]), targets[batch, None])
            watch.loss(loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert [(i.kind, i.step, i.causes[0].name) for i in watch.incidents] == expected
    for incident in watch.incidents:
        assert "hardly comes closer: its squared error was" in incident.message
        reads_well(incident)


@pytest.mark.parametrize(("lr", "expected"), [(0.1, []), (0.3, []), (0.5, ["lr_too_high"])])
def test_adagrad_at_bold_and_at_wild_rates(lr, expected):
    """A real net: the first steps of all three replace its weights, and two of them are on their way back at once."""
    torch.manual_seed(0)
    model = mlp()
    incidents = train(model, 60, optimizer=torch.optim.Adagrad(model.parameters(), lr)).incidents
    assert kinds(incidents) == expected
    assert all(incident.step <= 10 for incident in incidents)


# -------------------------------------------------------------------------------------------------------- data_outlier


def outlier(factor=1e6, at=60, lr=0.1, **fields):
    """A run with one batch whose loss and norm are out of all proportion, and the zero gradients that follow."""
    rng = np.random.default_rng(1)
    records = [make(t, np.exp(rng.normal(0, 0.3)), loss=flat(rng)) for t in range(at)]
    records.append(make(at, factor, lr=lr, **{"loss": 2.3 * factor, **fields}))
    return records + [make(at + 1 + t, 1e-6 * 0.1 ** np.arange(DEPTH, 0, -1), loss=2.3) for t in range(30)]


def test_one_batch_is_blamed():
    """A single step beyond all history is the batch's doing; what it leaves behind is no news."""
    (incident,) = told(outlier())
    assert (incident.kind, incident.step, incident.causes[0].name) == ("data_outlier", 60, "one_bad_batch")
    assert "batch of step 60" in incident.causes[0].remedies[0].action


def test_without_a_loss_no_batch_is_blamed():
    """A norm alone cannot tell the batch from the layers: then it is an explosion."""
    assert told(outlier(loss=None))[0].kind == "exploding"
    assert told(outlier(loss=2.3))[0].kind == "exploding"


def test_a_changed_rate_acquits_the_batch():
    """When the learning rate rose at the step before, the batch is not the only thing that is new."""
    records = [make(t, loss=2.0, lr=0.1) for t in range(50)] + [make(50, loss=2.0, lr=1.0)]
    assert {incident.kind for incident in told([*records, make(51, 1e6, loss=2e6, lr=1.0)])} == {"lr_too_high"}


def echo(loss_after=3.0, norm_after=1.0, norm=10**2.5, loss=60.0):
    """A batch that is far off, if less than needs no second look, and the step that it led to."""
    there = {60: (norm, loss), 61: (norm_after, loss_after)}
    return [make(t, there.get(t, (1.0, 2.0))[0], loss=there.get(t, (1.0, 2.0))[1]) for t in range(90)]


def test_a_bad_batch_is_known_by_its_echo():
    """Loud once, quiet at the next step, and worse by what it did: the batch is to blame, one step later."""
    (incident,) = told(echo())
    assert (incident.kind, incident.step, incident.causes[0].name) == ("data_outlier", 61, "one_bad_batch")
    assert "batch of step 60" in incident.causes[0].remedies[0].action
    assert "after the step that it led to" in incident.message
    assert told(echo(loss_after=2.0)) == [], "it has done no harm"
    assert told(echo(loss=15.0)) == [], "its loss was not far off"
    assert told(echo(norm=30.0)) == [], "its gradient was not far off"


def test_weights_that_stay_as_loud_are_no_echo():
    """Then the batch is not all that is new."""
    assert [i for i in told(echo(norm_after=10**2.2)[:62]) if i.kind == "data_outlier"] == []


def test_a_real_batch_of_another_unit():
    """Targets 300 times as large in one batch: told at the next step; the same run without it is silent."""
    runs = []
    for factor in (300.0, 1.0):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        with gradwatch.watch(model, writers=[]) as watch:
            for step in range(80):
                generator = torch.Generator().manual_seed(step)
                x = torch.randn(32, 6, generator=generator)
                y = x[:, :1] + 0.3 * torch.randn(32, 1, generator=generator)
                optimizer.zero_grad()
                loss = functional.mse_loss(model(x), y * (factor if step == 50 else 1.0))
                watch.loss(loss)
                loss.backward()
                optimizer.step()
        runs.append(watch.incidents)
    ((incident,), healthy) = runs
    assert (incident.kind, incident.step) == ("data_outlier", 51)
    reads_well(incident)
    assert healthy == []


# ----------------------------------------------------------------------------------------------- a loss without a floor


def test_a_sign_that_is_wrong_is_a_loss_without_a_floor():
    """Cross-entropy to be as large as can be: told by gradients that grow with it; to check the sign is the advice."""
    torch.manual_seed(0)
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    watch = train(model, 60, optimizer=optimizer, loss_fn=lambda o, y: -functional.cross_entropy(o, y))
    (incident,) = watch.incidents
    assert (incident.kind, incident.evidence["rule"]) == ("exploding", "runaway")
    assert incident.causes[0].name == "unsuited_loss"
    assert "sign" in incident.causes[0].remedies[0].action
    reads_well(incident)


def likelihood(output, labels):
    """The negative logarithm of a normal distribution's density, which may well be below zero."""
    mean, spread = output.chunk(2, -1)
    return functional.gaussian_nll_loss(mean, labels.float()[:, None] / 10, functional.softplus(spread) + 1e-4)


def test_a_likelihood_below_zero_is_no_fault():
    """A density may be above 1: the loss of this real run falls far below where it began, and nothing is told."""
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    watch = train(model, 300, optimizer=torch.optim.Adam(model.parameters(), 3e-3), loss_fn=likelihood)
    assert watch.history[-1].loss < -1
    assert watch.incidents == []


def test_a_loss_may_lie_far_below_zero():
    """Or gradients grow: only both together run away."""
    wave = [10 ** (t / 40) for t in range(120)]
    both = [make(t, size, loss=-(size**2)) for t, size in enumerate(wave)]
    assert kinds(told(both)) == ["exploding"]
    assert told(make(t, loss=-(size**2)) for t, size in enumerate(wave)) == []
    assert told(make(t, size, loss=-1.0 - size / 100) for t, size in enumerate(wave)) == []


# -------------------------------------------------------------------------------------------------- no signal whatever


@pytest.mark.parametrize(
    "loss_fn", [lambda o, y: 0 * functional.cross_entropy(o, y), lambda o, _: (-1 - o**2).relu().sum()]
)
def test_a_loss_of_zero_from_the_first_step_is_no_signal(loss_fn):
    """A term that was switched off, a margin that nothing can exceed: nothing is satisfied that was never wrong."""
    (incident,) = train(mlp(), 40, loss_fn=loss_fn).incidents
    assert (incident.kind, incident.evidence["rule"], incident.step) == ("vanishing", "nothing", 19)
    assert "every gradient has been exactly zero" in incident.message


def test_a_loss_that_has_come_to_zero_is_satisfied():
    """A margin that is kept after a few steps has done its work."""
    model = mlp()
    head = model[-1].bias

    def margin(output, _labels):
        return (1 - output.mean()).relu()

    watch = train(model, 60, loss_fn=margin, optimizer=torch.optim.SGD(model.parameters(), 0.5))
    assert [record.total_norm for record in watch.history][-20:] == [0.0] * 20
    assert watch.incidents == []
    assert head.grad is not None


# --------------------------------------------------------------------------------------------------------- precedence


def incident(kind, step, optimizer=0, **evidence):
    """A bare incident with one cause and one remedy."""
    cause = Cause(f"{kind}_cause", 0.8, f"why {kind}", (Remedy(f"mend {kind}", "it helps", "code()"),))
    return Incident(kind, step, ("fc0",), Severity.ERROR, 1.0, 0.5, "", (cause,), optimizer, evidence=evidence)


def sifted(*incidents, precedence=None):
    """The kinds that are told of incidents that come one by one."""
    precedence = precedence or Precedence()
    return [kept for one in incidents for kept in precedence.sift([one])]


def kinds(incidents):
    return [one.kind for one in incidents]


@pytest.mark.parametrize("root", ["exploding", "lr_too_high", "data_outlier", "nonfinite"])
@pytest.mark.parametrize("consequence", ["vanishing", "dead_relu", "saturation", "stalled"])
def test_consequences_are_no_news(root, consequence):
    """What follows within some tens of steps is kept quiet; later, or at another optimizer, it is told."""
    lasts = {"data_outlier": CLEAN_STEPS, "nonfinite": FOLLOWS}.get(root, LONG_AFTER)
    assert kinds(sifted(incident(root, 5), incident(consequence, 5 + lasts))) == [root]
    assert kinds(sifted(incident(root, 5), incident(consequence, 6 + lasts))) == [root, consequence]
    assert kinds(sifted(incident(root, 5), incident(consequence, 6, optimizer=1))) == [root, consequence]


@pytest.mark.parametrize("root", ["exploding", "lr_too_high", "data_outlier"])
def test_a_nonfinite_value_is_always_told(root):
    """It is explained by what came before, whose remedy comes first, and nothing else is told after it."""
    first, second = sifted(incident(root, 5), incident("nonfinite", 8, rule="weight"), incident("vanishing", 20))
    assert (first.kind, second.kind) == (root, "nonfinite")
    assert [cause.name for cause in second.causes] == [root, "nonfinite_cause"]
    assert second.causes[0].evidence == f"it follows from {root} at step 5: why {root}"
    assert second.causes[0].remedies == (Remedy(f"mend {root}", "it helps", "code()"),)


def test_an_unrelated_nonfinite_value_keeps_its_cause():
    """Long after an explosion, or after a mere fade, a NaN has a cause of its own."""
    for before in (incident("exploding", 5), incident("vanishing", 199)):
        assert sifted(before, incident("nonfinite", 200))[1].causes[0].name == "nonfinite_cause"


def test_a_weak_symptom_counts_from_where_it_began():
    """A stall found after sixty steps began before: it follows from the fade at its beginning."""
    assert kinds(sifted(incident("vanishing", 4), incident("stalled", 80, since=0))) == ["vanishing"]
    assert kinds(sifted(incident("vanishing", 4), incident("stalled", 200, since=140))) == ["vanishing", "stalled"]


def test_the_root_of_one_step_comes_first():
    """Of several incidents of one step the root cause is told, whatever the order of the detectors."""
    together = [incident("vanishing", 3), incident("exploding", 3), incident("lr_too_high", 3)]
    assert kinds(Precedence().sift(together)) == ["lr_too_high"]


def test_unknown_kinds_are_left_alone():
    """A detector of the user's own is neither kept quiet nor a root."""
    assert kinds(sifted(incident("nonfinite", 3), incident("mine", 4), incident("vanishing", 5))) == [
        "nonfinite",
        "mine",
    ]


def test_a_condition_that_comes_back_is_told_again():
    """An explosion is no consequence of an explosion."""
    assert kinds(sifted(incident("exploding", 3), incident("exploding", 40))) == ["exploding", "exploding"]


def test_precedence_survives_a_checkpoint():
    """After a round trip through JSON the consequences stay quiet and the explanation is the same."""
    for cut in (1, 2):
        chain = [incident("exploding", 5), incident("nonfinite", 8), incident("vanishing", 20)]
        expected = sifted(*chain)
        first, second = Precedence(), Precedence()
        got = sifted(*chain[:cut], precedence=first)
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert got + sifted(*chain[cut:], precedence=second) == expected


def test_judges_keep_precedence_in_their_state():
    """A resumed watch tells the same as an uninterrupted one, in the midst of a chain of consequences."""
    records, model = outlier(), ModelInfo("")
    first, second = Judges(default_detectors()), Judges(default_detectors())
    got = [i for record in records[:62] for i in first.observe(record, model)]
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    got += [i for record in records[62:] for i in second.observe(record, model)]
    assert got == told(records)


def troubled():
    """A stall, a leap of the learning rate with its explosion, steps that are too large, and a bad batch."""
    rng = np.random.default_rng(3)
    records = [make(t, ratio=1e-6, lr=1e-5, loss=flat(rng)) for t in range(90)]
    records += [make(t, lr=0.1, loss=flat(rng)) for t in range(90, 200)]
    records += [make(t, 1e3, lr=30.0, loss=100.0) for t in range(200, 206)]
    records += [make(t, lr=0.1, loss=flat(rng)) for t in range(206, 300)]
    records += [make(t, ratio=2.0 if t == 300 else 1e-3, loss=flat(rng) + (t > 300)) for t in range(300, 320)]
    records += [make(t, loss=flat(rng)) for t in range(320, 480)]
    return records + [make(480, 1e7, loss=1e7)] + [make(t, loss=flat(rng)) for t in range(481, 500)]


@pytest.mark.parametrize("cut", [30, 95, 199, 202, 302, 350, 481])
def test_detectors_go_on_after_a_checkpoint(cut):
    """Saved, sent through JSON, loaded into new judges: the rest of the run tells the same, mid-incident too."""
    records, model = troubled(), ModelInfo("")
    first, second = Judges(default_detectors()), Judges(default_detectors())
    got = [i for record in records[:cut] for i in first.observe(record, model)]
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    got += [i for record in records[cut:] for i in second.observe(record, model)]
    assert got == told(records)
    assert kinds(got) == ["stalled", "lr_too_high", "lr_too_high", "data_outlier"]


@pytest.mark.parametrize("detector", default_detectors(), ids=lambda detector: detector.kind)
def test_a_foreign_state_is_refused(detector):
    """A state of another version raises StateError."""
    with pytest.raises(StateError, match="not the state"):
        detector.load_state_dict({"0": {"no_such_field": 1}})


def test_the_first_big_step_of_a_shallow_model_is_no_explosion():
    """Logistic regression at a learning rate of 10 replaces its small weights at once, and learns: no alarm."""
    table = load_breast_cancer()
    data = torch.tensor(table.data, dtype=torch.float32)
    data, target = (data - data.mean(0)) / data.std(0), torch.tensor(table.target)
    model = torch.nn.Linear(30, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=10.0)
    with gradwatch.watch(model, writers=[]) as watch:
        for _ in range(30):
            loss = torch.nn.functional.cross_entropy(model(data), target)
            watch.loss(loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert loss < 0.2
    assert watch.incidents == []


# ----------------------------------------------------------------------------------------- what fresh sweeps taught


class Reader(nn.Module):
    """torch's own transformer layer over the lines of a digit, with a table of places and a token of its own kind."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(8, 24), nn.Linear(24, 10)
        self.place, self.token = nn.Parameter(0.1 * torch.randn(9, 24)), nn.Parameter(torch.zeros(1, 1, 24))
        self.layer = nn.TransformerEncoderLayer(24, 3, 48, 0.0, batch_first=True)

    def forward(self, x):
        lines = self.enter(x.reshape(-1, 8, 8))
        tokens = torch.cat([self.token.expand(len(lines), 1, 24), lines], 1) + self.place
        return self.head(self.layer(tokens)[:, 0])


@pytest.mark.parametrize(("lr", "expected"), [(1e-7, ["stalled"]), (1e-3, [])])
def test_a_transformer_of_torch_is_untrained_at_first(lr, expected):
    """Its attention is made by another law than its other layers, and its tables by none: it is fresh all the same."""
    torch.manual_seed(0)
    model = Reader()
    incidents = train(model, 120, optimizer=torch.optim.AdamW(model.parameters(), lr)).incidents
    assert kinds(incidents) == expected
    assert all(incident.causes[0].name == "lr_too_low" for incident in incidents)


def recovering(steps, back=2.0):
    """A spike at step 60 that the loss has come back from after so many steps."""
    loss = dict.fromkeys(range(61, 61 + steps), 5.0)
    return [make(t, norm=50.0 if t == 60 else 1.0, loss=80.0 if t == 60 else loss.get(t, back)) for t in range(120)]


def test_a_batch_that_the_run_recovers_from_is_forgiven():
    """A dozen worse steps are forgotten; a run that has not come back after sixteen was thrown back."""
    assert told(recovering(12)) == []
    (incident,) = told(recovering(40))
    assert (incident.kind, incident.step, incident.evidence["rule"]) == ("data_outlier", 76, "aftermath")


def test_a_bad_batch_among_the_first_ten():
    """Three decades in loss and norm at once are beyond doubt after five steps, and not after three."""

    def early(at):
        return [make(t, norm=1e4 if t == at else 1.0, loss=1e6 if t == at else 2.0) for t in range(40)]

    assert [(i.kind, i.step) for i in told(early(6))] == [("data_outlier", 6)]
    assert "data_outlier" not in [i.kind for i in told(early(3))]


def test_a_signal_that_is_lost_after_bold_steps_is_their_doing():
    """It was there when training began; then a tenth of all weights was changed at once."""

    def lost(ratio):
        fade = 10.0 ** -np.arange(5, -1, -1.0)
        pace, fades = (ratio, 2e-3), (1.0, fade)
        return [make(t, fades[t > 40], pace[t > 9], weight=2.4 * FRESH, loss=2.3) for t in range(80)]

    for ratio, cause in ((0.5, "lr_too_high"), (2e-3, "unknown")):
        incident = next(i for i in told(lost(ratio)) if i.kind == "vanishing")
        assert incident.causes[0].name == cause


def test_weights_that_waste_away_are_the_decay_s_doing():
    """Decayed to less than half while the loss, which has been better, stands still; not where it goes on falling."""

    def decayed(loss):
        return [make(t, ratio=0.02, weight=FRESH * max(0.6, 1.5 * 0.993**t), loss=loss(t)) for t in range(200)]

    (incident,) = told(decayed(lambda t: max(0.7, 1 - 0.05 * t)))
    assert (incident.kind, incident.evidence["rule"], incident.causes[0].name) == (
        "stalled",
        "wasting",
        "small_weights",
    )
    assert incident.message.startswith("The weights waste away, and the loss does not fall any more: it is 0.7,")
    assert "have shrunk to 4" in incident.message
    reads_well(incident)
    assert told(decayed(lambda t: 0.99**t)) == []
