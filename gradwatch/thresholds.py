"""The numbers that the detectors decide by, by name: to be listed, and to be tried out on a recorded run.

Each is a constant of the room that decides by it; here is which ones may be changed from outside, in what unit and
what for. ``gradwatch replay run.jsonl --set exploding.BURST=4`` judges a recorded run with another one.
"""

from __future__ import annotations

import ast
import functools
import inspect
import math
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Any, TypeAlias

from gradwatch import _baselines, _depth, _precedence, _sizes, _weights
from gradwatch._identities import nearest
from gradwatch.detectors import (
    data_outlier,
    dead_relu,
    disconnected,
    exploding,
    lr_too_high,
    nonfinite,
    saturation,
    stalled,
    through_time,
    vanishing,
)
from gradwatch.errors import ArgumentTypeError, ArgumentValueError, is_number

_Place: TypeAlias = tuple[MutableMapping[str, Any], str]


@dataclass(frozen=True)
class Threshold:
    """One number that detectors decide by.

    Attributes:
        name: ``"exploding.BURST"``: the room, and the constant in it.
        default: Its value; a whole number where it counts something.
        unit: What it is a number of.
        meaning: What it decides, in plain words.
        tables: Entries of tables that hold it: of the table that it is in, or that was made from the constant.
        room: The module whose constant it is; None for an entry of a table.
    """

    name: str
    default: float
    unit: str
    meaning: str
    tables: tuple[_Place, ...] = field(default=(), repr=False)
    room: ModuleType | None = field(default=None, repr=False)

    def places(self) -> Iterator[_Place]:
        """Where it has to be changed: a name that another module has imported is a name of its own."""
        yield from self.tables
        if self.room is not None:
            constant = self.name.rpartition(".")[2]
            yield vars(self.room), constant
            import_module("gradwatch._judges")  # all that judges, so that nobody imports a changed number later
            for module in list(sys.modules.values()):
                ours = getattr(module, "__name__", "").startswith("gradwatch.")
                if ours and constant in vars(module) and (self.room.__name__, constant) in _imported(module):
                    yield vars(module), constant


@functools.cache
def _imported(module: ModuleType) -> frozenset[tuple[str, str]]:
    """What it imports by name, as ``("gradwatch._depth", "FADE")``."""
    return frozenset(
        (node.module or "", alias.name)
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname is None
    )


@contextmanager
def override(changes: Mapping[str, float]) -> Iterator[None]:
    """Judge with other thresholds for a while. They are the process's: no other watch should be running meanwhile.

    Args:
        changes: Values by name, such as ``{"exploding.BURST": 4.0}``.

    Raises:
        ArgumentTypeError: A value is no number, or no whole one where something is counted.
        ArgumentValueError: There is no threshold of that name, or the value is not finite or not above 0.
    """
    checked = {name: check(name, value) for name, value in changes.items()}
    changed = [(place, key, value) for name, value in checked.items() for place, key in THRESHOLDS[name].places()]
    before = [(place, key, place[key]) for place, key, _ in changed]
    try:
        for place, key, value in changed:
            place[key] = value
        yield
    finally:
        for place, key, value in before:
            place[key] = value


def check(name: str, value: object) -> float:
    """A value that this threshold can have.

    Raises:
        ArgumentTypeError: It is no number, or no whole one where something is counted.
        ArgumentValueError: There is no threshold of that name, or the value is not finite or not above 0.
    """
    if name not in THRESHOLDS:
        guess = nearest(name, THRESHOLDS) or "`gradwatch replay --list-thresholds` lists them all"
        raise ArgumentValueError("threshold", name, f"there is none of that name; {guess}")
    if not is_number(value):
        raise ArgumentTypeError(name, value, "a number")
    if not 0 < value < math.inf:
        raise ArgumentValueError(name, value, "it must be finite and greater than 0")
    if not isinstance(THRESHOLDS[name].default, int):
        return float(value)
    if value != int(value):
        raise ArgumentValueError(name, value, f"it must be a whole number: it counts {THRESHOLDS[name].unit}")
    return int(value)


# ------------------------------------------------------------------------------------------------------------ the list

_DECADES = "powers of ten"
_UPDATE = "size of an update / size of the weights"
_STEPS = "steps"
_LOOKS = "looks at the activations, one every few steps"
_PROFILES = "looks at the signal through time, one every few steps"
_RMS = "root mean square of what the first layer is given"


def _number(room: ModuleType, constant: str, unit: str, meaning: str) -> Threshold:
    """A constant of a room."""
    short = room.__name__.rpartition(".")[2].lstrip("_")
    return Threshold(f"{short}.{constant}", vars(room)[constant], unit, meaning, room=room)


def _patience(room: ModuleType, rule: str, meaning: str) -> Threshold:
    """For how long a symptom must last: an entry of a table."""
    table = vars(room)["_PATIENCE"]
    short = room.__name__.rpartition(".")[2]
    return Threshold(f"{short}.PATIENCE.{rule}", table[rule], _STEPS, meaning, ((table, rule),))


_ALL = (
    _number(
        _baselines,
        "CLEAN_STEPS",
        _STEPS,
        "An incident is over after so many steps without its symptom; the next one is a new incident.",
    ),
    _number(_baselines, "WARM_STEPS", _STEPS, "So many steps must have been seen before anything is called unusual."),
    _number(
        _baselines,
        "STALLED_STEPS",
        _STEPS,
        "A loss that has not become better for so many steps stands still.",
    ),
    _number(
        _baselines,
        "FALLING",
        "usual loss over ten steps / over thirty",
        "A loss that falls so fast right now is given more time.",
    ),
    _number(
        _baselines,
        "HARDLY",
        "share of the first loss",
        "A model that has taken off less than that since its first step has hardly learnt anything.",
    ),
    _number(_baselines, "JUMP", _DECADES, "A gradient norm that stays so far above the usual one has exploded."),
    _number(
        _baselines,
        "SPREADS",
        "usual fluctuations of the norm",
        "In a run whose norms fluctuate, they must also be so many usual fluctuations above the usual.",
    ),
    _number(
        _baselines,
        "RECOVERING",
        _DECADES,
        "A gap between layers that has closed by so much is recovering, and is counted anew.",
    ),
    _number(
        _depth,
        "FADE",
        _DECADES,
        "A signal that shrinks or grows so much between the last and the first layer is vanishing or exploding.",
    ),
    _number(_weights, "REPLACED", _UPDATE, "From here on a step replaces the weights in place of improving them."),
    _number(_weights, "BOLD", _UPDATE, "From here on a step is bold: it may do harm."),
    _number(
        _weights,
        "LARGE",
        "size of the weights / size that keeps a signal as strong as it is",
        "From here on the weights themselves are too large, whatever the learning rate.",
    ),
    _number(
        _weights, "LR_CAN_HELP", _UPDATE, "Beyond it the gradients are out of proportion, and not the learning rate."
    ),
    _number(
        _sizes,
        "LARGE_INPUT",
        _RMS,
        "From here on inputs are far too large, in a model that hardly learns. About 1 is usual.",
    ),
    _number(_sizes, "SMALL_INPUT", _RMS, "Up to here they are far too small."),
    _number(exploding, "BURST", _DECADES, "A norm so far above anything seen has exploded, in a single step."),
    _number(
        exploding,
        "SHALLOW",
        "layers",
        "Up to so many weight matrices a network has no depth for a signal to grow over.",
    ),
    _number(
        exploding,
        "ALONE",
        _DECADES,
        "A total norm that is so far above the usual one has exploded where one layer alone is to blame.",
    ),
    _number(
        exploding,
        "LEARNT",
        "share of the first loss",
        "A loss below it is that of a run that has done its work: its norms may bounce up to where they once were.",
    ),
    _number(
        exploding,
        "PILED",
        "gradient before the backward pass / gradient after it",
        "From here on the gradients of the step before were not cleared.",
    ),
    _number(
        exploding,
        "LOOKS",
        _LOOKS,
        "At so many looks in a row the signal must grow from layer to layer; gradients must pile up at one more.",
    ),
    _patience(exploding, "jump", "For so many steps in a row the norm must be far above the usual one."),
    _patience(exploding, "growth", "For so many steps in a row the signal must grow from layer to layer."),
    _patience(exploding, "replaced", "At so many sampled steps in a row the update must be as large as the weights."),
    _number(
        exploding,
        "RUNAWAY",
        "loss (below zero) / first loss (1 at least), and gradient norm / first norm",
        "A loss that has fallen so far below zero, by gradients that have grown as much, falls without end.",
    ),
    _patience(exploding, "runaway", "For so many steps in a row it must be so far below zero."),
    _number(vanishing, "FADE_WEAK", _DECADES, "The same as depth.FADE where the loss stands still too."),
    _number(
        vanishing,
        "SILENT_STEPS",
        _STEPS,
        "A layer between others is silent after so many steps with a gradient of exactly zero.",
    ),
    _number(
        vanishing,
        "FADE_MOVING",
        _DECADES,
        "The same as depth.FADE where all layers move as usual all the same, and the loss does not stand still.",
    ),
    _number(vanishing, "MOVING", _UPDATE, "From here on the slowest layer moves as usual."),
    _number(
        vanishing,
        "GONE",
        _DECADES,
        "A signal that has lost so much since the start has died away, in a model that has hardly learnt anything.",
    ),
    _number(
        vanishing,
        "NOTHING_STEPS",
        _STEPS,
        "After so many steps from the very first with gradients of exactly zero there is no signal at all.",
    ),
    _patience(vanishing, "fade", "For so many steps in a row the signal must fade from layer to layer."),
    _patience(vanishing, "slow", "The same where it fades less, and the loss stands still."),
    _patience(vanishing, "zero", "For so many steps in a row the first layers must have a gradient of exactly zero."),
    _patience(vanishing, "gap", "For so many steps in a row the signal must break off at one place."),
    _patience(vanishing, "notch", "For so many steps in a row one layer must be far weaker than all others."),
    _number(
        through_time,
        "LOST",
        _DECADES,
        "A signal that shrinks so much over a sequence has vanished through time, where the loss stands still too.",
    ),
    _number(
        through_time,
        "STUCK",
        _DECADES,
        "One that shrinks so much has where nothing at all was learnt; one that shrinks less is not looked at ...",
    ),
    _number(through_time, "STUCK_STEPS", _STEPS, "... after so many steps."),
    _number(
        through_time,
        "GAINED",
        _DECADES,
        "A signal that grows so much over a sequence has exploded through time, where that does harm ...",
    ),
    _number(through_time, "BEYOND", _DECADES, "... and from here on whether it does harm or not."),
    _number(through_time, "PROBES", _PROFILES, "At so many looks in a row it must be so."),
    _number(
        through_time,
        "LOOK_STEPS",
        _STEPS,
        "For so long a look holds good, if the loss has come to stand still after it.",
    ),
    _number(
        dead_relu,
        "DEAD",
        "share of a layer's units",
        "A layer of which so many units give zero for every sample is dead ...",
    ),
    _number(
        dead_relu,
        "SICK",
        "share of a layer's units",
        "... and one of which so many do is, where the loss hardly falls too.",
    ),
    _number(dead_relu, "PROBES", _LOOKS, "At so many looks in a row it must be dead."),
    _number(
        saturation,
        "SATURATED",
        "share of an activation's values",
        "An activation with so many values at its flat ends is saturated, where the model hardly learns ...",
    ),
    _number(
        saturation,
        "SURE",
        "share of an activation's values",
        "... and with so many where it is the model's output, or became so from one look to the next.",
    ),
    _number(
        saturation,
        "CALM",
        "share of an activation's values",
        "Up to so many at the look before, that was a sudden change.",
    ),
    _number(
        saturation,
        "FAR_OUT",
        "standard deviation of what an activation is given",
        "From here on, and from the start, its flat ends are a fault whatever the loss does. About 1 is usual.",
    ),
    _number(
        saturation,
        "GONE",
        _DECADES,
        "A saturated output is a fault where the signal has lost so much, and the loss is far from low.",
    ),
    _number(saturation, "PROBES", _LOOKS, "At so many looks in a row it must be saturated."),
    _number(
        saturation,
        "FROM_THE_START",
        _STEPS,
        "So much time a model has to learn something although it was saturated from the start.",
    ),
    _number(
        disconnected,
        "PROBES",
        _LOOKS,
        "At so many looks in a row a layer must be at work and get no gradient; then it counts as cut off.",
    ),
    _number(
        disconnected,
        "LOST_STEPS",
        _STEPS,
        "For so many steps in a row it must be without where it had one before, or where it is exactly zero.",
    ),
    _number(
        disconnected,
        "OWNERLESS_STEPS",
        _STEPS,
        "For so long a layer must have a gradient and no optimizer that moves it.",
    ),
    _number(
        lr_too_high,
        "HIGHER",
        "loss / loss before the first step",
        "A loss so far above that of the untrained model is learnt nonsense.",
    ),
    _number(
        lr_too_high,
        "LEAP",
        "learning rate / learning rate before",
        "A learning rate that rises by so much at once has leapt up.",
    ),
    _number(lr_too_high, "AFTERMATH", _STEPS, "For so long such a leap explains what goes wrong."),
    _number(
        lr_too_high,
        "BEYOND",
        "norm or loss / largest one before the leap",
        "From here on something has gone wrong after such a leap.",
    ),
    _number(
        lr_too_high,
        "HARMFUL",
        _STEPS,
        "For so many steps in a row the loss must be no better than before the weights were replaced.",
    ),
    _number(
        lr_too_high,
        "UPSET",
        _STEPS,
        "The same at the very start of a run: some optimizers' first updates are far larger than those that follow.",
    ),
    _number(
        lr_too_high,
        "WORSE",
        "loss / loss before",
        "At the very start it must also have become so much worse ...",
    ),
    _number(
        lr_too_high,
        "RETURNED",
        "loss / loss before",
        "... and not be on its way back: below this, and below half of its worst.",
    ),
    _number(
        lr_too_high,
        "SETBACK",
        "loss / usual loss before the learning rate leapt up",
        "A loss that has been so much worse at nearly every step since such a leap was set back by it.",
    ),
    _number(
        lr_too_high,
        "SINKING",
        "usual loss / loss before the first step",
        "A model that has become so much worse, slowly and by bold steps, is made worse by them.",
    ),
    _number(
        lr_too_high,
        "RESTLESS",
        _UPDATE,
        "Steps that are usually so large make a model jump about ...",
    ),
    _number(lr_too_high, "RESTLESS_STEPS", _STEPS, "... where the loss has not become better for so many steps."),
    _patience(lr_too_high, "diverged", "For so many steps in a row the loss must be far above that of the start."),
    _patience(lr_too_high, "sinking", "For so many steps in a row the model must be worse than at the start."),
    _number(stalled, "MOTIONLESS", _UPDATE, "Below it weights that may be trained already do not move."),
    _number(stalled, "CREEPING", _UPDATE, "Below it weights that are still as they were initialised do not move."),
    _number(
        stalled,
        "MOVED",
        "sum of all updates / size of the weights",
        "Weights that have come so far have learnt something, and may rest.",
    ),
    _number(
        stalled,
        "SAME",
        "share by which the learning rate rises",
        "A learning rate that rises by more is being warmed up: weights that rest meanwhile are no fault.",
    ),
    _number(
        stalled,
        "CRAWLED",
        "sum of all updates / size of the weights, over all weight matrices",
        "Weights as initialised that have come less far have not begun to learn, where the loss has hardly fallen ...",
    ),
    _number(
        stalled,
        "CREPT",
        "sum of all updates / size of the weights, over all weight matrices",
        "... and those that have come less far than this, where it has not fallen at all ...",
    ),
    _number(
        stalled,
        "TOGETHER",
        "sum of all updates / size of the weights, over all weight matrices",
        "... or hardly, if the matrix that moves most has not come that far, and all together not this far.",
    ),
    _number(
        stalled,
        "ROUNDED",
        "update / weight, over what the weights' dtype resolves",
        "Half-precision weights that move less are mostly rounded away, where the loss has hardly fallen ...",
    ),
    _number(
        stalled,
        "PACED",
        "update / weight",
        "A learning rate that is still being raised is no excuse for weights that move less.",
    ),
    _number(
        stalled,
        "AT_ZERO_STEPS",
        _STEPS,
        "So many steps at a learning rate of exactly zero are told, where more than half of the loss is left.",
    ),
    _number(stalled, "CRAWLING_STEPS", _STEPS, "So many steps they have time."),
    _number(
        stalled,
        "RESTED",
        "sum of all updates / size of the weights, over all weight matrices",
        "Weights as initialised that have come less far have not begun to learn already when a loss counts as standing "
        "still.",
    ),
    _number(
        stalled,
        "IDLE",
        "share of the first loss",
        "A model that has more than that of its loss left has learnt nothing, although its weights move ...",
    ),
    _number(stalled, "IDLE_STEPS", _STEPS, "... after so many steps ..."),
    _number(
        stalled,
        "WITHERING",
        "share of the first size of all weights",
        "... or after CRAWLING_STEPS, where the weights have shrunk below it and the loss stands still.",
    ),
    _number(
        stalled,
        "FAR_OFF",
        "squared error of the first steps",
        "A model that was so far off and has hardly come closer was given targets that are not scaled.",
    ),
    _number(
        stalled,
        "STEADY",
        "usual fluctuation of the loss / first loss",
        "... where the loss fluctuates by no more than this: a noisy one may hide that something was learnt.",
    ),
    _number(
        stalled,
        "GUESSING",
        "loss / loss of equal chances for all classes",
        "Trained weights may rest at a loss below it; above it nothing is known that guessing would not give.",
    ),
    _number(nonfinite, "SKIPPED_STEPS", _STEPS, "So many steps in a row that a GradScaler skips are an incident."),
    _number(
        data_outlier, "FAR", _DECADES, "The gradient norm of a batch that is far off is so far above the usual one ..."
    ),
    _number(data_outlier, "FAR_LOSS", _DECADES, "... and its loss is so far above the usual one."),
    _number(data_outlier, "KNOWN_STEPS", _STEPS, "... after so many steps, if both are."),
    _number(data_outlier, "UNSEEN", _DECADES, "By so much less, they must also be above anything seen."),
    _number(
        data_outlier,
        "SPIKE",
        _DECADES,
        "A batch whose gradient norm alone is so far above the usual one is to blame if the loss stays worse ...",
    ),
    _number(data_outlier, "AFTERMATH", _STEPS, "... for so many steps in a row ..."),
    _number(data_outlier, "WORSE", _DECADES, "... by at least so much."),
    _number(
        data_outlier,
        "ECHO",
        _DECADES,
        "A batch whose gradient norm is so far above the usual one, and higher than anything seen, is to blame ...",
    ),
    _number(data_outlier, "ECHO_LOSS", _DECADES, "... if its loss is so far above the usual one too ..."),
    _number(
        data_outlier,
        "FALLEN",
        _DECADES,
        "... and the norm of the very next one is lower by so much, while the loss is still worse.",
    ),
    _number(
        data_outlier,
        "SAME_RATE",
        "learning rate / learning rate of the step before",
        "A learning rate that has risen by more may be to blame in place of the batch.",
    ),
    _number(
        _precedence,
        "FOLLOWS",
        _STEPS,
        "For so long after an incident others count as its consequences and are kept quiet ...",
    ),
    _number(
        _precedence,
        "LONG_AFTER",
        _STEPS,
        "... and for so long after steps of a wild size: exploding, lr_too_high, input_scale.",
    ),
)

THRESHOLDS: Mapping[str, Threshold] = {threshold.name: threshold for threshold in _ALL}
"""Every threshold that may be changed, by name."""
