"""Tests of the corpus and of its judge: quick, no watch, a handful of short runs."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from zoo import faulty, healthy, judge, loop, peers, sweeps, verify
from zoo.core import CAUSES, LABELS, Registry, Run, Scenario
from zoo.corpus import SCENARIOS
from zoo.judge import Alarm, Outcome
from zoo.public_causes import PUBLIC_CAUSES
from zoo.recipes import stack
from zoo.recorder import Row
from zoo.score import same, weights

FAULTY_LABELS = [label for label in LABELS if label != "healthy"]
SAMPLE = (
    "tanh_functional_small",
    "dead_conv_1",
    "nan_in_one_feature",
    "detach_between",
    "ok_hinge_gan",
    "ok_half_grad_scaler",
    "ok_lora_zero_b",
)


def named(name: str) -> Scenario:
    """The scenario of that name."""
    return next(scenario for scenario in SCENARIOS if scenario.name == name)


def outcome(alarms: list[Alarm], **fields: object) -> Outcome:
    """A faulty run with these alarms."""
    return Outcome(
        **{"name": "run", "label": "vanishing", "seed": 0, "steps": 100, "onset": 10, "ok": ["vanishing"], **fields},
        alarms=alarms,
    )


def test_names_are_unique_and_the_corpus_is_large():
    """Every name occurs once; there are at least 60 faulty and 45 healthy scenarios."""
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
    assert len(faulty.SCENARIOS) >= 60
    assert len(healthy.SCENARIOS) >= 45


@pytest.mark.parametrize("label", FAULTY_LABELS)
def test_every_label_has_faulty_scenarios(label):
    """No kind of incident goes untested."""
    assert Counter(scenario.label for scenario in SCENARIOS)[label] >= 5


def test_every_faulty_scenario_has_a_twin_or_says_why_not():
    """A fault is measured against its repair."""
    assert [s.name for s in faulty.SCENARIOS if not s.control and not s.no_control] == []


def test_every_scenario_says_what_it_is_for():
    """A faulty one names its cause and right first causes; a healthy one its trap; none is longer than 300 steps."""
    assert [
        s.name for s in faulty.SCENARIOS if not s.cause or not s.right_causes or not set(s.right_causes) <= CAUSES
    ] == []
    assert [s.name for s in healthy.SCENARIOS if not s.trap or not s.name.startswith("ok_")] == []
    assert [s.name for s in SCENARIOS if s.steps > 300] == []


@pytest.mark.parametrize("name", SAMPLE)
def test_the_same_seed_trains_the_same_run(name):
    """Built twice and trained for eight steps, losses and weights are bit-equal."""
    scenario = named(name)
    losses, models = [], []
    for _ in range(2):
        run = scenario.start(3)
        losses.append(loop.train(run, 8))
        models.append(weights(run.model))
    assert torch.equal(torch.tensor(losses[0]), torch.tensor(losses[1]))
    assert same(*models)


@pytest.mark.parametrize(
    "name", ["dead_first_layer", "detach_between", "constant_pixel_over_its_std", "ok_loss_x1e-6_sgd"]
)
def test_labels_hold(name):
    """Their verification has nothing to say against them."""
    assert verify.verify(named(name), 0)[0] == ""


def test_a_wrong_label_does_not_hold():
    """A healthy run that is passed off as faulty is found out, and so is a run that learns nothing as healthy."""
    run = lambda seed: stack(seed, kind="adam", lr=3e-3)  # noqa: E731
    still = lambda seed: stack(seed, kind="sgd", lr=1e-9)  # noqa: E731
    assert "keeps" in verify.verify(Scenario("fake", "stalled", "", run, 60, control=run), 0)[0]
    assert "only" in verify.verify(Scenario("ok_fake", "healthy", "", still, 30, onset=None), 0)[0]


def test_the_registry_refuses_what_is_malformed():
    """Unknown labels, causes and checks, and a name twice."""
    registry = Registry()
    registry.put(Scenario("a", "stalled", "", stack))
    for wrong in (
        Scenario("a", "stalled", "", stack),
        Scenario("b", "tired", "", stack),
        Scenario("b", "stalled", "", stack, right_causes=("laziness",)),
        Scenario("b", "stalled", "", stack, check="vibes"),
    ):
        with pytest.raises(ValueError, match=wrong.name):
            registry.put(wrong)


def test_repeated_alarms_of_one_kind_count_once_in_50_steps():
    """The cool-down is per kind and counts from the alarm that was kept."""
    alarms = [Alarm(step, kind) for step, kind in ((0, "x"), (49, "x"), (50, "x"), (60, "y"), (99, "x"), (100, "x"))]
    assert [(a.step, a.kind) for a in judge.dedup(alarms)] == [(0, "x"), (50, "x"), (60, "y"), (100, "x")]


@pytest.mark.parametrize(
    ("layer", "prefixes", "near"),
    [
        ("fc1", ["fc1"], True),
        ("fc1.weight", ["fc1"], True),
        ("body", ["body.fc1"], True),
        ("fc10", ["fc1"], False),
        ("", ["fc1"], False),
    ],
)
def test_a_layer_is_near_what_it_is_in_or_around(layer, prefixes, near):
    """By whole parts of the name."""
    assert judge.near(layer, prefixes) is near


def test_a_caught_fault():
    """Any, recall, first guess, label, layer, delay and cause, from one late but right incident."""
    verdict = judge.judge_faulty(
        outcome(
            [Alarm(14, "vanishing", "small_weights", ("fc0.weight",))],
            faulty_layers=["fc0"],
            right_causes=["small_weights"],
        )
    )
    assert verdict == judge.Verdict(any=True, recall=True, top1=True, exact=True, layer=True, delay=4, cause=True)


def test_a_fault_that_is_missed_or_misnamed():
    """Before the onset, of another kind, at another layer: none of that counts as caught."""
    early = judge.judge_faulty(outcome([Alarm(5, "vanishing")]))
    assert (early.any, early.recall, early.delay) == (False, False, None)
    other = judge.judge_faulty(
        outcome([Alarm(12, "exploding"), Alarm(20, "vanishing", layers=("fc9",))], faulty_layers=["fc0"])
    )
    assert (other.any, other.recall, other.top1, other.layer, other.delay) == (True, True, False, False, 10)
    assert judge.judge_faulty(outcome([Alarm(12, "exploding")])).recall is False
    assert judge.judge_faulty(outcome([])).any is False


def test_alarms_of_the_same_step_share_the_first_place():
    """Top-1 asks whether one of the first step's incidents is acceptable."""
    assert judge.judge_faulty(outcome([Alarm(12, "exploding"), Alarm(12, "vanishing")])).top1


def test_a_cause_may_stand_for_the_kind():
    """An incident whose first cause is an accepted label is acceptable."""
    assert judge.judge_faulty(outcome([Alarm(12, "stalled", "vanishing")])).recall


def test_an_alarm_that_a_false_start_swallowed_counts():
    """The cool-down of an alarm before the onset does not hide the fault."""
    assert judge.judge_faulty(outcome([Alarm(5, "vanishing"), Alarm(12, "vanishing")])).recall


def test_the_table():
    """Shares over faulty runs; false alarms per 1000 steps of healthy runs and of the time before onsets."""
    healthy_run = Outcome("ok", "healthy", 0, 90, alarms=[Alarm(3, "stalled"), Alarm(80, "stalled")])
    figures = judge.judge(
        [
            outcome([Alarm(5, "stalled"), Alarm(14, "vanishing")]),
            outcome([]),
            healthy_run,
            Outcome("ok2", "healthy", 0, 90),
        ]
    )
    assert (figures["recall"], figures["top1"], figures["delay"], figures["fa_runs"]) == (0.5, 0.5, 4, 0.5)
    assert figures["fa_per_1000"] == pytest.approx(1000 * 3 / 200)
    assert figures["by_label"] == {"vanishing": "1/2"}
    assert len(judge.remarks([outcome([])])) == 1


def test_harm_is_measured_against_the_best_level():
    """Less than half of the improvement is harmful, more than 80 % harmless, non-finite harmful."""
    losses = {1.0: [1.0] * 15 + [0.0] * 15, 2.0: [1.0] * 15 + [0.3] * 15, 3.0: [1.0] * 30, 4.0: [1.0] * 29 + [math.nan]}
    verdicts = {level.level: level.verdict for level in sweeps.assess(losses, 30)}
    assert verdicts == {1.0: "harmless", 2.0: "unjudged", 3.0: "harmful", 4.0: "harmful"}


@pytest.mark.parametrize("name", sweeps.SETS)
def test_sweeps_go_from_mild_to_severe(name):
    """At least ten sweeps, each of six to eight levels that grow or fall throughout; what they accept are labels."""
    found = sweeps.sweeps_of(name)
    assert len(found) >= 10
    assert len({sweep.name for sweep in found}) == len(found)
    for sweep in found:
        assert 6 <= len(sweep.levels) <= 8, sweep.name
        assert list(sweep.levels) in (sorted(sweep.levels), sorted(sweep.levels, reverse=True)), sweep.name
        assert sweep.accept, sweep.name
        assert set(sweep.accept) <= set(FAULTY_LABELS), sweep.name
    right = sweeps.right_causes_of(name)
    assert right.keys() <= {sweep.name for sweep in found}
    assert {cause for causes in right.values() for cause in causes} <= CAUSES


def test_first_bad_finds_the_step():
    """The first non-finite number is found where it is planted, and none in a run without one."""
    planted = stack(0)

    def plant(step: int) -> None:
        if step == 4:
            torch.nn.init.constant_(planted.model.linears[1].bias, math.inf)

    planted.before_step = plant
    assert loop.first_bad(planted, 8) == 4
    assert loop.first_bad(stack(0), 8) is None


def test_the_peers_rules_say_what_they_publish():
    """A NaN loss is seen by all that look at it; ten equal losses are no decrease; a quiet run passes NaN detection."""
    rows = [Row(loss=1.0) for _ in range(40)]
    assert list(peers.nan_loss(rows)) == []
    assert [a.kind for a in peers.sagemaker_all(rows)] == ["stalled"] * 3
    rows[5].loss = math.nan
    assert [a.step for a in peers.nan_loss(rows)] == [5]
    assert next(iter(peers.autotrainer(rows))).step == 5


def test_turns_step_one_optimizer_at_a_time():
    """In a game the critic's weights rest while the generator moves."""
    run: Run = named("ok_hinge_gan").start(0)
    before = weights(run.model)
    loop.train(run, 1)
    after = weights(run.model)
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"critic"}


def test_the_right_causes_of_the_public_corpus_are_causes():
    """A cause that is misspelt could never be named."""
    assert {cause for causes in PUBLIC_CAUSES.values() for cause in causes} <= CAUSES
