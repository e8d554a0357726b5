"""Every threshold that can be changed from outside really decides something, everywhere where it is used."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import math
import sys

import numpy as np
import pytest

from gradwatch._judges import Judges
from gradwatch.detectors import default_detectors
from gradwatch.errors import ArgumentTypeError, ArgumentValueError
from gradwatch.records import (
    ACTIVATION_COLUMNS,
    Activations,
    Layer,
    ModelInfo,
    Operations,
    Ownerless,
    StepRecord,
    TimeProfile,
)
from gradwatch.thresholds import THRESHOLDS, check, override

CONSTANTS = {name: threshold for name, threshold in THRESHOLDS.items() if threshold.room is not None}


def judging():
    """The package's modules that are loaded for judging, with their syntax trees."""
    return {
        name: (module, ast.parse(inspect.getsource(module)))
        for name, module in list(sys.modules.items())
        if name.startswith("gradwatch.") and name != "gradwatch.thresholds"
    }


def read_at_import(tree: ast.Module, constant: str) -> list[int]:
    """The lines at which a name is read outside of any function's body: there, an override comes too late."""
    lines: list[int] = []

    def visit(node: ast.AST) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for late in (*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)):
                visit(late)
            return
        if isinstance(node, ast.Lambda):
            return
        if isinstance(node, ast.Name) and node.id == constant and isinstance(node.ctx, ast.Load):
            lines.append(node.lineno)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return lines


@pytest.mark.parametrize("name", CONSTANTS)
def test_it_is_changed_wherever_it_is_read(name):
    """Its own room and every module that imports it by name sees the new value, and the old one afterwards."""
    constant, room = name.rpartition(".")[2], CONSTANTS[name].room
    users = [room]
    for module, tree in judging().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == room.__name__:
                assert all(alias.name != constant or alias.asname is None for alias in node.names), module
                users += [module] * any(alias.name == constant for alias in node.names)
    before = [vars(user)[constant] for user in users]
    other = THRESHOLDS[name].default + 7
    with override({name: other}):
        assert [vars(user)[constant] for user in users] == [other] * len(users)
    assert [vars(user)[constant] for user in users] == before


@pytest.mark.parametrize("name", CONSTANTS)
def test_it_is_read_when_a_step_is_judged(name):
    """No table, default value or class body has kept the old number, except those that are changed along with it."""
    threshold, constant = CONSTANTS[name], name.rpartition(".")[2]
    kept = 0
    for module, tree in judging().values():
        if vars(module).get(constant) == threshold.default and constant in vars(module):
            imported = module is threshold.room or any(
                isinstance(node, ast.ImportFrom)
                and node.module == threshold.room.__name__
                and any(alias.name == constant for alias in node.names)
                for node in ast.walk(tree)
            )
            kept += len(read_at_import(tree, constant)) if imported else 0
    assert kept == len(threshold.tables), f"{constant} is read {kept} times while a module is imported"


@pytest.mark.parametrize("name", THRESHOLDS)
def test_tables_are_changed_too(name):
    """The entries of tables, and back again."""
    other = THRESHOLDS[name].default + 3
    before = [table[key] for table, key in THRESHOLDS[name].tables]
    assert before == [THRESHOLDS[name].default] * len(before)
    with override({name: other}):
        assert [table[key] for table, key in THRESHOLDS[name].tables] == [other] * len(before)
    assert [table[key] for table, key in THRESHOLDS[name].tables] == before
    assert THRESHOLDS[name].tables or THRESHOLDS[name].room


def test_an_error_leaves_nothing_changed():
    """Neither a wrong name beside a right one nor an exception inside leaves a changed number behind."""
    from gradwatch.detectors import exploding

    with (
        pytest.raises(ArgumentValueError, match=r"exploding\.BRUST"),
        override({"exploding.BURST": 9, "exploding.BRUST": 9}),
    ):
        pass
    with pytest.raises(ZeroDivisionError), override({"exploding.BURST": 9}):
        raise ZeroDivisionError
    assert THRESHOLDS["exploding.BURST"].default == exploding.BURST


def test_values_are_checked():
    """A number, finite, above 0, whole where something is counted."""
    assert check("baselines.CLEAN_STEPS", 5.0) == 5
    assert isinstance(check("baselines.CLEAN_STEPS", 5.0), int)
    assert check("exploding.BURST", 4) == 4.0
    for value in ("4", None, True):
        with pytest.raises(ArgumentTypeError):
            check("exploding.BURST", value)
    for value in (-1, 0, float("nan"), float("inf")):
        with pytest.raises(ArgumentValueError):
            check("exploding.BURST", value)


def test_names_and_texts():
    """Names are those of the rooms; each says its unit and what it decides in a sentence."""
    for name, threshold in THRESHOLDS.items():
        assert threshold.name == name
        assert threshold.unit
        assert threshold.meaning.endswith(".")
        assert json.dumps(threshold.default)


# ------------------------------------------------------------------------------ each of them decides something, at last

WIDTH = 64
FRESH = math.sqrt(WIDTH / 3)
"""The norm of a square matrix as torch initialises it."""


def make(step, norm=1.0, *, depth=6, ratio=1e-3, weight=1.5 * FRESH, **fields):
    """A record of linear layers; weights and updates on every tenth step."""
    layers = _LAYERS[:depth]
    norms = np.broadcast_to(np.asarray(norm, np.float64), (depth,)).copy()
    total = float(np.linalg.norm(norms))
    sampled = step % 10 == 0
    return StepRecord(
        step,
        0,
        layers,
        norms,
        np.zeros(depth, np.int64),
        total,
        total,
        **{
            "lr": 0.1,
            "weight_norm": np.full(depth, weight) if sampled else None,
            "update_ratio": np.full(depth, ratio) if sampled else None,
            **fields,
        },
    )


_LAYERS = tuple(Layer(f"fc{i}.weight", f"fc{i}", "Linear", (WIDTH, WIDTH)) for i in range(6))
BACK = np.arange(6) >= 3


def two_bursts():
    """Two single steps far above anything seen, 20 steps apart."""
    return [make(t, {20: 1e4, 40: 1e9}.get(t, 1.0)) for t in range(60)]


def jump(decades=2.0, noise=0.0):
    """A norm that stays far above the usual one."""
    wave = 10 ** (noise * np.sin(np.arange(60)))
    return [make(t, wave[t] * 10 ** (decades * (t >= 30))) for t in range(40)]


def chain(decades, num_steps=100, loss=None):
    """The signal fades (or grows) evenly on its way back."""
    return [make(t, 10 ** (-decades * np.arange(5, -1, -1) / 5), loss=loss) for t in range(num_steps)]


def broken(decades, closing=0.0):
    """The signal breaks off in the middle; the gap may close again."""
    return [make(t, np.where(BACK, 1.0, 10 ** -(decades - closing * t))) for t in range(30)]


def one_weak():
    """One layer hardly learns."""
    return [make(t, np.where(np.arange(6) == 2, 1e-5, 1.0)) for t in range(30)]


def silenced():
    """A layer in the midst of others has no gradient any more."""
    return [make(t, np.where((np.arange(6) == 2) & (t > 20), 0.0, 1.0)) for t in range(90)]


def bold(ratio, loss=None, **options):
    """Large updates from the first step on."""
    return [make(t, ratio=ratio, loss=None if loss is None else loss(t), **options) for t in range(100)]


def leap(after=1):
    """The learning rate leaps up, and some steps later the gradients do."""
    return [make(t, 30.0 if t >= 20 + after else 1.0, lr=1.0 if t >= 20 else 0.1, loss=1.0) for t in range(50)]


def motionless(lr=lambda _t: 0.1, weight=1.5 * FRESH, ratio=1e-9):
    """Nothing moves, and the loss stands still."""
    return [make(t, ratio=ratio, weight=weight, lr=lr(t), loss=1.0) for t in range(150)]


def outlier(norm=1e4, loss=1e3, before=1.0, at=60):
    """One batch far off, after a run that had larger norms at first."""
    first = [make(0, before, loss=before)]
    return first + [make(t, norm if t == at else 1.0, loss=loss if t == at else 1.0) for t in range(1, 80)]


def skipped():
    """A GradScaler skips and skips."""
    return [make(t, skipped=True) for t in range(40)]


def burst_then_fade():
    """A signal that fades some time after an explosion."""
    return [make(t, 1e5) if t == 20 else make(t, 10 ** (-float(t > 50) * np.arange(5, -1, -1.0))) for t in range(90)]


def nan_then_jump():
    """A NaN, and some time later norms that stay far above the usual."""
    bad = dataclasses.replace(
        make(20), grad_norm=np.full(6, math.nan), num_nonfinite=np.ones(6, np.int64), total_norm=math.nan
    )
    return [bad if t == 20 else make(t, 1e2 if t >= 40 else 1.0) for t in range(50)]


# What the forward probe sees, at every tenth step: six layers, an activation behind each but the last.


def default(name):
    """The threshold as it is: examples keep their distance from it, wherever it is."""
    return THRESHOLDS[name].default


def middle(low, high):
    """Between two thresholds."""
    return (default(low) + default(high)) / 2


def calls(kind="Tanh", *, out_grad=1.0, layer=None, cut=None, output=None, **activation):
    """One look. ``activation`` is what is seen of every activation, ``layer`` what is seen of the first layer."""
    rows = []
    for i, grad in enumerate(np.broadcast_to(np.asarray(out_grad, np.float64), (6,))):
        first = {"from_data": float(i == 0), **((layer or {}) if i == 0 else {})}
        known = {"in_mean": 0.0, "in_std": 1.0, "joined": 1.0, "out_grad": math.nan if i == cut else grad}
        rows.append((f"fc{i}", "Linear", {**known, **first}))
        if i < 5:
            rows.append((f"act{i}", kind, {**known, "from_data": 0.0, **activation}))
    if output is not None:
        rows.append(("out", kind, {"in_std": 1.0, "joined": 1.0, "saturated_share": output, "out_grad": 1.0}))
    columns = {key: np.array([seen.get(key, math.nan) for *_, seen in rows]) for key in ACTIVATION_COLUMNS}
    return Activations(tuple(name for name, *_ in rows), tuple(kind for _, kind, _ in rows), **columns)


def looked(num_steps, look, norm=lambda _t: 1.0, loss=lambda _t: None, **fields):
    """Records, with a look at every tenth step."""
    return [
        make(t, norm(t), loss=loss(t), activations=look(t) if t % 10 == 0 else None, **fields) for t in range(num_steps)
    ]


def dead(share=1.0, loss=None):
    """A share of the units of a layer gives nothing but zero."""
    signal = 0.0 if share == 1 else 1.0  # where all are silent, nothing comes back
    return looked(100, lambda _t: calls("ReLU", dead_share=share, out_grad=signal), loss=lambda _t: loss)


def saturated(num_steps=50, loss=lambda _t: 2.0):
    """All activations sit on their flat ends from the start, and the loss does not fall."""
    return looked(num_steps, lambda _t: calls(saturated_share=1.0, in_std=2.0), loss=loss)


def saturated_suddenly():
    """They do so from one look to the next."""
    low = default("saturation.CALM") / 2
    return looked(100, lambda t: calls(saturated_share=low if t < 50 else 1.0))


def far_out():
    """They are given values that no training would lead to; nobody has told the loss."""
    std = 10 * default("saturation.FAR_OUT")
    return looked(60, lambda _t: calls(saturated_share=1.0, in_std=std))


def sure_output():
    """The model's output is sure, and the loss does not fall."""
    return looked(50, lambda _t: calls("Sigmoid", saturated_share=0.0, output=1.0), loss=lambda _t: 2.0)


def sure_output_without_signal():
    """The same where the loss has fallen a little, still falls, and the learning signal is gone."""
    return looked(
        60,
        lambda _t: calls("Sigmoid", saturated_share=0.0, output=1.0),
        norm=lambda t: 10.0 ** -min(t / 5, default("saturation.GONE") + 2),
        loss=lambda t: 2.0 - 0.6 * min(t / 8, 1) - 0.002 * t,
    )


def cut_off(since=0):
    """The last layer is at work and gets no gradient, from some step on."""
    return looked(
        100,
        lambda t: calls(cut=5 if t >= since else None),
        norm=lambda t: np.where((np.arange(6) == 5) & (t >= since), 0.0, 1.0),
    )


def ownerless():
    """A layer that no optimizer owns."""
    found = Ownerless((Layer("head.weight", "head", "Linear", (WIDTH, WIDTH)),), np.array([FRESH]))
    return [make(t, ownerless=found if t % 10 == 0 else None) for t in range(90)]


def fed(rms):
    """Inputs of that size, and a fresh model that does not learn."""
    return looked(80, lambda _t: calls(layer={"in_std": rms, "in_max": 3 * rms}), loss=lambda _t: 2.0, weight=FRESH)


def piled():
    """Most of the gradient of the step before is still there when the backward pass begins."""
    return looked(60, lambda _t: calls(layer={"carried_grad": 0.8}))


def louder_signal():
    """The signal itself grows from layer to layer, and the weights' gradients do not show it."""
    return looked(60, lambda _t: calls(out_grad=10 ** np.arange(5.0, -1, -1)))


def alone():
    """One weak layer jumps so far that the whole norm rises, but less than it must otherwise."""
    top = math.sqrt(5) * 10 ** middle("exploding.ALONE", "baselines.JUMP")
    one = np.arange(6) == 2
    return [make(t, np.where(one, top if t >= 30 else 1e-2, 1.0)) for t in range(40)]


def bounced():
    """Norms that stay far above the usual, and below an earlier spike, in a run that has done its work."""
    low = default("exploding.LEARNT") / 4
    return [make(t, 10**2.9 if t == 20 else 1e2 if t >= 40 else 1.0, loss=1.0 if t < 3 else low) for t in range(50)]


def died_away():
    """The signal shrinks and shrinks, and the loss does not fall."""
    return [make(t, 10 ** -min(t / 5, default("vanishing.GONE") + 2), loss=1.0) for t in range(60)]


def through_time(decades, loss=None):
    """The signal shrinks (or grows) through time in a recurrent layer."""
    profile = TimeProfile("rnn", "RNN", tuple((10 ** (-decades * np.arange(39, -1, -1) / 39)).tolist()))
    return [make(t, ratio=5e-3, loss=loss, through_time=(profile,) if t % 10 == 0 else ()) for t in range(100)]


def through_time_once_more():
    """It shrinks, and the loss comes to stand still after the last look."""
    looks = through_time(default("through_time.LOST") + 2)
    return [
        make(t, loss=max(0.99**t, 0.75), through_time=looks[t].through_time if t <= 90 else ())
        if t < 100
        else make(t, loss=0.75)
        for t in range(140)
    ]


def crawling(way, loss):
    """Weights as initialised come that far in 105 steps."""
    return [make(t, weight=FRESH, ratio=way / 6 / 105, loss=loss if t > 2 else 1.0) for t in range(150)]


def crawling_then_falling(way):
    """The same where the loss has begun to fall of late, by less than would count as learnt."""
    return [make(t, weight=FRESH, ratio=way / 6 / 105, loss=1.0 if t < 90 else 0.85) for t in range(150)]


def restless():
    """Large steps, and a loss that does not fall."""
    return bold(2 * default("lr_too_high.RESTLESS"), lambda _t: 1.0)


def replaced_later():
    """Weights that are replaced in the midst of a run, which does harm."""
    return [make(t, ratio=5.0 if t >= 20 else 1e-3, loss=2.0) for t in range(60)]


def set_back():
    """The learning rate leaps up, and the loss is worse from then on: less than would be beyond anything seen."""
    return [
        make(t, lr=1.0 if t >= 20 else 0.1, loss=1.5 * default("lr_too_high.SETBACK") ** (t >= 20)) for t in range(60)
    ]


def sinking():
    """Bold steps, fewer than would be restless, by which the model becomes worse, less than tenfold."""
    ratio = 0.8 * default("lr_too_high.RESTLESS")
    return bold(ratio, lambda t: 1.0 if t < 5 else 2 * default("lr_too_high.SINKING"))


def bottomless():
    """A loss that falls without end, ever faster."""
    return [make(t, 10 ** (t / 20), loss=-(10 ** (t / 20))) for t in range(80)]


def idle(weight=FRESH):
    """The weights move as they should, and the loss stays where it was, but for a little noise."""
    return [make(t, ratio=3e-3, weight=weight, loss=1 + 1e-3 * (-1) ** t) for t in range(240)]


def decayed_later():
    """Weights that are decayed to less than half, and a loss that was better and stands still."""
    return [
        make(t, ratio=0.02, weight=FRESH * max(0.6, 1.5 * 0.993**t), loss=max(0.7, 1 - 0.05 * t)) for t in range(200)
    ]


def far_off():
    """A squared error of thousands that hardly falls, by ordinary steps."""
    return [make(t, ratio=5e-3, weight=FRESH, loss=5e3 - 5 * t) for t in range(120)]


def at_zero():
    """The learning rate is exactly zero from step 60 on, while more than half of the loss is left."""
    moved = [make(t, ratio=3e-3, weight=1.5 * FRESH, lr=0.1, loss=0.995**t) for t in range(60)]
    rest = [make(t, ratio=0.0, weight=1.5 * FRESH, lr=0.0, loss=0.75) for t in range(60, 100)]
    return moved + rest


def rounded():
    """Weights in bfloat16 that change by less than most of them resolve, while the loss hardly falls."""
    records = [make(t, ratio=5e-4, weight=FRESH, loss=1 - 1e-3 * t) for t in range(150)]
    halves = tuple(dataclasses.replace(layer, dtype="bfloat16") for layer in records[0].layers)
    return [dataclasses.replace(record, layers=halves) for record in records]


def warming():
    """A warm-up so slow that nothing moves."""
    return [make(t, ratio=1e-8 * t, weight=FRESH, lr=1e-8 * 1.05**t, loss=1.0) for t in range(150)]


def thrown_back():
    """A batch with a large gradient, and a loss that is somewhat worse from then on."""
    norm = 10 ** (default("data_outlier.SPIKE") + 0.5)
    after = 10 ** (3 * default("data_outlier.WORSE"))
    return [make(t, norm if t == 60 else 1.0, loss=after if t >= 60 else 1.0) for t in range(80)]


def echo():
    """A batch whose gradient and loss are far off, and a loss that is worse at the step that it led to, not later."""
    norm = 10 ** middle("data_outlier.ECHO", "data_outlier.FAR")
    loss = {60: 10 ** middle("data_outlier.ECHO_LOSS", "data_outlier.FAR_LOSS"), 61: 2.0}
    return [make(t, norm if t == 60 else 1.0, loss=loss.get(t, 1.0)) for t in range(80)]


NEVER = 10**4
"""More than any example has."""

EFFECTS = {
    "baselines.CLEAN_STEPS": (5, two_bursts()),
    "baselines.WARM_STEPS": (45, two_bursts()),
    "baselines.STALLED_STEPS": (30, motionless()),
    "baselines.HARDLY": (1e-3, saturated(loss=lambda t: 1.0 if t < 3 else 1 - default("baselines.HARDLY") / 2)),
    "baselines.FALLING": (1e-9, crawling_then_falling(0.8 * default("stalled.TOGETHER"))),
    "baselines.JUMP": (3.0, jump()),
    "baselines.SPREADS": (30.0, jump(2.0, 0.1)),
    "baselines.RECOVERING": (20.0, broken(8.0, 0.15)),
    "depth.FADE": (5.0, chain(4.0)),
    "weights.REPLACED": (9.0, bold(5.0)),
    "weights.BOLD": (0.5, bold(0.2, lambda t: 2.0 if t < 5 else 50.0)),
    "weights.LARGE": (0.1, bold(5.0)),
    "weights.LR_CAN_HELP": (1.0, bold(5.0, lr=1e-6)),
    "sizes.LARGE_INPUT": (1e9, fed(100 * default("sizes.LARGE_INPUT"))),
    "sizes.SMALL_INPUT": (1e-9, fed(default("sizes.SMALL_INPUT") / 100)),
    "exploding.ALONE": (9.0, alone()),
    "exploding.LEARNT": (1e-9, bounced()),
    "exploding.PILED": (100.0, piled()),
    "exploding.LOOKS": (NEVER, louder_signal()),
    "exploding.BURST": (6.0, two_bursts()[:30]),
    "exploding.SHALLOW": (1, bold(50.0, lr=1e-6, depth=2)),
    "exploding.PATIENCE.jump": (8, jump()),
    "exploding.PATIENCE.growth": (8, chain(-4.0)),
    "exploding.PATIENCE.replaced": (3, bold(50.0, lr=1e-6)),
    "exploding.RUNAWAY": (1e9, bottomless()),
    "exploding.PATIENCE.runaway": (9, bottomless()),
    "vanishing.FADE_WEAK": (2.5, chain(2.0, loss=1.0)),
    "vanishing.FADE_MOVING": (3.5, chain(4.0, loss=1.0)),
    "vanishing.MOVING": (0.1, chain(4.0, loss=1.0)),
    "vanishing.GONE": (99.0, died_away()),
    "vanishing.NOTHING_STEPS": (NEVER, [make(t, 0.0) for t in range(60)]),
    "vanishing.SILENT_STEPS": (10, silenced()),
    "vanishing.PATIENCE.fade": (20, chain(4.0)),
    "vanishing.PATIENCE.slow": (20, chain(2.0, loss=1.0)),
    "vanishing.PATIENCE.zero": (10, [make(t, np.where(BACK, 1.0, 0.0)) for t in range(20)]),
    "vanishing.PATIENCE.gap": (20, broken(5.0)),
    "vanishing.PATIENCE.notch": (20, one_weak()),
    "through_time.LOST": (99.0, through_time(default("through_time.LOST") + 2, loss=1.0)),
    "through_time.LOOK_STEPS": (5, through_time_once_more()),
    "through_time.GAINED": (99.0, through_time(-middle("through_time.GAINED", "through_time.BEYOND"), loss=1.0)),
    "through_time.BEYOND": (99.0, through_time(-default("through_time.BEYOND") - 2)),
    "through_time.PROBES": (NEVER, through_time(default("through_time.LOST") + 2, loss=1.0)),
    "through_time.STUCK": (99.0, through_time(middle("through_time.STUCK", "through_time.LOST"), loss=1.0)),
    "through_time.STUCK_STEPS": (NEVER, through_time(middle("through_time.STUCK", "through_time.LOST"), loss=1.0)),
    "dead_relu.DEAD": (2.0, dead()),
    "dead_relu.SICK": (2.0, dead(middle("dead_relu.SICK", "dead_relu.DEAD"), loss=1.0)),
    "dead_relu.PROBES": (NEVER, dead()),
    "saturation.SATURATED": (2.0, saturated()),
    "saturation.SURE": (2.0, sure_output()),
    "saturation.CALM": (1e-9, saturated_suddenly()),
    "saturation.FAR_OUT": (1e9, far_out()),
    "saturation.GONE": (99.0, sure_output_without_signal()),
    "saturation.PROBES": (NEVER, saturated()),
    "saturation.FROM_THE_START": (NEVER, saturated()),
    "disconnected.PROBES": (NEVER, cut_off()),
    "disconnected.LOST_STEPS": (NEVER, cut_off(since=5)),
    "disconnected.OWNERLESS_STEPS": (NEVER, ownerless()),
    "lr_too_high.RESTLESS": (99.0, restless()),
    "lr_too_high.RESTLESS_STEPS": (NEVER, restless()),
    "lr_too_high.HIGHER": (100.0, bold(0.2, lambda t: 2.0 if t < 5 else 50.0)),
    "lr_too_high.LEAP": (50.0, leap()),
    "lr_too_high.AFTERMATH": (5, leap(10)),
    "lr_too_high.BEYOND": (100.0, leap()),
    "lr_too_high.HARMFUL": (9, replaced_later()),
    "lr_too_high.UPSET": (9, bold(5.0, lambda t: 4.0 if t else 2.0)),
    "lr_too_high.WORSE": (3.0, bold(5.0, lambda t: 4.0 if t else 2.0)),
    "lr_too_high.RETURNED": (1.0, bold(5.0, lambda t: 2.5 if t > 3 else 8.0 if t else 1.0)),
    "lr_too_high.SETBACK": (99.0, set_back()),
    "lr_too_high.SINKING": (99.0, sinking()),
    "lr_too_high.PATIENCE.sinking": (20, sinking()),
    "lr_too_high.PATIENCE.diverged": (9, bold(0.2, lambda t: 2.0 if t < 5 else 50.0)),
    "stalled.MOTIONLESS": (1e-10, motionless()),
    "stalled.CREEPING": (1e-10, motionless(weight=FRESH)),
    "stalled.MOVED": (1e-8, motionless()),
    "stalled.SAME": (1e6, motionless(lambda t: 1e-6 * 1.02**t)),
    "stalled.CRAWLED": (1e-9, crawling_then_falling(default("stalled.CRAWLED") / 2)),
    "stalled.TOGETHER": (1e-9, crawling(0.8 * default("stalled.TOGETHER"), loss=0.9)),
    "stalled.CREPT": (1e-9, crawling(middle("stalled.CRAWLED", "stalled.CREPT"), loss=1.0)),
    "stalled.CRAWLING_STEPS": (NEVER, crawling(default("stalled.CRAWLED") / 2, loss=0.9)),
    "stalled.RESTED": (1e-9, crawling(1.25 * default("stalled.RESTED"), loss=1.0)),
    "stalled.IDLE": (2.0, idle()),
    "stalled.IDLE_STEPS": (NEVER, idle()),
    "stalled.WITHERING": (1e-3, decayed_later()),
    "stalled.FAR_OFF": (1e9, far_off()),
    "stalled.AT_ZERO_STEPS": (NEVER, at_zero()),
    "stalled.ROUNDED": (1e-6, rounded()),
    "stalled.PACED": (1e-12, warming()),
    "stalled.STEADY": (1e-9, idle()),
    "stalled.GUESSING": (99.0, idle(1.5 * FRESH)),
    "nonfinite.SKIPPED_STEPS": (10, skipped()),
    "data_outlier.FAR": (6.0, outlier()),
    "data_outlier.FAR_LOSS": (5.0, outlier()),
    "data_outlier.UNSEEN": (3.0, outlier(norm=10**3.6, before=10**1.8)),
    "data_outlier.SAME_RATE": (0.5, outlier()),
    "data_outlier.KNOWN_STEPS": (30, outlier(at=8)),
    "data_outlier.SPIKE": (99.0, thrown_back()),
    "data_outlier.AFTERMATH": (NEVER, thrown_back()),
    "data_outlier.WORSE": (99.0, thrown_back()),
    "data_outlier.ECHO": (9.0, echo()),
    "data_outlier.ECHO_LOSS": (9.0, echo()),
    "data_outlier.FALLEN": (9.0, echo()),
    "precedence.FOLLOWS": (5, nan_then_jump()),
    "precedence.LONG_AFTER": (5, burst_then_fade()),
}
"""For each threshold another value, and a run of which it makes another judgement."""


def judged(records, model=None):
    """Everything that is told of these records."""
    judges, model = Judges(default_detectors()), model or ModelInfo("M")
    return json.dumps([i.to_json() for record in records for i in judges.observe(record, model)])


MODELS = {
    "stalled.GUESSING": ModelInfo("M", operations=Operations(chance=1.0)),
    "stalled.FAR_OFF": ModelInfo("M", operations=Operations(in_loss=("MseLoss",))),
}
"""Where the run alone does not tell enough."""


@pytest.mark.parametrize("name", THRESHOLDS)
def test_it_decides_something(name):
    """With another value another judgement is made; afterwards the old one again. Nothing fails on the way."""
    (value, records), model = EFFECTS[name], MODELS.get(name)
    before = judged(records, model)
    with override({name: value}):
        assert judged(records, model) != before
    assert judged(records, model) == before


EXAMPLES = (
    two_bursts(),
    chain(4.0),
    bold(5.0),
    outlier(),
    motionless(),
    skipped(),
    dead(),
    saturated(),
    cut_off(),
    ownerless(),
    fed(100.0),
    through_time(7.0, loss=1.0),
    through_time(-7.0),
    thrown_back(),
    bottomless(),
    idle(),
    sinking(),
    set_back(),
    echo(),
)


@pytest.mark.parametrize("name", EFFECTS)
def test_a_resumed_run_is_judged_the_same(name):
    """Wherever it is cut, saved, sent through JSON and gone on with: no rule's memory is lost, of any example here."""
    records, model = EFFECTS[name][1], MODELS.get(name, ModelInfo("M"))
    whole = judged(records, model)
    for cut in {len(records) * share // 7 for share in range(1, 7)}:
        first, second = Judges(default_detectors()), Judges(default_detectors())
        told = [i.to_json() for record in records[:cut] for i in first.observe(record, model)]
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        told += [i.to_json() for record in records[cut:] for i in second.observe(record, model)]
        assert json.dumps(told) == whole


@pytest.mark.parametrize("name", THRESHOLDS)
def test_no_detector_fails_with_an_extreme_value(name):
    """Very small and very large values make odd judgements, and no errors: a dropped detector would warn."""
    default = THRESHOLDS[name].default
    for value in (1, 10**6) if isinstance(default, int) else (1e-9, 1e6):
        with override({name: value}):
            for records in EXAMPLES:
                judged(records)
