"""What is told of a sample of the corpus, live: the kind, the layer, the first cause; and nothing of healthy runs.

The whole corpus is scored by ``python tests/zoo/score.py``; this sample keeps every kind and the costliest traps in CI.
"""

from __future__ import annotations

import pytest

from zoo.corpus import SCENARIOS
from zoo.judge import after_onset, judge_faulty
from zoo.score import start, watched, work

FAULTY = (
    "tanh_functional_small",
    "sigmoid_convs_functional",
    "rnncell_fades",
    "linear_product_grows",
    "zero_grad_forgotten_convs",
    "log_of_zero_rate",
    "nan_in_one_feature",
    "dead_conv_1",
    "dead_from_70_functional",
    "tanh_gain_25",
    "sgd_jump_200_convs",
    "nesterov_5_convs",
    "adam_eps_10_convs",
    "clip_1e-5_gru",
    "detach_between",
    "body_not_in_optimizer",
    "pixels_255_convs",
    "table_batch_x1e6",
)
"""Every kind, as modules and as functions, from the start and later on. Right first causes are in the corpus."""

HEALTHY = (
    "ok_warmup_cosine",
    "ok_warm_restarts",
    "ok_loss_x1e6_sgd",
    "ok_half_grad_scaler",
    "ok_dropout_70",
    "ok_sparse_relu",
    "ok_sigmoid_output_sure",
    "ok_sharp_attention_learnt",
    "ok_batch_of_1",
    "ok_hinge_gan",
    "ok_lora_zero_b",
    "ok_mean_teacher_in_optimizer",
)

JOBS = {scenario.name: (("zoo.corpus"), index, 0, False) for index, scenario in enumerate(SCENARIOS)}


@pytest.mark.parametrize("name", FAULTY)
def test_a_fault_is_told_under_its_name(name):
    """The first incident is of a right kind, names a faulty layer where one is known, and gives a right first cause."""
    outcome = work(JOBS[name])
    assert not outcome.error
    verdict = judge_faulty(outcome)
    told = [(alarm.kind, alarm.step, alarm.cause, alarm.layers[:3]) for alarm in after_onset(outcome)]
    assert verdict.top1, told
    assert verdict.layer is not False, told
    assert told[0][2] in outcome.right_causes, told


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_run_is_left_alone(name):
    """Nothing is told of what only looks like a fault."""
    outcome = work(JOBS[name])
    assert not outcome.error
    assert outcome.alarms == []


@pytest.mark.parametrize("name", ["detach_between", "pixels_255_convs"])
def test_the_repaired_twin_is_left_alone(name):
    """The same run without the fault raises nothing."""
    index = JOBS[name][1]
    alarms, _ = watched(start(SCENARIOS[index], 0, control=True), SCENARIOS[index].steps)
    assert alarms == []
